//! AdamW with parameter groups, masks and a state that can be saved.
//!
//! Loshchilov and Hutter, arXiv 1711.05101, in PyTorch's formulation; with g the gradient, t the step from 1:
//!
//! ```text
//! w ← w − lr·λ·w        m ← β₁·m + (1 − β₁)·g        v ← β₂·v + (1 − β₂)·g²
//! w ← w − lr/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
//! ```
//!
//! Candle's own AdamW allocates a tensor for each of these operations and keeps its state private. Here an f32
//! parameter on the CPU is updated in place by one loop; other devices, and f64, take composed candle operations.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use trimwick_kernels as kernels;
use trimwick_nn::{Param, Role};

use crate::gradients::Gradients;
use crate::host;
use crate::moments::{Moments, Pair};
use crate::{Error, Result};

/// Settings of [`AdamW`]; the defaults are PyTorch's, but for no weight decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment, > 0.
    pub eps: f64,
    /// Decoupled decay λ of parameters with two or more dimensions: the weight shrinks by `lr·λ` of itself in each
    /// step. Norm weights and biases (one dimension) get none unless a [`ParamGroup`] says so.
    pub weight_decay: f64,
    /// How the moments are stored.
    pub moments: Moments,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0., moments: Moments::F32 }
    }
}

/// Settings of the parameters whose names match a pattern. Where several groups match, the last one governs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// A glob over full parameter names, in which `*` also matches dots.
    pub pattern: String,
    /// Factor on the learning rate, ≥ 0.
    pub lr_scale: f64,
    /// Weight decay of all of the group's parameters, whatever their dimensions; `None` leaves the default.
    pub weight_decay: Option<f64>,
}

struct Entry {
    param: Param,
    moments: Pair,
    lr_scale: f64,
    weight_decay: f64,
    /// The kept set as a tensor, for devices that the bitset loops do not reach.
    kept: Option<(Arc<[u8]>, Tensor)>,
}

/// The optimizer and its state: two moments per parameter and the number of steps.
pub struct AdamW {
    config: AdamWConfig,
    entries: BTreeMap<String, Entry>,
    steps: u64,
}

impl AdamW {
    /// An optimizer of `params` at step 0; frozen ones are left out.
    ///
    /// # Errors
    /// Settings out of range, a group that governs no parameter, a dtype other than f32 and f64, no trainable
    /// parameter, 8-bit moments for anything but f32 on the CPU.
    pub fn new(params: Vec<Param>, config: &AdamWConfig, groups: &[ParamGroup]) -> Result<Self> {
        check(config)?;
        let matchers = groups.iter().map(matcher).collect::<Result<Vec<_>>>()?;
        let mut governed = vec![0usize; groups.len()];
        let mut entries = BTreeMap::new();
        for param in params.into_iter().filter(|p| p.role() == Role::Trainable) {
            if !matches!(param.dtype(), DType::F32 | DType::F64) {
                return Err(Error::DType { name: param.name().into(), found: param.dtype() });
            }
            let group = matchers.iter().rposition(|m| m.is_match(param.name()));
            if let Some(group) = group {
                governed[group] += 1;
            }
            let group = group.map(|i| &groups[i]);
            let default_decay = if param.shape().rank() < 2 { 0. } else { config.weight_decay };
            let entry = Entry {
                moments: Pair::new(&param, config.moments)?,
                lr_scale: group.map_or(1., |g| g.lr_scale),
                weight_decay: group.and_then(|g| g.weight_decay).unwrap_or(default_decay),
                kept: None,
                param,
            };
            entries.insert(entry.param.name().to_string(), entry);
        }
        if entries.is_empty() {
            return Err(Error::AllFrozen);
        }
        for ((group, matcher), governed) in groups.iter().zip(&matchers).zip(governed) {
            if governed > 0 {
                continue;
            }
            let problem = match entries.keys().any(|name| matcher.is_match(name)) {
                true => "every parameter that it matches also matches a later group".to_string(),
                false => format!("matches none of the {} trainable parameters", entries.len()),
            };
            return Err(Error::Group { pattern: group.pattern.clone(), problem });
        }
        Ok(Self { config: config.clone(), entries, steps: 0 })
    }

    /// Updates every parameter that is trainable now, then sets what its kept set drops to +0.0 in the value and
    /// in both moments. When this fails, no weight has changed (but for failures of a device).
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a NaN or infinity in a gradient or the rate, [`Error::MissingGradient`].
    pub fn step(&mut self, grads: &Gradients, lr: f64) -> Result<()> {
        if !lr.is_finite() {
            return Err(Error::NonFinite { what: "the learning rate".into(), value: lr });
        }
        grads.norm()?;
        let missing: Vec<_> = self.active().filter(|e| grads.get(e.param.name()).is_none()).collect();
        if !missing.is_empty() {
            let names = missing.iter().map(|e| e.param.name().to_string()).collect();
            return Err(Error::MissingGradient { names });
        }
        let names: Vec<_> = self.active().map(|e| e.param.name().to_string()).collect();
        for name in &names {
            if let Some(grad) = grads.get(name) {
                self.update(name, grad, grads.scale(), lr)?;
            }
        }
        self.advance();
        Ok(())
    }

    /// Updates one parameter in the step under way, from its gradient times `scale`. The caller has found the gradient
    /// to be finite, updates each parameter once, and ends the step with [`AdamW::advance`].
    pub(crate) fn update(&mut self, name: &str, grad: &Tensor, scale: f64, lr: f64) -> Result<()> {
        let Some(entry) = self.entries.get_mut(name) else {
            return Err(Error::NotOptimized { names: vec![name.into()] });
        };
        let numbers = kernels::AdamW {
            lr: lr * entry.lr_scale,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            weight_decay: entry.weight_decay,
            step: self.steps + 1,
            grad_scale: scale as f32,
        };
        if host::fused(&entry.param.var()) {
            let keep = entry.param.keep();
            entry.moments.step(&entry.param, grad, &numbers, keep.as_deref())
        } else {
            entry.step_composed(grad, &numbers, scale)
        }
    }

    /// Ends a step.
    pub(crate) fn advance(&mut self) {
        self.steps += 1;
    }

    /// Number of steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The parameters, sorted by name.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        self.entries.values().map(|e| &e.param)
    }

    /// What each parameter is updated with: (name, factor on the learning rate, weight decay), sorted by name.
    pub fn settings(&self) -> impl Iterator<Item = (&str, f64, f64)> {
        self.entries.iter().map(|(name, e)| (name.as_str(), e.lr_scale, e.weight_decay))
    }

    /// The settings.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// The moments as `m.NAME` and `v.NAME`, sharing storage with the optimizer: the next step changes them. In 8 bits
    /// those are codes (U8), and `m_scale.NAME` and `v_scale.NAME` their scales.
    pub fn moments(&self) -> BTreeMap<String, Tensor> {
        let named = |e: &Entry| {
            let name = e.param.name().to_string();
            let tensors: Vec<_> = e.moments.tensors().into_iter().map(|(k, t)| (k, t.clone())).collect();
            tensors.into_iter().map(move |(key, t)| (format!("{key}.{name}"), t))
        };
        self.entries.values().flat_map(named).collect()
    }

    /// Puts saved moments and the number of steps back.
    ///
    /// # Errors
    /// [`trimwick_nn::Error::UnknownParam`] for a name that is missing or unknown,
    /// [`trimwick_nn::Error::Mismatch`] for another shape or dtype; the state is as it was.
    pub fn restore(&mut self, steps: u64, mut moments: BTreeMap<String, Tensor>) -> Result<()> {
        for (name, mine) in self.moments() {
            let Some(t) = moments.get(&name) else {
                return Err(trimwick_nn::Error::UnknownParam { name }.into());
            };
            if t.shape() != mine.shape() || t.dtype() != mine.dtype() {
                let describe = |t: &Tensor| format!("{:?} {:?}", t.dims(), t.dtype());
                let (expected, found) = (describe(&mine), describe(t));
                return Err(
                    trimwick_nn::Error::Mismatch { layer: name, what: "moment", expected, found }.into()
                );
            }
        }
        let mine = self.moments();
        if let Some(name) = moments.keys().find(|name| !mine.contains_key(*name)) {
            return Err(trimwick_nn::Error::UnknownParam { name: name.clone() }.into());
        }
        drop(mine);
        for (name, entry) in &mut self.entries {
            let keys: Vec<_> = entry.moments.tensors().iter().map(|(k, _)| format!("{k}.{name}")).collect();
            for (key, slot) in keys.iter().zip(entry.moments.tensors_mut()) {
                if let Some(t) = moments.remove(key) {
                    // A copy: the caller may still hold the tensor, and steps write in place.
                    *slot = t.to_device(slot.device())?.copy()?;
                }
            }
        }
        self.steps = steps;
        Ok(())
    }

    fn active(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|e| e.param.role() == Role::Trainable)
    }
}

impl Entry {
    fn step_composed(&mut self, grad: &Tensor, h: &kernels::AdamW, scale: f64) -> Result<()> {
        let t = h.step as f64;
        // Codes exist for f32 on the CPU alone, which the fused step takes.
        let Pair::Full { m, v } = &self.moments else { return Ok(()) };
        let g = (grad.to_dtype(m.dtype())? * scale)?;
        let m = ((m * h.beta1)? + (&g * (1. - h.beta1))?)?;
        let v = ((v * h.beta2)? + (g.sqr()? * (1. - h.beta2))?)?;
        let rate = h.lr / (1. - h.beta1.powf(t));
        let root = (1. - h.beta2.powf(t)).sqrt();
        let update = (&m / ((v.sqrt()? / root)? + h.eps)?)?;
        let w = self.param.var().as_detached_tensor();
        let w = ((w * (1. - h.lr * h.weight_decay))? - (update * rate)?)?;
        let [w, m, v] = match self.kept_tensor()? {
            None => [w, m, v],
            Some(kept) => {
                let drop = |x: Tensor| kept.where_cond(&x, &x.zeros_like()?);
                [drop(w)?, drop(m)?, drop(v)?]
            }
        };
        self.param.set(&w)?;
        self.moments = Pair::Full { m: m.detach(), v: v.detach() };
        Ok(())
    }

    /// The kept set as a u8 tensor of the parameter's shape, made anew only when the set was replaced.
    fn kept_tensor(&mut self) -> Result<Option<Tensor>> {
        let Some(bits) = self.param.keep() else {
            self.kept = None;
            return Ok(None);
        };
        if let Some((of, tensor)) = &self.kept
            && Arc::ptr_eq(of, &bits)
        {
            return Ok(Some(tensor.clone()));
        }
        let kept: Vec<u8> = (0..self.param.elem_count()).map(|i| bits[i / 8] >> (i % 8) & 1).collect();
        let tensor =
            Tensor::from_vec(kept, self.param.shape(), &Device::Cpu)?.to_device(self.param.device())?;
        self.kept = Some((bits, tensor.clone()));
        Ok(Some(tensor))
    }
}

/// What a group's pattern matches, after a look at its numbers.
pub(crate) fn matcher(group: &ParamGroup) -> Result<GlobMatcher> {
    let fault = |problem: String| Error::Group { pattern: group.pattern.clone(), problem };
    if !(group.lr_scale.is_finite() && group.lr_scale >= 0.) {
        return Err(fault(format!("lr_scale: expected a number ≥ 0, found {}", group.lr_scale)));
    }
    if let Some(decay) = group.weight_decay
        && !(decay.is_finite() && decay >= 0.)
    {
        return Err(fault(format!("weight_decay: expected a number ≥ 0, found {decay}")));
    }
    let glob = GlobBuilder::new(&group.pattern).literal_separator(false).build();
    Ok(glob.map_err(|e| fault(e.kind().to_string()))?.compile_matcher())
}

fn check(config: &AdamWConfig) -> Result<()> {
    let AdamWConfig { beta1, beta2, eps, weight_decay, moments: _ } = *config;
    for (key, beta) in [("beta1", beta1), ("beta2", beta2)] {
        if !(0. ..1.).contains(&beta) {
            return Err(Error::setting(key, "a number in [0, 1)", beta));
        }
    }
    if !(eps.is_finite() && eps > 0.) {
        return Err(Error::setting("eps", "a number > 0", eps));
    }
    if !(weight_decay.is_finite() && weight_decay >= 0.) {
        return Err(Error::setting("weight_decay", "a number ≥ 0", weight_decay));
    }
    Ok(())
}
