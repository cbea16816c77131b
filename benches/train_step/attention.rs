//! Attention of a step alone, forward and backward in every block, and the optimizer's pass alone over every weight: what of a
//! step grows with the square of the tokens, and what does not grow with them at all.

use anyhow::Result;
use trimwick::kernels::{AdamW, AttentionDims, adamw, attention, attention_backward};

use crate::shape::Shape;

fn filled(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1000) as f32 / 1e3 - 0.5).collect()
}

/// A step's attention, and nothing else.
pub(crate) struct Attention {
    dims: AttentionDims,
    layers: usize,
    q: Vec<f32>,
    kv: Vec<f32>,
    out: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Attention {
    pub(crate) fn new(shape: Shape) -> Self {
        let dims = AttentionDims {
            b: 1,
            tq: shape.tokens,
            tk: shape.tokens,
            h: Shape::HEADS,
            hkv: Shape::KV_HEADS,
            d: Shape::HEAD,
            scale: (Shape::HEAD as f64).powf(-0.5),
            window: None,
        };
        let (q, kv) = (dims.q_len(), dims.kv_len());
        let zeros = |len: usize| vec![0.; len];
        Self {
            dims,
            layers: shape.layers,
            q: filled(q),
            kv: filled(kv),
            out: zeros(q),
            dq: zeros(q),
            dk: zeros(kv),
            dv: zeros(kv),
        }
    }

    pub(crate) fn step(&mut self) -> Result<()> {
        let Self { dims, layers, q, kv, out, dq, dk, dv } = self;
        for _ in 0..*layers {
            attention(q, kv, kv, dims, out);
            // The output stands in for its gradient.
            attention_backward(q, kv, kv, out, dims, dq, dk, dv);
        }
        Ok(())
    }
}

/// A step's optimizer, and nothing else.
pub(crate) struct Optimizer {
    weights: Vec<f32>,
    gradients: Vec<f32>,
    moments: [Vec<f32>; 2],
    steps: u64,
}

impl Optimizer {
    pub(crate) fn new(shape: Shape) -> Self {
        let (hidden, kv) = (Shape::HIDDEN, Shape::KV_HEADS * Shape::HEAD);
        let block = 2 * hidden * (hidden + kv) + 3 * hidden * Shape::MLP + 2 * hidden;
        let len = shape.layers * block + Shape::VOCAB * hidden + hidden;
        let [weights, gradients] = [filled(len), filled(len)];
        Self { weights, gradients, moments: [vec![0.; len], vec![0.; len]], steps: 0 }
    }

    pub(crate) fn step(&mut self) -> Result<()> {
        self.steps += 1;
        let (lr, beta1, beta2, eps, weight_decay) = (1e-6, 0.9, 0.999, 1e-8, 0.01);
        let settings = AdamW { lr, beta1, beta2, eps, weight_decay, step: self.steps, grad_scale: 1. };
        let [m, v] = &mut self.moments;
        adamw(&mut self.weights, &self.gradients, m, v, &settings);
        Ok(())
    }
}
