//! Gradients that go to the optimizer on the way back: which segment is the last to use a parameter, and what waits
//! until then.

use std::collections::BTreeMap;

use trimwick_nn::{GradientSink, Param};

use crate::gradients::{refuse_missing, sum_squares};
use crate::optim::AdamW;
use crate::walk::{Collect, Walk};
use crate::{Error, Result};

/// The trainable parameters, and for each the segments that use it, of which the lowest is the last on the way back.
#[derive(Default)]
pub(crate) struct Uses {
    params: Vec<(Param, Vec<usize>)>,
}

impl Uses {
    /// Finds out by running each segment on the few tokens of `walk`, whatever the parameters are called: a weight
    /// that two segments share is used by both.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] for parameters that no segment uses.
    pub(crate) fn probe(walk: &Walk<'_>, params: Vec<Param>) -> Result<Self> {
        let mut params: Vec<_> = params.into_iter().map(|param| (param, Vec::new())).collect();
        walk.probe(&mut |segment, grads| {
            for (param, segments) in &mut params {
                if grads.get(&param.var()).is_some() {
                    segments.push(segment);
                }
            }
        })?;
        refuse_missing(params.iter().filter(|(_, segments)| segments.is_empty()).map(|(param, _)| param))?;
        Ok(Self { params })
    }

    /// Whether these are the uses of just these parameters.
    pub(crate) fn cover(&self, params: &[Param]) -> bool {
        self.params.iter().map(|(param, _)| param.name()).eq(params.iter().map(Param::name))
    }

    /// The parameters that no segment after this one uses on the way back.
    fn last_at(&self, segment: usize) -> impl Iterator<Item = &Param> {
        self.params
            .iter()
            .filter(move |(_, used)| used.iter().min() == Some(&segment))
            .map(|(param, _)| param)
    }

    /// The parameters of a segment.
    fn of(&self, segment: usize) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(move |(_, used)| used.contains(&segment)).map(|(param, _)| param)
    }
}

/// What becomes of a gradient that is complete.
pub(crate) enum Purpose<'a> {
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
    purpose: Purpose<'a>,
    /// Gradients of the segment under way, and of parameters that a segment to come also uses.
    sink: GradientSink,
    /// Σ g² of the gradients that are complete.
    squares: BTreeMap<String, f64>,
}

impl<'a> Handover<'a> {
    pub(crate) fn new(uses: &'a Uses, purpose: Purpose<'a>) -> Self {
        let params: Vec<Param> = uses.params.iter().map(|(param, _)| param.clone()).collect();
        Self { uses, purpose, sink: GradientSink::new(&params), squares: BTreeMap::new() }
    }

    /// Gives on the gradient of a parameter.
    fn complete(&mut self, param: &Param) -> Result<()> {
        let name = param.name();
        let Some(sum) = self.sink.get(param) else {
            return Err(Error::MissingGradient { names: vec![name.into()] });
        };
        let value = sum_squares(sum)?;
        if !value.is_finite() {
            let what = format!("the gradient of {name}");
            let updated = matches!(self.purpose, Purpose::Update { .. }) && !self.squares.is_empty();
            return Err(match updated {
                true => Error::HalfStep { what, value },
                false => Error::NonFinite { what, value },
            });
        }
        if let Purpose::Update { optimizer, scale, lr } = &mut self.purpose {
            optimizer.update(name, sum, *scale, *lr)?;
        }
        self.squares.insert(name.into(), value);
        Ok(())
    }

    /// Ends the way back; the norm of the whole gradient, added up in the order of names.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] for parameters that got none.
    pub(crate) fn finish(self) -> Result<f64> {
        let params = self.uses.params.iter().map(|(param, _)| param);
        refuse_missing(params.filter(|param| !self.squares.contains_key(param.name())))?;
        if let Purpose::Update { optimizer, .. } = self.purpose {
            optimizer.advance();
        }
        Ok(self.squares.values().sum::<f64>().sqrt())
    }
}

impl Collect for Handover<'_> {
    fn sink(&mut self) -> &mut GradientSink {
        &mut self.sink
    }

    /// Gives on the gradients that no other segment can add to, and their memory to those of the next segment.
    ///
    /// # Errors
    /// A gradient that is missing, not finite, or of a parameter that is done.
    fn passed(&mut self, segment: usize) -> Result<()> {
        let uses = self.uses;
        let mut reached = uses.params.iter().map(|(param, _)| param).filter(|p| self.sink.reached(p));
        if let Some(late) = reached.find(|p| self.squares.contains_key(p.name())) {
            return Err(Error::Late { name: late.name().into() });
        }
        for param in uses.last_at(segment) {
            self.complete(param)?;
            let next = segment.checked_sub(1).into_iter().flat_map(|next| uses.of(next));
            self.sink.pass_on(param, next);
        }
        Ok(())
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

    /// Counts the elements of the gradients that there are.
    struct Watch<'a> {
        inner: Handover<'a>,
        most: usize,
        order: Vec<usize>,
        left: Vec<usize>,
    }

    impl Watch<'_> {
        fn elements(&self) -> usize {
            let sums = self.inner.uses.params.iter().filter_map(|(p, _)| self.inner.sink.get(p));
            sums.map(Tensor::elem_count).sum()
        }
    }

    impl Collect for Watch<'_> {
        fn sink(&mut self) -> &mut GradientSink {
            self.inner.sink()
        }

        fn passed(&mut self, segment: usize) -> Result<()> {
            self.most = self.most.max(self.elements());
            self.order.push(segment);
            self.inner.passed(segment)?;
            self.left.push(self.elements());
            Ok(())
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
        let segments: Vec<_> = uses.params.iter().map(|(p, used)| (p.name(), used.as_slice())).collect();
        assert_eq!(
            (segments[0], segments[6]),
            (("blocks.0.weight", &[1][..]), ("embed.weight", &[0, 7][..]))
        );

        let mut ahead = walk.ahead(&batch, None)?;
        let mut watch =
            Watch { inner: Handover::new(&uses, Purpose::Norm), most: 0, order: vec![], left: vec![] };
        walk.back(&mut ahead, false, &mut watch)?;
        let Watch { inner: handover, most, order, left } = watch;
        assert_eq!(order, [7, 6, 5, 4, 3, 2, 1, 0]);
        // The tied weight and one block, of seven weights.
        assert_eq!(most, 2 * WIDE * WIDE);
        // The tied weight alone outlives a segment.
        assert_eq!(left, [1, 1, 1, 1, 1, 1, 1, 0].map(|n| n * WIDE * WIDE));
        let norm = handover.finish()?;
        let mut whole = crate::Gradients::new(&store.trainable());
        whole.accumulate(crate::loss(&model, &batch, None)?.total.backward()?)?;
        assert!((norm - whole.norm()?).abs() < 1e-6 * norm, "{norm} {}", whole.norm()?);
        Ok(())
    }
}
