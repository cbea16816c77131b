//! The stages of a recipe in the order in which a run goes through them.

use trimwick_recipe::{
    BudgetLimit, BudgetSpec, GptqOrder, GptqScales, GptqSpec, ModelSpec, PassSpec, PruneSpec, Recipe,
    SmoothAlpha,
};

/// What a run does to its own arm, one thing after the other.
pub(super) fn order(recipe: &Recipe) -> Vec<String> {
    let quantize = recipe.quantize.as_ref();
    let passes = || quantize.iter().flat_map(|spec| &spec.passes);
    let mut out = Vec::new();
    if let Some(budget) = quantize.and_then(|spec| spec.budget.as_ref()) {
        out.push(format!("choose schemes ({})", under(budget)));
    }
    out.extend(passes().filter(|pass| pass.scales_channels()).map(described));
    let jointly = quantize.is_some_and(|spec| spec.joint());
    if let Some(prune) = recipe.prune.as_ref().filter(|_| !jointly) {
        out.push(format!("prune ({})", pruning(prune)));
    }
    for pass in passes().filter(|pass| !pass.scales_channels()) {
        out.push(match (pass, &recipe.prune) {
            (PassSpec::Gptq(gptq), Some(prune)) if gptq.joint() => {
                format!("prune and quantize ({} with {})", pruning(prune), described(pass))
            }
            _ => described(pass),
        });
    }
    if quantize.is_some() {
        out.push("quantize".into());
    }
    if recipe.blockwise.is_some() {
        out.push("train block after block".into());
    }
    if recipe.train.is_some() {
        out.push(if matches!(recipe.model, ModelSpec::Pretrain(_)) { "pretrain" } else { "train" }.into());
    }
    out.push("export".into());
    out
}

/// A budget in words.
pub(super) fn under(budget: &BudgetSpec) -> String {
    let limit = match budget.limit {
        BudgetLimit::Bits(bits) => format!("{bits:?} bits each"),
        BudgetLimit::Bytes(bytes) => format!("{bytes} bytes"),
    };
    let names: Vec<&str> = budget.candidates.iter().map(|wanted| wanted.text.as_str()).collect();
    format!("{limit}, out of {}, by {}", names.join(", "), budget.score.name())
}

fn pruning(prune: &PruneSpec) -> String {
    format!("{} by {}", prune.pattern, prune.method.name())
}

fn described(pass: &PassSpec) -> String {
    let options = match pass {
        PassSpec::SmoothQuant(SmoothAlpha::Fixed(alpha)) => format!("alpha {alpha:?}"),
        PassSpec::SmoothQuant(SmoothAlpha::Search(steps)) => format!("alpha searched in {steps} steps"),
        PassSpec::AwqScale { steps } => format!("{steps} steps"),
        PassSpec::SvdQuant { rank } => format!("rank {rank}"),
        PassSpec::Gptq(gptq) => solving(gptq),
        PassSpec::AwqClip | PassSpec::BiasCorrection => return pass.name().into(),
    };
    format!("{} ({options})", pass.name())
}

fn solving(gptq: &GptqSpec) -> String {
    let order = match gptq.order {
        GptqOrder::Natural => "natural order",
        GptqOrder::Activation => "activation order",
    };
    let scales = match gptq.scales {
        GptqScales::Reached => "scales when reached",
        GptqScales::Static => "static scales",
    };
    let damping = gptq.solver.map(|solver| format!(", damping {:?}", solver.damping)).unwrap_or_default();
    format!("{order}, {scales}{damping}")
}
