//! What the products of a language model cost on packed weights.
//!
//!     cargo bench -p trimwick-kernels --bench packed
//!
//! The weights of SmolLM2-135M's linear layers and of its head (30 blocks, hidden 576, MLP 1536, 49 152 tokens), random,
//! in every format. A token reads all of them once; a prompt of 128 tokens goes through those of the blocks. Formats take
//! turns, the best round of each counts, and the share of the machine that other processes used is printed, because a
//! ratio measured on a busy machine is none.

mod machine;

use std::hint::black_box;
use std::time::Instant;

use trimwick_kernels::Rng;
use trimwick_kernels::packed::{Activations, Arithmetic, Crew, Element, Groups, Packed, product};

use machine::Machine;

const HIDDEN: usize = 576;
const MLP: usize = 1536;
const KV: usize = 192;
const VOCAB: usize = 49_152;
const BLOCKS: usize = 30;
const PROMPT: usize = 128;
const ROUNDS: usize = 40;

/// Layers that read the same input, with their outputs and inputs.
const LAYERS: [&[(usize, usize)]; 4] = [
    &[(HIDDEN, HIDDEN), (KV, HIDDEN), (KV, HIDDEN)],
    &[(HIDDEN, HIDDEN)],
    &[(MLP, HIDDEN), (MLP, HIDDEN)],
    &[(HIDDEN, MLP)],
];

type Make = Box<dyn Fn(usize, usize) -> Packed>;

struct Model {
    name: &'static str,
    /// Of each block the layers of one input together, and the head at last.
    layers: Vec<Vec<Packed>>,
    bytes: usize,
}

fn codes(element: Element, sparse: bool, group: usize, scale: f32) -> Make {
    Box::new(move |rows, cols| {
        let rng = Rng::new(1, "bench", 0, "codes");
        let mut codes: Vec<u8> = (0..rows * cols).map(|i| (rng.u32_at(i as u64) >> 9) as u8).collect();
        if element == Element::E4M3 {
            codes.iter_mut().for_each(|c| *c &= 0xf7);
        }
        if sparse {
            codes.iter_mut().enumerate().filter(|(i, _)| (i / 4 + i) % 2 == 0).for_each(|(_, c)| *c = 0);
        }
        let groups = if group >= cols { 1 } else { cols / group };
        let scales = vec![scale; rows * groups];
        let groups = Groups { size: group, scales: &scales, zeros: None, minima: None, global: Some(0.0011) };
        match sparse {
            true => Packed::kept(element, &codes, rows, cols, &groups).expect("2:4"),
            false => Packed::dense(element, &codes, rows, cols, &groups),
        }
    })
}

fn formats() -> Vec<(&'static str, Make)> {
    // In f16 and in nothing narrower.
    let f16 = 0.001_037_597_7;
    let plain = |rows: usize, cols: usize| {
        let mut x = vec![0.; rows * cols];
        Rng::new(1, "bench", 0, "plain").fill_normal(0., 0.05, &mut x);
        x
    };
    vec![
        ("f32", Box::new(move |rows, cols| Packed::f32(&plain(rows, cols), rows, cols))),
        (
            "bf16",
            Box::new(move |rows, cols| {
                let bits: Vec<u16> = plain(rows, cols).iter().map(|v| (v.to_bits() >> 16) as u16).collect();
                Packed::bf16(&bits, rows, cols)
            }),
        ),
        ("int8", codes(Element::Int8, false, 1 << 20, 0.0011)),
        ("int8 g32", codes(Element::Int8, false, 32, f16)),
        ("fp8", codes(Element::E4M3, false, 1 << 20, 0.0011)),
        ("int8 2:4", codes(Element::Int8, true, 1 << 20, 0.0011)),
        ("int4 g32", codes(Element::Int4, false, 32, f16)),
        ("int4 g64", codes(Element::Int4, false, 64, f16)),
        ("int4 g32 2:4", codes(Element::Int4, true, 32, f16)),
        ("int4 g64 2:4", codes(Element::Int4, true, 64, f16)),
        ("nvfp4", codes(Element::E2M1, false, 16, 1.125 * 0.0011)),
        ("mxfp4", codes(Element::E2M1, false, 32, 0.001_953_125)),
    ]
}

impl Model {
    fn new(name: &'static str, make: &Make) -> Self {
        // Copies are memory of their own.
        let kinds: Vec<Vec<Packed>> =
            LAYERS.iter().map(|layers| layers.iter().map(|&(n, k)| make(n, k)).collect()).collect();
        let mut layers: Vec<Vec<Packed>> = (0..BLOCKS).flat_map(|_| kinds.clone()).collect();
        layers.push(vec![make(VOCAB, HIDDEN)]);
        let bytes = layers.iter().flatten().map(Packed::bytes).sum();
        Self { name, layers, bytes }
    }

    /// The products of some tokens, those of the head only with one. Gives seconds.
    fn run(&self, m: usize, arithmetic: Arithmetic) -> f64 {
        let layers = if m == 1 { &self.layers[..] } else { &self.layers[..4 * BLOCKS] };
        let mut x = vec![0.; m * MLP];
        Rng::new(2, "bench", 0, "x").fill_normal(0., 1., &mut x);
        let mut ys = vec![vec![0f32; m * if m == 1 { VOCAB } else { MLP }]; 3];
        let mut activations = Activations::new();
        let begun = Instant::now();
        Crew::with(|crew| {
            for layers in layers {
                let k = layers[0].cols();
                activations.set(&x[..m * k], m, k);
                activations.prepare(arithmetic);
                let mut products: Vec<_> =
                    layers.iter().zip(&mut ys).map(|(w, y)| (w, &mut y[..m * w.rows()])).collect();
                product(crew, &activations, &mut products);
            }
        });
        black_box(&ys);
        begun.elapsed().as_secs_f64()
    }
}

/// Bytes that all threads read from memory in a second.
fn bandwidth() -> f64 {
    let data = vec![1u64; 64 << 20];
    let best = (0..5)
        .map(|_| {
            let begun = Instant::now();
            Crew::with(|crew| {
                crew.each(256, |i| {
                    let piece = &data[i * (data.len() / 256)..][..data.len() / 256];
                    black_box(piece.iter().fold(0u64, |a, b| a ^ b));
                });
            });
            begun.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    8. * data.len() as f64 / best
}

fn main() {
    let models: Vec<Model> = formats().iter().map(|(name, make)| Model::new(name, make)).collect();
    let before = Machine::now();
    let speed = bandwidth();
    let mut best = vec![[f64::INFINITY; 2]; models.len()];
    for round in 0..ROUNDS {
        for (model, best) in models.iter().zip(&mut best) {
            best[0] = best[0].min(model.run(1, Arithmetic::Blocks));
            if round % 10 == 0 {
                best[1] = best[1].min(model.run(PROMPT, Arithmetic::Blocks));
            }
        }
    }
    println!("memory: {:.1} GB/s", speed / 1e9);
    println!(
        "{:<14}{:>8}{:>10}{:>9}{:>9}{:>8}{:>12}{:>9}",
        "format", "MB", "token ms", "GB/s", "of mem", "of f32", "prompt t/s", "of f32"
    );
    for (model, [token, prompt]) in models.iter().zip(&best) {
        let rate = model.bytes as f64 / token;
        println!(
            "{:<14}{:>8.1}{:>10.3}{:>9.1}{:>8.0}%{:>8.2}{:>12.0}{:>9.2}",
            model.name,
            model.bytes as f64 / 1e6,
            1e3 * token,
            rate / 1e9,
            100. * rate / speed,
            best[0][0] / token,
            PROMPT as f64 / prompt,
            best[0][1] / prompt,
        );
    }
    Machine::report(before, Machine::now());
}
