//! Lists of words: what the keys that take one share.

use super::{At, Raw, Value, text_of};
use crate::error::FaultKind;

/// Reads every element of a list, or a text by itself as a list of one. `read` sees what was read before the element
/// and reports its own faults; all of them are found before the list is given up.
pub(crate) fn list_of<T>(
    raw: &Raw,
    at: &At<'_>,
    expected: String,
    mut read: impl FnMut(&Raw, &At<'_>, &[T]) -> Option<T>,
) -> Option<Vec<T>> {
    let list = match &raw.value {
        Value::List(list) => list.as_slice(),
        _ if text_of(raw).is_some() => std::slice::from_ref(raw),
        _ => {
            at.wrong_type(raw, expected);
            return None;
        }
    };
    let mut found = Vec::with_capacity(list.len());
    let mut sound = true;
    for (i, item) in list.iter().enumerate() {
        match read(item, &at.element(i), &found) {
            Some(value) => found.push(value),
            None => sound = false,
        }
    }
    sound.then_some(found)
}

/// Reports an element that changes nothing.
pub(crate) fn needless(raw: &Raw, at: &At<'_>, why: String) {
    at.report(raw, FaultKind::NoEffect { why, advice: "leave it out of the list".to_string() });
}

/// Reports an element that stands in the list before.
pub(crate) fn twice(raw: &Raw, at: &At<'_>, what: &str, name: &str) {
    needless(raw, at, format!("the {what} {name:?} is in the list already"));
}
