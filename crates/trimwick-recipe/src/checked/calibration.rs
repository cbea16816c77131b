//! `[calibration]`: the windows whose activations pruning methods, one-shot passes and static inputs look at.

use serde::Serialize;

use super::data::{CALIBRATION as DATA, TextSource, read_text};
use crate::raw::{Count, Key, Section, SectionSpec};
use crate::resolve::Writer;

static WINDOWS: Key<Count> = Key::default(
    "windows",
    Count { min: 1, max: 1 << 20 },
    "32",
    "Windows of data.context tokens, drawn from calibration.data or data.train.",
)
.known_as(&["samples", "nsamples", "num_samples", "calib_size"]);
static SEED: Key<Count> = Key::optional(
    "seed",
    Count { min: 0, max: Count::LARGEST },
    "0",
    "the recipe's seed",
    "Selects which windows are drawn.",
);

/// The declaration of `[calibration]`.
pub(crate) static SPEC: SectionSpec = SectionSpec { keys: &[&DATA, &WINDOWS, &SEED], foreign: &[] };

/// The calibration data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalibrationSpec {
    /// The text that windows are drawn from; none: `data.train`. Never a mix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<TextSource>,
    /// Windows of `data.context` tokens, at least 1.
    pub windows: usize,
    /// Selects which windows are drawn.
    pub seed: u64,
}

pub(crate) fn read(section: Section<'_>, seed: Option<u64>) -> Option<CalibrationSpec> {
    let data = read_text(&section, &DATA);
    let windows = section.get(&WINDOWS);
    let own = section.maybe(&SEED);
    section.finish();
    Some(CalibrationSpec { data: data.sound()?, windows: windows? as usize, seed: own.sound()?.or(seed)? })
}

impl CalibrationSpec {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.section("calibration");
        out.put_some(&DATA, self.data.as_ref());
        out.put(&WINDOWS, self.windows);
        out.put(&SEED, self.seed);
    }
}
