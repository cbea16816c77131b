//! The grid of keys and values.

use serde::{Deserialize, Serialize};

use crate::raw::{Choice, Key};

pub(crate) static KV_CACHE: Key<Choice<KvGrid>> = Key::default(
    "kv_cache",
    Choice(&[("none", KvGrid::None), ("fp8", KvGrid::Fp8), ("int8", KvGrid::Int8)]),
    "\"none\"",
    "The grid of keys (after the rotation) and values in attention.",
)
.known_as(&["kv_cache_quant_algo", "kv"]);

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
    pub(crate) fn name(self) -> &'static str {
        match self {
            KvGrid::None => "none",
            KvGrid::Fp8 => "fp8",
            KvGrid::Int8 => "int8",
        }
    }
}
