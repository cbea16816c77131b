//! Tests of every kernel through the public interface: against definitions written out naively, against PyTorch,
//! against central differences, and for the same bits on any number of threads.

mod attention;
mod gemm;
mod losses;
mod masks;
mod norms;
mod obs;
mod optimizer;
mod optimizer8;
mod pointwise;
mod random;
mod reference;
mod selection;
mod support;
mod threads;
