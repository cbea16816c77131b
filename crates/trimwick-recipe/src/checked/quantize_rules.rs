//! `[[quantize.rules]]`, and how a scheme is written.

use serde::{Serialize, Serializer};
use trimwick_quant::Scheme;

use crate::raw::{At, Key, OneGlob, Raw, Rule, Section, SectionSpec, text_of};
use crate::resolve::{ToToml, Writer};

static LAYERS: Key<OneGlob> = Key::required(
    "layers",
    OneGlob { over: "layer paths" },
    "\"*.down_proj\"",
    "A glob pattern over layer paths; * matches across dots.",
)
.known_as(&["pattern", "targets", "match"]);
static SCHEME: Key<SchemeRule> =
    Key::required("scheme", SchemeRule, "\"int8\"", "The scheme that they take, or \"none\".")
        .known_as(&["preset", "format"]);

/// The declaration of `[[quantize.rules]]`.
pub(crate) static SPEC: SectionSpec = SectionSpec { keys: &[&LAYERS, &SCHEME], foreign: &[] };

/// A scheme as a recipe writes it, and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The recipe's words: a preset's name, or the parts of a [`Scheme`].
    pub text: String,
    /// The grids; `None` for `"none"`, which leaves layers as they are.
    pub scheme: Option<Scheme>,
}

impl Serialize for Wanted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl ToToml for Wanted {
    fn to_toml(&self) -> String {
        self.text.to_toml()
    }
}

/// Layers that take another scheme.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuantRule {
    /// A glob pattern over layer paths.
    pub layers: String,
    /// What they take.
    pub scheme: Wanted,
}

/// The name of a scheme, or its parts.
#[derive(Debug)]
pub(crate) struct SchemeRule;

impl Rule for SchemeRule {
    type Value = Wanted;

    fn expected(&self) -> String {
        format!(
            "a scheme: {}, none, or parts such as \"weight int4 g64 bf16, input int8 token dynamic\"",
            Scheme::PRESETS.join(", ")
        )
    }

    fn read(&self, raw: &Raw, at: &At<'_>) -> Option<Wanted> {
        let Some(text) = text_of(raw) else {
            at.wrong_type(raw, self.expected());
            return None;
        };
        if text == "none" {
            return Some(Wanted { text: text.into(), scheme: None });
        }
        match text.parse() {
            Ok(scheme) => Some(Wanted { text: text.into(), scheme: Some(scheme) }),
            Err(error) => {
                at.bad_value(raw, format!("a scheme ({error})"));
                None
            }
        }
    }
}

pub(crate) fn read(section: Section<'_>) -> Option<QuantRule> {
    let (layers, scheme) = (section.get(&LAYERS), section.get(&SCHEME));
    section.finish();
    Some(QuantRule { layers: layers?, scheme: scheme? })
}

impl QuantRule {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.element("quantize.rules");
        out.put(&LAYERS, &self.layers);
        out.put(&SCHEME, &self.scheme);
    }
}
