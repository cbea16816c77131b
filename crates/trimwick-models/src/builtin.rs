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
pub static MODELS: &[Model] = &[Model {
    name: "tiny-llama",
    config: include_str!("../assets/tiny-llama/config.json"),
    tokenizer: include_str!("../assets/tiny-llama/tokenizer.json"),
    weights: include_bytes!("../assets/tiny-llama/model.safetensors"),
}];

/// Every built-in text: State of the Union addresses, 1960–2008 to train on and 2009–2021 held out.
pub static TEXTS: &[Text] = &[
    Text { name: "sotu-train", text: include_str!("../assets/text/sotu_train.txt") },
    Text { name: "sotu-eval", text: include_str!("../assets/text/sotu_heldout.txt") },
];

/// Every built-in file of multiple-choice questions, a JSON object a line; `assets/tasks/README.md` says how it was made.
pub static TASKS: &[Text] =
    &[Text { name: "sotu-choice", text: include_str!("../assets/tasks/sotu_choice.jsonl") }];

/// The built-in model of a name, without `builtin:`.
pub fn model(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

/// The built-in text of a name, without `builtin:`.
pub fn text(name: &str) -> Option<&'static str> {
    TEXTS.iter().find(|text| text.name == name).map(|text| text.text)
}

/// The built-in questions of a name, without `builtin:`.
pub fn task(name: &str) -> Option<&'static str> {
    TASKS.iter().find(|task| task.name == name).map(|task| task.text)
}
