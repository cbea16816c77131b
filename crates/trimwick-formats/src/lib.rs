//! Readers and writers of model files from strangers: GGUF, safetensors, checkpoint folders.
