//! The matrix products of a step alone: forward, gradient of the input and gradient of the weight of every linear layer
//! and of the head, on the same buffers over and over. Attention's products are not counted.

use anyhow::Result;
use trimwick::kernels::{matmul_nn, matmul_nt, matmul_tn};

use crate::shape::Shape;

/// A step's products, and nothing else.
pub(crate) struct Products {
    /// (inputs, outputs, how often) of the linear layers.
    layers: Vec<(usize, usize, usize)>,
    tokens: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    y: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
}

impl Products {
    pub(crate) fn new(shape: Shape) -> Self {
        let (hidden, kv) = (Shape::HIDDEN, Shape::KV_HEADS * Shape::HEAD);
        let each = shape.layers;
        let layers = vec![
            (hidden, Shape::HEADS * Shape::HEAD, 2 * each),
            (hidden, kv, 2 * each),
            (hidden, Shape::MLP, 2 * each),
            (Shape::MLP, hidden, each),
            (hidden, Shape::VOCAB, 1),
        ];
        let fill = |len: usize| (0..len).map(|i| (i * 7919 % 1000) as f32 / 1e3 - 0.5).collect();
        let (x, w) = (fill(shape.tokens * Shape::MLP), fill(Shape::VOCAB * hidden));
        let y = fill(shape.tokens * Shape::VOCAB);
        let (dx, dw) = (vec![0.; shape.tokens * Shape::MLP], vec![0.; Shape::VOCAB * hidden]);
        Self { layers, tokens: shape.tokens, x, w, y, dx, dw }
    }

    pub(crate) fn step(&mut self) -> Result<()> {
        let m = self.tokens;
        for &(k, n, times) in &self.layers {
            let (x, w, y) = (&self.x[..m * k], &self.w[..n * k], &mut self.y[..m * n]);
            let (dx, dw) = (&mut self.dx[..m * k], &mut self.dw[..n * k]);
            for _ in 0..times {
                matmul_nt(x, w, y, m, k, n, false);
            }
            // The output stands in for its gradient.
            for _ in 0..times {
                matmul_nn(y, w, dx, m, n, k, false);
                matmul_tn(y, x, dw, m, n, k, false);
            }
        }
        Ok(())
    }
}
