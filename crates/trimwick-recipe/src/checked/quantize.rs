//! `[quantize]`: which layers compute on a grid, on which, and how its scales come about.

use serde::{Deserialize, Serialize};
use trimwick_quant::{Options, Range, Rule, ScalePolicy, Scheme};

use super::quantize_rules::{self, QuantRule, SchemeRule, Wanted};
use crate::error::FaultKind;
use crate::raw::{Choice, Count, Globs, Key, Number, Section, SectionSpec, Slot, Subs};
use crate::resolve::Writer;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scales {
    Dynamic,
    Frozen,
    Ema,
    Learned,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum RangeWord {
    Max,
    Percentile,
    Entropy,
    Mse,
}

const RANGES: Choice<RangeWord> = Choice(&[
    ("max", RangeWord::Max),
    ("percentile", RangeWord::Percentile),
    ("entropy", RangeWord::Entropy),
    ("mse", RangeWord::Mse),
]);

static SCHEME: Key<SchemeRule> = Key::optional(
    "scheme",
    SchemeRule,
    "\"int4-g32\"",
    "only the rules quantize",
    "The grid of weights and inputs: a preset, or for example \"weight int4 g64 bf16, input int8 token dynamic\".",
)
.known_as(&["preset", "quant_algo", "qformat", "format"]);
static LAYERS: Key<Globs> = Key::default(
    "layers",
    Globs { empty: false },
    "[\"model.layers.*\"]",
    "Which layers take it, by dotted path; * matches across dots.",
)
.known_as(&["targets", "include", "modules"]);
static RULES: Key<Subs> = Key::optional(
    "rules",
    Subs(&quantize_rules::SPEC),
    "[[quantize.rules]]",
    "scheme holds for all of layers",
    "Layers that take another scheme, or \"none\"; of several rules that match, the last one holds.",
)
.known_as(&["overrides", "config_groups", "recipe"]);
static SCALES: Key<Choice<Scales>> = Key::default(
    "scales",
    Choice(&[
        ("dynamic", Scales::Dynamic),
        ("frozen", Scales::Frozen),
        ("ema", Scales::Ema),
        ("learned", Scales::Learned),
    ]),
    "\"dynamic\"",
    "Weight scales: from the weights of each step, from the weights before training, a moving average, or learned (LSQ).",
)
.known_as(&["scale_policy", "learned_scale"]);
static EMA: Key<Number> = Key::default(
    "ema",
    Number::from(0.0).below(1.0),
    "0.99",
    "What a moving average keeps of itself in a step. Only with scales \"ema\".",
);
static SCALE_LR: Key<Number> = Key::default(
    "scale_lr",
    Number::from(0.0).up_to(1000.0),
    "20.0",
    "The learning rate of learned scales (of their logarithms) as a multiple of train.lr. Only with scales \"learned\".",
)
.known_as(&["lsq_lr"]);
static RANGE: Key<Choice<RangeWord>> = Key::default(
    "range",
    RANGES,
    "\"max\"",
    "The range that a weight scale covers: all, all but the outliers, or what errs least.",
)
.known_as(&["observer", "calibration", "algorithm"]);
static INPUT_RANGE: Key<Choice<RangeWord>> = Key::default(
    "input_range",
    RANGES,
    "\"max\"",
    "The same of static input scales, over the calibration windows.",
);
static PERCENTILE: Key<Number> = Key::default(
    "percentile",
    Number::above(50.0).up_to(100.0),
    "99.99",
    "How many of a hundred values the range covers. Only with a range \"percentile\".",
);
static START: Key<Count> = Key::default(
    "start",
    Count { min: 0, max: Count::LARGEST },
    "0",
    "The training step before which layers still compute in full precision.",
)
.known_as(&["delay", "start_step"]);
static FREEZE: Key<Count> = Key::optional(
    "freeze",
    Count { min: 1, max: Count::LARGEST },
    "100",
    "they follow to the end",
    "The training step after which moving scales and observed ranges stay as they are.",
)
.known_as(&["freeze_step", "observer_freeze"]);
static KV_CACHE: Key<Choice<KvGrid>> = Key::default(
    "kv_cache",
    Choice(&[("none", KvGrid::None), ("fp8", KvGrid::Fp8), ("int8", KvGrid::Int8)]),
    "\"none\"",
    "The grid of keys (after the rotation) and values in attention.",
)
.known_as(&["kv_cache_quant_algo", "kv"]);

/// The declaration of `[quantize]`.
pub(crate) static SPEC: SectionSpec = SectionSpec {
    keys: &[
        &SCHEME,
        &LAYERS,
        &RULES,
        &SCALES,
        &EMA,
        &SCALE_LR,
        &RANGE,
        &INPUT_RANGE,
        &PERCENTILE,
        &START,
        &FREEZE,
        &KV_CACHE,
    ],
    foreign: &[
        ("bits", "name a scheme, for example quantize.scheme = \"int4-g32\""),
        ("group_size", "name it in the scheme, for example quantize.scheme = \"int4-g32\""),
        ("ignore", "add a rule: [[quantize.rules]] with layers = \"…\" and scheme = \"none\""),
        ("exclude", "add a rule: [[quantize.rules]] with layers = \"…\" and scheme = \"none\""),
    ],
};

/// Which layers compute on a grid, and how its scales come about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuantizeSpec {
    /// The scheme of `layers`, if the recipe gives one.
    pub scheme: Option<Wanted>,
    /// Glob patterns over layer paths.
    pub layers: Vec<String>,
    /// Layers that differ, in order; the last rule that matches a layer holds.
    pub rules: Vec<QuantRule>,
    /// Where weight scales come from.
    #[serde(skip)]
    pub scales: ScalePolicy,
    /// The learning rate of learned scales as a multiple of the others'.
    pub scale_lr: f64,
    /// What a weight scale covers.
    #[serde(skip)]
    pub range: Range,
    /// What a static input scale covers.
    #[serde(skip)]
    pub input_range: Range,
    /// The training step before which layers compute in full precision.
    pub start: u64,
    /// The training step after which moving scales and observed ranges stay.
    pub freeze: Option<u64>,
    /// The grid of keys and values.
    pub kv_cache: KvGrid,
}

/// The grid of keys and values in attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvGrid {
    /// None: full precision.
    None,
    /// FP8 E4M3.
    Fp8,
    /// Int8.
    Int8,
}

impl KvGrid {
    fn name(self) -> &'static str {
        match self {
            KvGrid::None => "none",
            KvGrid::Fp8 => "fp8",
            KvGrid::Int8 => "int8",
        }
    }
}

pub(crate) fn read(section: Section<'_>) -> Option<QuantizeSpec> {
    let spec = read_keys(&section);
    section.finish();
    spec
}

fn read_keys(section: &Section<'_>) -> Option<QuantizeSpec> {
    let scheme = section.maybe(&SCHEME);
    let layers = section.get(&LAYERS);
    let rules = section.subs(&RULES).and_then(|rules| {
        let rules: Vec<_> = rules.into_iter().map(quantize_rules::read).collect();
        rules.into_iter().collect::<Option<Vec<_>>>()
    });
    if scheme == Slot::Absent {
        section.unused(&LAYERS, "there is no quantize.scheme for them", "remove it, or add a scheme");
        if !section.has(&RULES) {
            section.missing(&SCHEME, SCHEME_EXPECTED.to_string());
        }
    }
    let scales = read_scales(section);
    let scale_lr = match scales {
        Some(ScalePolicy::Learned) => section.get(&SCALE_LR),
        _ => {
            section.unused(&SCALE_LR, "no scale is learned", "remove it, or write scales = \"learned\"");
            Some(1.)
        }
    };
    let (range, input_range) = read_ranges(section);
    let start = section.get(&START);
    let freeze = section.maybe(&FREEZE);
    let kv_cache = section.get(&KV_CACHE);
    let scheme = scheme.sound();
    let spec = QuantizeSpec {
        scheme: scheme?,
        layers: layers?,
        rules: rules?,
        scales: scales?,
        scale_lr: scale_lr?,
        range: range?,
        input_range: input_range?,
        start: start?,
        freeze: freeze.sound()?,
        kv_cache: kv_cache?,
    };
    unused(section, &spec);
    if let Some(error) = spec.schemes().find_map(|scheme| spec.options().check(scheme).err()) {
        section.conflict(
            &SCALES,
            "scales and ranges that go with the scheme",
            error.to_string(),
            "change either",
        );
        return None;
    }
    Some(spec)
}

/// Reports what the schemes leave nothing to do.
fn unused(section: &Section<'_>, spec: &QuantizeSpec) {
    let said = spec.scheme.is_some() || !spec.rules.is_empty();
    if said && spec.schemes().next().is_none() && spec.kv_cache == KvGrid::None {
        let advice = "name a scheme, or remove the section";
        section.fault(
            &SCHEME,
            FaultKind::NoEffect { why: "no layer is quantized".into(), advice: advice.into() },
        );
        return;
    }
    if !spec.weights() {
        section.unused(&RANGE, "no weight is quantized", "remove it, or quantize weights");
    }
    if !spec.keeps_scales() {
        section.unused(&SCALES, "no scale of a weight or of a static input is kept", "remove it");
    }
    if !spec.calibrates() {
        let advice = "remove it, or take a static input such as int8-static";
        section.unused(&INPUT_RANGE, "no input has a static scale", advice);
    }
}

const SCHEME_EXPECTED: &str = "a scheme, or rules that give one to some layers";

fn read_scales(section: &Section<'_>) -> Option<ScalePolicy> {
    let scales = section.get(&SCALES);
    if scales != Some(Scales::Ema) {
        section.unused(&EMA, "no average is taken", "remove it, or write scales = \"ema\"");
    }
    match scales? {
        Scales::Dynamic => Some(ScalePolicy::Dynamic),
        Scales::Frozen => Some(ScalePolicy::Frozen),
        Scales::Ema => section.get(&EMA).map(ScalePolicy::Ema),
        Scales::Learned => Some(ScalePolicy::Learned),
    }
}

fn read_ranges(section: &Section<'_>) -> (Option<Range>, Option<Range>) {
    let (range, input) = (section.get(&RANGE), section.get(&INPUT_RANGE));
    let percentile = match [range, input].contains(&Some(RangeWord::Percentile)) {
        true => section.get(&PERCENTILE),
        false => {
            section.unused(
                &PERCENTILE,
                "no range is a percentile",
                "remove it, or write range = \"percentile\"",
            );
            Some(100.)
        }
    };
    let named = |word| {
        Some(match word {
            RangeWord::Max => Range::Max,
            RangeWord::Percentile => Range::Percentile(percentile?),
            RangeWord::Entropy => Range::Entropy,
            RangeWord::Mse => Range::Mse,
        })
    };
    (range.and_then(named), input.and_then(named))
}

impl QuantizeSpec {
    /// The rules in order: `scheme` on each pattern of `layers`, then the list.
    pub fn govern(&self) -> Vec<Rule> {
        let base = self.scheme.iter().flat_map(|wanted| {
            self.layers.iter().map(|pattern| Rule { pattern: pattern.clone(), scheme: wanted.scheme })
        });
        let more = self.rules.iter().map(|r| Rule { pattern: r.layers.clone(), scheme: r.scheme.scheme });
        base.chain(more).collect()
    }

    /// What the schemes leave open.
    pub fn options(&self) -> Options {
        // A static input's scale stays as calibrated unless the weights' scales are ones that move.
        let input_scales = match self.scales {
            ScalePolicy::Dynamic => ScalePolicy::Frozen,
            moving => moving,
        };
        Options { scales: self.scales, range: self.range, input_scales, input_range: self.input_range }
    }

    fn schemes(&self) -> impl Iterator<Item = &Scheme> {
        let all = self.scheme.iter().chain(self.rules.iter().map(|rule| &rule.scheme));
        all.filter_map(|wanted| wanted.scheme.as_ref())
    }

    /// Whether an input has a scale that calibration data decides.
    pub fn calibrates(&self) -> bool {
        self.kv_cache != KvGrid::None || self.static_inputs()
    }

    fn weights(&self) -> bool {
        self.schemes().any(|s| s.weight.is_some())
    }

    /// Whether there are scales that outlive a step.
    fn keeps_scales(&self) -> bool {
        self.weights() || self.static_inputs()
    }

    fn static_inputs(&self) -> bool {
        self.schemes().any(|s| s.input.is_some_and(|i| !i.dynamic))
    }

    /// Whether scales change from step to step in a way that can be stopped.
    pub fn moves(&self) -> bool {
        matches!(self.scales, ScalePolicy::Ema(_) | ScalePolicy::Learned) && self.keeps_scales()
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("quantize");
        if let Some(scheme) = &self.scheme {
            out.put(&SCHEME, scheme);
            out.put(&LAYERS, self.layers.as_slice());
        }
        let (scales, ema) = match self.scales {
            ScalePolicy::Dynamic => ("dynamic", None),
            ScalePolicy::Frozen => ("frozen", None),
            ScalePolicy::Ema(keep) => ("ema", Some(keep)),
            ScalePolicy::Learned => ("learned", None),
        };
        if self.keeps_scales() {
            out.put(&SCALES, scales);
        }
        out.put_some(&EMA, ema);
        if self.scales == ScalePolicy::Learned {
            out.put(&SCALE_LR, self.scale_lr);
        }
        let word = |range| match range {
            Range::Max => ("max", None),
            Range::Percentile(of) => ("percentile", Some(of)),
            Range::Entropy => ("entropy", None),
            Range::Mse => ("mse", None),
        };
        let ((range, a), (input, b)) = (word(self.range), word(self.input_range));
        if self.weights() {
            out.put(&RANGE, range);
        }
        if self.calibrates() {
            out.put(&INPUT_RANGE, input);
        }
        out.put_some(&PERCENTILE, a.or(b));
        out.put(&START, self.start);
        out.put_some(&FREEZE, self.freeze);
        out.put(&KV_CACHE, self.kv_cache.name());
        for rule in &self.rules {
            rule.write(out);
        }
    }
}
