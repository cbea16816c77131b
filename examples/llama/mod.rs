//! What the Llama examples share: a model from anywhere, a text, the loop, and a folder that transformers loads.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use trimwick::formats::safetensors::{Dtype, NewTensor, write};
use trimwick::models::{Llama, ModelFiles, ModelSource, OpenOptions, Tokenizer, source};
use trimwick::nn::{CausalLm, ParamStore, Role};
use trimwick::train::{
    AdamW, AdamWConfig, Decay, DistillConfig, Distillation, EvaluateOptions, Guards, MemoryPlan, Progress,
    Schedule, TrainConfig, Trainer, Warmup, Windows, evaluate,
};

/// A model and a text, from the command line: `MODEL TEXT.txt [OUT [TOKENS [CONTEXT]]]`.
pub struct Job {
    files: ModelFiles,
    training: Windows,
    held_out: Windows,
    out: PathBuf,
    tokens: u64,
    context: usize,
}

/// Parameters and the model over them.
pub type Opened = (ParamStore, Llama);

impl Job {
    /// Reads the arguments; the last tenth of the text is held out.
    pub fn from_args(mut args: impl Iterator<Item = String>, usage: &'static str) -> anyhow::Result<Self> {
        let (model, text) = (args.next().context(usage)?, args.next().context(usage)?);
        let out = PathBuf::from(args.next().unwrap_or_else(|| "llama2-out".into()));
        let tokens = args.next().unwrap_or_else(|| "81920".into()).parse().context("TOKENS")?;
        let context: usize = args.next().unwrap_or_else(|| "512".into()).parse().context("CONTEXT")?;
        let files = source::open(&ModelSource::parse(&model)?, &OpenOptions::default())?;
        let ids = tokenizer(&files)?.encode(&std::fs::read_to_string(&text).context(text)?, false)?;
        let (training, held_out) = ids.split_at(ids.len() / 10 * 9);
        let training = Windows::new(training.to_vec(), context)?;
        let held_out = Windows::new(held_out.to_vec(), context)?.limit(24 * context);
        Ok(Self { files, training, held_out, out, tokens, context })
    }

    /// The model with its original weights, in f32.
    pub fn open(&self) -> anyhow::Result<Opened> {
        let weights = self.files.weights.clone();
        let store = ParamStore::from_source(weights, DType::F32, &Device::Cpu, 42);
        let model = Llama::new(&self.files.config, Some(self.context), store.var_builder())?;
        Ok((store, model))
    }

    /// The model as a teacher: a frozen parameter takes no part in the graph, so its pass keeps nothing.
    pub fn teacher(&self) -> anyhow::Result<Opened> {
        let (store, model) = self.open()?;
        store.params().iter().for_each(|p| p.set_role(Role::Frozen));
        Ok((store, model))
    }

    /// 32 windows of the training text.
    pub fn calibration(&self) -> anyhow::Result<Vec<Tensor>> {
        let order = self.training.order(7, 0);
        let windows = (0..32.min(self.training.len() as u64))
            .filter_map(|i| self.training.window(order.at(i) as usize))
            .map(|ids| Tensor::from_slice(ids, (1, self.context), &Device::Cpu));
        Ok(windows.collect::<candle_core::Result<_>>()?)
    }

    /// Prints the perplexity on the held-out text.
    pub fn tell(&self, name: &str, model: &dyn CausalLm) -> anyhow::Result<()> {
        let options = EvaluateOptions::default();
        let found = evaluate(model, &Device::Cpu, &self.held_out, options, &mut |_, _, _| {})?;
        println!("{name:10} perplexity {:8.3} @{}  loss {:.4}", found.perplexity, self.context, found.loss);
        Ok(())
    }

    /// Trains every trainable parameter of the store; the teacher's predictions are half of the loss.
    pub fn train(&self, (store, model): &Opened, teacher: &Llama) -> anyhow::Result<()> {
        let steps = self.tokens.div_ceil(self.context as u64);
        Trainer {
            model,
            store,
            windows: &self.training,
            optimizer: AdamW::new(store.trainable(), &AdamWConfig::default(), &[])?,
            schedule: Schedule::new(Decay::Cosine, 1e-4, 0., Warmup::Fraction(0.05), steps)?,
            distill: Some(Distillation::new(teacher, DistillConfig::default())?),
            validation: None,
            hooks: vec![],
            config: TrainConfig {
                steps,
                batch: 1,
                accumulate: 1,
                clip: Some(1.),
                save_every: 0,
                order_seed: 42,
                fingerprint: "example".into(),
                memory: MemoryPlan::None,
                guards: Guards::default(),
            },
            checkpoints: None,
            metrics: None,
            stop: &AtomicBool::new(false),
            report: &mut |progress| {
                if let Progress::Step(s) = progress {
                    println!("step {} of {steps}: loss {:.4}, {:.1} s", s.record.step, s.smoothed, s.seconds);
                }
            },
        }
        .run()?;
        Ok(())
    }

    /// Writes the weights that the layers compute with, in `dtype`, with configuration and tokenizer.
    pub fn save(&self, store: &ParamStore, dtype: Dtype, dtype_name: &str) -> anyhow::Result<()> {
        let layers = store.layers();
        let mut folded = Vec::new();
        for name in self.files.config.tensors().into_iter().map(|(name, _)| name) {
            let param = store.get(&name).with_context(|| format!("no parameter {name}"))?;
            let layer = layers.iter().find(|l| l.weight().name() == name);
            let value = layer.map_or_else(|| param.value(), |l| l.effective_weight())?;
            folded.push((name, param.shape().dims().to_vec(), value.flatten_all()?.to_vec1::<f32>()?));
        }
        std::fs::create_dir_all(&self.out)?;
        let tensors = folded.iter().map(|(name, shape, v)| NewTensor::floats(name, dtype, shape, v));
        write(self.out.join("model.safetensors"), tensors, &[("format".into(), "pt".into())].into())?;
        let config = self.files.config.to_hf_json(dtype_name);
        std::fs::write(self.out.join("config.json"), format!("{config:#}"))?;
        tokenizer(&self.files)?.save_json(&self.out.join("tokenizer.json"))?;
        println!("written to {}", self.out.display());
        Ok(())
    }
}

fn tokenizer(files: &ModelFiles) -> anyhow::Result<&Tokenizer> {
    files.tokenizer.as_ref().context("the model has no tokenizer.json")
}

/// Arguments for two steps of the built-in model on a piece of its text, in `folder`.
#[cfg(test)]
pub fn builtin(folder: &std::path::Path) -> anyhow::Result<Vec<String>> {
    let text = folder.join("text.txt");
    std::fs::write(&text, &trimwick::models::builtin::text("sotu-eval").context("no text")?[..20_000])?;
    let (text, out) = (text.display().to_string(), folder.join("out").display().to_string());
    Ok(["builtin:tiny-llama", &text, &out, "128", "64"].map(String::from).into())
}
