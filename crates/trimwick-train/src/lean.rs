//! Gradients that go to the optimizer on the way back: which segment is the last to use a parameter, and what waits
//! until then.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use trimwick_nn::Param;

use crate::gradients::{Sum, sum_squares};
use crate::optim::AdamW;
use crate::walk::Walk;
use crate::{Error, Result};

/// The trainable parameters, and for each the lowest segment that uses it: the last one on the way back.
#[derive(Default)]
pub(crate) struct Uses {
    params: Vec<(Param, usize)>,
}

impl Uses {
    /// Finds out by running each segment on the few tokens of `walk`, whatever the parameters are called: a weight
    /// that two segments share is used by both.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] for parameters that no segment uses.
    pub(crate) fn probe(walk: &Walk<'_>, params: Vec<Param>) -> Result<Self> {
        let mut lowest = vec![None; params.len()];
        walk.probe(&mut |segment, grads| {
            for (param, lowest) in params.iter().zip(&mut lowest) {
                if grads.get(&param.var()).is_some() {
                    *lowest = Some(lowest.map_or(segment, |old: usize| old.min(segment)));
                }
            }
        })?;
        let unused = params.iter().zip(&lowest).filter(|(_, lowest)| lowest.is_none());
        let names: Vec<String> = unused.map(|(param, _)| param.name().to_string()).collect();
        if !names.is_empty() {
            return Err(Error::MissingGradient { names });
        }
        Ok(Self { params: params.into_iter().zip(lowest.into_iter().flatten()).collect() })
    }

    /// Whether these are the uses of just these parameters.
    pub(crate) fn cover(&self, params: &[Param]) -> bool {
        self.params.iter().map(|(param, _)| param.name()).eq(params.iter().map(Param::name))
    }
}

/// What becomes of a gradient that is complete.
pub(crate) enum Sink<'a> {
    /// It counts for the norm alone.
    Norm,
    /// It updates its parameter.
    Update {
        /// Of all parameters.
        optimizer: &'a mut AdamW,
        /// Factor on the gradients: that of clipping.
        scale: f64,
        /// The learning rate.
        lr: f64,
    },
}

/// One way back.
pub(crate) struct Handover<'a> {
    uses: &'a Uses,
    sink: Sink<'a>,
    /// Gradients of parameters that a segment to come also uses.
    waiting: BTreeMap<String, Sum>,
    /// Σ g² of the gradients that are complete.
    squares: BTreeMap<String, f64>,
}

impl<'a> Handover<'a> {
    pub(crate) fn new(uses: &'a Uses, sink: Sink<'a>) -> Self {
        Self { uses, sink, waiting: BTreeMap::new(), squares: BTreeMap::new() }
    }

    /// Takes the gradients of a segment, and gives on those that no other segment can add to.
    ///
    /// # Errors
    /// A gradient that is missing, not finite, or of a parameter that is done.
    pub(crate) fn take(&mut self, segment: usize, grads: &mut GradStore) -> Result<()> {
        for (param, last) in &self.uses.params {
            let name = param.name();
            if let Some(grad) = grads.remove(&param.var()) {
                if self.squares.contains_key(name) {
                    return Err(Error::Late { name: name.into() });
                }
                let sum = Sum::put(self.waiting.remove(name), grad)?;
                self.waiting.insert(name.into(), sum);
            }
            if *last == segment {
                let Some(sum) = self.waiting.remove(name) else {
                    return Err(Error::MissingGradient { names: vec![name.into()] });
                };
                self.complete(name, &sum)?;
            }
        }
        Ok(())
    }

    fn complete(&mut self, name: &str, sum: &Sum) -> Result<()> {
        let value = sum_squares(sum.tensor())?;
        if !value.is_finite() {
            let what = format!("the gradient of {name}");
            let updated = matches!(self.sink, Sink::Update { .. }) && !self.squares.is_empty();
            return Err(match updated {
                true => Error::HalfStep { what, value },
                false => Error::NonFinite { what, value },
            });
        }
        if let Sink::Update { optimizer, scale, lr } = &mut self.sink {
            optimizer.update(name, sum.tensor(), *scale, *lr)?;
        }
        self.squares.insert(name.into(), value);
        Ok(())
    }

    /// Ends the way back; the norm of the whole gradient, added up in the order of names.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] for parameters that got none.
    pub(crate) fn finish(self) -> Result<f64> {
        let params = self.uses.params.iter().map(|(param, _)| param.name());
        let names: Vec<_> =
            params.filter(|name| !self.squares.contains_key(*name)).map(str::to_string).collect();
        if !names.is_empty() {
            return Err(Error::MissingGradient { names });
        }
        if let Sink::Update { optimizer, .. } = self.sink {
            optimizer.advance();
        }
        Ok(self.squares.values().sum::<f64>().sqrt())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use trimwick_nn::{CausalLm, Linear, Module, ParamStore, linear_no_bias};

    use super::*;
    use crate::data::Batch;

    const WIDE: usize = 8;

    /// Six blocks of one layer each, between an embedding and the head that is tied to it.
    struct Stack {
        embed: trimwick_nn::Embedding,
        blocks: Vec<Linear>,
        head: Linear,
    }

    impl CausalLm for Stack {
        fn vocab_size(&self) -> usize {
            WIDE
        }

        fn max_context(&self) -> usize {
            8
        }

        fn blocks(&self) -> usize {
            self.blocks.len()
        }

        fn block_path(&self, index: usize) -> String {
            format!("blocks.{index}")
        }

        fn embed(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
            self.embed.forward(ids)
        }

        fn block(&self, index: usize, x: &Tensor) -> candle_core::Result<Tensor> {
            x + self.blocks[index].forward(x)?
        }

        fn head(&self, x: &Tensor) -> candle_core::Result<Tensor> {
            self.head.forward(x)
        }
    }

    #[test]
    fn there_are_gradients_of_one_segment_and_of_shared_weights_at_a_time() -> Result<()> {
        let store = ParamStore::new(DType::F32, &Device::Cpu);
        let vb = store.var_builder();
        let embed = trimwick_nn::embedding(WIDE, WIDE, vb.pp("embed"))?;
        let blocks = (0..6).map(|i| linear_no_bias(WIDE, WIDE, vb.pp("blocks").pp(i)));
        let head = Linear::tied(&embed);
        let model = Stack { embed, blocks: blocks.collect::<candle_core::Result<_>>()?, head };
        let batch = Batch::new(&[&[1, 2, 3, 4]], &Device::Cpu)?;
        let walk = Walk { model: &model, clock: store.clock(), ids: &batch.inputs };
        let uses = Uses::probe(&walk, store.trainable())?;
        let lowest: Vec<_> = uses.params.iter().map(|(p, last)| (p.name(), *last)).collect();
        assert_eq!((lowest[0], lowest[6]), (("blocks.0.weight", 1), ("embed.weight", 0)));

        let mut ahead = walk.ahead(&batch, None)?;
        let mut handover = Handover::new(&uses, Sink::Norm);
        let (mut most, mut order) = (0, vec![]);
        walk.back(&mut ahead, false, &mut |segment, grads| {
            let fresh = uses.params.iter().filter_map(|(p, _)| grads.get(&p.var())).map(Tensor::elem_count);
            let waiting = handover.waiting.values().map(|sum| sum.tensor().elem_count());
            most = most.max(fresh.sum::<usize>() + waiting.sum::<usize>());
            order.push(segment);
            handover.take(segment, grads)?;
            let left = uses.params.iter().filter(|(p, _)| grads.get(&p.var()).is_some()).count();
            assert_eq!(left, 0, "a gradient outlives its segment");
            Ok(())
        })?;
        assert_eq!(order, [7, 6, 5, 4, 3, 2, 1, 0]);
        // The tied weight and one block, of seven weights.
        assert_eq!(most, 2 * WIDE * WIDE);
        let norm = handover.finish()?;
        let mut whole = crate::Gradients::new(&store.trainable());
        whole.accumulate(crate::loss(&model, &batch, None)?.total.backward()?)?;
        assert!((norm - whole.norm()?).abs() < 1e-6 * norm, "{norm} {}", whole.norm()?);
        Ok(())
    }
}
