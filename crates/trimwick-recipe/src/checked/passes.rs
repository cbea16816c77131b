//! `quantize.passes`: the one-shot algorithms, in order, and the tables of their options.

use super::pass_list::{AlphaRule, PassList, PassName};
use super::pass_spec::{GptqOrder, GptqScales, GptqSolver, GptqSpec, PassSpec, SmoothAlpha};
use crate::raw::{Choice, Count, Key, Number, Section, SectionSpec, Sub, Switch};
use crate::resolve::Writer;

pub(crate) static PASSES: Key<PassList> = Key::default(
    "passes",
    PassList,
    "[]",
    "One-shot algorithms that run on the calibration windows, block after block, before any training; in this order.",
)
.known_as(&["algorithm", "algorithms", "methods"]);
pub(crate) static TOKENS: Key<Count> = Key::default(
    "pass_tokens",
    Count { min: 1, max: 1 << 20 },
    "512",
    "Calibration tokens, evenly spread, on which passes search and measure. Sums over inputs take all of them.",
);
pub(crate) static SMOOTHQUANT: Key<Sub> = Key::optional(
    "smoothquant",
    Sub(&SMOOTHQUANT_SPEC),
    "[quantize.smoothquant]",
    "its defaults",
    "Options of the pass \"smoothquant\".",
);
pub(crate) static AWQ: Key<Sub> = Key::optional(
    "awq",
    Sub(&AWQ_SPEC),
    "[quantize.awq]",
    "its defaults",
    "Options of the pass \"awq-scale\".",
);
pub(crate) static SVDQUANT: Key<Sub> = Key::optional(
    "svdquant",
    Sub(&SVDQUANT_SPEC),
    "[quantize.svdquant]",
    "its defaults",
    "Options of the pass \"svdquant\".",
);
pub(crate) static GPTQ: Key<Sub> = Key::optional(
    "gptq",
    Sub(&GPTQ_SPEC),
    "[quantize.gptq]",
    "its defaults",
    "Options of the pass \"gptq\".",
);

static ALPHA: Key<AlphaRule> = Key::default(
    "alpha",
    AlphaRule,
    "\"search\"",
    "The exponent that shares the range of a channel between input (1) and weight (0), or a search for it in each group of \
     layers.",
)
.known_as(&["smooth_alpha", "migration_strength"]);
static ALPHA_STEPS: Key<Count> = Key::default(
    "steps",
    Count { min: 1, max: 1000 },
    "20",
    "Exponents from 0 to 1 that a search tries, less one. Only with alpha \"search\".",
);
static SCALE_STEPS: Key<Count> = Key::default(
    "steps",
    Count { min: 1, max: 1000 },
    "10",
    "Exponents from 0 to 1 that the search tries, less one.",
)
.known_as(&["alpha_step", "n_grid"]);
static RANK: Key<Count> =
    Key::default("rank", Count { min: 1, max: 1 << 16 }, "32", "Rank of the branch beside each weight.")
        .known_as(&["lowrank"]);
static ORDER: Key<Choice<GptqOrder>> = Key::default(
    "order",
    Choice(&[("natural", GptqOrder::Natural), ("activation", GptqOrder::Activation)]),
    "\"natural\"",
    "Round columns from first to last, or those with the largest inputs first.",
)
.known_as(&["act_order", "desc_act", "actorder"]);
static SCALES: Key<Choice<GptqScales>> = Key::default(
    "scales",
    Choice(&[("reached", GptqScales::Reached), ("static", GptqScales::Static)]),
    "\"reached\"",
    "Find the scale of a group when its first column's turn comes, or before the first of all. Only with groups and order \
     \"natural\", and without \"awq-clip\".",
)
.known_as(&["static_groups"]);
static DAMPING: Key<Number> = Key::default(
    "damping",
    Number::above(0.0).up_to(1.0),
    "0.01",
    "Added to the Hessian's diagonal, as a share of its mean; raised tenfold up to three times where that is not enough. Not \
     with joint, which takes prune.damping.",
)
.known_as(&["percdamp", "dampening_frac"]);
static COLUMNS: Key<Count> = Key::default(
    "block",
    Count { min: 1, max: 1 << 16 },
    "128",
    "Columns whose error is passed on together. Not with joint, which takes prune.block.",
)
.known_as(&["block_size", "blocksize"]);
static JOINT: Key<Switch> = Key::default(
    "joint",
    Switch,
    "false",
    "Prune in the same pass, in the place of SparseGPT's: each column is dropped or rounded, and later ones make up for both.",
);

static SMOOTHQUANT_SPEC: SectionSpec = SectionSpec {
    keys: &[&ALPHA, &ALPHA_STEPS],
    foreign: &[("folding", "scales are always folded; remove it")],
};
static AWQ_SPEC: SectionSpec = SectionSpec { keys: &[&SCALE_STEPS], foreign: &[] };
static SVDQUANT_SPEC: SectionSpec = SectionSpec { keys: &[&RANK], foreign: &[] };
static GPTQ_SPEC: SectionSpec =
    SectionSpec { keys: &[&ORDER, &SCALES, &DAMPING, &COLUMNS, &JOINT], foreign: &[] };

/// The passes of a recipe, and the tokens that each looks at.
pub(crate) struct Passes {
    pub(crate) list: Vec<PassSpec>,
    pub(crate) tokens: usize,
}

/// Reads every key about passes; `groups` tells whether some scale is one of a group.
pub(crate) fn read(section: &Section<'_>, groups: bool) -> Option<Passes> {
    let names = section.get(&PASSES);
    let listed = |name| names.as_ref().is_some_and(|names| names.contains(&name));
    let tokens = match names.as_ref().is_some_and(Vec::is_empty) {
        true => {
            section.unused(&TOKENS, "there are no passes", "remove it, or name some in quantize.passes");
            Some(512)
        }
        false => section.get(&TOKENS),
    };
    let table = |key: &'static Key<Sub>, name: PassName| match (&names, listed(name)) {
        // Of a list with faults every table is read, for its own.
        (None, _) => section.sub(key).given(),
        (Some(_), true) => section.sub_or_empty(key),
        (Some(_), false) => {
            let advice = format!("remove it, or add {:?} to quantize.passes", name.word());
            section.unused(key, format!("{:?} is not among quantize.passes", name.word()), advice);
            None
        }
    };
    let smooth = table(&SMOOTHQUANT, PassName::SmoothQuant).and_then(read_smooth);
    let awq = table(&AWQ, PassName::AwqScale).and_then(read_awq);
    let svd = table(&SVDQUANT, PassName::SvdQuant).and_then(read_svd);
    let fixed = listed(PassName::AwqClip);
    let gptq = table(&GPTQ, PassName::Gptq).and_then(|section| read_gptq(section, groups, fixed));
    let of = |name: PassName| match name {
        PassName::SmoothQuant => smooth,
        PassName::AwqScale => awq,
        PassName::SvdQuant => svd,
        PassName::AwqClip => Some(PassSpec::AwqClip),
        PassName::Gptq => gptq,
        PassName::BiasCorrection => Some(PassSpec::BiasCorrection),
    };
    let list = names?.into_iter().map(of).collect::<Option<Vec<_>>>();
    Some(Passes { list: list?, tokens: tokens? as usize })
}

fn read_smooth(section: Section<'_>) -> Option<PassSpec> {
    let alpha = section.get(&ALPHA);
    let alpha = match alpha {
        Some(Some(alpha)) => {
            section.unused(&ALPHA_STEPS, "alpha is a number", "remove it, or write alpha = \"search\"");
            Some(SmoothAlpha::Fixed(alpha))
        }
        Some(None) => section.get(&ALPHA_STEPS).map(|steps| SmoothAlpha::Search(steps as usize)),
        None => {
            section.get(&ALPHA_STEPS);
            None
        }
    };
    section.finish();
    alpha.map(PassSpec::SmoothQuant)
}

fn read_awq(section: Section<'_>) -> Option<PassSpec> {
    let steps = section.get(&SCALE_STEPS);
    section.finish();
    Some(PassSpec::AwqScale { steps: steps? as usize })
}

fn read_svd(section: Section<'_>) -> Option<PassSpec> {
    let rank = section.get(&RANK);
    section.finish();
    Some(PassSpec::SvdQuant { rank: rank? as usize })
}

/// `fixed` where a clip search has chosen the scales before.
fn read_gptq(section: Section<'_>, groups: bool, fixed: bool) -> Option<PassSpec> {
    let order = section.get(&ORDER);
    let scales = match (order, groups, fixed) {
        (Some(GptqOrder::Activation), ..) => {
            Err("order \"activation\" finds all scales before the first column")
        }
        (_, false, _) => Err("no weight has scales of groups"),
        (.., true) => Err("\"awq-clip\" has chosen the scales"),
        _ => Ok(section.get(&SCALES)),
    };
    let scales = scales.unwrap_or_else(|why| {
        section.unused(&SCALES, why, "remove it");
        Some(GptqScales::Static)
    });
    let joint = section.get(&JOINT);
    let solver = if joint == Some(true) {
        let why = "joint = true takes those of [prune]";
        section.unused(&DAMPING, why, "remove it, or write prune.damping");
        section.unused(&COLUMNS, why, "remove it, or write prune.block");
        Some(None)
    } else {
        let (damping, block) = (section.get(&DAMPING), section.get(&COLUMNS));
        damping.zip(block).map(|(damping, block)| Some(GptqSolver { damping, block: block as usize }))
    };
    section.finish();
    joint?;
    Some(PassSpec::Gptq(GptqSpec { order: order?, scales: scales?, solver: solver? }))
}

/// Writes the keys of the section itself.
pub(crate) fn write(list: &[PassSpec], tokens: usize, out: &mut Writer) {
    if list.is_empty() {
        return;
    }
    let names: Vec<String> = list.iter().map(|pass| pass.name().to_string()).collect();
    out.put(&PASSES, names.as_slice());
    out.put(&TOKENS, tokens);
}

/// Writes the tables of options; `groups` as it was read with.
pub(crate) fn write_tables(list: &[PassSpec], groups: bool, out: &mut Writer) {
    let clips = list.contains(&PassSpec::AwqClip);
    for pass in list {
        match pass {
            PassSpec::SmoothQuant(alpha) => {
                out.section("quantize.smoothquant");
                match alpha {
                    SmoothAlpha::Fixed(alpha) => out.put(&ALPHA, *alpha),
                    SmoothAlpha::Search(steps) => {
                        out.put(&ALPHA, "search");
                        out.put(&ALPHA_STEPS, *steps);
                    }
                }
            }
            PassSpec::AwqScale { steps } => {
                out.section("quantize.awq");
                out.put(&SCALE_STEPS, *steps);
            }
            PassSpec::SvdQuant { rank } => {
                out.section("quantize.svdquant");
                out.put(&RANK, *rank);
            }
            PassSpec::Gptq(gptq) => {
                out.section("quantize.gptq");
                out.put(&ORDER, gptq.order);
                if groups && !clips && gptq.order == GptqOrder::Natural {
                    out.put(&SCALES, gptq.scales);
                }
                if let Some(GptqSolver { damping, block }) = gptq.solver {
                    out.put(&DAMPING, damping);
                    out.put(&COLUMNS, block);
                }
                out.put(&JOINT, gptq.joint());
            }
            PassSpec::AwqClip | PassSpec::BiasCorrection => {}
        }
    }
}
