//! The files themselves.

use super::{Model, Text};

/// A Llama pre-trained on State of the Union addresses.
pub(super) const TINY_LLAMA: Model = Model {
    name: "tiny-llama",
    config: include_str!("../../assets/tiny-llama/config.json"),
    tokenizer: include_str!("../../assets/tiny-llama/tokenizer.json"),
    weights: include_bytes!("../../assets/tiny-llama/model.safetensors"),
};

/// What it was trained on.
pub(super) const SOTU_TRAIN: Text =
    Text { name: "sotu-train", text: include_str!("../../assets/text/sotu_train.txt") };

/// What it is measured on.
pub(super) const SOTU_HELDOUT: Text =
    Text { name: "sotu-heldout", text: include_str!("../../assets/text/sotu_heldout.txt") };
