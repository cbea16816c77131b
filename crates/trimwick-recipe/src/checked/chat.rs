//! Conversations as a text: how they are rendered, and which part of them is trained or measured.

use std::path::PathBuf;

use serde::Serialize;

use crate::error::{FaultKind, Hint};
use crate::raw::{Choice, Key, Section, Text, nearest};
use crate::resolve::ToToml;

/// The chat templates that come with the program.
pub const CHAT_TEMPLATES: &[&str] = &["chatml"];

pub(super) static LOSS: Key<Choice<ChatLoss>> = Key::default(
    "loss",
    Choice(&[("answers", ChatLoss::Answers), ("all", ChatLoss::All)]),
    "\"answers\"",
    "Which tokens of a conversation are trained, or measured: what the assistant writes, or all. Only with format \"chat\".",
)
.known_as(&["train_on", "mask", "train_on_inputs"]);
pub(super) static TEMPLATE: Key<Text> = Key::optional(
    "template",
    Text::path("\"chatml\" or the path of a Jinja file"),
    "\"chatml\"",
    "the model's own",
    "The chat template: \"chatml\", or the path of a Jinja file. Only with format \"chat\".",
)
.known_as(&["chat_template"]);

/// How conversations become text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatSpec {
    /// Which tokens are trained.
    pub loss: ChatLoss,
    /// The template, where it is not the model's own.
    pub template: Option<TemplateSource>,
}

/// Which tokens of a conversation are trained, or measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatLoss {
    /// What the assistant writes, the tokens that end a turn included.
    Answers,
    /// Every token.
    All,
}

/// Where a chat template is from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateSource {
    /// One of [`CHAT_TEMPLATES`].
    Named(String),
    /// A file, relative to the current directory.
    File(PathBuf),
}

pub(super) fn read(section: &Section<'_>) -> Option<ChatSpec> {
    let loss = section.get(&LOSS);
    let template = section.maybe(&TEMPLATE).and_then(|text| template(section, text));
    Some(ChatSpec { loss: loss?, template: template.sound()? })
}

fn template(section: &Section<'_>, text: String) -> Option<TemplateSource> {
    if CHAT_TEMPLATES.contains(&text.as_str()) {
        return Some(TemplateSource::Named(text));
    }
    // A word alone is no file but a name that is mistyped.
    if text.contains(['.', '/', '\\']) {
        return Some(TemplateSource::File(text.into()));
    }
    let hint = match nearest(&text, CHAT_TEMPLATES.iter().copied()) {
        Some(name) => Hint::DidYouMean(name.to_string()),
        None => Hint::Instead("give the path of the file, as ./NAME if it has no ending".into()),
    };
    let found = format!("{text:?}");
    section.fault(&TEMPLATE, FaultKind::UnknownWord { expected: TEMPLATE.rule.what.into(), found, hint });
    None
}

/// Reports the keys of conversations where there are none.
pub(super) fn none(section: &Section<'_>) {
    let (why, advice) = ("only conversations have it", "remove it, or write format = \"chat\"");
    section.unused(&LOSS, why, advice);
    section.unused(&TEMPLATE, why, advice);
}

impl ChatSpec {
    pub(super) fn put<'a>(&'a self, keys: &mut Vec<(&'a str, Box<dyn ToToml + 'a>)>) {
        let loss = match self.loss {
            ChatLoss::Answers => "answers",
            ChatLoss::All => "all",
        };
        keys.push((LOSS.name, Box::new(loss)));
        match &self.template {
            None => {}
            Some(TemplateSource::Named(name)) => keys.push((TEMPLATE.name, Box::new(name))),
            Some(TemplateSource::File(path)) => keys.push((TEMPLATE.name, Box::new(path.as_path()))),
        }
    }
}
