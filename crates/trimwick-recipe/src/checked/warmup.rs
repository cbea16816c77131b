//! The length of the warmup: a fraction of the steps or a number of them.

use serde::Serialize;

use crate::raw::{At, Raw, Rule, Value};
use crate::resolve::ToToml;

/// How long the learning rate climbs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// A fraction of all steps, in [0, 1).
    Fraction(f64),
    /// So many steps, fewer than there are.
    Steps(u64),
}

/// A fraction of the steps, written with a point, or a number of steps, written without.
#[derive(Debug)]
pub(crate) struct WarmupRule;

impl Rule for WarmupRule {
    type Value = Warmup;

    fn expected(&self) -> String {
        "a fraction of the steps, from 0.0 and below 1.0, or a whole number of steps".to_string()
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Warmup> {
        match raw.value {
            Value::Whole(steps) if steps >= 0 => return Some(Warmup::Steps(steps.unsigned_abs())),
            Value::Real(fraction) if (0.0..1.0).contains(&fraction) => {
                return Some(Warmup::Fraction(fraction + 0.0));
            }
            Value::Whole(_) | Value::Huge(_) | Value::Real(_) => at.bad_value(raw, self.expected()),
            _ => at.wrong_type(raw, self.expected()),
        }
        None
    }
}

impl ToToml for Warmup {
    fn to_toml(&self) -> String {
        match self {
            Warmup::Fraction(fraction) => fraction.to_toml(),
            Warmup::Steps(steps) => steps.to_toml(),
        }
    }
}
