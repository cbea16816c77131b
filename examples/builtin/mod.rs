//! The built-in model and its texts, for examples.

use candle_core::{DType, Device, Tensor};
use trimwick::models::{Llama, ModelFiles, ModelSource, OpenOptions, builtin, source};
use trimwick::nn::{ParamStore, Role};
use trimwick::train::{EvaluateOptions, Windows, evaluate};

const CONTEXT: usize = 256;

pub struct Workshop {
    pub files: ModelFiles,
    held_out: Windows,
    calibration: Vec<Tensor>,
}

impl Workshop {
    /// Reads the model, and texts in its tokens: 16 windows to calibrate on, 16 to measure on.
    pub fn open() -> anyhow::Result<Self> {
        let files = source::open(&ModelSource::parse("builtin:tiny-llama")?, &OpenOptions::default())?;
        let tokenizer = files.require_tokenizer()?;
        let windows = |name| -> anyhow::Result<Windows> {
            let text = builtin::text(name).ok_or_else(|| anyhow::anyhow!("no built-in text {name}"))?;
            Ok(Windows::new(tokenizer.encode(text, false)?, CONTEXT)?.limit(16 * CONTEXT))
        };
        let (seen, held_out) = (windows("sotu-train")?, windows("sotu-eval")?);
        let calibration = (0..seen.len())
            .filter_map(|i| seen.window(i))
            .map(|ids| Tensor::from_slice(ids, (1, CONTEXT), &Device::Cpu))
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { files, held_out, calibration })
    }

    /// The model with its own weights; frozen, so that passes over it record no graph.
    pub fn model(&self) -> anyhow::Result<(ParamStore, Llama)> {
        let store = ParamStore::from_source(self.files.weights.clone(), DType::F32, &Device::Cpu, 42);
        let model = Llama::new(&self.files.config, Some(CONTEXT), store.var_builder())?;
        store.params().iter().for_each(|param| param.set_role(Role::Frozen));
        Ok((store, model))
    }

    /// Token ids `[1, 256]`.
    pub fn calibration(&self) -> &[Tensor] {
        &self.calibration
    }

    /// Mean loss on the held-out windows, in nats per token.
    pub fn loss(&self, model: &Llama) -> anyhow::Result<f64> {
        let options = EvaluateOptions::default();
        Ok(evaluate(model, &Device::Cpu, &self.held_out, options, &mut |_, _, _| {})?.loss)
    }
}
