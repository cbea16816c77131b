//! Differentiable operations. On the CPU in f32 and f64 each is one fused loop of `trimwick-kernels` with its
//! own backward; on other devices and dtypes it is composed from candle operations that are differentiable.
//! Both paths are tested against each other.

mod add;
mod attention;
mod cpu;
mod dropout;
mod embedding;
mod head;
mod linear;
mod loss;
mod mask;
mod norm;
mod quant;
mod quant_composed;
mod rope;
mod swiglu;

pub use add::{add, reshape};
pub use attention::attention;
pub use cpu::{Elem, InPlace, cpu_slice, update, with_slices};
pub(crate) use cpu::{by_dtype, owned, zeros};
pub use dropout::dropout;
pub use embedding::embedding;
pub use head::{HeadLoss, Logits, Teacher, head_loss};
pub use linear::{linear, linear_with_bias};
pub use loss::{cross_entropy, cross_entropy_each, kl_divergence};
pub use mask::mask;
pub use norm::{layer_norm, rms_norm};
pub use quant::{Scales, fake_quant, fake_quant_dynamic, fake_quant_learned, learned_scales};
pub use rope::rope;
pub use swiglu::swiglu;
