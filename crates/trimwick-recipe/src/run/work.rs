//! What a run computes, from shapes alone.

use trimwick_models::{LlamaConfig, builtin};
use trimwick_train::MemoryPlan;

use crate::{Arm, BlockwiseSpec, PassSpec, PruneMethod, Recipe, TextSource};

/// Bytes of text in a token, about, where the text is not read.
const BYTES_PER_TOKEN: u64 = 4;

/// Floating-point operations of the parts of a run; a multiplication and an addition are two. The optimizer, norms and whatever
/// else is not a product of matrices is left out.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Measuring the arms.
    pub measuring: f64,
    /// Pruning and one-shot passes.
    pub compressing: f64,
    /// Training, block by block and end to end, control arms included.
    pub training: f64,
}

impl Work {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.measuring + self.compressing + self.training
    }
}

/// What a recipe's run computes; `arms` are measured. A text that is measured as a whole is taken at four bytes a token.
pub fn work(recipe: &Recipe, config: &LlamaConfig, arms: usize) -> Work {
    let shape = Shape::of(config, recipe.data.context);
    let held_out = recipe.data.eval_tokens.unwrap_or_else(|| bytes_of(&recipe.data.eval) / BYTES_PER_TOKEN);
    let validations = recipe.train.as_ref().and_then(|train| {
        Some(train.steps(recipe.data.context).checked_div(train.validate_every?).unwrap_or(0))
    });
    let measured = arms as f64 + validations.unwrap_or(0) as f64;
    Work {
        measuring: measured * held_out as f64 * shape.forward(),
        compressing: compressing(recipe, &shape),
        training: training(recipe, &shape),
    }
}

/// The products of a model.
struct Shape {
    /// Inputs and outputs of a block's linear layers.
    linear: Vec<(f64, f64)>,
    blocks: f64,
    /// Operations of the head, and of attention in all blocks, for a token.
    head: f64,
    attention: f64,
}

impl Shape {
    fn of(config: &LlamaConfig, context: usize) -> Self {
        let tensors = config.tensors();
        let inside = tensors.iter().filter(|(name, s)| name.starts_with("model.layers.0.") && s.len() == 2);
        let width = (config.num_heads * config.head_dim) as f64;
        Self {
            linear: inside.map(|(_, shape)| (shape[1] as f64, shape[0] as f64)).collect(),
            blocks: config.num_layers as f64,
            head: 2. * (config.vocab_size * config.hidden_size) as f64,
            // Scores and values, of half of the context on average.
            attention: 2. * width * context as f64 * config.num_layers as f64,
        }
    }

    /// Of a token through all blocks.
    fn through(&self) -> f64 {
        let weights: f64 = self.linear.iter().map(|(inputs, outputs)| inputs * outputs).sum();
        2. * weights * self.blocks + self.attention
    }

    /// Of a token through the model.
    fn forward(&self) -> f64 {
        self.through() + self.head
    }

    /// Sums over the inputs of every layer, for a token.
    fn squares(&self) -> f64 {
        self.blocks * self.linear.iter().map(|(inputs, _)| 2. * inputs * inputs).sum::<f64>()
    }

    /// Factors of every layer's sums, and columns solved with them.
    fn solving(&self) -> f64 {
        let layer = |(inputs, outputs): &(f64, f64)| 2. * inputs.powi(3) + inputs * inputs * outputs;
        self.blocks * self.linear.iter().map(layer).sum::<f64>()
    }
}

fn compressing(recipe: &Recipe, shape: &Shape) -> f64 {
    let windows = recipe.calibration.as_ref().map_or(0, |spec| spec.windows);
    let tokens = (windows * recipe.data.context) as f64;
    // Each block once to see its inputs and once, compressed, for the inputs of the next.
    let walk = 2. * tokens * shape.through();
    let prune = match recipe.prune.as_ref().map(|spec| spec.method) {
        None | Some(PruneMethod::Magnitude) => 0.,
        Some(PruneMethod::Wanda) => walk,
        Some(PruneMethod::SparseGpt { .. }) => walk + tokens * shape.squares() + shape.solving(),
    };
    let Some(spec) = &recipe.quantize else { return prune };
    let searched = spec.pass_tokens as f64 * shape.through();
    let pass = |pass: &PassSpec| match pass {
        PassSpec::SmoothQuant(_) => walk + 20. * searched,
        PassSpec::AwqScale { steps } => walk + *steps as f64 * searched,
        PassSpec::AwqClip => walk + 20. * searched,
        PassSpec::Gptq(_) => walk + tokens * shape.squares() + shape.solving(),
        PassSpec::SvdQuant { .. } => walk + shape.solving(),
        PassSpec::BiasCorrection => walk,
    };
    prune + spec.passes.iter().map(pass).sum::<f64>()
}

fn training(recipe: &Recipe, shape: &Shape) -> f64 {
    let context = recipe.data.context;
    let blockwise = |spec: &BlockwiseSpec| {
        // Forward and backward of what trains; the dense twin's outputs and the next block's inputs once.
        let visits = spec.tokens(context) as f64;
        (3. * visits + 2. * (spec.windows * context) as f64) * shape.through()
    };
    let blocks = recipe.blockwise.as_ref().map_or(0., blockwise);
    let Some(spec) = &recipe.train else { return blocks };
    let tokens = (spec.steps(context) * spec.tokens_per_step(context)) as f64;
    let again = if spec.engine.memory == MemoryPlan::None { 0. } else { shape.through() };
    let step = 3. * shape.forward() + again;
    let teacher = if recipe.distill.is_some() { shape.forward() } else { 0. };
    let control = if recipe.compare.arms.contains(&Arm::DenseTuned) { step } else { 0. };
    blocks + tokens * (step + teacher + control)
}

/// Bytes of a text, by its files.
fn bytes_of(text: &TextSource) -> u64 {
    match text {
        TextSource::Builtin(name) => {
            let short = name.strip_prefix("builtin:").unwrap_or(name);
            builtin::text(short).map_or(0, |text| text.len() as u64)
        }
        TextSource::Files(set) => {
            let files = set.expand().unwrap_or_default();
            files.iter().filter_map(|file| Some(std::fs::metadata(file).ok()?.len())).sum()
        }
        TextSource::Mix(mix) => mix.iter().map(|mixed| bytes_of(&mixed.text)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::origin::open_source;

    fn of(more: &str, arms: usize) -> Work {
        let train = if more.contains("[train]") || more.contains("[calibration]") {
            "train = \"builtin:sotu-train\"\n"
        } else {
            ""
        };
        let text = format!(
            "[model]\nsource = \"builtin:tiny-llama\"\n[data]\n{train}eval = \"builtin:sotu-eval\"\ncontext = 256\n\
             eval_tokens = 1024\n{more}[compare]\narms = []\n"
        );
        let recipe = Recipe::parse(&text, "r.toml", &[]).unwrap();
        let files = open_source(&crate::ModelSource::Builtin("tiny-llama".into())).unwrap();
        work(&recipe, &files.config, arms)
    }

    #[test]
    fn the_work_is_that_of_the_matrices() {
        const MAGNITUDE: &str = "[prune]\npattern = \"2:4\"\nmethod = \"magnitude\"\n";
        const TRAIN: &str = "[train]\ntokens = 2048\nbatch = 1\nlr = 1e-3\n";
        // 2 operations for each weight that multiplies a token: 4.0 million parameters, of which the tied table counts once.
        let one = of(MAGNITUDE, 1);
        let per_token = one.measuring / 1024.;
        assert!((8e6..9.5e6).contains(&per_token), "{per_token:e}");
        assert_eq!((one.compressing, one.training), (0., 0.));
        assert_eq!(of(MAGNITUDE, 3).measuring, 3. * one.measuring);

        let plain = of(TRAIN, 1).training;
        assert!((plain - 3. * 2048. * per_token).abs() < 1e-6 * plain);
        let taught = of(&format!("{MAGNITUDE}{TRAIN}[distill]\nweight = 0.5\n"), 1).training;
        assert!((taught - 4. * 2048. * per_token).abs() < 1e-6 * taught);
        let again = of(&format!("{TRAIN}memory = \"blocks\"\n"), 1).training;
        assert!(again > 1.2 * plain && again < 4. / 3. * plain, "{again:e}");

        let prune = "[calibration]\nwindows = 4\n[prune]\npattern = \"2:4\"\n";
        let gpt = of(prune, 1).compressing;
        let wanda = of(&format!("{prune}method = \"wanda\"\n"), 1).compressing;
        assert!(gpt > wanda && wanda > 0., "{gpt:e} {wanda:e}");
    }
}
