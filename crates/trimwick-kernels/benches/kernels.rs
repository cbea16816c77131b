//! Time and throughput of single kernels, by criterion: what a change has made of each since the run before.
//!
//!     cargo bench -p trimwick-kernels --bench kernels            # all of them
//!     cargo bench -p trimwick-kernels --bench kernels -- norm    # those whose name has it
//!
//! Shapes are those of a block of SmolLM2-135M (hidden 576, 9 heads of 64, 3 for keys, MLP 1536) on 512 tokens. Criterion compares
//! with the last run on this machine; a difference on a busy one is none. For formats beside each other see `packed`, for
//! fake quantization beside copying `fake_quant`.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use trimwick_kernels::quant::{Code, Grid, ScaleFormat, fake_quant_dynamic};
use trimwick_kernels::{
    AdamW, AttentionDims, Rng, adamw, apply_mask, attention, bits_len, cross_entropy, matmul_nt, rms_norm,
    rms_norm_backward, select_nm, swiglu, swiglu_backward,
};

const TOKENS: usize = 512;
const HIDDEN: usize = 576;
const MLP: usize = 1536;
const VOCAB: usize = 49_152;

fn values(len: usize) -> Vec<f32> {
    let rng = Rng::new(1, "bench", 0, "values");
    (0..len as u64).map(|i| rng.normal_at(i) as f32).collect()
}

/// Bytes of so many f32.
fn floats(count: usize) -> Throughput {
    Throughput::Bytes(4 * count as u64)
}

fn products(c: &mut Criterion) {
    let (x, w, mut y) = (values(TOKENS * HIDDEN), values(MLP * HIDDEN), vec![0.; TOKENS * MLP]);
    let mut group = c.benchmark_group("product");
    group.throughput(Throughput::Elements(2 * (TOKENS * HIDDEN * MLP) as u64));
    group.bench_function("x·wᵀ, f32", |b| {
        b.iter(|| matmul_nt(&x, &w, black_box(&mut y), TOKENS, HIDDEN, MLP, false));
    });
}

fn norms(c: &mut Criterion) {
    let (x, weight, g) = (values(TOKENS * HIDDEN), values(HIDDEN), values(TOKENS * HIDDEN));
    let (mut y, mut dw) = (vec![0.; x.len()], vec![0.; HIDDEN]);
    let mut group = c.benchmark_group("norm");
    group.throughput(floats(2 * x.len()));
    group.bench_function("rms", |b| b.iter(|| rms_norm(&x, &weight, 1e-5, black_box(&mut y), HIDDEN)));
    group.throughput(floats(3 * x.len()));
    group.bench_function("rms, backward", |b| {
        b.iter(|| rms_norm_backward(&x, &weight, &g, 1e-5, black_box(&mut y), &mut dw, HIDDEN));
    });
}

fn gates(c: &mut Criterion) {
    let (gate, up, g) = (values(TOKENS * MLP), values(TOKENS * MLP), values(TOKENS * MLP));
    let (mut y, mut dup) = (vec![0.; gate.len()], vec![0.; gate.len()]);
    let mut group = c.benchmark_group("swiglu");
    group.throughput(floats(3 * gate.len()));
    group.bench_function("forward", |b| b.iter(|| swiglu(&gate, &up, black_box(&mut y))));
    group.throughput(floats(5 * gate.len()));
    group.bench_function("backward", |b| {
        b.iter(|| swiglu_backward(&gate, &up, &g, black_box(&mut y), &mut dup));
    });
}

fn attentions(c: &mut Criterion) {
    let (h, hkv, d) = (9, 3, 64);
    let (q, k, v) = (values(TOKENS * h * d), values(TOKENS * hkv * d), values(TOKENS * hkv * d));
    let dims = AttentionDims {
        b: 1,
        tq: TOKENS,
        tk: TOKENS,
        h,
        hkv,
        d,
        scale: 1. / (d as f64).sqrt(),
        window: None,
    };
    let mut y = vec![0.; q.len()];
    let mut group = c.benchmark_group("attention");
    // Of every pair of tokens, one sees the other.
    group.throughput(Throughput::Elements(2 * (TOKENS * TOKENS * h * d) as u64));
    group.bench_function("causal, forward", |b| b.iter(|| attention(&q, &k, &v, &dims, black_box(&mut y))));
}

fn losses(c: &mut Criterion) {
    const ROWS: usize = 64;
    let (logits, targets) = (values(ROWS * VOCAB), vec![7u32; ROWS]);
    let mut loss = vec![0.; ROWS];
    let mut group = c.benchmark_group("loss");
    group.throughput(floats(logits.len()));
    group.bench_function("cross entropy", |b| {
        b.iter(|| cross_entropy(&logits, &targets, u32::MAX, black_box(&mut loss)));
    });
}

fn grids(c: &mut Criterion) {
    let w = values(MLP * HIDDEN);
    let mut y = vec![0.; w.len()];
    let mut group = c.benchmark_group("fake_quant");
    group.throughput(floats(2 * w.len()));
    let int = |bits| Code::Int { bits };
    for (name, code, scale, block) in [
        ("int8, row", int(8), ScaleFormat::F32, HIDDEN),
        ("int4 g32", int(4), ScaleFormat::BF16, 32),
        ("fp8, row", Code::E4M3, ScaleFormat::F32, HIDDEN),
        ("mxfp4", Code::E2M1, ScaleFormat::E8M0Ceil, 32),
    ] {
        let grid = Grid { code, scale };
        group.bench_function(name, |b| {
            b.iter(|| fake_quant_dynamic(grid, &w, block, None, black_box(&mut y)).expect("finite"));
        });
    }
}

fn masks(c: &mut Criterion) {
    let w = values(MLP * HIDDEN);
    let scores: Vec<f32> = w.iter().map(|w| w.abs()).collect();
    let (mut bits, mut y) = (vec![0; bits_len(w.len())], vec![0.; w.len()]);
    let mut group = c.benchmark_group("mask");
    group.throughput(floats(w.len()));
    group.bench_function("choose 2:4", |b| {
        b.iter(|| select_nm(&scores, HIDDEN, 2, 4, black_box(&mut bits)).expect("no NaN"));
    });
    group.throughput(floats(2 * w.len()));
    group.bench_function("apply", |b| b.iter(|| apply_mask(&w, &bits, black_box(&mut y))));
}

fn optimizers(c: &mut Criterion) {
    let (mut w, g) = (values(MLP * HIDDEN), values(MLP * HIDDEN));
    let (mut m, mut v) = (vec![0.; w.len()], vec![0.; w.len()]);
    let h =
        AdamW { lr: 1e-6, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0., step: 1, grad_scale: 1. };
    let mut group = c.benchmark_group("adamw");
    group.throughput(floats(7 * w.len()));
    group.bench_function("f32 moments", |b| b.iter(|| adamw(black_box(&mut w), &g, &mut m, &mut v, &h)));
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    for bench in [products, norms, gates, attentions, losses, grids, masks, optimizers] {
        bench(&mut c);
    }
    c.final_summary();
}
