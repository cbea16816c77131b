//! `[prune]`: which weights go, how they are chosen, and when.

use serde::Serialize;

use super::pattern::{Pattern, PatternRule, Written};
use crate::raw::{Choice, Count, Globs, Key, Number, Rule, Section, SectionSpec, Slot};
use crate::resolve::Writer;

/// Columns that SparseGPT updates at once where the recipe does not say.
const BLOCK: usize = 128;

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
static METHOD: Key<Choice<Method>> = Key::optional(
    "method",
    Choice(&[("magnitude", Method::Magnitude), ("wanda", Method::Wanda), ("sparsegpt", Method::SparseGpt)]),
    "\"sparsegpt\"",
    "\"sparsegpt\"; \"magnitude\" with schedule \"gradual\", which takes no other",
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
static UNTIL: Key<Number> = Key::default(
    "until",
    Number::above(0.0).up_to(1.0),
    "0.5",
    "The share of the training steps after which the mask is final. Only with schedules \"gradual\" and \"refreshed\".",
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
        &UNTIL,
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
    /// Again and again by magnitude, while the sparsity climbs from 0.
    Gradual {
        /// Steps between two choices, at least 1.
        refresh_every: u64,
        /// The share of the training steps after which the whole pattern holds and the mask is final, in (0, 1].
        until: f64,
    },
    /// Before training, then again and again by magnitude at full sparsity, with gradients for masked weights (SR-STE, arXiv 2102.04010).
    Refreshed {
        /// Steps between two choices, at least 1.
        refresh_every: u64,
        /// The share of the training steps after which the mask is final, in (0, 1].
        until: f64,
        /// λ, the pull of masked weights towards zero, in [0, 1].
        decay: f64,
    },
}

impl PruneSchedule {
    /// The step from which the mask is final, of `steps` training steps: 0 for one-shot, else at least 1.
    pub fn end(self, steps: u64) -> u64 {
        match self {
            PruneSchedule::OneShot => 0,
            PruneSchedule::Gradual { until, .. } | PruneSchedule::Refreshed { until, .. } => {
                ((until * steps as f64).ceil() as u64).clamp(1, steps.max(1))
            }
        }
    }

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
    let schedule = read_schedule(&section);
    let method = read_method(&section, written, schedule);
    let layers = section.get(&LAYERS);
    let exclude = section.get(&EXCLUDE);
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
        Some(Written::Nm { n, m }) => {
            let why = format!("{n}:{m} already fixes the share of weights that go");
            section.unused(&SPARSITY, why, "remove it, or write pattern = \"unstructured\"");
            Some(Pattern::Nm { n, m })
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

fn read_method(
    section: &Section<'_>,
    written: Option<Written>,
    schedule: Option<PruneSchedule>,
) -> Option<PruneMethod> {
    let gradual = matches!(schedule, Some(PruneSchedule::Gradual { .. }));
    let method = section.maybe(&METHOD);
    if let Slot::Given(method @ (Method::Wanda | Method::SparseGpt)) = method
        && gradual
    {
        let expected = "\"magnitude\", by which schedule \"gradual\" chooses";
        let found = if method == Method::Wanda { "\"wanda\"" } else { "\"sparsegpt\"" };
        section.conflict(&METHOD, expected, found, "change either, or remove this one");
    }
    let method = method.or(if gradual { Method::Magnitude } else { Method::SparseGpt });
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
        Some(Written::Nm { m, .. }) => m,
        _ => 1,
    };
    let block = section.maybe(&COLUMNS).and_then(|block| {
        let block = block as usize;
        if block.is_multiple_of(group) {
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
    if let Some(Schedule::OneShot) = schedule {
        let why = "schedule \"one-shot\" chooses the mask once";
        let advice = "remove it, or write schedule = \"gradual\" or \"refreshed\"";
        section.unused(&REFRESH_EVERY, why, advice);
        section.unused(&UNTIL, why, advice);
        unused_decay(section, "one-shot");
        return Some(PruneSchedule::OneShot);
    }
    let refresh_every = section.get(&REFRESH_EVERY);
    let until = section.get(&UNTIL);
    if let Some(Schedule::Gradual) = schedule {
        unused_decay(section, "gradual");
        return Some(PruneSchedule::Gradual { refresh_every: refresh_every?, until: until? });
    }
    let decay = section.get(&DECAY);
    schedule.and(Some(PruneSchedule::Refreshed {
        refresh_every: refresh_every?,
        until: until?,
        decay: decay?,
    }))
}

fn unused_decay(section: &Section<'_>, schedule: &str) {
    let why = format!("schedule {schedule:?} gives masked weights no gradient");
    section.unused(&DECAY, why, "remove it, or write schedule = \"refreshed\"");
}

impl PruneSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("prune");
        match self.pattern {
            Pattern::Nm { .. } => out.put(&PATTERN, self.pattern.to_string()),
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
            PruneSchedule::Gradual { refresh_every, until } => {
                out.put(&REFRESH_EVERY, refresh_every);
                out.put(&UNTIL, until);
            }
            PruneSchedule::Refreshed { refresh_every, until, decay } => {
                out.put(&REFRESH_EVERY, refresh_every);
                out.put(&UNTIL, until);
                out.put(&DECAY, decay);
            }
        }
    }
}
