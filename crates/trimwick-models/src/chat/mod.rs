//! Conversations as the text that a model was taught them in.
//!
//! A chat template is a Jinja program from whoever published the model. It runs in `minijinja` with what Hugging Face gives
//! it (`trim_blocks`, `lstrip_blocks`, loop controls, methods of Python's strings, `raise_exception`, `tojson`), under a limit
//! of steps and of output, without a way to any file. `strftime_now` is not there: templates that ask for it have a date of
//! their own to fall back on, and the same conversation is to give the same tokens tomorrow.
//!
//! Which part of the text is an answer is not guessed from the text. [`ChatTemplate::conversation`] renders what stands
//! before each answer with the prompt for it, and again with it: what the second has more than the first is the answer with
//! the tokens that end it, which is what the model has to write. A template for which the first is no beginning of the
//! second, since it rewrites earlier turns, is refused.

mod find;
mod json;

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use minijinja::value::Value;
use minijinja::{Environment, Error as JinjaError, ErrorKind};
use serde::Serialize;

use crate::error::{Error, Result};

/// Templates that have a name, with their text.
pub const TEMPLATES: &[(&str, &str)] = &[("chatml", include_str!("chatml.jinja"))];

/// Longest template that is read, in bytes.
pub(crate) const MAX_TEMPLATE: u64 = 1 << 20;
/// Steps of a template for one conversation; the longest published ones take some hundreds for a message.
const FUEL: u64 = 2_000_000;
/// Longest text of a conversation, in bytes.
const MAX_TEXT: usize = 64 << 20;

const NAME: &str = "chat";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// Tokens that templates write by name; one that is none is undefined in the template.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text.
    pub eos: Option<String>,
    /// Stands for what has no token.
    pub unk: Option<String>,
    /// Fills up a batch.
    pub pad: Option<String>,
}

/// A conversation as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The whole, with every token that the template spells out.
    pub text: String,
    /// The bytes of `text` that the assistant writes, in order.
    pub answers: Vec<Range<usize>>,
}

/// A chat template, ready to be used. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    env: Arc<Environment<'static>>,
    tokens: SpecialTokens,
    origin: String,
}

#[derive(Serialize)]
struct Context<'a> {
    messages: &'a [Message],
    add_generation_prompt: bool,
    // Hugging Face defines both for every template.
    tools: Option<()>,
    documents: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eos_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unk_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pad_token: Option<&'a str>,
}

impl ChatTemplate {
    /// Compiles a template; `origin` is named in errors.
    ///
    /// # Errors
    /// [`Error::Chat`] for a text that is no template, or of more than 1 MiB.
    pub fn new(source: &str, tokens: SpecialTokens, origin: &str) -> Result<Self> {
        if source.len() as u64 > MAX_TEMPLATE {
            let found = format!("{} bytes", source.len());
            return Err(Error::chat(origin, format!("a template of at most {MAX_TEMPLATE} bytes"), found));
        }
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_fuel(Some(FUEL));
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tojson", json::tojson);
        env.add_function("raise_exception", raise);
        env.add_template_owned(NAME, without_generation(source))
            .map_err(|e| Error::chat(origin, "a Jinja template", told(&e)))?;
        Ok(Self { env: Arc::new(env), tokens, origin: origin.into() })
    }

    /// One of [`TEMPLATES`]; `None` for another name.
    pub fn named(name: &str, tokens: SpecialTokens) -> Option<Result<Self>> {
        let (name, source) = TEMPLATES.iter().find(|(known, _)| *known == name)?;
        Some(Self::new(source.trim_end(), tokens, name))
    }

    /// Where the template came from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The text of messages; with `prompt`, followed by what asks for the assistant's answer.
    ///
    /// # Errors
    /// [`Error::Chat`] with what the template raised, or when it takes too many steps or writes too much.
    pub fn render(&self, messages: &[Message], prompt: bool) -> Result<String> {
        let SpecialTokens { bos, eos, unk, pad } = &self.tokens;
        let context = Context {
            messages,
            add_generation_prompt: prompt,
            tools: None,
            documents: None,
            bos_token: bos.as_deref(),
            eos_token: eos.as_deref(),
            unk_token: unk.as_deref(),
            pad_token: pad.as_deref(),
        };
        let mut out = Bounded(Vec::new());
        let rendered = |out| self.env.get_template(NAME)?.render_captured_to(context, out).map(drop);
        rendered(&mut out).map_err(|e| match e.kind() {
            ErrorKind::OutOfFuel => {
                self.fault("a template that ends", format!("one that takes more than {FUEL} steps"))
            }
            ErrorKind::WriteFailure => {
                self.fault(format!("at most {MAX_TEXT} bytes of text"), "a template that writes more")
            }
            _ => self.fault("messages that the template takes", told(&e)),
        })?;
        // It was written in whole strings.
        String::from_utf8(out.0).map_err(|e| self.fault("UTF-8", e.to_string()))
    }

    /// The text of a conversation, and which part of it are the assistant's answers: for each of them what the template
    /// writes behind the prompt for it, the tokens that end the turn included.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`Error::Chat`] when the text of the first messages is no beginning of the text of more.
    pub fn conversation(&self, messages: &[Message]) -> Result<Conversation> {
        let text = self.render(messages, false)?;
        let mut answers = Vec::new();
        for (i, _) in messages.iter().enumerate().filter(|(_, m)| m.role == "assistant") {
            let asked = self.render(&messages[..i], true)?;
            let answered =
                if i + 1 == messages.len() { None } else { Some(self.render(&messages[..=i], false)?) };
            let answered = answered.as_deref().unwrap_or(&text);
            if !answered.starts_with(&asked) || !text.starts_with(answered) {
                let found = format!("another text before message {} once later ones are there", i + 1);
                let expected = "a template that only appends, so that answers can be told apart (loss = \"all\" takes any)";
                return Err(self.fault(expected, found));
            }
            answers.push(asked.len()..answered.len());
        }
        Ok(Conversation { text, answers })
    }

    fn fault(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::chat(&self.origin, expected, found)
    }
}

/// What templates call when they do not take a conversation.
fn raise(message: String) -> std::result::Result<Value, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message))
}

/// What the engine says, with the template's line.
fn told(error: &JinjaError) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    let shown: String = what.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
    match error.line() {
        Some(line) => format!("{shown:?} (template line {line})"),
        None => format!("{shown:?}"),
    }
}

/// Output that ends at [`MAX_TEXT`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The template without `{% generation %}` and its end, which mark answers for Hugging Face's masks and which no other engine
/// knows: blocks that are always taken stand in their place.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let body = tag.trim_start_matches(['-', '+']);
        let word = body.trim_start();
        for (name, instead) in [("generation", "if true"), ("endgeneration", "endif")] {
            let Some(after) = word.strip_prefix(name) else { continue };
            if after.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
                out.push_str(&tag[..tag.len() - word.len()]);
                out.push_str(instead);
                rest = after;
                break;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(list: &[(&str, &str)]) -> Vec<Message> {
        list.iter()
            .map(|(role, content)| Message { role: (*role).into(), content: (*content).into() })
            .collect()
    }

    fn template(source: &str) -> ChatTemplate {
        let tokens = SpecialTokens { eos: Some("</s>".into()), ..SpecialTokens::default() };
        ChatTemplate::new(source, tokens, "t.jinja").unwrap()
    }

    #[test]
    fn answers_are_what_follows_the_prompt() {
        let chat = ChatTemplate::named("chatml", SpecialTokens::default()).unwrap().unwrap();
        let found = chat
            .conversation(&turns(&[
                ("user", "a"),
                ("assistant", "<|im_start|>assistant\nb"),
                ("user", "b"),
                ("assistant", ""),
            ]))
            .unwrap();
        let answers: Vec<&str> = found.answers.iter().map(|r| &found.text[r.clone()]).collect();
        assert_eq!(answers, ["<|im_start|>assistant\nb<|im_end|>\n", "<|im_end|>\n"]);
        assert!(ChatTemplate::named("chatmi", SpecialTokens::default()).is_none());
    }

    #[test]
    fn generation_tags_change_nothing_else() {
        let source = "{% for m in messages %}{%- if m.role == 'assistant' %}\n  {%- generation -%} {{ m.content + eos_token }}\n{% endgeneration %}\n{% else %}[{{ m.content }}]{% endif %}{% endfor %}{# {% generations %} #}";
        let chat = template(source);
        let found = chat.conversation(&turns(&[("user", "hi"), ("assistant", "ho")])).unwrap();
        assert_eq!(found.text, "[hi]ho</s>\n");
        assert_eq!(found.answers.as_slice(), std::slice::from_ref(&(4..11)));
    }

    #[test]
    fn a_template_that_does_no_good_is_one_line() {
        let table = [
            ("{{ raise_exception('roles\nmust   alternate') }}", "\"roles must alternate\""),
            (
                "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
                "more than 2000000 steps",
            ),
            ("{% for i in range(100000) %}{{ 'x' * 10000 }}{% endfor %}", "writes more"),
            ("{{ strftime_now('%Y') }}", "strftime_now"),
            ("{% include 'other' %}", "other"),
            (
                "{% for m in messages %}{{ loop.revindex }}{{ m.content }}{% endfor %}",
                "another text before message 2",
            ),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ];
        for (source, expected) in table {
            let error = template(source)
                .conversation(&turns(&[("user", "a"), ("assistant", "b"), ("user", "c")]))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{source}: {error}");
            assert!(
                !error.contains('\n') && error.starts_with("t.jinja: chat template: expected "),
                "{error}"
            );
        }
        let error = ChatTemplate::new("{% if %}", SpecialTokens::default(), "x").unwrap_err().to_string();
        assert!(error.starts_with("x: chat template: expected a Jinja template, found "), "{error}");
    }
}
