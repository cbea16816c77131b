//! AutoAWQ's "gemm" layout of 4-bit weights: the transposed weight, eight columns to a word, interleaved.

use super::{check_len, zeros};
use crate::error::{Error, Result};

/// Which of eight columns stands in each nibble of a word.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The codes `[rows, columns]`, 0 to 15, of words `[rows, columns / 8]`. Of `qweight` the rows are the inputs and the
/// columns the outputs; of `qzeros` the rows are the groups.
///
/// # Errors
/// [`Error::Length`] for columns that are no multiple of 8, or bytes that are not those of such a matrix.
pub fn unpack_awq(bytes: &[u8], rows: usize, columns: usize) -> Result<Vec<u8>> {
    let values = rows.checked_mul(columns).filter(|_| columns.is_multiple_of(8));
    check_len("AWQ words", values.map(|values| values / 2), bytes.len())?;
    let mut out = zeros("codes", values.unwrap_or_default())?;
    for (word, codes) in bytes.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<8>().0) {
        let word = u32::from_le_bytes(*word);
        for (nibble, &column) in ORDER.iter().enumerate() {
            codes[column] = (word >> (4 * nibble)) as u8 & 15;
        }
    }
    Ok(out)
}

/// The words of codes `[rows, columns]`; the inverse of [`unpack_awq`].
///
/// # Errors
/// [`Error::Length`] unless the codes are whole words; [`Error::Unwritable`] for a code of more than four bits.
pub fn pack_awq(codes: &[u8]) -> Result<Vec<u8>> {
    if !codes.len().is_multiple_of(8) {
        let expected = codes.len().next_multiple_of(8);
        return Err(Error::Length { what: "codes of whole words", expected, found: codes.len() });
    }
    if let Some(code) = codes.iter().find(|&&code| code > 15) {
        return Err(Error::unwritable("AWQ words", "codes of 4 bits", code.to_string()));
    }
    let word = |codes: &[u8; 8]| {
        ORDER.iter().enumerate().fold(0, |word, (i, &column)| word | u32::from(codes[column]) << (4 * i))
    };
    Ok(codes.as_chunks().0.iter().flat_map(|codes| word(codes).to_le_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_interleaved() {
        let codes: Vec<u8> = (0..16).collect();
        let bytes = pack_awq(&codes).unwrap();
        // The lowest nibble is column 0, the next one column 2.
        assert_eq!(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), 0x7531_6420);
        assert_eq!(unpack_awq(&bytes, 2, 8).unwrap(), codes);
        assert_eq!(unpack_awq(&bytes, 1, 16).unwrap(), codes);
        assert!(pack_awq(&codes[..9]).is_err() && pack_awq(&[16; 8]).is_err());
        for (rows, columns) in [(2, 4), (1, 8), (4, 4), (usize::MAX, 8), (0, 8)] {
            assert!(unpack_awq(&bytes, rows, columns).is_err(), "{rows} {columns}");
        }
    }
}
