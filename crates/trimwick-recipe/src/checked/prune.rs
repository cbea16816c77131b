//! `[prune]`: which weights go, how they are chosen, and when.

use std::fmt;

use serde::Serialize;

use crate::raw::{At, Choice, Count, Globs, Key, Number, Raw, Rule, Section, SectionSpec, Slot, text_of};
use crate::resolve::Writer;

/// The largest group of an N:M pattern.
const LARGEST_GROUP: usize = 1024;
/// Columns that SparseGPT updates at once where the recipe does not say.
const BLOCK: usize = 128;

/// The pattern as it is written, before `sparsity` completes it.
#[derive(Debug, Clone, Copy)]
enum Written {
    Groups { n: usize, m: usize },
    Unstructured,
}

#[derive(Debug)]
struct PatternRule;

impl Rule for PatternRule {
    type Value = Written;

    fn expected(&self) -> String {
        format!("\"N:M\" with 1 \u{2264} N < M \u{2264} {LARGEST_GROUP}, or \"unstructured\"")
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Written> {
        let Some(text) = text_of(raw) else {
            at.wrong_type(raw, self.expected());
            return None;
        };
        if text == "unstructured" {
            return Some(Written::Unstructured);
        }
        let number = |digits: &str| {
            digits.parse::<usize>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
        };
        let groups = text.split_once(':').and_then(|(n, m)| Some((number(n)?, number(m)?)));
        match groups {
            Some((n, m)) if 1 <= n && n < m && m <= LARGEST_GROUP => Some(Written::Groups { n, m }),
            _ => {
                at.bad_value(raw, self.expected());
                None
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    Magnitude,
    Wanda,
    SparseGpt,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Schedule {
    OneShot,
    Gradual,
    Refreshed,
}

static PATTERN: Key<PatternRule> = Key::required(
    "pattern",
    PatternRule,
    "\"2:4\"",
    "Keep N of every M inputs in a row, or any weights anywhere.",
);
static SPARSITY: Key<Number> = Key::optional(
    "sparsity",
    Number::above(0.0).below(1.0),
    "0.5",
    "the pattern says it",
    "The share of weights that go. Only with pattern \"unstructured\", and needed there.",
);
static METHOD: Key<Choice<Method>> = Key::default(
    "method",
    Choice(&[("magnitude", Method::Magnitude), ("wanda", Method::Wanda), ("sparsegpt", Method::SparseGpt)]),
    "\"sparsegpt\"",
    "How weights are chosen: by size; by size times input norm; by the error they cause, which the others take up.",
);
static LAYERS: Key<Globs> = Key::default(
    "layers",
    Globs { empty: false },
    "[\"model.layers.*\"]",
    "Which layers are pruned, by dotted path; * matches across dots.",
)
.known_as(&["targets", "include", "modules"]);
static EXCLUDE: Key<Globs> =
    Key::default("exclude", Globs { empty: true }, "[]", "Which of those are left alone.")
        .known_as(&["ignore", "skip"]);
static DAMPING: Key<Number> = Key::default(
    "damping",
    Number::above(0.0).up_to(1.0),
    "0.01",
    "Added to the Hessian's diagonal, as a share of its mean. Only with method \"sparsegpt\".",
)
.known_as(&["percdamp", "dampening_frac"]);
static COLUMNS: Key<Count> = Key::optional(
    "block",
    Count { min: 1, max: 1 << 16 },
    "128",
    "128, or the multiple of M below it",
    "Columns that are updated at once; a multiple of M. Only with method \"sparsegpt\".",
)
.known_as(&["block_size", "blocksize"]);
static SCHEDULE: Key<Choice<Schedule>> = Key::default(
    "schedule",
    Choice(&[
        ("one-shot", Schedule::OneShot),
        ("gradual", Schedule::Gradual),
        ("refreshed", Schedule::Refreshed),
    ]),
    "\"one-shot\"",
    "Prune once before training; prune more and more while training; or choose the mask again while training (SR-STE).",
);
static REFRESH_EVERY: Key<Count> = Key::default(
    "refresh_every",
    Count { min: 1, max: Count::LARGEST },
    "10",
    "Steps between two choices of the mask. Only with schedules \"gradual\" and \"refreshed\".",
);
static RAMP: Key<Number> = Key::default(
    "ramp",
    Number::above(0.0).up_to(1.0),
    "0.5",
    "The share of training after which the whole pattern holds. Only with schedule \"gradual\".",
);
static DECAY: Key<Number> = Key::default(
    "decay",
    Number::from(0.0).up_to(1.0),
    "2e-4",
    "Pull of masked weights towards zero, SR-STE's lambda. Only with schedule \"refreshed\".",
)
.known_as(&["lambda"]);

/// The declaration of `[prune]`.
pub(crate) static SPEC: SectionSpec = SectionSpec {
    keys: &[
        &PATTERN,
        &SPARSITY,
        &METHOD,
        &LAYERS,
        &EXCLUDE,
        &DAMPING,
        &COLUMNS,
        &SCHEDULE,
        &REFRESH_EVERY,
        &RAMP,
        &DECAY,
    ],
    foreign: &[],
};

/// What is pruned, how and when.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PruneSpec {
    /// Which weights of a layer may stay.
    pub pattern: Pattern,
    /// How the weights that go are chosen.
    pub method: PruneMethod,
    /// Glob patterns over layer paths, at least one; a layer that matches any of them is pruned …
    pub layers: Vec<String>,
    /// … unless it matches one of these.
    pub exclude: Vec<String>,
    /// When the mask is chosen.
    pub schedule: PruneSchedule,
}

/// Which weights of a layer may stay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// `n` of every `m` consecutive inputs of an output stay; 1 ≤ n < m ≤ 1024.
    Groups {
        /// Weights that stay in a group.
        n: usize,
        /// Weights in a group.
        m: usize,
    },
    /// Any weights; `sparsity`, in (0, 1), is the share that goes.
    Unstructured {
        /// The share of weights that go.
        sparsity: f64,
    },
}

impl Pattern {
    /// The share of weights that go, in (0, 1).
    pub fn sparsity(self) -> f64 {
        match self {
            Pattern::Groups { n, m } => 1.0 - n as f64 / m as f64,
            Pattern::Unstructured { sparsity } => sparsity,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Groups { n, m } => write!(f, "{n}:{m}"),
            Pattern::Unstructured { sparsity } => write!(f, "unstructured {}%", sparsity * 100.0),
        }
    }
}

/// How the weights that go are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PruneMethod {
    /// The smallest.
    Magnitude,
    /// The smallest by |w| times the norm of its input (arXiv 2306.11695).
    Wanda,
    /// Those whose loss the other weights can best make up for, and they do (arXiv 2301.00774).
    SparseGpt {
        /// λ as a share of the mean of the Hessian's diagonal, in (0, 1].
        damping: f64,
        /// Columns updated at once, a multiple of M for N:M patterns.
        block: usize,
    },
}

impl PruneMethod {
    /// Whether the method looks at activations.
    pub fn calibrates(self) -> bool {
        !matches!(self, PruneMethod::Magnitude)
    }

    /// The method as the key `method` writes it.
    pub fn name(self) -> &'static str {
        match self {
            PruneMethod::Magnitude => "magnitude",
            PruneMethod::Wanda => "wanda",
            PruneMethod::SparseGpt { .. } => "sparsegpt",
        }
    }
}

/// When the mask is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PruneSchedule {
    /// Once, before training.
    OneShot,
    /// Again and again while the sparsity climbs.
    Gradual {
        /// Steps between two choices, at least 1.
        refresh_every: u64,
        /// The share of the training steps after which the whole pattern holds, in (0, 1].
        ramp: f64,
    },
    /// Again and again at full sparsity, with gradients for masked weights (SR-STE, arXiv 2102.04010).
    Refreshed {
        /// Steps between two choices, at least 1.
        refresh_every: u64,
        /// λ, the pull of masked weights towards zero, in [0, 1].
        decay: f64,
    },
}

impl PruneSchedule {
    /// The schedule as the key `schedule` writes it.
    pub fn name(self) -> &'static str {
        match self {
            PruneSchedule::OneShot => "one-shot",
            PruneSchedule::Gradual { .. } => "gradual",
            PruneSchedule::Refreshed { .. } => "refreshed",
        }
    }
}

pub(crate) fn read(section: Section<'_>) -> Option<PruneSpec> {
    let written = section.get(&PATTERN);
    let pattern = read_pattern(&section, written);
    let method = read_method(&section, written);
    let layers = section.get(&LAYERS);
    let exclude = section.get(&EXCLUDE);
    let schedule = read_schedule(&section);
    section.finish();
    Some(PruneSpec {
        pattern: pattern?,
        method: method?,
        layers: layers?,
        exclude: exclude?,
        schedule: schedule?,
    })
}

fn read_pattern(section: &Section<'_>, written: Option<Written>) -> Option<Pattern> {
    match written {
        Some(Written::Groups { n, m }) => {
            let why = format!("{n}:{m} already fixes the share of weights that go");
            section.unused(&SPARSITY, why, "remove it, or write pattern = \"unstructured\"");
            Some(Pattern::Groups { n, m })
        }
        Some(Written::Unstructured) => match section.maybe(&SPARSITY) {
            Slot::Absent => {
                section.missing(&SPARSITY, SPARSITY.rule.expected());
                None
            }
            sparsity => sparsity.given().map(|sparsity| Pattern::Unstructured { sparsity }),
        },
        None => {
            section.maybe(&SPARSITY);
            None
        }
    }
}

fn read_method(section: &Section<'_>, written: Option<Written>) -> Option<PruneMethod> {
    let method = section.get(&METHOD);
    if let Some(method @ (Method::Magnitude | Method::Wanda)) = method {
        let name = if method == Method::Magnitude { "magnitude" } else { "wanda" };
        let why = format!("method {name:?} solves nothing");
        let advice = "remove it, or write method = \"sparsegpt\"";
        section.unused(&DAMPING, why.clone(), advice);
        section.unused(&COLUMNS, why, advice);
        return Some(if method == Method::Magnitude { PruneMethod::Magnitude } else { PruneMethod::Wanda });
    }
    let damping = section.get(&DAMPING);
    let group = match written {
        Some(Written::Groups { m, .. }) => m,
        _ => 1,
    };
    let block = section.maybe(&COLUMNS).and_then(|block| {
        let block = block as usize;
        if block % group == 0 {
            return Some(block);
        }
        let expected = format!("a multiple of {group}, the group of the pattern");
        section.conflict(&COLUMNS, expected, block.to_string(), "a group is pruned within one block");
        None
    });
    let block = block.or((BLOCK / group).max(1) * group);
    method.and(Some(PruneMethod::SparseGpt { damping: damping?, block: block? }))
}

fn read_schedule(section: &Section<'_>) -> Option<PruneSchedule> {
    let schedule = section.get(&SCHEDULE);
    let unused_ramp = |name: &str| {
        let why = format!("schedule {name:?} starts at full sparsity");
        section.unused(&RAMP, why, "remove it, or write schedule = \"gradual\"");
    };
    let unused_decay = |name: &str| {
        let why = format!("schedule {name:?} gives masked weights no gradient");
        section.unused(&DECAY, why, "remove it, or write schedule = \"refreshed\"");
    };
    match schedule {
        Some(Schedule::OneShot) => {
            unused_ramp("one-shot");
            unused_decay("one-shot");
            let advice = "remove it, or write schedule = \"gradual\" or \"refreshed\"";
            section.unused(&REFRESH_EVERY, "schedule \"one-shot\" chooses the mask once", advice);
            Some(PruneSchedule::OneShot)
        }
        Some(Schedule::Gradual) => {
            unused_decay("gradual");
            let (refresh_every, ramp) = (section.get(&REFRESH_EVERY), section.get(&RAMP));
            Some(PruneSchedule::Gradual { refresh_every: refresh_every?, ramp: ramp? })
        }
        Some(Schedule::Refreshed) => {
            unused_ramp("refreshed");
            let (refresh_every, decay) = (section.get(&REFRESH_EVERY), section.get(&DECAY));
            Some(PruneSchedule::Refreshed { refresh_every: refresh_every?, decay: decay? })
        }
        None => {
            // Still read, so that their own faults are reported too.
            section.get(&REFRESH_EVERY);
            section.get(&RAMP);
            section.get(&DECAY);
            None
        }
    }
}

impl PruneSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("prune");
        match self.pattern {
            Pattern::Groups { .. } => out.put(&PATTERN, self.pattern.to_string()),
            Pattern::Unstructured { sparsity } => {
                out.put(&PATTERN, "unstructured");
                out.put(&SPARSITY, sparsity);
            }
        }
        out.put(&METHOD, self.method.name());
        out.put(&LAYERS, self.layers.as_slice());
        out.put(&EXCLUDE, self.exclude.as_slice());
        if let PruneMethod::SparseGpt { damping, block } = self.method {
            out.put(&DAMPING, damping);
            out.put(&COLUMNS, block);
        }
        out.put(&SCHEDULE, self.schedule.name());
        match self.schedule {
            PruneSchedule::OneShot => {}
            PruneSchedule::Gradual { refresh_every, ramp } => {
                out.put(&REFRESH_EVERY, refresh_every);
                out.put(&RAMP, ramp);
            }
            PruneSchedule::Refreshed { refresh_every, decay } => {
                out.put(&REFRESH_EVERY, refresh_every);
                out.put(&DECAY, decay);
            }
        }
    }
}
