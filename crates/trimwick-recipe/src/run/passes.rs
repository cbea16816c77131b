//! The recipe's passes as those of `trimwick-quant`.

use std::collections::BTreeSet;

use trimwick_nn::{Layer, LayerKind, Param, ParamStore, Role};
use trimwick_quant::{
    Alpha, AwqClip, AwqScale, BiasCorrection, ColumnOrder, Error as QuantError, FixMask, Gptq, GroupScales,
    InputSpec, Joint, LayerReport, Needs, Part, Pass, Result as QuantResult, Scheme, Select, SmoothQuant,
    SvdQuant, input_quantizer, weight_quantizer,
};

use crate::{
    GptqOrder, GptqScales, GptqSolver, GptqSpec, PassSpec, Pattern, PruneMethod, PruneSpec, QuantizeSpec,
    SmoothAlpha,
};

/// Whether a pass takes a layer with the quantizers that are on it.
pub(crate) fn takes(pass: &PassSpec, layer: &Layer) -> bool {
    let input = input_quantizer(layer).map(|q| InputSpec { spec: *q.spec(), dynamic: q.dynamic() });
    let scheme = Scheme { weight: weight_quantizer(layer).map(|q| *q.spec()), input };
    layer.kind() == LayerKind::Linear && pass.takes(&scheme, layer.bias().is_some())
}

/// The algorithm of a pass. One that prunes too does so with the layers `pruned`, by their paths, whose masks `fix` puts on.
pub(crate) fn algorithm<'a>(
    pass: &PassSpec,
    spec: &QuantizeSpec,
    prune: Option<&PruneSpec>,
    pruned: &BTreeSet<String>,
    fix: &'a FixMask<'a>,
) -> Box<dyn Pass + 'a> {
    let samples = spec.pass_tokens;
    match pass {
        PassSpec::SmoothQuant(alpha) => {
            let alpha = match *alpha {
                SmoothAlpha::Fixed(alpha) => Alpha::Fixed(alpha),
                SmoothAlpha::Search(steps) => Alpha::Search(steps),
            };
            Box::new(SmoothQuant { alpha, samples })
        }
        PassSpec::AwqScale { steps } => Box::new(AwqScale { steps: *steps, samples }),
        PassSpec::SvdQuant { rank } => Box::new(SvdQuant { rank: *rank, samples }),
        PassSpec::AwqClip => Box::new(AwqClip { samples }),
        PassSpec::BiasCorrection => Box::new(BiasCorrection { create: false, samples }),
        PassSpec::Gptq(gptq) => match (gptq.solver, prune) {
            (Some(solver), _) => Box::new(solving(gptq, solver, samples)),
            (None, prune) => Box::new(Jointly::new(gptq, prune, samples, pruned.clone(), fix)),
        },
    }
}

/// A layer's line.
pub(crate) fn told_of(report: &LayerReport) -> String {
    let LayerReport { layer, pass, before_db, after_db, alpha, damping, retries, dead } = report;
    let mut text = format!("{layer}: {pass}: {before_db:.2} → {after_db:.2} dB");
    if let Some(alpha) = alpha {
        text += &format!(", exponent {alpha:.3}");
    }
    if let Some(damping) = damping.filter(|_| *retries > 0) {
        text += &format!(", damping raised to {damping}");
    }
    if *dead > 0 {
        text += &format!(", {dead} inputs never saw anything but zero");
    }
    text
}

/// Puts a mask on a layer.
pub(crate) fn fix(
    layer: &Layer,
    bits: &[u8],
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(trimwick_sparse::fix(layer, bits)?)
}

fn solving<'a>(gptq: &GptqSpec, GptqSolver { damping, block }: GptqSolver, samples: usize) -> Gptq<'a> {
    let order = match gptq.order {
        GptqOrder::Natural => ColumnOrder::Natural,
        GptqOrder::Activation => ColumnOrder::Activation,
    };
    let scales = match gptq.scales {
        GptqScales::Reached => GroupScales::Reached,
        GptqScales::Static => GroupScales::Static,
    };
    Gptq { damping, block, order, scales, samples, ..Gptq::default() }
}

/// GPTQ that prunes the layers of `[prune]` in the same pass.
struct Jointly<'a> {
    alone: Gptq<'a>,
    joint: Gptq<'a>,
    pruned: BTreeSet<String>,
}

impl<'a> Jointly<'a> {
    fn new(
        gptq: &GptqSpec,
        prune: Option<&PruneSpec>,
        samples: usize,
        pruned: BTreeSet<String>,
        fix: &'a FixMask<'a>,
    ) -> Self {
        // The recipe was checked: SparseGPT's own numbers are there.
        let solver = match prune.map(|spec| spec.method) {
            Some(PruneMethod::SparseGpt { damping, block }) => GptqSolver { damping, block },
            _ => GptqSolver { damping: Gptq::default().damping, block: Gptq::default().block },
        };
        let mut joint = solving(gptq, solver, samples);
        if let Some(spec) = prune {
            let select = match spec.pattern {
                Pattern::Nm { n, m } => Select::Nm { n, m },
                Pattern::Unstructured { sparsity } => Select::Share(sparsity),
            };
            joint.joint = Some(Joint { select, fix });
        }
        Self { alone: solving(gptq, solver, samples), joint, pruned }
    }

    fn of(&self, layer: &Layer) -> &Gptq<'a> {
        if self.pruned.contains(layer.path()) { &self.joint } else { &self.alone }
    }
}

impl Pass for Jointly<'_> {
    fn name(&self) -> &'static str {
        self.alone.name()
    }

    fn needs(&self) -> Needs {
        self.alone.needs()
    }

    fn check(&self, layer: &Layer) -> QuantResult<()> {
        self.of(layer).check(layer)
    }

    fn apply(&self, part: &Part<'_>) -> QuantResult<Vec<LayerReport>> {
        let one = |seen: &(Layer, _)| {
            let part = Part { feeds: part.feeds, seen: std::slice::from_ref(seen) };
            self.of(&seen.0).apply(&part)
        };
        let reports: Vec<_> = part.seen.iter().map(one).collect::<std::result::Result<_, QuantError>>()?;
        Ok(reports.into_iter().flatten().collect())
    }
}

/// Parameters that take no part in a graph for a while: a pass only looks at what layers compute.
pub(crate) struct Still(Vec<Param>);

impl Still {
    pub(crate) fn new(store: &ParamStore) -> Self {
        let trained: Vec<Param> = store.trainable();
        trained.iter().for_each(|param| param.set_role(Role::Frozen));
        Self(trained)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        self.0.iter().for_each(|param| param.set_role(Role::Trainable));
    }
}
