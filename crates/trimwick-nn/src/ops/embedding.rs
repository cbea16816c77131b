//! Rows of a table; its gradient adds the rows of the output's gradient up, in the order of the tokens.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use trimwick_kernels as kernels;

use super::cpu::{by_dtype, cpu_slice, dtype_of, fused, owned, tensor_like, with_slices, zeros};

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
        return weight.contiguous()?.apply_op1(Embedding { ids: ids.into() })?.reshape(dims);
    }
    weight.index_select(&ids.flatten_all()?, 0)?.reshape(dims)
}

struct Embedding {
    ids: Box<[u32]>,
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, d) = l.shape().dims2()?;
        by_dtype!(dtype_of(s), T => {
            let mut out = zeros::<T>(self.ids.len() * d);
            kernels::embedding(cpu_slice::<T>(s, l)?, &self.ids, &mut out, d);
            Ok((owned(out), Shape::from((self.ids.len(), d))))
        })
    }

    fn bwd(&self, weight: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (_, d) = weight.dims2()?;
        by_dtype!(weight.dtype(), T => with_slices::<T, _, 1>([g], |[gs]| {
            let mut dw = zeros::<T>(weight.elem_count());
            kernels::embedding_backward(&self.ids, gs, &mut dw, d);
            Ok(Some(tensor_like(dw, weight)?))
        }))
    }
}
