//! Conversations of a recipe as tokens: which template, which tokens are answers.

use std::borrow::Cow;
use std::ops::Range;

use trimwick_models::{
    ChatTemplate, Error as ModelError, LlamaConfig, Message, ModelFiles, SpecialTokens, Tokenizer,
};
use trimwick_train::{BoxError, Conversation, Turn};

use super::error::Result;
use crate::{ChatSpec, FaultKind, Faults, FileSet, Recipe, TemplateSource, TextFormat, TextSource};

/// What a model brings along for conversations.
pub(crate) struct Chat {
    tokens: SpecialTokens,
    own: Option<ChatTemplate>,
    /// Fills windows up.
    pub(crate) pad: u32,
}

impl Chat {
    /// That of a model which was opened. Its template is not looked at where no source asks for it.
    pub(crate) fn of_files(recipe: &Recipe, files: &ModelFiles) -> Result<Self> {
        let specs = specs(recipe);
        let wanted = specs.iter().find(|(_, spec)| spec.template.is_none());
        let own = match wanted {
            Some((key, _)) => {
                files.chat_template().map_err(|error| of_template(recipe, key.clone(), error))?
            }
            None => None,
        };
        let tokens = if specs.is_empty() { SpecialTokens::default() } else { files.special_tokens()? };
        Ok(Self { tokens, own, pad: pad(&files.config) })
    }

    /// That of a model from random weights: a template has to be given.
    pub(crate) fn of_fresh(config: &LlamaConfig, tokenizer: &Tokenizer) -> Self {
        Self { tokens: SpecialTokens::of_config(config, tokenizer), own: None, pad: pad(config) }
    }

    /// The template of a source at `key`.
    ///
    /// # Errors
    /// A fault at the key where there is none, or one that is none.
    pub(crate) fn template(
        &self,
        recipe: &Recipe,
        key: &str,
        spec: &ChatSpec,
    ) -> Result<Cow<'_, ChatTemplate>> {
        let at = format!("{key}.template");
        let tokens = self.tokens.clone();
        let found = match &spec.template {
            None => return self.own.as_ref().map(Cow::Borrowed).ok_or_else(|| missing(recipe, &at).into()),
            Some(TemplateSource::File(path)) => ChatTemplate::from_file(path, tokens),
            Some(TemplateSource::Named(name)) => match ChatTemplate::named(name, tokens) {
                Some(found) => found,
                None => return Err(missing(recipe, &at).into()),
            },
        };
        Ok(Cow::Owned(found.map_err(|error| of_template(recipe, at, error))?))
    }
}

fn missing(recipe: &Recipe, key: &str) -> Faults {
    let expected = "a chat template, since the model comes without one".into();
    let example = "template = \"chatml\", or template = \"path/to/file.jinja\"".into();
    Faults::from(recipe.fault(key, FaultKind::Missing { expected, example }))
}

/// A fault of a template as one of the recipe.
fn of_template(recipe: &Recipe, key: String, error: ModelError) -> super::RunError {
    match error {
        ModelError::Chat { origin, expected, found } => {
            let found = format!("{found} in {origin}");
            let advice = "correct it, or name another with template".into();
            Faults::from(recipe.fault(&key, FaultKind::Files { expected, found, advice })).into()
        }
        error => error.into(),
    }
}

/// The end of text where there is one: any token would do.
fn pad(config: &LlamaConfig) -> u32 {
    config.eos_token_ids.iter().copied().find(|&id| (id as usize) < config.vocab_size).unwrap_or(0)
}

/// The sources that hold conversations, with their keys.
fn specs(recipe: &Recipe) -> Vec<(String, &ChatSpec)> {
    fn spec(text: &TextSource) -> Option<&ChatSpec> {
        match text {
            TextSource::Files(FileSet { format: TextFormat::Chat(spec), .. }) => Some(spec),
            _ => None,
        }
    }
    let texts = recipe.texts();
    texts.into_iter().filter_map(|(key, text)| Some((key, spec(text)?))).collect()
}

/// Checks that every source of conversations has a template that can be used. `model` is the model that the recipe starts
/// from, none for one of random weights.
///
/// # Errors
/// All faults at once, each at its key; [`trimwick_models::Error`] for a file of the model that cannot be read.
pub fn check_templates(recipe: &Recipe, model: Option<&ModelFiles>) -> Result<()> {
    let chat = match model {
        Some(files) => Chat::of_files(recipe, files)?,
        None => Chat { tokens: SpecialTokens::default(), own: None, pad: 0 },
    };
    let mut known: Option<Faults> = None;
    for (key, spec) in specs(recipe) {
        match chat.template(recipe, &key, spec) {
            Ok(_) => {}
            Err(super::RunError::Recipe(faults)) => {
                known = Some(known.map_or_else(|| faults.clone(), |known| known.and(faults.clone())));
            }
            Err(error) => return Err(error),
        }
    }
    known.map_or(Ok(()), |faults| Err(faults.into()))
}

/// The tokens of a conversation. With `answers` it is known which are the assistant's: those of which all of the text is.
pub(crate) fn tokens(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    turns: &[Turn],
    answers: bool,
) -> std::result::Result<Conversation, BoxError> {
    let message = |turn: &Turn| Message { role: turn.role.name().into(), content: turn.content.clone() };
    let messages: Vec<Message> = turns.iter().map(message).collect();
    if !answers {
        let ids = tokenizer.encode(&template.render(&messages, false)?, false)?;
        return Ok(Conversation { answers: vec![false; ids.len()], ids });
    }
    let found = template.conversation(&messages)?;
    let (ids, spans) = tokenizer.encode_spans(&found.text)?;
    // Both are in the order of the text.
    let mut answers = found.answers.iter().peekable();
    let inside = |span: &Range<usize>| {
        while answers.next_if(|answer| answer.end < span.end).is_some() {}
        answers.peek().is_some_and(|answer| answer.start <= span.start && span.end <= answer.end)
    };
    let answers = spans.iter().map(inside).collect();
    Ok(Conversation { ids, answers })
}
