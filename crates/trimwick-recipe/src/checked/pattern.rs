//! The patterns that pruning leaves behind.

use std::fmt;

use serde::Serialize;

use crate::raw::{At, Raw, Rule, text_of};

/// The largest group of an N:M pattern.
const LARGEST_GROUP: usize = 64;
/// The pattern as it is written, before `sparsity` completes it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Written {
    Nm { n: usize, m: usize },
    Unstructured,
}

/// "N:M" or "unstructured".
#[derive(Debug)]
pub(crate) struct PatternRule;

impl Rule for PatternRule {
    type Value = Written;

    fn expected(&self) -> String {
        format!("\"N:M\" with 1 \u{2264} N < M \u{2264} {LARGEST_GROUP}, or \"unstructured\"")
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Written> {
        let Some(text) = text_of(raw) else {
            at.wrong_type(raw, self.expected());
            return None;
        };
        if text == "unstructured" {
            return Some(Written::Unstructured);
        }
        let number = |digits: &str| {
            digits.parse::<usize>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
        };
        let groups = text.split_once(':').and_then(|(n, m)| Some((number(n)?, number(m)?)));
        match groups {
            Some((n, m)) if 1 <= n && n < m && m <= LARGEST_GROUP => Some(Written::Nm { n, m }),
            _ => {
                at.bad_value(raw, self.expected());
                None
            }
        }
    }
}

/// Which weights of a layer may stay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// `n` of every `m` consecutive inputs of an output stay; 1 ≤ n < m ≤ 64.
    Nm {
        /// Weights that stay in a group.
        n: usize,
        /// Weights in a group.
        m: usize,
    },
    /// Any weights; `sparsity`, in (0, 1), is the share that goes.
    Unstructured {
        /// The share of weights that go.
        sparsity: f64,
    },
}

impl Pattern {
    /// The share of weights that go, in (0, 1).
    pub fn sparsity(self) -> f64 {
        match self {
            Pattern::Nm { n, m } => 1.0 - n as f64 / m as f64,
            Pattern::Unstructured { sparsity } => sparsity,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Nm { n, m } => write!(f, "{n}:{m}"),
            Pattern::Unstructured { sparsity } => write!(f, "unstructured {}%", sparsity * 100.0),
        }
    }
}
