//! Conversions between the bytes of 16- and 32-bit floats and `f32`, little-endian.
//!
//! Widening is exact. Narrowing rounds to nearest, ties to even, and overflows to infinity.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{Error, Result};

/// Values converted at a time: enough for `half` to use the processor's vector instructions.
const CHUNK: usize = 64;

/// Reads little-endian `f32`.
///
/// # Errors
/// [`Error::Length`] unless there are four bytes to each value of `out`.
pub fn f32_from_le_bytes(bytes: &[u8], out: &mut [f32]) -> Result<()> {
    check("f32 bytes", bytes, out.len(), 4)?;
    for (value, word) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(*word);
    }
    Ok(())
}

/// Reads little-endian IEEE half-precision floats. A signalling NaN becomes quiet, as it does in hardware.
///
/// # Errors
/// [`Error::Length`] unless there are two bytes to each value of `out`.
pub fn f16_from_le_bytes(bytes: &[u8], out: &mut [f32]) -> Result<()> {
    check("f16 bytes", bytes, out.len(), 2)?;
    let mut halves = [f16::ZERO; CHUNK];
    for (out, words) in out.chunks_mut(CHUNK).zip(bytes.as_chunks().0.chunks(CHUNK)) {
        for (half, word) in halves.iter_mut().zip(words) {
            *half = f16::from_le_bytes(*word);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
    Ok(())
}

/// Reads little-endian bfloat16: the upper half of an `f32`, whose bits are kept as they are.
///
/// # Errors
/// [`Error::Length`] unless there are two bytes to each value of `out`.
pub fn bf16_from_le_bytes(bytes: &[u8], out: &mut [f32]) -> Result<()> {
    check("bf16 bytes", bytes, out.len(), 2)?;
    for (value, word) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*word)) << 16);
    }
    Ok(())
}

/// The little-endian bytes of `f32` values.
pub fn f32_to_le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The little-endian bytes of values rounded to IEEE half precision.
pub fn f16_to_le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
}

/// The little-endian bytes of values rounded to bfloat16.
pub fn bf16_to_le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()
}

fn check(what: &'static str, bytes: &[u8], values: usize, width: usize) -> Result<()> {
    let expected = values.saturating_mul(width);
    match bytes.len() == expected {
        true => Ok(()),
        false => Err(Error::Length { what, expected, found: bytes.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_the_way_through_f32() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut values = vec![0.0; 1 << 16];
        f16_from_le_bytes(&bytes, &mut values).unwrap();
        let back = f16_to_le_bytes(&values);
        for (i, value) in values.iter().enumerate() {
            assert_eq!(value.is_nan(), f16::from_bits(i as u16).is_nan());
            assert!(value.is_nan() || back[2 * i..2 * i + 2] == bytes[2 * i..2 * i + 2], "{i:#06x}");
        }
        bf16_from_le_bytes(&bytes, &mut values).unwrap();
        let back = bf16_to_le_bytes(&values);
        for (i, value) in values.iter().enumerate() {
            assert_eq!(value.to_bits(), (i as u32) << 16);
            assert!(value.is_nan() || back[2 * i..2 * i + 2] == bytes[2 * i..2 * i + 2], "{i:#06x}");
        }
    }

    #[test]
    fn narrowing_rounds_to_even_and_overflows_to_infinity() {
        let bf16_of = |value| u16::from_le_bytes(bf16_to_le_bytes(&[value]).try_into().unwrap());
        assert_eq!(bf16_of(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(bf16_of(f32::from_bits(0x3f81_8000)), 0x3f82);
        let f16_of = |value| u16::from_le_bytes(f16_to_le_bytes(&[value]).try_into().unwrap());
        assert_eq!(f16_of(1.0 + 1.0 / 2048.0), 0x3c00);
        assert_eq!(f16_of(65520.0), 0x7c00);
        assert_eq!(f16_of(65519.0), 0x7bff);
    }

    #[test]
    fn a_wrong_length_is_an_error() {
        let mut out = [0.0; 3];
        for len in [0, 5, 7, 11, 13] {
            let bytes = vec![0; len];
            assert!(matches!(bf16_from_le_bytes(&bytes, &mut out), Err(Error::Length { expected: 6, .. })));
            assert!(matches!(f16_from_le_bytes(&bytes, &mut out), Err(Error::Length { expected: 6, .. })));
            assert!(matches!(f32_from_le_bytes(&bytes, &mut out), Err(Error::Length { expected: 12, .. })));
        }
    }
}
