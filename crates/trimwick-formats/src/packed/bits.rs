//! Dense streams of bits, little-endian, filled up to whole words.

use super::{check_len, zeros};
use crate::error::{Error, Result};

/// Bytes of a row of `row` codes of `bits` bits in words of `word` bytes, or `None` where that overflows.
pub fn row_bytes(row: usize, bits: u32, word: usize) -> Option<usize> {
    Some(row.checked_mul(bits as usize)?.div_ceil(8).div_ceil(word.max(1)) * word)
}

/// Packs rows of `row` codes of `bits` (1 to 8) bits each; every row begins with a word of `word` bytes.
///
/// # Errors
/// [`Error::Length`] for codes that are no whole rows; [`Error::Unwritable`] for a code of more bits.
pub fn pack_rows(codes: &[u8], row: usize, bits: u32, word: usize) -> Result<Vec<u8>> {
    check_bits(bits)?;
    let rows = whole_rows(codes.len(), row)?;
    if let Some(at) = codes.iter().position(|&code| u32::from(code) >> bits != 0) {
        let found = format!("{} at element {at}", codes[at]);
        return Err(Error::unwritable("packed codes", format!("codes of {bits} bits"), found));
    }
    let width = width(row, bits, word)?;
    let mut out = zeros("packed codes", rows.checked_mul(width).ok_or_else(|| too_many(codes.len()))?)?;
    if width == 0 {
        return Ok(out);
    }
    for (codes, out) in codes.chunks_exact(row).zip(out.chunks_exact_mut(width)) {
        for (j, &code) in codes.iter().enumerate() {
            let at = j * bits as usize;
            let wide = u16::from(code) << (at % 8);
            out[at / 8] |= wide as u8;
            if wide > 0xff {
                out[at / 8 + 1] |= (wide >> 8) as u8;
            }
        }
    }
    Ok(out)
}

/// The codes of `rows` rows of `row` codes that [`pack_rows`] packed. Bits that fill up a word are ignored.
///
/// # Errors
/// [`Error::Length`] for bytes that are not those of so many rows.
pub fn unpack_rows(bytes: &[u8], rows: usize, row: usize, bits: u32, word: usize) -> Result<Vec<u8>> {
    check_bits(bits)?;
    let width = width(row, bits, word)?;
    check_len("packed codes", rows.checked_mul(width), bytes.len())?;
    let mut out = zeros("codes", rows.checked_mul(row).ok_or_else(|| too_many(rows))?)?;
    if width == 0 {
        return Ok(out);
    }
    let mask = u8::MAX >> (8 - bits);
    for (bytes, codes) in bytes.chunks_exact(width).zip(out.chunks_exact_mut(row)) {
        for (j, code) in codes.iter_mut().enumerate() {
            let at = j * bits as usize;
            let high = bytes.get(at / 8 + 1).copied().unwrap_or_default();
            let wide = u16::from_le_bytes([bytes[at / 8], high]);
            *code = (wide >> (at % 8)) as u8 & mask;
        }
    }
    Ok(out)
}

/// Packs codes `[rows, columns]` along their columns into I32 `[⌈rows·b/32⌉, columns]`.
///
/// # Errors
/// As [`pack_rows`].
pub fn pack_columns(codes: &[u8], columns: usize, bits: u32) -> Result<Vec<u8>> {
    let rows = whole_rows(codes.len(), columns)?;
    let packed = pack_rows(&transposed::<1>(codes, columns), rows, bits, 4)?;
    Ok(transposed::<4>(&packed, width(rows, bits, 4)? / 4))
}

/// The codes `[rows, columns]` that [`pack_columns`] packed.
///
/// # Errors
/// [`Error::Length`] for bytes that are not those of such a matrix.
pub fn unpack_columns(bytes: &[u8], rows: usize, columns: usize, bits: u32) -> Result<Vec<u8>> {
    check_bits(bits)?;
    let width = width(rows, bits, 4)?;
    check_len("packed codes", columns.checked_mul(width), bytes.len())?;
    let codes = unpack_rows(&transposed::<4>(bytes, columns), columns, rows, bits, 4)?;
    Ok(transposed::<1>(&codes, rows))
}

/// A matrix of elements of `N` bytes with `columns` columns, its rows for columns.
fn transposed<const N: usize>(bytes: &[u8], columns: usize) -> Vec<u8> {
    let elements = bytes.as_chunks::<N>().0;
    let rows = elements.len() / columns.max(1);
    let mut out = Vec::with_capacity(bytes.len());
    for j in 0..columns {
        out.extend((0..rows).flat_map(|i| elements[i * columns + j]));
    }
    out
}

fn check_bits(bits: u32) -> Result<()> {
    match bits {
        1..=8 => Ok(()),
        _ => Err(Error::unwritable("packed codes", "1 to 8 bits", bits.to_string())),
    }
}

fn whole_rows(len: usize, row: usize) -> Result<usize> {
    match row {
        0 if len == 0 => Ok(0),
        0 => Err(too_many(len)),
        _ if len.is_multiple_of(row) => Ok(len / row),
        _ => Err(Error::Length { what: "codes", expected: len.next_multiple_of(row), found: len }),
    }
}

fn width(row: usize, bits: u32, word: usize) -> Result<usize> {
    row_bytes(row, bits, word).ok_or_else(|| too_many(row))
}

fn too_many(found: usize) -> Error {
    Error::Length { what: "codes", expected: 0, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn bytes_are_those_of_the_formats() {
        for (codes, row, bits, word, expected) in [
            // compressed-tensors: element 8w + j is nibble j of word w; a row ends with its word.
            (&[8u8, 9, 10, 11, 12, 13, 14, 15, 7][..], 9, 4, 4, "98badcfe07000000"),
            (&[0, 15, 7, 8], 2, 4, 4, "f000000087000000"),
            (&[4, 5, 6, 7, 0, 1, 2, 3], 8, 3, 4, "ac8f6800"),
            (&[1, 2, 15, 8, 0, 7], 3, 4, 1, "210f0807"),
            (&[0x3f, 0, 0x15, 0x2a], 4, 6, 1, "3f50a9"),
            (&[0xff, 1], 1, 8, 4, "ff00000001000000"),
        ] {
            let bytes = pack_rows(codes, row, bits, word).unwrap();
            assert_eq!(hex(&bytes), expected);
            assert_eq!(unpack_rows(&bytes, codes.len() / row, row, bits, word).unwrap(), codes);
        }
        // 9 rows of 2 columns: two words for each column, those of one word beside each other.
        let zeros: Vec<u8> = (0..9).flat_map(|i| [i, 15 - i]).collect();
        let bytes = pack_columns(&zeros, 2, 4).unwrap();
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
        assert_eq!(words, [0x7654_3210, 0x89ab_cdef, 8, 7]);
    }

    #[test]
    fn every_width_and_shape_comes_back() {
        for bits in 1..=8u32 {
            for (rows, row) in [(1, 1), (3, 5), (7, 32), (2, 33), (0, 4)] {
                let codes: Vec<u8> = (0..rows * row).map(|i| (i * 5 % (1 << bits)) as u8).collect();
                for word in [1, 4] {
                    let bytes = pack_rows(&codes, row, bits, word).unwrap();
                    assert_eq!(unpack_rows(&bytes, rows, row, bits, word).unwrap(), codes);
                }
                let bytes = pack_columns(&codes, row, bits).unwrap();
                assert_eq!(unpack_columns(&bytes, rows, row, bits).unwrap(), codes, "{bits} {rows} {row}");
            }
        }
    }

    #[test]
    fn wrong_lengths_and_codes_are_errors() {
        assert!(pack_rows(&[1, 2, 3], 2, 4, 4).is_err());
        assert!(pack_rows(&[16], 1, 4, 4).unwrap_err().to_string().contains("16 at element 0"));
        assert!(pack_rows(&[1], 0, 4, 4).is_err());
        assert!(pack_rows(&[1], 1, 0, 4).is_err() && pack_rows(&[1], 1, 9, 4).is_err());
        for (bytes, rows, row) in
            [(7, 1, 9), (8, 2, 9), (9, 1, 9), (8, usize::MAX, 9), (8, 1, usize::MAX), (0, 1, 9)]
        {
            assert!(unpack_rows(&vec![0; bytes], rows, row, 4, 4).is_err(), "{bytes} {rows} {row}");
            assert!(unpack_columns(&vec![0; bytes], row, rows, 4).is_err(), "{bytes} {rows} {row}");
        }
    }
}
