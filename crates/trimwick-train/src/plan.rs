//! What a run is: the settings that decide its bytes. A checkpoint holds them, and continues no other run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::Windows;
use crate::distill::DistillConfig;
use crate::guards::Guards;
use crate::optim::AdamWConfig;
use crate::schedule::Schedule;
use crate::walk::MemoryPlan;
use crate::{Error, Result};

/// Every setting that the bytes of a run depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Steps of the run.
    pub steps: u64,
    /// Windows in a micro-batch.
    pub batch: usize,
    /// Micro-batches in a step.
    pub accumulate: usize,
    /// Norm that gradients are clipped to.
    pub clip: Option<f64>,
    /// Learning rates.
    pub schedule: Schedule,
    /// Optimizer settings.
    pub optimizer: AdamWConfig,
    /// Factor on the learning rate and weight decay, by parameter.
    pub groups: BTreeMap<String, (f64, f64)>,
    /// How much a teacher counts.
    pub distill: Option<DistillConfig>,
    /// Steps between two validations, and what they score.
    pub validation: Option<(u64, Data)>,
    /// The training data.
    pub data: Data,
    /// Seed of the data order.
    pub order_seed: u64,
    /// Seed of the model's random choices.
    pub model_seed: u64,
    /// What a step keeps in memory: sums run in another order.
    pub memory: MemoryPlan,
    /// What a run does about a broken step.
    pub guards: Guards,
    /// Steps between two checkpoints, where the guards may go back to one.
    pub rewind_every: Option<u64>,
}

/// What tells one token stream from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Tokens of a window.
    pub context: usize,
    /// Tokens in all.
    pub tokens: usize,
    /// A hash of the token ids and of what stands beside them in [`Windows`] (64 bits of FNV-1a over 32-bit words): tells an
    /// edited file, not a forged one.
    pub hash: String,
}

impl From<&Windows> for Data {
    fn from(windows: &Windows) -> Self {
        let word = |h: u64, &id: &u32| (h ^ u64::from(id)).wrapping_mul(0x0000_0100_0000_01b3);
        let mut hash = windows.ids().iter().fold(0xcbf2_9ce4_8422_2325, word);
        // Which tokens are trained and how sources are mixed, where there is such a thing.
        hash = windows.beside().iter().fold(hash, word);
        Self { context: windows.context(), tokens: windows.ids().len(), hash: format!("{hash:016x}") }
    }
}

impl Plan {
    /// Compares the plan of a checkpoint, as it is in the file, with this one.
    ///
    /// # Errors
    /// [`Error::OtherRun`] with the first setting that differs.
    pub(crate) fn compare(&self, path: &Path, saved: &Value) -> Result<()> {
        let mine = serde_json::to_value(self).unwrap_or_default();
        let (mine, saved) = (flat(&mine), flat(saved));
        for key in mine.keys().chain(saved.keys()) {
            let (expected, found) = (mine.get(key).copied(), saved.get(key).copied());
            if expected != found {
                let show = |v: Option<&Value>| v.map_or("nothing".into(), Value::to_string);
                let (what, path) = (format!("plan.{key}"), path.into());
                return Err(Error::OtherRun { path, what, expected: show(expected), found: show(found) });
            }
        }
        Ok(())
    }
}

/// The leaves of a JSON object by their dotted path.
fn flat(value: &Value) -> BTreeMap<String, &Value> {
    fn walk<'a>(path: String, value: &'a Value, leaves: &mut BTreeMap<String, &'a Value>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(path, value, leaves);
                }
            }
            leaf => drop(leaves.insert(path, leaf)),
        }
    }
    let mut leaves = BTreeMap::new();
    walk(String::new(), value, &mut leaves);
    leaves
}
