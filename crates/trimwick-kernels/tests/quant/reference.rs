//! Grids written out slowly, from their definitions, and the tensors that tests use.

use trimwick_kernels::Rng;
use trimwick_kernels::quant::{Code, Grid, ScaleFormat};

/// Every code there is.
pub fn codes() -> Vec<Code> {
    let mut codes = vec![Code::Ternary, Code::E2M1, Code::E2M3, Code::E3M2, Code::E4M3, Code::E5M2];
    codes.extend((2..=8).map(|bits| Code::Int { bits }));
    codes.extend((1..=8).map(|bits| Code::Uint { bits }));
    codes
}

/// The grids of all presets, and some that only make the rules meet.
pub fn grids() -> Vec<Grid> {
    use ScaleFormat::*;
    let grid = |code, scale| Grid { code, scale };
    let int = |bits| Code::Int { bits };
    let uint = |bits| Code::Uint { bits };
    let mut grids = vec![
        grid(int(8), F32),
        grid(int(8), F16),
        grid(int(4), BF16),
        grid(int(4), F16),
        grid(int(3), BF16),
        grid(int(2), F32),
        grid(Code::Ternary, BF16),
        grid(Code::Ternary, E8M0Ceil),
        grid(uint(8), F32),
        grid(uint(4), BF16),
        grid(uint(4), F16),
        grid(uint(2), E8M0Floor),
        grid(uint(1), E8M0Ceil),
        grid(Code::E4M3, F32),
        grid(Code::E5M2, F32),
        grid(Code::E2M1, E4M3),
        grid(int(4), E4M3),
        grid(Code::E5M2, E4M3),
    ];
    for code in [Code::E2M1, Code::E2M3, Code::E3M2, Code::E4M3, Code::E5M2, int(8)] {
        grids.extend([grid(code, E8M0Ceil), grid(code, E8M0Floor)]);
    }
    grids
}

/// The values of a code that are numbers, ascending, with their codes. Zero is there once, as code 0.
pub fn table(code: Code) -> Vec<(f64, u8)> {
    // Exponent bits, mantissa bits, bias, and how many of the largest codes are no numbers.
    let float = |exponent: u32, mantissa: u32, bias: i32, special: u32| {
        let bits = exponent + mantissa;
        let mut values = vec![(0.0, 0)];
        for magnitude in 1..(1u32 << bits) - special {
            let (e, m) = (magnitude >> mantissa, f64::from(magnitude & ((1 << mantissa) - 1)));
            let unit = 2f64.powi(-(mantissa as i32));
            let value = match e {
                0 => m * unit * 2f64.powi(1 - bias),
                _ => (1.0 + m * unit) * 2f64.powi(e as i32 - bias),
            };
            values.extend([(value, magnitude as u8), (-value, (magnitude | 1 << bits) as u8)]);
        }
        values
    };
    let mut values = match code {
        Code::Int { bits } => {
            (-(1i32 << (bits - 1))..1 << (bits - 1)).map(|q| (f64::from(q), q as u8)).collect()
        }
        Code::Ternary => vec![(-1.0, 3), (0.0, 0), (1.0, 1)],
        Code::Uint { bits } => (0..1u32 << bits).map(|q| (f64::from(q), q as u8)).collect(),
        Code::E2M1 => float(2, 1, 1, 0),
        Code::E2M3 => float(2, 3, 1, 0),
        Code::E3M2 => float(3, 2, 3, 0),
        Code::E4M3 => float(4, 3, 7, 1),
        Code::E5M2 => float(5, 2, 15, 4),
    };
    let mask = u8::MAX >> (8 - code.bits());
    values.iter_mut().for_each(|(_, code)| *code &= mask);
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    values
}

/// The value of the table nearest to `x` and its code; of two, the one with the even code. The ends saturate.
pub fn nearest(table: &[(f64, u8)], x: f32) -> (f64, u8) {
    let x = f64::from(x);
    let above = table.partition_point(|&(value, _)| value < x);
    match (above.checked_sub(1).map(|below| table[below]), table.get(above)) {
        (Some(below), Some(&above)) => {
            let (down, up) = (x - below.0, above.0 - x);
            let takes_below = if down == up { below.1 & 1 == 0 } else { down < up };
            if takes_below { below } else { above }
        }
        (Some(last), None) => last,
        (None, first) => *first.unwrap(),
    }
}

/// The definition: the codes and what they stand for.
pub fn quantize(
    table: &[(f64, u8)],
    x: &[f32],
    block: usize,
    scales: &[f32],
    zeros: Option<&[f32]>,
) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![];
    let mut values = vec![];
    for (i, x) in x.chunks(block).enumerate() {
        let (scale, zero) = (scales[i], zeros.map_or(0.0, |z| z[i]));
        let number = |value: f64| (value as f32 - zero) * scale;
        // Values that would overflow are not used.
        let usable: Vec<_> = match scale > 1e30 {
            true => table.iter().copied().filter(|v| number(v.0).is_finite()).collect(),
            false => vec![],
        };
        let table = if scale > 1e30 { &usable } else { table };
        for &x in x {
            let quotient = if zeros.is_some() { x / scale + zero } else { x / scale };
            let (value, code) = nearest(table, quotient);
            codes.push(code);
            values.push(number(value));
        }
    }
    (codes, values)
}

/// What kinds of tensors there are.
pub const KINDS: u32 = 16;

/// A tensor of a kind; the same for the same arguments. Some kinds are awkward, all are finite.
pub fn tensor(kind: u32, seed: u64, n: usize) -> Vec<f32> {
    let rng = Rng::new(5, "quant tensors", seed, "x");
    let mut x = vec![0.0; n];
    rng.fill_normal(0.0, 0.02, &mut x);
    let draw = |i: usize| rng.u32_at(i as u64);
    let sign = |i: usize| if draw(i) & 1 == 0 { 1.0 } else { -1.0 };
    for (i, v) in x.iter_mut().enumerate() {
        *v = match kind % KINDS {
            1 => 0.0,
            2 if draw(i) & 2 == 0 => 0.0 * sign(i),
            3 => f32::from_bits(draw(i) & 0x807f_ffff),
            4 => f32::MAX * sign(i),
            5 if i == n / 2 => *v * 1e6,
            6 => 0.1,
            // Any finite bits.
            7 => f32::from_bits(draw(i) & 0xbfff_ffff),
            // Halves and quarters: ties on most grids.
            8 => (draw(i) % 64) as f32 * 0.25 * sign(i),
            9 => *v * f32::MIN_POSITIVE * 100.0,
            10 => v.abs(),
            11 => -v.abs(),
            // Two of four.
            12 if i % 4 < 2 => 0.0,
            13 => (2f32).powi((draw(i) % 40) as i32 - 20) * sign(i),
            // All within one unit in the last place of each other.
            14 => f32::from_bits(0x3dcc_cccd + draw(i) % 2),
            15 if draw(i) & 2 == 0 => f32::MAX / (1.0 + (draw(i) >> 8) as f32),
            _ => *v,
        };
    }
    x
}

/// Bits, for comparisons that tell −0 from 0.
pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}
