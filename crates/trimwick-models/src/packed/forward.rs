//! The computation: tokens in, logits or losses out.

use trimwick_kernels::packed::{Activations, Cached, Crew, KvFormat, Packed, attend, product};
use trimwick_kernels::{
    AttentionDims, LossMix, add_assign, add_row, attention, rms_norm, rope, swiglu, token_losses,
};

use super::{PackedBlock, PackedLinear, PackedLlama};
use crate::error::{Error, Result};

/// Positions whose logits are in memory at once, where losses are measured.
const HEAD_ROWS: usize = 64;

/// The keys and values of a text, and buffers that are used again for every token.
#[derive(Debug)]
pub struct PackedCache {
    layers: Vec<(Cached, Cached)>,
    buffers: Buffers,
}

#[derive(Debug, Default)]
struct Buffers {
    activations: Activations,
    x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    rotated: Vec<f32>,
    attended: Vec<f32>,
    out: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    logits: Vec<f32>,
}

impl PackedCache {
    /// Positions held.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |(keys, _)| keys.len())
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|(keys, values)| keys.bytes() + values.bytes()).sum()
    }

    /// Forgets every position from `positions` on.
    pub fn truncate(&mut self, positions: usize) {
        for (keys, values) in &mut self.layers {
            keys.truncate(positions);
            values.truncate(positions);
        }
    }
}

/// A buffer of `n` elements that are about to be written.
fn sized(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    buffer.resize(n, 0.);
    buffer
}

/// Products of the same activations, one for each layer.
fn linears(crew: Option<&Crew<'_>>, a: &mut Activations, layers: &mut [(&PackedLinear, &mut [f32])]) {
    layers.iter().for_each(|(layer, _)| a.prepare(layer.weight.arithmetic()));
    let mut products: Vec<(&Packed, &mut [f32])> =
        layers.iter_mut().map(|(layer, y)| (&layer.weight, &mut **y)).collect();
    match crew {
        Some(crew) => product(crew, a, &mut products),
        None => Crew::with(|crew| product(crew, a, &mut products)),
    }
    for (layer, y) in layers {
        if let Some(bias) = &layer.bias {
            add_row(y, bias);
        }
    }
}

impl PackedLlama {
    /// An empty cache.
    pub fn new_cache(&self, format: KvFormat) -> PackedCache {
        let (heads, d) = (self.config.num_kv_heads, self.config.head_dim);
        let layer = |_| (Cached::new(format, heads, d, 0), Cached::new(format, heads, d, 0));
        PackedCache { layers: (0..self.blocks.len()).map(layer).collect(), buffers: Buffers::default() }
    }

    /// Logits `[vocabulary]` of the token after `ids`, which follow what the cache holds; it grows by them.
    ///
    /// # Errors
    /// [`Error::Config`] for no ids, ids outside of the vocabulary and positions beyond [`PackedLlama::context`].
    pub fn forward<'c>(&self, ids: &[u32], cache: &'c mut PackedCache) -> Result<&'c [f32]> {
        self.check(ids, cache.len())?;
        let PackedCache { layers, buffers } = cache;
        let hidden = self.config.hidden_size;
        if ids.len() == 1 {
            Crew::with(|crew| {
                self.blocks(Some(crew), ids, layers, buffers);
                self.logits(Some(crew), 0..1, buffers);
            });
        } else {
            self.blocks(None, ids, layers, buffers);
            debug_assert_eq!(buffers.x.len(), ids.len() * hidden);
            self.logits(None, ids.len() - 1..ids.len(), buffers);
        }
        Ok(&cache.buffers.logits)
    }

    /// Logits `[t, vocabulary]` of a whole text.
    ///
    /// # Errors
    /// As [`PackedLlama::forward`].
    pub fn forward_all(&self, ids: &[u32]) -> Result<Vec<f32>> {
        self.check(ids, 0)?;
        let PackedCache { mut layers, mut buffers } = self.new_cache(KvFormat::F32);
        self.blocks(None, ids, &mut layers, &mut buffers);
        self.logits(None, 0..ids.len(), &mut buffers);
        Ok(buffers.logits)
    }

    /// The cross-entropy, in nats, of every token of a window after its first.
    ///
    /// # Errors
    /// As [`PackedLlama::forward`]; the last token is only a target.
    pub fn losses(&self, window: &[u32]) -> Result<Vec<f64>> {
        self.losses_after(window, &mut self.new_cache(KvFormat::F32))
    }

    /// [`PackedLlama::losses`] of a window that follows what the cache holds; it grows by all tokens but the last.
    ///
    /// # Errors
    /// As [`PackedLlama::losses`].
    pub fn losses_after(&self, window: &[u32], cache: &mut PackedCache) -> Result<Vec<f64>> {
        let Some((last, ids)) = window.split_last().filter(|(_, ids)| !ids.is_empty()) else {
            return Ok(Vec::new());
        };
        self.check(ids, cache.len())?;
        self.check(&[*last], 0)?;
        let PackedCache { layers, buffers } = cache;
        self.blocks(None, ids, layers, buffers);
        let mix = LossMix { cross_entropy: 1., divergence: 0., temperature: 1., ignore: u32::MAX };
        let (mut losses, mut kl) = (vec![0.; ids.len()], vec![0.; ids.len()]);
        for from in (0..ids.len()).step_by(HEAD_ROWS) {
            let rows = from..(from + HEAD_ROWS).min(ids.len());
            self.logits(None, rows.clone(), buffers);
            let targets = &window[rows.start + 1..rows.end + 1];
            token_losses(&buffers.logits, None, targets, &mix, &mut losses[rows.clone()], &mut kl[rows]);
        }
        Ok(losses)
    }

    fn check(&self, ids: &[u32], held: usize) -> Result<()> {
        let fault = |key: &str, expected: String, found: String| {
            Err(Error::config("packed model", key, expected, found))
        };
        if ids.is_empty() {
            return fault("tokens", "at least one".into(), "none".into());
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            return fault("tokens", format!("ids below {}", self.config.vocab_size), id.to_string());
        }
        match held + ids.len() <= self.context() {
            true => Ok(()),
            false => {
                let expected = format!("at most {} positions", self.context());
                fault("context", expected, (held + ids.len()).to_string())
            }
        }
    }

    /// Leaves the output of the last block in `buffers.x`.
    fn blocks(
        &self,
        crew: Option<&Crew<'_>>,
        ids: &[u32],
        layers: &mut [(Cached, Cached)],
        buffers: &mut Buffers,
    ) {
        let hidden = self.config.hidden_size;
        let x = sized(&mut buffers.x, ids.len() * hidden);
        for (x, &id) in x.chunks_exact_mut(hidden).zip(ids) {
            self.embedding.row(id as usize, x);
        }
        for (index, (block, cache)) in self.blocks.iter().zip(layers).enumerate() {
            self.attend(crew, block, self.config.window_of_layer(index), cache, buffers);
            self.mlp(crew, block, buffers);
        }
    }

    fn attend(
        &self,
        crew: Option<&Crew<'_>>,
        block: &PackedBlock,
        window: Option<usize>,
        cache: &mut (Cached, Cached),
        buffers: &mut Buffers,
    ) {
        let config = &self.config;
        let (hidden, eps, d) = (config.hidden_size, config.rms_norm_eps, config.head_dim);
        let (heads, kv_heads) = (config.num_heads, config.num_kv_heads);
        let t = buffers.x.len() / hidden;
        let Buffers { activations, x, normed, q, k, v, rotated, attended, out, keys, values, .. } = buffers;
        let (q, k, v) = (sized(q, t * heads * d), sized(k, t * kv_heads * d), sized(v, t * kv_heads * d));
        rms_norm(x, &block.input_norm, eps, sized(normed, t * hidden), hidden);
        activations.set(normed, t, hidden);
        linears(crew, activations, &mut [(&block.q, &mut *q), (&block.k, &mut *k), (&block.v, &mut *v)]);

        let (cached_keys, cached_values) = cache;
        let first = cached_keys.len();
        let angles = first * d / 2..(first + t) * d / 2;
        let (cos, sin) = (&self.rotary.0[angles.clone()], &self.rotary.1[angles]);
        for (x, heads, norm) in [
            (&mut *k, kv_heads, block.qk_norm.as_ref().map(|(_, k)| k)),
            (&mut *q, heads, block.qk_norm.as_ref().map(|(q, _)| q)),
        ] {
            let rotated = sized(rotated, x.len());
            if let Some(norm) = norm {
                rms_norm(x, norm, eps, rotated, d);
                x.copy_from_slice(rotated);
            }
            rope(x, cos, sin, rotated, 1, t, heads, d, false);
            x.copy_from_slice(rotated);
        }
        cached_keys.push(k);
        cached_values.push(v);

        let attended = sized(attended, t * heads * d);
        let scale = 1. / (d as f64).sqrt();
        match crew {
            Some(crew) => attend(crew, q, cached_keys, cached_values, scale as f32, window, attended),
            None => {
                let tk = cached_keys.len();
                let dims = AttentionDims { b: 1, tq: t, tk, h: heads, hkv: kv_heads, d, scale, window };
                attention(q, cached_keys.floats(keys), cached_values.floats(values), &dims, attended);
            }
        }
        activations.set(attended, t, heads * d);
        let out = sized(out, t * hidden);
        linears(crew, activations, &mut [(&block.o, &mut *out)]);
        add_assign(x, out);
    }

    fn mlp(&self, crew: Option<&Crew<'_>>, block: &PackedBlock, buffers: &mut Buffers) {
        let (hidden, width, eps) =
            (self.config.hidden_size, self.config.intermediate_size, self.config.rms_norm_eps);
        let t = buffers.x.len() / hidden;
        let Buffers { activations, x, normed, out, gate, up, attended, .. } = buffers;
        rms_norm(x, &block.post_norm, eps, sized(normed, t * hidden), hidden);
        activations.set(normed, t, hidden);
        let (gate, up) = (sized(gate, t * width), sized(up, t * width));
        linears(crew, activations, &mut [(&block.gate, &mut *gate), (&block.up, &mut *up)]);
        let inner = sized(attended, t * width);
        swiglu(gate, up, inner);
        activations.set(inner, t, width);
        let out = sized(out, t * hidden);
        linears(crew, activations, &mut [(&block.down, &mut *out)]);
        add_assign(x, out);
    }

    /// Logits of some of the positions in `buffers.x`.
    fn logits(&self, crew: Option<&Crew<'_>>, rows: std::ops::Range<usize>, buffers: &mut Buffers) {
        let (hidden, n) = (self.config.hidden_size, rows.len());
        let Buffers { activations, x, normed, logits, .. } = buffers;
        let x = &x[rows.start * hidden..rows.end * hidden];
        rms_norm(x, &self.norm, self.config.rms_norm_eps, sized(normed, n * hidden), hidden);
        activations.set(normed, n, hidden);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        activations.prepare(head.arithmetic());
        let logits = sized(logits, n * self.config.vocab_size);
        let mut products = [(head, logits)];
        match crew {
            Some(crew) => product(crew, activations, &mut products),
            None => Crew::with(|crew| product(crew, activations, &mut products)),
        }
    }
}
