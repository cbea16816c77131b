//! Blocks from codes and scales: what was trained is what the block holds, or it is not written.

use half::f16;

use super::GgmlType;
use crate::error::{Error, Result};
use crate::floats;

/// The scales of blocks, as their type stores them.
#[derive(Debug, Clone, Copy)]
pub enum BlockScales<'a> {
    /// One positive scale to 32 values, each equal to a half-precision float: Q8_0 and Q4_0.
    Half(&'a [f32]),
    /// Scale and minimum of 32 values, each equal to a half-precision float: Q4_1.
    HalfMin(&'a [f32], &'a [f32]),
    /// The byte of an E8M0 scale, exponent + 127, to 32 values: MXFP4.
    E8M0(&'a [u8]),
    /// The byte of an E4M3 scale to 16 values: NVFP4.
    E4M3(&'a [u8]),
}

/// The bytes of whole blocks that hold these codes under these scales, nothing rounded: decoding gives d·q (d·q + m).
///
/// `codes` holds one code a byte: two's complement for Q8_0 and, in the low four bits, Q4_0; 0 to 15 for Q4_1; E2M1 for
/// MXFP4 and NVFP4, of which −0 (8) is refused since a reader gives +0 for it.
///
/// # Errors
/// [`Error::Unwritable`] for a type that has no such codes, a scale that half precision does not hold, a code that the
/// type does not have; [`Error::Length`] for scales or codes that are no whole blocks.
pub fn encode(dtype: GgmlType, codes: &[u8], scales: BlockScales<'_>) -> Result<Vec<u8>> {
    let (len, bytes) = (dtype.block_len(), dtype.block_bytes());
    if !codes.len().is_multiple_of(len) {
        let expected = codes.len().next_multiple_of(len);
        return Err(Error::Length { what: "codes of whole blocks", expected, found: codes.len() });
    }
    let blocks = codes.len() / len;
    let mut out = Vec::with_capacity(blocks * bytes);
    match (dtype, scales) {
        (GgmlType::Q8_0, BlockScales::Half(scales)) => {
            count("scales", blocks, scales.len())?;
            for (codes, scale) in codes.chunks_exact(len).zip(scales) {
                out.extend(exact_half(dtype, "scale", *scale)?);
                out.extend(codes);
            }
        }
        (GgmlType::Q4_0, BlockScales::Half(scales)) => {
            count("scales", blocks, scales.len())?;
            check_codes(dtype, codes, |c| (c << 4).cast_signed() >> 4 == c.cast_signed() || c < 16)?;
            for (codes, scale) in codes.chunks_exact(len).zip(scales) {
                out.extend(exact_half(dtype, "scale", *scale)?);
                pairs(codes, &mut out, |code| code & 15 ^ 8);
            }
        }
        (GgmlType::Q4_1, BlockScales::HalfMin(scales, mins)) => {
            count("scales", blocks, scales.len())?;
            count("minima", blocks, mins.len())?;
            check_codes(dtype, codes, |c| c < 16)?;
            for ((codes, scale), min) in codes.chunks_exact(len).zip(scales).zip(mins) {
                out.extend(exact_half(dtype, "scale", *scale)?);
                out.extend(exact_half(dtype, "minimum", *min)?);
                pairs(codes, &mut out, |code| code);
            }
        }
        (GgmlType::MXFP4, BlockScales::E8M0(scales)) => {
            count("scales", blocks, scales.len())?;
            check_codes(dtype, codes, |c| c < 16 && c != 8)?;
            for (codes, scale) in codes.chunks_exact(len).zip(scales) {
                out.push(*scale);
                pairs(codes, &mut out, |code| code);
            }
        }
        (GgmlType::NVFP4, BlockScales::E4M3(scales)) => {
            count("scales", 4 * blocks, scales.len())?;
            check_codes(dtype, codes, |c| c < 16 && c != 8)?;
            if let Some(scale) = scales.iter().find(|s| !(1..0x7f).contains(*s)) {
                let found = format!("the byte {scale:#04x}");
                return Err(Error::unwritable("a block of NVFP4", "a positive E4M3 scale", found));
            }
            for (codes, scales) in codes.chunks_exact(len).zip(scales.chunks_exact(4)) {
                out.extend(scales);
                codes.chunks_exact(16).for_each(|codes| pairs(codes, &mut out, |code| code));
            }
        }
        (dtype, scales) => {
            let found = format!("{scales:?}").chars().take_while(|c| *c != '(').collect::<String>();
            return Err(Error::unwritable(
                format!("blocks of {dtype} from codes"),
                "Q8_0 or Q4_0 with Half, Q4_1 with HalfMin, MXFP4 with E8M0, NVFP4 with E4M3",
                found,
            ));
        }
    }
    Ok(out)
}

/// The bytes of plain floats: F32 as they are, F16 and BF16 rounded to nearest even.
///
/// # Errors
/// [`Error::Unwritable`] for a type of blocks.
pub fn encode_floats(dtype: GgmlType, values: &[f32]) -> Result<Vec<u8>> {
    match dtype {
        GgmlType::F32 => Ok(floats::f32_to_le_bytes(values)),
        GgmlType::F16 => Ok(floats::f16_to_le_bytes(values)),
        GgmlType::BF16 => Ok(floats::bf16_to_le_bytes(values)),
        _ => Err(Error::unwritable(format!("floats as {dtype}"), "F32, F16 or BF16", dtype.name())),
    }
}

fn count(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

/// The bytes of a half-precision float that equals `value`.
fn exact_half(dtype: GgmlType, what: &str, value: f32) -> Result<[u8; 2]> {
    let half = f16::from_f32(value);
    if half.to_f32().to_bits() == value.to_bits() && half.is_finite() {
        return Ok(half.to_le_bytes());
    }
    let expected = format!("a {what} that half precision holds exactly");
    Err(Error::unwritable(format!("a block of {dtype}"), expected, format!("{value:e}")))
}

fn check_codes(dtype: GgmlType, codes: &[u8], valid: impl Fn(u8) -> bool) -> Result<()> {
    match codes.iter().position(|&code| !valid(code)) {
        None => Ok(()),
        Some(at) => {
            let found = format!("{:#04x} at element {at}", codes[at]);
            Err(Error::unwritable(format!("a block of {dtype}"), "codes of that type", found))
        }
    }
}

/// Value j and value j + n/2 share a byte.
fn pairs(codes: &[u8], out: &mut Vec<u8>, nibble: impl Fn(u8) -> u8) {
    let (low, high) = codes.split_at(codes.len() / 2);
    out.extend(low.iter().zip(high).map(|(&low, &high)| nibble(low) | nibble(high) << 4));
}

#[cfg(test)]
mod tests {
    use super::super::dequantize;
    use super::*;
    use crate::minifloat;

    /// Codes of every kind, and the values that they stand for.
    fn check(dtype: GgmlType, codes: &[u8], scales: BlockScales<'_>, value: impl Fn(usize, u8) -> f32) {
        let bytes = encode(dtype, codes, scales).unwrap();
        let mut got = vec![0.; codes.len()];
        dequantize(dtype, &bytes, &mut got).unwrap();
        for (i, (got, &code)) in got.iter().zip(codes).enumerate() {
            assert_eq!(got.to_bits(), value(i, code).to_bits(), "{dtype} element {i} code {code}");
        }
    }

    #[test]
    fn what_goes_in_comes_out_bit_for_bit() {
        let every: Vec<u8> = (0..=255).collect();
        let scales: Vec<f32> = (0..8).map(|i| f16::from_f32(0.013 * (i + 1) as f32).to_f32()).collect();
        check(GgmlType::Q8_0, &every, BlockScales::Half(&scales), |i, c| {
            scales[i / 32] * f32::from(c.cast_signed())
        });
        let nibbles: Vec<u8> = (0..256usize).map(|i| (i * 7 % 16) as u8).collect();
        check(GgmlType::Q4_0, &nibbles, BlockScales::Half(&scales), |i, c| {
            scales[i / 32] * f32::from((c << 4).cast_signed() >> 4)
        });
        let mins: Vec<f32> = scales.iter().map(|s| -4. * s).collect();
        check(GgmlType::Q4_1, &nibbles, BlockScales::HalfMin(&scales, &mins), |i, c| {
            scales[i / 32] * f32::from(c) + mins[i / 32]
        });
        let fp4: Vec<u8> = nibbles.iter().map(|&c| if c == 8 { 0 } else { c }).collect();
        let powers = [0, 1, 2, 100, 127, 130, 200, 251];
        check(GgmlType::MXFP4, &fp4, BlockScales::E8M0(&powers), |i, c| {
            minifloat::e2m1(c) * minifloat::e8m0(powers[i / 32])
        });
        let e4m3: Vec<u8> = (0..16u8).map(|i| 1 + i * 8).collect();
        check(GgmlType::NVFP4, &fp4, BlockScales::E4M3(&e4m3), |i, c| {
            minifloat::e2m1(c) * minifloat::e4m3(e4m3[i / 16])
        });
    }

    #[test]
    fn what_a_block_cannot_hold_is_refused() {
        let codes = [1u8; 64];
        for (dtype, codes, scales, what) in [
            (GgmlType::Q8_0, &codes[..32], BlockScales::Half(&[0.1]), "half precision holds exactly"),
            (GgmlType::Q8_0, &codes[..32], BlockScales::Half(&[1e6]), "half precision holds exactly"),
            (GgmlType::Q8_0, &codes[..32], BlockScales::Half(&[1., 1.]), "scales: expected 1, found 2"),
            (GgmlType::Q8_0, &codes[..33], BlockScales::Half(&[1.]), "expected 64, found 33"),
            (GgmlType::Q4_0, &[16; 32], BlockScales::Half(&[1.]), "0x10 at element 0"),
            (GgmlType::Q4_1, &codes[..32], BlockScales::HalfMin(&[1.], &[0.3]), "minimum"),
            (GgmlType::MXFP4, &[8; 32], BlockScales::E8M0(&[1]), "0x08 at element 0"),
            (GgmlType::NVFP4, &codes, BlockScales::E4M3(&[1, 2, 3, 0x7f]), "a positive E4M3 scale"),
            (GgmlType::NVFP4, &codes, BlockScales::E8M0(&[1, 2, 3, 4]), "NVFP4 with E4M3, found E8M0"),
            (GgmlType::Q4_K, &[0; 256], BlockScales::Half(&[1.; 8]), "blocks of Q4_K"),
        ] {
            let message = encode(dtype, codes, scales).unwrap_err().to_string();
            assert!(message.contains(what), "{message} lacks {what}");
        }
        assert!(encode_floats(GgmlType::Q4_0, &[1.]).is_err());
        assert_eq!(encode_floats(GgmlType::BF16, &[1.]).unwrap(), [0x80, 0x3f]);
    }
}
