//! The keys of `[train]` that say what a step keeps in memory, and what is done about a broken one.

use serde::Serialize;
use trimwick_train::{Guards, MemoryPlan, Moments, NonFinite};

use crate::raw::{Choice, Count, Key, Number, Section, Slot};
use crate::resolve::Writer;

pub(crate) static MEMORY: Key<Choice<MemoryPlan>> = Key::default(
    "memory",
    Choice(&[("none", MemoryPlan::None), ("blocks", MemoryPlan::Blocks), ("lean", MemoryPlan::Lean)]),
    "\"none\"",
    "\"blocks\" computes each block twice to keep the activations of one alone; \"lean\" also updates each weight as \
     soon as its gradient is known and gives that back, and clips by the norm of the step before.",
)
.known_as(&["gradient_checkpointing", "checkpointing", "recompute"]);
pub(crate) static MOMENTS: Key<Choice<Moments>> = Key::default(
    "moments",
    Choice(&[("f32", Moments::F32), ("int8", Moments::Int8)]),
    "\"f32\"",
    "AdamW's two moments take 8 bytes a weight in f32, 2 in int8.",
)
.known_as(&["optimizer_bits", "moments_dtype", "adam_8bit"]);
pub(crate) static NON_FINITE: Key<Choice<NonFinite>> = Key::default(
    "non_finite",
    Choice(&[("abort", NonFinite::Abort), ("skip", NonFinite::Skip), ("rewind", NonFinite::Rewind)]),
    "\"abort\"",
    "A loss or gradient that is NaN or infinite ends the run, is left out, or takes the weights back to the last \
     checkpoint of save_every while the text goes on.",
)
.known_as(&["nan", "on_nan", "nan_policy"]);
pub(crate) static SPIKE: Key<Number> = Key::optional(
    "spike",
    Number::above(1.0),
    "4.0",
    "no loss is a spike",
    "A loss above so many times the median of the last 50 takes the weights back like non_finite = \"rewind\".",
)
.known_as(&["loss_spike", "spike_factor"]);
pub(crate) static SKIPS: Key<Count> = Key::default(
    "skips",
    Count { min: 0, max: u32::MAX as u64 },
    "3",
    "Broken steps that are left out or rewound; the next one ends the run. Only with non_finite or spike.",
)
.known_as(&["max_skips", "max_rewinds"]);

/// What a step keeps in memory, and what is done about a broken one.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct EngineSpec {
    /// Activations and gradients.
    pub memory: MemoryPlan,
    /// The optimizer's moments.
    pub moments: Moments,
    /// About broken steps.
    pub guards: Guards,
}

pub(crate) fn read(section: &Section<'_>, accumulate: Option<u64>) -> Option<EngineSpec> {
    let memory = section.get(&MEMORY);
    let moments = section.get(&MOMENTS);
    let non_finite = section.get(&NON_FINITE);
    let spike = section.maybe(&SPIKE);
    if memory == Some(MemoryPlan::Lean) {
        if let Some(accumulate) = accumulate.filter(|&n| n > 1) {
            let expected = format!("\"none\" or \"blocks\" with accumulate = {accumulate}");
            let advice = "lean updates weights in each batch: write accumulate = 1, or memory = \"blocks\"";
            section.conflict(&MEMORY, expected, "\"lean\"", advice);
        }
        if non_finite == Some(NonFinite::Skip) {
            let expected = "\"abort\" or \"rewind\" with memory = \"lean\"";
            let advice = "when a gradient is found to be broken, other weights are updated already; write \
                          non_finite = \"rewind\"";
            section.conflict(&NON_FINITE, expected, "\"skip\"", advice);
        }
    }
    let skips = if non_finite == Some(NonFinite::Abort) && spike == Slot::Absent {
        let advice = "remove it, or write non_finite = \"rewind\"";
        section.unused(&SKIPS, "the first broken step ends the run", advice);
        Some(u64::from(Guards::default().skips))
    } else {
        section.get(&SKIPS)
    };
    let guards = Guards { non_finite: non_finite?, spike: spike.sound()?, skips: skips? as u32 };
    Some(EngineSpec { memory: memory?, moments: moments?, guards })
}

impl EngineSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        let Self { memory, moments, guards: Guards { non_finite, spike, skips } } = *self;
        let memory = match memory {
            MemoryPlan::None => "none",
            MemoryPlan::Blocks => "blocks",
            MemoryPlan::Lean => "lean",
        };
        out.put(&MEMORY, memory);
        let moments = match moments {
            Moments::F32 => "f32",
            Moments::Int8 => "int8",
        };
        out.put(&MOMENTS, moments);
        let policy = match non_finite {
            NonFinite::Abort => "abort",
            NonFinite::Skip => "skip",
            NonFinite::Rewind => "rewind",
        };
        out.put(&NON_FINITE, policy);
        out.put_some(&SPIKE, spike);
        let acts = non_finite != NonFinite::Abort || spike.is_some();
        out.put_some(&SKIPS, acts.then_some(u64::from(skips)));
    }
}
