//! The same model and step in candle's own operations, as one has to write them for every parameter to get its gradient:
//! its fused norms, rotations and softmax have no backward, so that these are composed.

use anyhow::Result;
use candle_core::{D, DType, Device, Module, Tensor, Var};
use candle_nn::{
    AdamW, Embedding, Linear, Optimizer, ParamsAdamW, VarBuilder, VarMap, embedding, linear_no_bias, loss,
    ops,
};

use crate::shape::Shape;

struct Norm(Tensor);

impl Norm {
    fn new(vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self(vb.get_with_hints(Shape::HIDDEN, "weight", candle_nn::Init::Const(1.))?))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mean = (x.sqr()?.mean_keepdim(D::Minus1)? + Shape::EPS)?;
        Ok(x.broadcast_div(&mean.sqrt()?)?.broadcast_mul(&self.0)?)
    }
}

struct Block {
    norms: [Norm; 2],
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// Positions: cosines, sines, and −∞ above the diagonal.
struct Tables {
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
}

impl Tables {
    fn new(tokens: usize) -> Result<Self> {
        let half = Shape::HEAD / 2;
        let frequency: Vec<f32> =
            (0..half).map(|i| Shape::THETA.powf(-2. * i as f32 / Shape::HEAD as f32)).collect();
        let angles: Vec<f32> =
            (0..tokens).flat_map(|p| frequency.iter().map(move |f| p as f32 * f)).collect();
        let angles = Tensor::from_vec(angles, (1, 1, tokens, half), &Device::Cpu)?;
        let angles = Tensor::cat(&[&angles, &angles], 3)?;
        let mask: Vec<f32> = (0..tokens)
            .flat_map(|i| (0..tokens).map(move |j| if j > i { f32::NEG_INFINITY } else { 0. }))
            .collect();
        let mask = Tensor::from_vec(mask, (1, 1, tokens, tokens), &Device::Cpu)?;
        Ok(Self { cos: angles.cos()?, sin: angles.sin()?, mask })
    }

    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let half = Shape::HEAD / 2;
        let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
        let turned = Tensor::cat(&[&b.neg()?, &a], 3)?;
        Ok((x.broadcast_mul(&self.cos)? + turned.broadcast_mul(&self.sin)?)?)
    }
}

impl Block {
    fn new(vb: VarBuilder<'_>) -> Result<Self> {
        let (hidden, heads, kv) = (Shape::HIDDEN, Shape::HEADS * Shape::HEAD, Shape::KV_HEADS * Shape::HEAD);
        Ok(Self {
            norms: [Norm::new(vb.pp("n1"))?, Norm::new(vb.pp("n2"))?],
            q: linear_no_bias(hidden, heads, vb.pp("q"))?,
            k: linear_no_bias(hidden, kv, vb.pp("k"))?,
            v: linear_no_bias(hidden, kv, vb.pp("v"))?,
            o: linear_no_bias(heads, hidden, vb.pp("o"))?,
            gate: linear_no_bias(hidden, Shape::MLP, vb.pp("gate"))?,
            up: linear_no_bias(hidden, Shape::MLP, vb.pp("up"))?,
            down: linear_no_bias(Shape::MLP, hidden, vb.pp("down"))?,
        })
    }

    fn attention(&self, x: &Tensor, tables: &Tables) -> Result<Tensor> {
        let t = x.dim(1)?;
        let split = |x: Tensor, heads| -> Result<Tensor> {
            Ok(x.reshape((1, t, heads, Shape::HEAD))?.transpose(1, 2)?.contiguous()?)
        };
        let q = tables.rotate(&split(self.q.forward(x)?, Shape::HEADS)?)?;
        let k = tables.rotate(&split(self.k.forward(x)?, Shape::KV_HEADS)?)?;
        let v = split(self.v.forward(x)?, Shape::KV_HEADS)?;
        let group = Shape::HEADS / Shape::KV_HEADS;
        let repeat = |x: Tensor| -> Result<Tensor> {
            let x = x.unsqueeze(2)?.broadcast_as((1, Shape::KV_HEADS, group, t, Shape::HEAD))?;
            Ok(x.reshape((1, Shape::HEADS, t, Shape::HEAD))?.contiguous()?)
        };
        let (k, v) = (repeat(k)?, repeat(v)?);
        let scores = (q.matmul(&k.t()?.contiguous()?)? / (Shape::HEAD as f64).sqrt())?;
        let weights = ops::softmax(&scores.broadcast_add(&tables.mask)?, D::Minus1)?;
        let out = weights.matmul(&v)?.transpose(1, 2)?.reshape((1, t, Shape::HEADS * Shape::HEAD))?;
        Ok(self.o.forward(&out)?)
    }

    fn forward(&self, x: &Tensor, tables: &Tables) -> Result<Tensor> {
        let x = (x + self.attention(&self.norms[0].forward(x)?, tables)?)?;
        let normed = self.norms[1].forward(&x)?;
        let inner = (self.gate.forward(&normed)?.silu()? * self.up.forward(&normed)?)?;
        Ok((&x + self.down.forward(&inner)?)?)
    }
}

/// The model, its optimizer and its one batch.
pub(crate) struct Stock {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: Norm,
    tables: Tables,
    parameters: Vec<Var>,
    optimizer: AdamW,
    inputs: Tensor,
    targets: Tensor,
}

impl Stock {
    pub(crate) fn new(shape: Shape) -> Result<Self> {
        let map = VarMap::new();
        let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
        let embedding = embedding(Shape::VOCAB, Shape::HIDDEN, vb.pp("embed"))?;
        let blocks = (0..shape.layers).map(|i| Block::new(vb.pp(i))).collect::<Result<Vec<_>>>()?;
        let norm = Norm::new(vb.pp("norm"))?;
        let ids = shape.ids();
        let settings = ParamsAdamW { lr: 1e-6, ..ParamsAdamW::default() };
        Ok(Self {
            embedding,
            blocks,
            norm,
            tables: Tables::new(shape.tokens)?,
            parameters: map.all_vars(),
            optimizer: AdamW::new(map.all_vars(), settings)?,
            inputs: Tensor::from_slice(&ids[..shape.tokens], (1, shape.tokens), &Device::Cpu)?,
            targets: Tensor::from_slice(&ids[1..], shape.tokens, &Device::Cpu)?,
        })
    }

    /// Forward, backward, clipping to the norm 1 and AdamW.
    pub(crate) fn step(&mut self) -> Result<()> {
        let mut x = self.embedding.forward(&self.inputs)?;
        for block in &self.blocks {
            x = block.forward(&x, &self.tables)?;
        }
        let x = self.norm.forward(&x)?.squeeze(0)?;
        let logits = x.matmul(&self.embedding.embeddings().t()?)?;
        let mut grads = loss::cross_entropy(&logits, &self.targets)?.backward()?;
        let mut squares = 0.;
        for var in &self.parameters {
            if let Some(grad) = grads.get(var) {
                squares += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
        }
        let factor = (1. / (squares.sqrt() + 1e-6)).min(1.);
        for var in &self.parameters {
            if let Some(grad) = grads.remove(var) {
                grads.insert(var, (grad * factor)?);
            }
        }
        Ok(self.optimizer.step(&grads)?)
    }
}
