//! How close fake quantization comes to copying: the time of a parallel copy over the time of each grid.
//!
//!     cargo bench -p trimwick-kernels --bench fake_quant
//!
//! A weight of 1536 × 576 `f32`, the largest of SmolLM2-135M's blocks. "Resident" quantizes one weight into one
//! output again and again, as a cache would hold them; "streamed" goes through weights that no cache holds. The copy
//! uses the same threads, pieces and buffers. In each round everything runs once, one after the other, so that a busy
//! moment of the machine hits all; the best round counts. What other processes used meanwhile is printed, because
//! a ratio measured on a busy machine is none.

mod machine;

use std::hint::black_box;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use trimwick_kernels::Rng;
use trimwick_kernels::quant::{
    Code, Grid, ScaleFormat, encode, fake_quant, fake_quant_backward, fake_quant_dynamic, lsq_backward,
    scales,
};

use machine::Machine;

const ROWS: usize = 1536;
const COLS: usize = 576;
const LEN: usize = ROWS * COLS;
/// Elements one task copies: as many as one task quantizes.
const PIECE: usize = 16 * 1024;
const ROUNDS: usize = 60;
/// Weights of the streamed case: 170 MB with their outputs.
const STREAM: usize = 24;

const INT8: Grid = Grid { code: Code::Int { bits: 8 }, scale: ScaleFormat::F32 };
const INT4: Grid = Grid { code: Code::Int { bits: 4 }, scale: ScaleFormat::BF16 };
const UINT4: Grid = Grid { code: Code::Uint { bits: 4 }, scale: ScaleFormat::BF16 };
const FP8: Grid = Grid { code: Code::E4M3, scale: ScaleFormat::F32 };
const NVFP4: Grid = Grid { code: Code::E2M1, scale: ScaleFormat::E4M3 };
const MXFP4: Grid = Grid { code: Code::E2M1, scale: ScaleFormat::E8M0Ceil };
const MXFP6: Grid = Grid { code: Code::E3M2, scale: ScaleFormat::E8M0Ceil };
const MXFP8: Grid = Grid { code: Code::E4M3, scale: ScaleFormat::E8M0Ceil };
const MXINT8: Grid = Grid { code: Code::Int { bits: 8 }, scale: ScaleFormat::E8M0Ceil };

/// What is measured: a name and a function of input and output.
type Case = (&'static str, Box<dyn Fn(&[f32], &mut [f32])>);

fn given(name: &'static str, grid: Grid, block: usize, sample: &[f32]) -> Case {
    let (mut s, mut z) = (vec![0.0; LEN / block], vec![0.0; LEN / block]);
    scales(grid, sample, block, None, &mut s, Some(&mut z)).unwrap();
    let zeros = matches!(grid.code, Code::Uint { .. }).then_some(z);
    (name, Box::new(move |x, y| fake_quant(grid, x, block, &s, zeros.as_deref(), y)))
}

fn dynamic(name: &'static str, grid: Grid, block: usize) -> Case {
    (name, Box::new(move |x, y| fake_quant_dynamic(grid, x, block, None, y).unwrap()))
}

fn cases(sample: &[f32]) -> Vec<Case> {
    let ones = |block: usize| vec![0.01; LEN / block];
    let (s, s32, s32_lsq) = (ones(COLS), ones(32), ones(32));
    let clipped = move |x: &[f32], y: &mut [f32]| fake_quant_backward(INT8, x, COLS, &s, None, x, y);
    let learned = move |x: &[f32], y: &mut [f32]| {
        lsq_backward(INT4, x, 32, &s32_lsq, x, y, &mut vec![0.0; LEN / 32]);
    };
    let codes = move |x: &[f32], y: &mut [f32]| {
        // A quarter of the output's bytes are written.
        let bytes = y.len();
        let mut out = vec![0; bytes];
        encode(INT4, x, 32, &s32, None, &mut out);
        y[0] = f32::from(out[bytes - 1]);
    };
    vec![
        ("copy", Box::new(copy)),
        given("int8 per channel, static", INT8, COLS, sample),
        dynamic("int8 per token, dynamic", INT8, COLS),
        dynamic("int8 per tensor, dynamic", INT8, LEN),
        given("int4 group 32, static", INT4, 32, sample),
        dynamic("int4 group 32, dynamic", INT4, 32),
        dynamic("int4 group 64, dynamic", INT4, 64),
        dynamic("int4 group 128, dynamic", INT4, 128),
        dynamic("uint4 group 32, dynamic", UINT4, 32),
        given("fp8 per channel, static", FP8, COLS, sample),
        dynamic("fp8 per token, dynamic", FP8, COLS),
        dynamic("nvfp4, dynamic", NVFP4, 16),
        dynamic("mxfp4, dynamic", MXFP4, 32),
        dynamic("mxfp6 e3m2, dynamic", MXFP6, 32),
        dynamic("mxfp8, dynamic", MXFP8, 32),
        dynamic("mxint8, dynamic", MXINT8, 32),
        ("clip mask, int8 per channel", Box::new(clipped)),
        ("learned scale, int4 group 32", Box::new(learned)),
        ("codes, int4 group 32", Box::new(codes)),
    ]
}

fn copy(x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| y.copy_from_slice(x));
}

/// Calls of one measurement of the resident case: long enough for the clock.
const CALLS: usize = 8;

fn main() {
    let xs: Vec<Vec<f32>> = (0..STREAM)
        .map(|i| {
            let mut x = vec![0.0; LEN];
            Rng::new(1, "bench", i as u64, "weight").fill_normal(0.0, 0.02, &mut x);
            x
        })
        .collect();
    let mut ys: Vec<Vec<f32>> = xs.iter().map(|x| vec![0.0; x.len()]).collect();
    let cases = cases(&xs[0]);
    let mut best = vec![[Duration::MAX; 2]; cases.len()];
    let before = Machine::now();
    for _ in 0..ROUNDS {
        for ((_, f), best) in cases.iter().zip(&mut best) {
            let start = Instant::now();
            for _ in 0..CALLS {
                f(black_box(&xs[0]), black_box(&mut ys[0]));
            }
            best[0] = best[0].min(start.elapsed() / CALLS as u32);
            let start = Instant::now();
            for (x, y) in xs.iter().zip(&mut ys) {
                f(black_box(x), black_box(y));
            }
            best[1] = best[1].min(start.elapsed() / STREAM as u32);
        }
    }
    println!("{ROWS} × {COLS} f32, {} threads, best of {ROUNDS} rounds", rayon::current_num_threads());
    Machine::report(before, Machine::now());
    println!("{:30} {:>18} {:>20}", "", "resident µs (ratio)", "streamed µs (ratio)");
    for ((name, _), time) in cases.iter().zip(&best) {
        let column = |i: usize| {
            let ratio = best[0][i].as_secs_f64() / time[i].as_secs_f64();
            format!("{:8.1} ({:4.0} %)", time[i].as_secs_f64() * 1e6, ratio * 100.0)
        };
        println!("{name:30} {:>18} {:>20}", column(0), column(1));
    }
}
