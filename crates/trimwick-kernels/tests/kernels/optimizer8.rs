//! AdamW with 8-bit moments: against a scalar loop with a table of codes, and against f32 moments.

use trimwick_kernels::{AdamW, MOMENT_BLOCK, Moment8, Rng, adamw, adamw_8bit};

use crate::support::{bits, normal};

/// Weight, first moment, second moment.
#[derive(Clone)]
struct Packed {
    w: Vec<f32>,
    m: (Vec<u8>, Vec<f32>),
    v: (Vec<u8>, Vec<f32>),
}

impl Packed {
    fn new(w: Vec<f32>) -> Self {
        let zero = || (vec![0u8; w.len()], vec![0f32; w.len().div_ceil(MOMENT_BLOCK)]);
        Self { m: zero(), v: zero(), w }
    }

    fn step(&mut self, g: &[f32], keep: Option<&[u8]>, h: &AdamW) {
        let m = Moment8 { codes: &mut self.m.0, scales: &mut self.m.1 };
        let v = Moment8 { codes: &mut self.v.0, scales: &mut self.v.1 };
        adamw_8bit(&mut self.w, g, m, v, keep, &rng(h.step), h);
    }

    /// Both moments as values.
    fn moments(&self) -> (Vec<f64>, Vec<f64>) {
        let (signed, unsigned) = (levels(127), levels(255));
        let scale = |scales: &[f32], i: usize| f64::from(scales[i / MOMENT_BLOCK]);
        let one = |(i, &c): (usize, &u8)| {
            let size = signed[usize::from(c & 127)] * scale(&self.m.1, i);
            if c > 127 { -size } else { size }
        };
        let other = |(i, &c): (usize, &u8)| unsigned[usize::from(c)] * scale(&self.v.1, i);
        (self.m.0.iter().enumerate().map(one).collect(), self.v.0.iter().enumerate().map(other).collect())
    }
}

fn rng(step: u64) -> Rng {
    Rng::new(0, "moments", step, "w")
}

/// The values of the codes 0 to `largest` on [0, 1], from the definition of a float: 8 codes an octave, down from 1.
fn levels(largest: usize) -> Vec<f64> {
    let level = |code: usize| {
        let below = largest - code;
        let octave = below.div_ceil(8) as i32;
        let eighths = (octave as usize * 8 - below) as f64;
        (1. + eighths / 8.) * 2f64.powi(-octave)
    };
    std::iter::once(0.).chain((1..=largest).map(level)).collect()
}

/// The same step, a value at a time in f64, looking codes up in their table.
fn reference(p: &mut Packed, g: &[f32], keep: impl Fn(usize) -> bool, h: &AdamW) {
    let (m, v) = p.moments();
    let t = h.step as i32;
    let (mut new_m, mut new_v) = (vec![0f64; m.len()], vec![0f64; v.len()]);
    for i in 0..m.len() {
        let g = f64::from(g[i]) * f64::from(h.grad_scale);
        new_m[i] = h.beta1 * m[i] + (1. - h.beta1) * g;
        new_v[i] = h.beta2 * v[i] + (1. - h.beta2) * g * g;
        let (m_hat, v_hat) = (new_m[i] / (1. - h.beta1.powi(t)), new_v[i] / (1. - h.beta2.powi(t)));
        let w = f64::from(p.w[i]);
        p.w[i] = (w - h.lr * (m_hat / (v_hat.sqrt() + h.eps) + h.weight_decay * w)) as f32;
        if !keep(i) {
            (p.w[i], new_m[i], new_v[i]) = (0., 0., 0.);
        }
    }
    let key = rng(h.step).u32_at(0);
    let store = |x: &[f64], (codes, scales): &mut (Vec<u8>, Vec<f32>), levels: &[f64], shift: u32, floor| {
        for (block, x) in x.chunks(MOMENT_BLOCK).enumerate() {
            let amax = x.iter().fold(0f64, |a, x| a.max(x.abs()));
            scales[block] = amax as f32;
            for (i, x) in x.iter().enumerate() {
                let i = block * MOMENT_BLOCK + i;
                let ratio = if amax == 0. { 0. } else { x.abs() / amax };
                let below = levels.iter().rposition(|l| *l <= ratio).unwrap();
                let mut code = below;
                // Code 0 also stands for the float that would come before the first level.
                let low = if below == 0 { levels[1] * FIRST } else { levels[below] };
                if ratio >= low && below + 1 < levels.len() {
                    let position = (ratio - low) / (levels[below + 1] - low);
                    let noise = f64::from(mix(i as u32 ^ key) >> shift & 0xffff) / 65536. + 1. / 131072.;
                    code += usize::from(position + noise >= 1.);
                }
                if floor && *x > 0. {
                    code = code.max(1);
                }
                codes[i] = code as u8 | if *x < 0. && code > 0 { 128 } else { 0 };
            }
        }
    };
    store(&new_m, &mut p.m, &levels(127), 0, false);
    store(&new_v, &mut p.v, &levels(255), 16, true);
}

fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846ca68b);
    x ^ (x >> 16)
}

/// From the first level to the float before it: from 10 eighths to 9.
const FIRST: f64 = 0.9;

const H: AdamW =
    AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.05, step: 1, grad_scale: 0.5 };

#[test]
fn a_step_is_that_of_the_scalar_reference() {
    for n in [1usize, 255, 256, 257, 40_000] {
        let keep: Vec<u8> = (0..n.div_ceil(8)).map(|i| 0b1101_0111u8.rotate_left(i as u32)).collect();
        for keep in [None, Some(keep.as_slice())] {
            let kept = |i: usize| keep.is_none_or(|bits| bits[i / 8] >> (i % 8) & 1 == 1);
            let mut got = Packed::new(normal("w", n));
            for step in 1..=6 {
                // Gradients of very different sizes in one block.
                let mut g = normal::<f32>(&format!("g{step}"), n);
                g.iter_mut().enumerate().for_each(|(i, g)| *g *= 10f32.powi(i as i32 % 7 - 4));
                let h = AdamW { step, ..H };
                let mut want = got.clone();
                got.step(&g, keep, &h);
                reference(&mut want, &g, kept, &h);
                let close = |a: f32, b: f32, e: f32| (a - b).abs() <= e * b.abs().max(1e-3);
                for i in 0..n {
                    assert!(
                        close(got.w[i], want.w[i], 1e-5),
                        "{n} {step}: w {i}: {} {}",
                        got.w[i],
                        want.w[i]
                    );
                }
                for (got, want) in [(&got.m, &want.m), (&got.v, &want.v)] {
                    assert!(got.1.iter().zip(&want.1).all(|(a, b)| (a - b).abs() <= 1e-6 * b), "scales");
                    // f32 and f64 fall on two sides of a code here and there, to the next one.
                    let apart = |a: u8, b: u8| (i32::from(a & 127) - i32::from(b & 127)).abs();
                    let differ = got.0.iter().zip(&want.0).filter(|(a, b)| a != b);
                    assert!(differ.clone().all(|(a, b)| apart(*a, *b) == 1 || apart(*a, *b) == 127));
                    assert!(differ.count() <= 1 + n / 500, "{n} {step}: codes");
                }
                let dropped = (0..n).filter(|&i| !kept(i));
                assert!({ dropped }.all(|i| got.w[i].to_bits() == 0 && got.m.0[i] == 0 && got.v.0[i] == 0));
            }
        }
    }
}

#[test]
fn the_moments_stand_for_those_in_f32() {
    let n = 20_000;
    let (mut w, mut m, mut v) = (normal::<f32>("w", n), vec![0f32; n], vec![0f32; n]);
    let mut packed = Packed::new(w.clone());
    let start = w.clone();
    for step in 1..=200 {
        let g = normal::<f32>(&format!("g{step}"), n);
        let h = AdamW { step, beta2: 0.999, ..H };
        adamw(&mut w, &g, &mut m, &mut v, &h);
        packed.step(&g, None, &h);
    }
    let (m8, v8) = packed.moments();
    let error = |got: &[f64], want: &[f32]| {
        let off: f64 = got.iter().zip(want).map(|(g, w)| (g - f64::from(*w)).powi(2)).sum();
        (off / want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>()).sqrt()
    };
    let mean = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>() / n as f64;
    let bias = mean(&mut v8.iter().copied()) / mean(&mut v.iter().map(|v| f64::from(*v))) - 1.;
    assert!(error(&m8, &m) < 0.12, "first moment: {}", error(&m8, &m));
    assert!(error(&v8, &v) < 0.25 && bias.abs() < 0.005, "second: {}, bias {bias}", error(&v8, &v));
    let path = |x: &[f32]| x.iter().zip(&start).map(|(x, s)| x - s).collect::<Vec<_>>();
    let (far, near) = (path(&packed.w), path(&w));
    let far: Vec<f64> = far.iter().map(|x| f64::from(*x)).collect();
    assert!(error(&far, &near) < 0.1, "weights: {}", error(&far, &near));
}

/// What rounding to nearest cannot do, whatever the code: a change of a thousandth a step is lost every time.
#[test]
fn a_second_moment_follows_its_gradient_though_a_step_is_less_than_a_code() {
    let n = 8 * MOMENT_BLOCK;
    let h = AdamW { beta2: 0.999, grad_scale: 1., ..H };
    let mut packed = Packed::new(vec![0.; n]);
    // One value of each block keeps the scale; the others go from 1 to a tenth.
    let gradient =
        |small: f32| (0..n).map(|i| if i % MOMENT_BLOCK == 0 { 4. } else { small }).collect::<Vec<_>>();
    for step in 1..=2000 {
        packed.step(&gradient(1.), None, &AdamW { step, ..h });
    }
    let mean = |p: &Packed| {
        let (_, v) = p.moments();
        v.iter().enumerate().filter(|(i, _)| i % MOMENT_BLOCK != 0).map(|(_, v)| v).sum::<f64>()
            / (n - 8) as f64
    };
    let from = mean(&packed);
    for step in 2001..=5000 {
        packed.step(&gradient(0.1), None, &AdamW { step, ..h });
    }
    let want = from * 0.999f64.powi(3000) + 0.01 * (1. - 0.999f64.powi(3000));
    let got = mean(&packed);
    assert!((got / want - 1.).abs() < 0.1, "from {from} to {got}, expected {want}");
    // To nearest: 0.999·x is nearer to the code of x than to the one below.
    let levels = levels(255);
    let stuck = levels[200] - levels[200] * 0.001;
    let nearest = (1..=255).min_by(|a, b| (levels[*a] - stuck).abs().total_cmp(&(levels[*b] - stuck).abs()));
    assert_eq!(nearest, Some(200));
}

#[test]
fn extremes_stay_finite_and_a_second_moment_above_zero() {
    let n = 300;
    let cases = [0., -0., 1e-45, f32::MIN_POSITIVE, 1e-20, 1e19, 3e38, -3e38];
    for big in cases {
        let mut packed = Packed::new(vec![1.; n]);
        for step in 1..=3 {
            let g: Vec<f32> = (0..n).map(|i| if i == 7 { big } else { 1e-3 }).collect();
            packed.step(&g, None, &AdamW { step, grad_scale: 1., ..H });
        }
        let (m, v) = packed.moments();
        assert!(packed.w.iter().all(|w| w.is_finite()), "{big}");
        assert!(m.iter().chain(&v).all(|x| x.is_finite()), "{big}");
        assert!((0..n).all(|i| i == 7 || packed.v.0[i] > 0), "{big}");
    }
    let mut none = Packed::new(vec![1.; n]);
    none.step(&vec![0.; n], None, &AdamW { weight_decay: 0., ..H });
    assert_eq!((none.w, none.m.1, none.v.0), (vec![1.; n], vec![0.; 2], vec![0; n]));
}

#[test]
fn the_same_bits_in_every_pool() {
    let (w, g) = (normal::<f32>("w", 100_001), normal::<f32>("g", 100_001));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut packed = Packed::new(w.clone());
            (1..=3).for_each(|step| packed.step(&g, None, &AdamW { step, ..H }));
            (bits(&packed.w), packed.m.0, bits(&packed.m.1), packed.v.0, bits(&packed.v.1))
        })
    };
    let one = run(1);
    assert!([2, 4, 8].into_iter().all(|threads| run(threads) == one));
}
