//! `[quantize]`: which layers compute on a grid, on which, and how its scales come about.

use trimwick_quant::{Range, ScalePolicy, Scheme};

use super::budget::{self, BudgetSpec};
use super::kv::{KV_CACHE, KvGrid};
use super::passes;
use super::quantize_rules::{self, QuantRule, SchemeRule, Wanted};
use super::quantize_spec::{QuantizeSpec, grouped};
use crate::error::FaultKind;
use crate::raw::{Choice, Count, Globs, Key, Number, Section, SectionSpec, Slot, Sub, Subs};
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
.known_as(&["observer", "calibration"]);
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
static BUDGET: Key<Sub> = Key::optional(
    "budget",
    Sub(&budget::SPEC),
    "[quantize.budget]",
    "every layer takes quantize.scheme",
    "Mixed precision: a scheme for each layer of quantize.layers, chosen in the place of quantize.scheme.",
)
.known_as(&["auto_quantize", "mixed_precision"]);

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
        &passes::PASSES,
        &passes::TOKENS,
        &passes::SMOOTHQUANT,
        &passes::AWQ,
        &passes::SVDQUANT,
        &passes::GPTQ,
        &BUDGET,
    ],
    foreign: &[
        ("bits", "name a scheme, for example quantize.scheme = \"int4-g32\""),
        ("group_size", "name it in the scheme, for example quantize.scheme = \"int4-g32\""),
        ("ignore", "add a rule: [[quantize.rules]] with layers = \"…\" and scheme = \"none\""),
        ("exclude", "add a rule: [[quantize.rules]] with layers = \"…\" and scheme = \"none\""),
    ],
};

pub(crate) fn read(section: Section<'_>) -> Option<QuantizeSpec> {
    let spec = read_keys(&section);
    section.finish();
    spec
}

fn read_keys(section: &Section<'_>) -> Option<QuantizeSpec> {
    let budget = section.sub(&BUDGET).and_then(budget::read);
    let scheme = match budget.present() {
        true => {
            section.unused(&SCHEME, "quantize.budget chooses the schemes", "remove either");
            Slot::Absent
        }
        false => section.maybe(&SCHEME),
    };
    let layers = section.get(&LAYERS);
    let rules = section.subs(&RULES).and_then(|rules| {
        let rules: Vec<_> = rules.into_iter().map(quantize_rules::read).collect();
        rules.into_iter().collect::<Option<Vec<_>>>()
    });
    if scheme == Slot::Absent && !budget.present() {
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
    let (scheme, budget) = (scheme.sound(), budget.sound());
    let passes = passes::read(section, grouped(wanted(&scheme, &rules, &budget)));
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
        pass_tokens: passes.as_ref()?.tokens,
        passes: passes?.list,
        budget: budget?,
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
    if !spec.observes() {
        let advice = "remove it, or take a static input such as int8-static";
        section.unused(&INPUT_RANGE, "no input has a static scale", advice);
    }
}

/// Every scheme that is spoken of.
fn wanted<'a>(
    scheme: &'a Option<Option<Wanted>>,
    rules: &'a Option<Vec<QuantRule>>,
    budget: &'a Option<Option<BudgetSpec>>,
) -> impl Iterator<Item = &'a Scheme> {
    let rules = rules.iter().flatten().map(|rule| &rule.scheme);
    let candidates = budget.iter().flatten().flat_map(|budget| &budget.candidates);
    scheme.iter().flatten().chain(rules).chain(candidates).filter_map(|wanted| wanted.scheme.as_ref())
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
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("quantize");
        out.put_some(&SCHEME, self.scheme.as_ref());
        if self.scheme.is_some() || self.budget.is_some() {
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
        if self.observes() {
            out.put(&INPUT_RANGE, input);
        }
        out.put_some(&PERCENTILE, a.or(b));
        out.put(&START, self.start);
        out.put_some(&FREEZE, self.freeze);
        out.put(&KV_CACHE, self.kv_cache.name());
        passes::write(&self.passes, self.pass_tokens, out);
        passes::write_tables(&self.passes, grouped(self.schemes()), out);
        if let Some(budget) = &self.budget {
            budget.write(out);
        }
        for rule in &self.rules {
            rule.write(out);
        }
    }
}
