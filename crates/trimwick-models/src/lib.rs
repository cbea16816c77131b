//! The Llama family with Trimwick's layers, from HF folders, the hub, GGUF files or the built-in model.
