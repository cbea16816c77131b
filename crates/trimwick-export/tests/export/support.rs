//! Tensors of every kind, and files of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use trimwick_export::{QuantizeOptions, Report, Result, quantize_file};
use trimwick_formats::safetensors::{Dtype, NewTensor, write};
use trimwick_quant::{Granularity, QuantSpec, Scheme};

/// Random numbers that are the same each time.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32 ^ (self.0 >> 49) as u32
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }

    /// In (−1, 1), and mostly near 0.
    pub fn bell(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| self.bits() as f32 / u32::MAX as f32 - 0.5).sum();
        sum / 2.
    }

    /// Any finite number.
    fn finite(&mut self) -> f32 {
        loop {
            let x = f32::from_bits(self.bits());
            if x.is_finite() {
                return x;
            }
        }
    }
}

/// Shape and values of a tensor that `spec` can take: random, or of a kind that breaks careless arithmetic.
pub fn adversary(spec: &QuantSpec, draw: &mut Draw) -> (Vec<usize>, Vec<f32>) {
    let rows = 1 + draw.below(4);
    let row = match spec.granularity {
        Granularity::Group(group) => group * (1 + draw.below(3)),
        _ => 1 + draw.below(37),
    };
    let mut values = vec![0f32; rows * row];
    let size = 2f32.powi(draw.below(60) as i32 - 30);
    let kind = draw.below(13);
    for x in &mut values {
        *x = match kind {
            // Nothing, of both signs.
            0 => [0., -0.][draw.below(2)],
            // Subnormal.
            1 => f32::from_bits(draw.bits() & 0x807f_ffff),
            // The ends of f32.
            2 => [f32::MAX, -f32::MAX, f32::MIN_POSITIVE, -f32::from_bits(1), 0., 1.][draw.below(6)],
            3 => draw.finite(),
            // Halfway between codes, for scales that are powers of two.
            4 => (draw.below(512) as f32 - 256.) / 4. * size,
            5 => (draw.below(33) as f32 - 16.) / 2. * size,
            // All kept or dropped in fours.
            6 => draw.bell() * size * [0., 1.][draw.below(2)],
            // Small against its scale, whatever the sign.
            7 => draw.bell() * 1e-3 * size,
            8 => size,
            9 => draw.bell() * f32::MIN_POSITIVE * 64.,
            _ => draw.bell() * size,
        };
    }
    match kind {
        // One that is larger than all others together.
        7 => values[draw.below(rows * row)] = size * 1e4,
        10 => values[draw.below(rows * row)] = [f32::MAX, 65504., 65520., 448., -1e38][draw.below(5)],
        // A block of zeros beside others.
        11 => values[..row.min(32)].fill(0.),
        // The largest magnitude just beside that of a code.
        12 => {
            let edge = [6f32, 7.5, 28., 448., 127., 7.][draw.below(6)] * size;
            values[0] = [edge, edge.next_up(), edge.next_down()][draw.below(3)];
        }
        _ => {}
    }
    (vec![rows, row], values)
}

/// Every weight quantizer of the presets, and others that a recipe may compose.
pub fn grids() -> Vec<(String, QuantSpec)> {
    let mut grids: Vec<(String, QuantSpec)> = Vec::new();
    let presets = Scheme::PRESETS.iter().map(|name| (name.to_string(), Scheme::preset(name).unwrap().weight));
    let composed = [
        "int8 tensor f32",
        "int8 g16 bf16",
        "int8 g48 f16",
        "int7 channel f16",
        "int6 g32 e8m0",
        "int5 channel f32",
        "int4 tensor bf16",
        "int4 g16 e4m3",
        "int3 channel bf16",
        "int2 tensor f32",
        "ternary channel f16",
        "uint8 channel f32",
        "uint5 g24 f16",
        "uint4 g32 bf16",
        "uint3 channel bf16",
        "uint2 tensor f32",
        "e2m1 channel f32",
        "e2m1 g7 bf16",
        "e2m1 g32 e8m0-floor",
        "e2m3 channel bf16",
        "e3m2 tensor f32",
        "e4m3 g128 f32",
        "e4m3 g16 e4m3",
        "e5m2 g32 e8m0",
        "e4m3 g32 e8m0-floor",
    ];
    let composed = composed.iter().map(|text| (text.to_string(), Some(text.parse().unwrap())));
    for (name, spec) in presets.chain(composed) {
        let spec: QuantSpec = spec.unwrap();
        if !grids.iter().any(|(_, known)| *known == spec) {
            grids.push((name, spec));
        }
    }
    grids
}

/// The largest difference of two lists of floats, by their bits.
pub fn first_difference(a: &[f32], b: &[f32]) -> Option<usize> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits())
}

/// Writes a safetensors file of floats in the types given.
pub fn save(path: &Path, tensors: &[(&str, Dtype, &[usize], &[f32])], metadata: &[(&str, &str)]) {
    let metadata: BTreeMap<String, String> =
        metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let tensors =
        tensors.iter().map(|(name, dtype, shape, values)| NewTensor::floats(*name, *dtype, shape, values));
    write(path, tensors, &metadata).unwrap();
}

/// Quantizes without watching.
pub fn quantize(input: &Path, output: &Path, options: &QuantizeOptions) -> Result<Report> {
    quantize_file(input, output, options, &mut |_| ControlFlow::Continue(()))
}

/// The names of what is in a folder.
pub fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A folder with `in.safetensors`: two matrices of two types, a stack of them, a vector and integers.
pub fn workshop() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.safetensors");
    let mut draw = Draw::new(7);
    let mut bell = |n: usize| (0..n).map(|_| draw.bell() * 0.1).collect::<Vec<f32>>();
    let (a, b, c, norm) = (bell(8 * 256), bell(5 * 128), bell(3 * 4 * 32), bell(17));
    let half: Vec<u8> = trimwick_formats::floats::bf16_to_le_bytes(&b);
    let ids: Vec<u8> = (0..6i64).flat_map(|i| i.to_le_bytes()).collect();
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let tensors = [
        NewTensor::floats("a.weight", Dtype::F32, &[8, 256], &a),
        NewTensor::bytes("b.weight", Dtype::BF16, &[5, 128], &half),
        NewTensor::floats("conv.weight", Dtype::F16, &[3, 4, 32], &c),
        NewTensor::floats("norm.weight", Dtype::F32, &[17], &norm),
        NewTensor::bytes("ids", Dtype::I64, &[2, 3], &ids),
        NewTensor::bytes("none.weight", Dtype::F32, &[0, 256], &[]),
    ];
    write(&path, tensors, &metadata).unwrap();
    (dir, path)
}
