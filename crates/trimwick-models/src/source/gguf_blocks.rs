//! The blocks of a GGUF file as codes and scales.

use trimwick_formats::blocks::GgmlType;
use trimwick_formats::minifloat;
use trimwick_kernels::packed::Element;

use super::coded::{Coded, Codes};
use super::folder::words;
use super::gguf::GgufWeights;
use super::weights::Stored;
use crate::error::Result;
use crate::names::{hf_to_gguf, unpermute_rows};

impl GgufWeights {
    /// A matrix as it is stored; `None` where products have to take its values.
    pub(super) fn blocks(&self, name: &str) -> Result<Option<Coded>> {
        let stored = hf_to_gguf(name).unwrap_or_default();
        let info = self.file.tensor(&stored)?;
        let (rows, cols) = match (info.dtype, &info.shape[..]) {
            (GgmlType::F32, _) => return Ok(Some(Coded::F32(self.read_f32(name)?))),
            (_, &[rows, cols]) => (rows, cols),
            _ => return Ok(None),
        };
        let heads = self.heads(name);
        let raw = || Ok::<_, crate::Error>(self.file.read_raw(&stored)?);
        let halves = |bytes: Vec<u8>| match heads {
            Some(heads) => unpermute_rows(&words(&bytes), heads, cols),
            None => words(&bytes),
        };
        let codes = match info.dtype {
            GgmlType::F16 => return Ok(Some(Coded::F16(halves(raw()?)))),
            GgmlType::BF16 => return Ok(Some(Coded::Bf16(halves(raw()?)))),
            GgmlType::Q4_0 => legacy::<18>(&raw()?, Element::Int4, |block, out| nibbles(&block[2..], 8, out)),
            GgmlType::Q4_1 => {
                let raw = raw()?;
                let mut codes = legacy::<20>(&raw, Element::Uint4, |block, out| nibbles(&block[4..], 0, out));
                let minimum = |block: &[u8; 20]| half(block[2], block[3]);
                codes.minima = Some(raw.as_chunks().0.iter().map(minimum).collect());
                codes
            }
            GgmlType::Q8_0 => {
                legacy::<34>(&raw()?, Element::Int8, |block, out| out.copy_from_slice(&block[2..]))
            }
            GgmlType::MXFP4 => {
                let raw = raw()?;
                let mut codes = legacy::<17>(&raw, Element::E2M1, |block, out| nibbles(&block[1..], 0, out));
                codes.scales =
                    raw.as_chunks::<17>().0.iter().map(|block| minifloat::e8m0(block[0])).collect();
                codes
            }
            GgmlType::NVFP4 => nvfp4(&raw()?, self.companion(&stored)?.unwrap_or(1.)),
            _ => return Ok(None),
        };
        let codes = match heads {
            Some(heads) => codes.unpermuted(heads, rows, cols),
            None => codes,
        };
        Ok(Some(Coded::Codes(codes)))
    }
}

fn half(low: u8, high: u8) -> f32 {
    half_bits(u16::from_le_bytes([low, high]))
}

/// A half-precision number; NaN and infinity come out as numbers beyond what is accepted.
fn half_bits(bits: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits((112 + 127) << 23);
    let magnitude = if bits & 0x7c00 == 0x7c00 { f32::INFINITY } else { magnitude };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// Blocks of B bytes and 32 values that begin with a scale of half precision.
fn legacy<const B: usize>(raw: &[u8], element: Element, put: impl Fn(&[u8; B], &mut [u8; 32])) -> Codes {
    let blocks = raw.as_chunks::<B>().0;
    let mut codes = vec![0; 32 * blocks.len()];
    for (block, out) in blocks.iter().zip(codes.as_chunks_mut().0) {
        put(block, out);
    }
    let scales = blocks.iter().map(|block| half(block[0], block[1])).collect();
    Codes { element, codes, group: 32, scales, zeros: None, minima: None, global: None }
}

/// Value j in the low, j + half in the high nibble; `flip` turns offset binary into two's complement.
fn nibbles(packed: &[u8], flip: u8, out: &mut [u8]) {
    let (low, high) = out.split_at_mut(packed.len());
    for ((byte, low), high) in packed.iter().zip(low).zip(high) {
        (*low, *high) = (byte & 15 ^ flip, byte >> 4 ^ flip);
    }
}

fn nvfp4(raw: &[u8], global: f32) -> Codes {
    let blocks = raw.as_chunks::<36>().0;
    let mut codes = vec![0; 64 * blocks.len()];
    let mut scales = Vec::with_capacity(4 * blocks.len());
    for (block, out) in blocks.iter().zip(codes.as_chunks_mut::<64>().0) {
        let (levels, packed) = block.split_at(4);
        for ((level, packed), out) in levels.iter().zip(packed.chunks_exact(8)).zip(out.chunks_exact_mut(16))
        {
            // As ggml reads it: without a sign, and NaN is 0.
            let level = if level & 0x7f == 0x7f { 0. } else { minifloat::e4m3(level & 0x7f) };
            scales.push(level * global);
            nibbles(packed, 0, out);
        }
    }
    Codes {
        element: Element::E2M1,
        codes,
        group: 16,
        scales,
        zeros: None,
        minima: None,
        global: Some(global),
    }
}
