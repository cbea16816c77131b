//! Whether a target can hold what will be trained: known from schemes and shapes, before hours of training and not after them.

use trimwick_kernels::quant::ScaleFormat;
use trimwick_quant::{Granularity, QuantSpec, Quantized, Scheme};

use super::config::Named;
use super::fit::{self, refused};
use super::model::Subject;
use super::target::{Dense, Target};
use super::{blocks, fused};
use crate::{Error, Result};

/// A layer that is not there yet.
#[derive(Debug, Clone)]
pub struct Planned<'a> {
    /// Its dotted path.
    pub path: &'a str,
    /// The shape of its weight, outputs first.
    pub shape: &'a [usize],
    /// Whether it is a linear layer.
    pub linear: bool,
    /// What it will be quantized by; none leaves it as it is.
    pub scheme: Option<Scheme>,
}

/// Whether a target will hold these layers, whatever values training gives them. What depends on values is judged by
/// ordinary ones: a scale in full precision will not happen to be one of half precision.
///
/// # Errors
/// [`Error::Refused`] as [`deploy`](super::deploy) would find it; [`Error::NothingQuantized`].
pub fn check_fit(target: Target, dense: Dense, layers: &[Planned<'_>]) -> Result<()> {
    let subjects: Vec<Subject> = layers.iter().map(subject).collect();
    let (mut named, mut members) = (Vec::new(), Vec::new());
    for subject in &subjects {
        let Some(weight) = subject.weight else { continue };
        let q = ordinary(&weight, &subject.shape);
        let refused = |refusal| refused(target, subject, refusal);
        if target == Target::Gguf {
            let dtype = blocks::dtype(&q).map_err(refused)?;
            q.scales.iter().try_for_each(|scale| blocks::holds(dtype, *scale)).map_err(refused)?;
        }
        let form = fit::form(target, subject, &q, dense, false).map_err(refused)?;
        let format = form.map_or("", |form| form.format);
        named.push(Named { path: subject.path.clone(), weight, input: subject.input, format });
        members.push((subject, 1.));
    }
    if matches!(target, Target::CompressedTensors | Target::ModelOpt) {
        if named.is_empty() {
            return Err(Error::NothingQuantized { target });
        }
        fused::check(target, &members, &subjects.iter().collect::<Vec<_>>())?;
        fused::one_algorithm(target, &named, &members)?;
    }
    Ok(())
}

fn subject(layer: &Planned<'_>) -> Subject {
    let (weight, input) = layer.scheme.map_or((None, None), |scheme| (scheme.weight, scheme.input));
    // Calibration will find a scale.
    let input_scale = input.filter(|input| !input.dynamic).map(|_| 1.);
    Subject {
        path: layer.path.into(),
        shape: layer.shape.into(),
        linear: layer.linear,
        weight,
        input,
        input_scale,
    }
}

/// A weight without codes whose one scale is like any other of its format.
fn ordinary(spec: &QuantSpec, shape: &[usize]) -> Quantized {
    const FULL: f32 = 1.234_567_8e-2;
    let scale = match spec.scale {
        ScaleFormat::F32 => FULL,
        ScaleFormat::F16 => half::f16::from_f32(FULL).to_f32(),
        ScaleFormat::BF16 => half::bf16::from_f32(FULL).to_f32(),
        ScaleFormat::E4M3 => 0.1875,
        ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => 0.125,
    };
    let row: usize = shape.iter().skip(1).product();
    let block = match spec.granularity {
        Granularity::Group(group) => group,
        Granularity::Tensor => shape.iter().product(),
        Granularity::Channel | Granularity::Token => row,
    };
    let global = if spec.has_global() { FULL } else { 1. };
    let zeros = spec.asymmetric().then(|| vec![1.]);
    let scales = vec![scale * global];
    Quantized { spec: *spec, shape: shape.into(), block, codes: Vec::new(), scales, zeros, global: 1. }
}
