//! What is compiled into the program, so that it can be tried without a download.
//!
//! `assets/tiny-llama/README.md` says how the model was made.

/// A model in the binary.
#[derive(Debug)]
pub struct Model {
    /// Its name after `builtin:`.
    pub name: &'static str,
    /// The text of `config.json`.
    pub config: &'static str,
    /// The text of `tokenizer.json`.
    pub tokenizer: &'static str,
    /// The bytes of `model.safetensors`.
    pub weights: &'static [u8],
}

/// A text in the binary.
#[derive(Debug)]
pub struct Text {
    /// Its name after `builtin:`.
    pub name: &'static str,
    /// The text.
    pub text: &'static str,
}

/// Every built-in model.
pub static MODELS: &[Model] = &[];

/// Every built-in text.
pub static TEXTS: &[Text] = &[];

/// The built-in model of a name, without `builtin:`.
pub fn model(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

/// The built-in text of a name, without `builtin:`.
pub fn text(name: &str) -> Option<&'static str> {
    TEXTS.iter().find(|text| text.name == name).map(|text| text.text)
}
