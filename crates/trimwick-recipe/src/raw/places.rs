//! Where each key of a recipe was written, for faults that are found after it was read.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Table, Value};
use crate::error::Place;

/// The place of every key and list element, by dotted path.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    file: Arc<str>,
    known: BTreeMap<String, Place>,
}

impl Places {
    pub(crate) fn new(file: Arc<str>, root: &Table) -> Self {
        let mut known = BTreeMap::new();
        collect(root, "", &mut known);
        Places { file, known }
    }

    /// The place of a key; of one that is not given, that of the section it would stand in.
    pub(crate) fn of(&self, key: &str) -> Place {
        let mut path = key;
        loop {
            if let Some(place) = self.known.get(path) {
                return place.clone();
            }
            match path.rsplit_once('.') {
                Some((outer, _)) => path = outer,
                None => return Place::File { file: self.file.clone() },
            }
        }
    }

    pub(crate) fn given(&self, key: &str) -> bool {
        self.known.contains_key(key)
    }
}

/// Where a recipe was written is no part of what it says: two recipes from different files may be equal.
impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

fn collect(table: &Table, outer: &str, known: &mut BTreeMap<String, Place>) {
    for (key, raw) in &table.entries {
        let path = if outer.is_empty() { key.clone() } else { format!("{outer}.{key}") };
        known.insert(path.clone(), raw.place.clone());
        match &raw.value {
            Value::Table(inner) => collect(inner, &path, known),
            Value::List(list) => {
                for (i, item) in list.iter().enumerate() {
                    let path = format!("{path}.{i}");
                    known.insert(path.clone(), item.place.clone());
                    if let Value::Table(inner) = &item.value {
                        collect(inner, &path, known);
                    }
                }
            }
            _ => {}
        }
    }
}
