//! Numbers within bounds.

use super::rules::{At, Rule};
use super::{Raw, Value};

/// A whole number within bounds.
#[derive(Debug)]
pub(crate) struct Count {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Count {
    /// TOML's whole numbers end here, so that what is read can be written again.
    pub(crate) const LARGEST: u64 = i64::MAX as u64;
}

impl Rule for Count {
    type Value = u64;

    fn expected(&self) -> String {
        match self.max {
            Self::LARGEST => format!("a whole number of {} or more", self.min),
            max => format!("a whole number from {} to {max}", self.min),
        }
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<u64> {
        const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
        let number = match raw.value {
            Value::Whole(number) => u64::try_from(number).ok(),
            // Counts are often written as 1e6, which TOML calls a float.
            Value::Real(number) if number.fract() == 0.0 && (0.0..=EXACT).contains(&number) => {
                Some(number as u64)
            }
            Value::Real(number) if number.is_infinite() || number.fract() == 0.0 => None,
            Value::Huge(_) => None,
            _ => {
                at.wrong_type(raw, self.expected());
                return None;
            }
        };
        let number = number.filter(|number| (self.min..=self.max).contains(number));
        if number.is_none() {
            at.bad_value(raw, self.expected());
        }
        number
    }
}

/// A finite number within bounds.
#[derive(Debug)]
pub(crate) struct Number {
    low: f64,
    low_itself: bool,
    high: f64,
    high_itself: bool,
}

impl Number {
    pub(crate) const fn above(low: f64) -> Self {
        Number { low, low_itself: false, high: f64::MAX, high_itself: true }
    }

    pub(crate) const fn from(low: f64) -> Self {
        Number { low, low_itself: true, high: f64::MAX, high_itself: true }
    }

    pub(crate) const fn up_to(self, high: f64) -> Self {
        Number { high, high_itself: true, ..self }
    }

    pub(crate) const fn below(self, high: f64) -> Self {
        Number { high, high_itself: false, ..self }
    }

    fn holds(&self, number: f64) -> bool {
        let above = number > self.low || (self.low_itself && number == self.low);
        let below = number < self.high || (self.high_itself && number == self.high);
        above && below
    }
}

impl Rule for Number {
    type Value = f64;

    fn expected(&self) -> String {
        let low = if self.low_itself { "from" } else { "above" };
        match (self.high, self.high_itself) {
            (f64::MAX, _) => format!("a finite number {low} {}", self.low),
            (high, true) => format!("a number {low} {} up to {high}", self.low),
            (high, false) => format!("a number {low} {} and below {high}", self.low),
        }
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<f64> {
        let number = match raw.value {
            Value::Real(number) => number,
            Value::Whole(number) => number as f64,
            Value::Huge(_) => f64::INFINITY,
            _ => {
                at.wrong_type(raw, self.expected());
                return None;
            }
        };
        if self.holds(number) {
            // A negative zero would be written differently and mean the same.
            return Some(number + 0.0);
        }
        at.bad_value(raw, self.expected());
        None
    }
}
