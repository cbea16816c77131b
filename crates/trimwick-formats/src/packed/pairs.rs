//! Two rows in one: the 4-bit weights of ModelOpt's AWQ.

use super::check_len;
use crate::error::{Error, Result};

/// Packs codes `[rows, row]`, two's complement or unsigned in their low four bits, into U8 `[rows / 2, row]`: row 2i in
/// the low nibbles, row 2i + 1 in the high ones.
///
/// # Errors
/// [`Error::Length`] unless there is an even number of rows.
pub fn pack_row_pairs(codes: &[u8], row: usize) -> Result<Vec<u8>> {
    let pair = row.checked_mul(2).filter(|&pair| pair > 0);
    let Some(pair) = pair.filter(|&pair| codes.len().is_multiple_of(pair)) else {
        return Err(Error::Length { what: "codes of pairs of rows", expected: 0, found: codes.len() });
    };
    let pairs = codes.chunks_exact(pair).map(|pair| pair.split_at(row));
    Ok(pairs.flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| a & 15 | b << 4)).collect())
}

/// The codes `[rows, row]` that [`pack_row_pairs`] packed, 0 to 15 (two's complement where they were).
///
/// # Errors
/// [`Error::Length`] for bytes that are not those of so many rows.
pub fn unpack_row_pairs(bytes: &[u8], rows: usize, row: usize) -> Result<Vec<u8>> {
    let expected = (rows / 2).checked_mul(row).filter(|_| rows.is_multiple_of(2) && row > 0);
    check_len("packed pairs of rows", expected, bytes.len())?;
    let mut out = Vec::with_capacity(2 * bytes.len());
    for bytes in bytes.chunks_exact(row) {
        out.extend(bytes.iter().map(|b| b & 15));
        out.extend(bytes.iter().map(|b| b >> 4));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_share_bytes_in_pairs() {
        let codes = [1, 2, 3, 15, 14, 13, 4, 5, 6, 7, 8, 9];
        let bytes = pack_row_pairs(&codes, 3).unwrap();
        assert_eq!(bytes, [0xf1, 0xe2, 0xd3, 0x74, 0x85, 0x96]);
        assert_eq!(unpack_row_pairs(&bytes, 4, 3).unwrap(), codes);
        assert_eq!(pack_row_pairs(&[0xff, 0xf8], 1).unwrap(), [0x8f]);
        assert!(pack_row_pairs(&codes[..9], 3).is_err() && pack_row_pairs(&codes, 0).is_err());
        for (rows, row) in [(3, 3), (4, 2), (2, 3), (4, 0), (usize::MAX - 1, usize::MAX)] {
            assert!(unpack_row_pairs(&bytes, rows, row).is_err(), "{rows} {row}");
        }
    }
}
