//! Codes of a few bits as a dense stream: element i has the bits from i·bits on, least significant first.

use rayon::prelude::*;

/// Codes one task packs; eight codes are a whole number of bytes.
const PIECE: usize = 16 * 1024;

/// Bytes that `n` codes of `bits` bits take.
pub fn packed_len(n: usize, bits: u32) -> usize {
    (n / 8) * bits as usize + ((n % 8) * bits as usize).div_ceil(8)
}

/// Packs the low `bits` bits of each code into a dense little-endian bit stream.
///
/// With 4 bits, byte j holds code 2j in its low and code 2j + 1 in its high nibble. `out` has [`packed_len`] bytes;
/// bits after the last code are 0.
///
/// # Panics
/// When `bits` is not 1 to 8 or `out` has another length.
pub fn pack_bits(codes: &[u8], bits: u32, out: &mut [u8]) {
    check("pack_bits", codes.len(), bits, out.len());
    let width = bits as usize;
    let mask = u8::MAX >> (8 - bits);
    (out.par_chunks_mut(PIECE / 8 * width), codes.par_chunks(PIECE)).into_par_iter().for_each(
        |(out, codes)| {
            for (out, codes) in out.chunks_mut(width).zip(codes.chunks(8)) {
                let word = codes
                    .iter()
                    .enumerate()
                    .fold(0u64, |word, (i, &code)| word | u64::from(code & mask) << (i * width));
                out.copy_from_slice(&word.to_le_bytes()[..out.len()]);
            }
        },
    );
}

/// The codes that [`pack_bits`] packed, one to a byte.
///
/// # Panics
/// As [`pack_bits`].
pub fn unpack_bits(packed: &[u8], bits: u32, codes: &mut [u8]) {
    check("unpack_bits", codes.len(), bits, packed.len());
    let width = bits as usize;
    let mask = u64::from(u8::MAX >> (8 - bits));
    (codes.par_chunks_mut(PIECE), packed.par_chunks(PIECE / 8 * width)).into_par_iter().for_each(
        |(codes, packed)| {
            for (codes, packed) in codes.chunks_mut(8).zip(packed.chunks(width)) {
                let mut bytes = [0; 8];
                bytes[..packed.len()].copy_from_slice(packed);
                let word = u64::from_le_bytes(bytes);
                for (i, code) in codes.iter_mut().enumerate() {
                    *code = (word >> (i * width) & mask) as u8;
                }
            }
        },
    );
}

fn check(op: &str, codes: usize, bits: u32, bytes: usize) {
    assert!((1..=8).contains(&bits), "{op}: codes of {bits} bits, expected 1 to 8");
    let want = packed_len(codes, bits);
    assert!(bytes == want, "{op}: {bytes} bytes for {codes} codes of {bits} bits, expected {want}");
}
