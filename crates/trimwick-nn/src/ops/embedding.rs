//! Rows of a table; its gradient adds the rows of the output's gradient up, in the order of the tokens.

use candle_core::{Result, Tensor, bail};
use trimwick_kernels as kernels;

use super::cpu::{Elem, by_dtype, fused, with_slices, zeros};
use crate::grad::{Backward, Inputs, record};

/// Row `ids[i]` of `weight` `[vocabulary, hidden]` for ids of any shape (u32), giving `[.., hidden]`.
///
/// # Errors
/// An id outside the vocabulary.
pub fn embedding(weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (v, d) = weight.dims2()?;
    let mut dims = ids.dims().to_vec();
    dims.push(d);
    if fused(&[weight]) {
        let ids = ids.flatten_all()?.to_vec1::<u32>()?;
        if let Some(bad) = ids.iter().find(|&&i| i as usize >= v) {
            bail!("embedding: token id {bad} is outside the vocabulary of {v}");
        }
        let weight = weight.contiguous()?;
        return by_dtype!(weight.dtype(), T => {
            let mut out = zeros::<T>(ids.len() * d);
            with_slices::<T, _, 1>([&weight], |[weight]| {
                kernels::embedding(weight, &ids, &mut out, d);
                Ok(())
            })?;
            record(out, dims, &[&weight], Embedding { ids, v, d })
        });
    }
    weight.index_select(&ids.flatten_all()?, 0)?.reshape(dims)
}

struct Embedding {
    ids: Vec<u32>,
    v: usize,
    d: usize,
}

impl<T: Elem> Backward<T> for Embedding {
    fn backward(&self, g: &[T], to: &mut Inputs<'_, T>) -> Result<()> {
        let Self { ids, v, d } = self;
        to.write(0, v * d, |dw, accumulate| kernels::embedding_backward(ids, g, dw, *d, accumulate))
    }
}
