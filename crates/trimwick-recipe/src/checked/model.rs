//! `[model]`: the weights a recipe starts from, or the shape of a model that starts from random ones.

use std::path::PathBuf;

use serde::Serialize;

use super::config;
use super::pretrain::{self, PretrainSpec};
use crate::error::{FaultKind, Hint};
use crate::raw::{Key, Section, SectionSpec, Slot, Sub, Switch, Text, nearest};
use crate::resolve::Writer;

/// The models that are compiled into the program, as they are named after `builtin:`.
pub const BUILTIN_MODELS: &[&str] = &["tiny-llama"];

static SOURCE: Key<Text> = Key::optional(
    "source",
    Text::path("a model: builtin:NAME, a folder, a .gguf file or a hub id ORG/NAME"),
    "\"builtin:tiny-llama\"",
    "[model.config] is given",
    "The model to start from. Of a folder and a hub id with the same spelling, the folder wins; ./ always means a path.",
)
.known_as(&["path", "name_or_path", "model_name_or_path", "checkpoint", "id"]);
static REVISION: Key<Text> = Key::optional(
    "revision",
    Text { what: "a branch, a tag or a commit of the hub", allowed: is_revision },
    "\"main\"",
    "the hub's main branch",
    "The revision of a hub id. Pin a commit to make a run repeatable.",
);
static CONFIG: Key<Sub> = Key::optional(
    "config",
    Sub(&config::SPEC),
    "[model.config]",
    "source is given",
    "Start from random weights of this shape instead: the keys of a Hugging Face config.json.",
);
static TOKENIZER: Key<Sub> = Key::optional(
    "tokenizer",
    Sub(&pretrain::TOKENIZER_SPEC),
    "[model.tokenizer]",
    "the model's own",
    "The tokenizer of a model that starts from random weights.",
);

static STREAM: Key<Switch> = Key::default(
    "stream",
    Switch,
    "false",
    "Hold one block of the model in memory at a time: for models that are larger than memory.",
)
.known_as(&["streaming", "low_memory", "offload"]);

/// The declaration of `[model]`.
pub(crate) static SPEC: SectionSpec = SectionSpec {
    keys: &[&SOURCE, &REVISION, &STREAM, &CONFIG, &TOKENIZER],
    foreign: &[(
        "dtype",
        "weights are read as they are and trained in f32; the written type is export.dtype",
    )],
};

/// Where the weights come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSpec {
    /// A trained model.
    Source(ModelSource),
    /// Random weights of a given shape, and a tokenizer.
    Pretrain(PretrainSpec),
}

/// A trained model, by where it is found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// One of [`BUILTIN_MODELS`].
    Builtin(String),
    /// A folder with `config.json` and safetensors, relative to the current directory.
    Folder(PathBuf),
    /// A GGUF file, relative to the current directory.
    Gguf(PathBuf),
    /// A model of the Hugging Face hub.
    Hub {
        /// `ORG/NAME`.
        id: String,
        /// A branch, tag or commit; the main branch where there is none.
        revision: Option<String>,
    },
}

impl std::fmt::Display for ModelSource {
    /// As the key `source` writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelSource::Builtin(name) => write!(f, "builtin:{name}"),
            ModelSource::Hub { id, .. } => f.write_str(id),
            ModelSource::Folder(path) | ModelSource::Gguf(path) => {
                let path = path.to_string_lossy();
                // Without the dot it would be read as a hub id, or as a model that is compiled in.
                let prefix = if hub_id(&path).is_some() || path.starts_with("builtin:") { "./" } else { "" };
                write!(f, "{prefix}{path}")
            }
        }
    }
}

fn is_revision(text: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let parts = text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    parts && text.len() <= 128 && text.chars().all(sound) && !text.contains("..")
}

/// `ORG/NAME` or `ORG/NAME@REVISION` in its two parts, if the text is spelled like one.
fn hub_id(text: &str) -> Option<(&str, Option<&str>)> {
    let sound = |part: &str| {
        part.len() <= 96
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !part.contains("..")
            && !part.contains("--")
    };
    let (id, revision) = text.split_once('@').map_or((text, None), |(id, revision)| (id, Some(revision)));
    let (org, name) = id.split_once('/')?;
    let spelled = sound(org) && sound(name) && revision.is_none_or(is_revision);
    (spelled && !has_extension(text, &["gguf"])).then_some((id, revision))
}

fn has_extension(text: &str, extensions: &[&str]) -> bool {
    let extension = text.rsplit_once('.').map_or("", |(_, extension)| extension);
    extensions.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// The model, and whether it is streamed.
pub(crate) fn read(section: Section<'_>) -> Option<(ModelSpec, bool)> {
    let stream = section.get(&STREAM);
    let source = section.maybe(&SOURCE);
    let config = section.sub(&CONFIG);
    let tokenizer = section.sub(&TOKENIZER);
    let revision = section.maybe(&REVISION);
    let spec = match (source, config) {
        (Slot::Absent, Slot::Absent) => {
            section.missing(&SOURCE, SOURCE.rule.what.to_string());
            None
        }
        (Slot::Absent, config) => {
            section.unused(&REVISION, "random weights have no revision", "remove it");
            if stream == Some(true) {
                let advice = "remove it, or give model.source";
                section.conflict(&STREAM, "a trained model to read block by block", "random weights", advice);
            }
            let config = config.given();
            config
                .and_then(|config| pretrain::read(config, &section, &TOKENIZER, tokenizer))
                .map(ModelSpec::Pretrain)
        }
        (source, Slot::Absent) => {
            let advice = "remove it, or give [model.config] instead of source";
            section.unused(&TOKENIZER, "a trained model brings its tokenizer", advice);
            let source = source.given();
            source.and_then(|source| read_source(&section, &source, revision)).map(ModelSpec::Source)
        }
        _ => {
            let advice = "keep source to start from its weights, or [model.config] to start from random ones";
            section.conflict(&CONFIG, "either model.source or [model.config]", "both", advice);
            None
        }
    };
    section.finish();
    Some((spec?, stream?))
}

fn read_source(section: &Section<'_>, source: &str, revision: Slot<String>) -> Option<ModelSource> {
    let no_revision = |what: &str| {
        section.unused(&REVISION, format!("{what} has no revisions"), "remove it, or give a hub id ORG/NAME");
    };
    if let Some(name) = source.strip_prefix("builtin:") {
        no_revision("a builtin model");
        return builtin(section, &SOURCE, name, BUILTIN_MODELS).map(ModelSource::Builtin);
    }
    let refuse = |advice: &str| {
        let (expected, found) = (SOURCE.rule.what, format!("\"{}\"", crate::error::Plain(source)));
        section.conflict(&SOURCE, expected, found, advice);
        None
    };
    if has_extension(source, &["bin", "pt", "pth", "ckpt", "pkl"]) {
        return refuse(
            "pickle files run code when they are opened: convert the model to safetensors and give its folder",
        );
    }
    if has_extension(source, &["safetensors", "json"]) {
        return refuse("give the folder that holds it beside config.json");
    }
    let path =
        source.strip_prefix("./").filter(|rest| !rest.is_empty() && !rest.starts_with('/')).unwrap_or(source);
    if has_extension(source, &["gguf"]) {
        no_revision("a file");
        return Some(ModelSource::Gguf(PathBuf::from(path)));
    }
    let Some((id, inline)) = hub_id(source) else {
        no_revision("a folder");
        return Some(ModelSource::Folder(PathBuf::from(path)));
    };
    if inline.is_some() {
        section.unused(&REVISION, "the id has a revision after @ already", "keep one of them");
    }
    // As `trimwick_models` reads it: beside a folder of the first name here, a path was meant.
    let first = id.split('/').next().unwrap_or(id);
    if inline.is_none() && !revision.present() && std::path::Path::new(first).is_dir() {
        return Some(ModelSource::Folder(PathBuf::from(source)));
    }
    let revision = inline.map(str::to_string).or(revision.sound()?);
    Some(ModelSource::Hub { id: id.to_string(), revision })
}

/// The name behind `builtin:`, if it is one of `known`.
pub(crate) fn builtin<R>(section: &Section<'_>, key: &Key<R>, name: &str, known: &[&str]) -> Option<String> {
    if known.contains(&name) {
        return Some(name.to_string());
    }
    let all: Vec<String> = known.iter().map(|name| format!("builtin:{name}")).collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => Hint::DidYouMean(format!("builtin:{near}")),
        None => Hint::Instead("write one of them".to_string()),
    };
    let found = format!("the string \"builtin:{}\"", crate::error::Plain(name));
    section.fault(key, FaultKind::UnknownWord { expected: all.join(" or "), found, hint });
    None
}

impl ModelSpec {
    pub(crate) fn write(&self, stream: bool, out: &mut Writer) {
        match self {
            ModelSpec::Source(source) => {
                out.section("model");
                out.put(&SOURCE, source.to_string());
                if let ModelSource::Hub { revision, .. } = source {
                    out.put_some(&REVISION, revision.as_ref());
                }
                if stream {
                    out.put(&STREAM, stream);
                }
            }
            ModelSpec::Pretrain(pretrain) => pretrain.write(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_from_a_hub_id_by_its_spelling() {
        for (text, hub) in [
            ("HuggingFaceTB/SmolLM2-135M", true),
            ("./org/name", false),
            ("/abs/name", false),
            ("name", false),
            ("a/b/c", false),
            ("a/..b", false),
            ("a/b--c", false),
            ("org/name@refs/pr/1", true),
            ("org/name@../x", false),
            ("org/name@", false),
            ("data/model.gguf", false),
            ("a/", false),
        ] {
            assert_eq!(hub_id(text).is_some(), hub, "{text}");
        }
    }
}
