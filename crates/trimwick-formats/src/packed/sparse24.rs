//! 2:4 sparsity without the zeros: two values of every four and a nibble that says which.
//!
//! The nibble of a group is idx0 | idx1 << 2 with idx0 < idx1: the codes that cuSPARSELt and PyTorch's semi-structured
//! tensors use. A group with fewer than two non-zeros is filled with zeros at the first free places. Two nibbles share a
//! byte, the first one low, and every row begins with a byte: `[N, ⌈K/8⌉]`.

use super::{check_len, zeros};
use crate::error::{Error, Result};

/// Takes the two kept elements of every four in rows of `row` elements of `width` bytes, of which zero is all zero
/// bits. Gives the elements `[N, row/2]` and the nibbles.
///
/// # Errors
/// [`Error::Length`] for a row that is no multiple of 4 or bytes that are no whole rows; [`Error::Unwritable`] for a group
/// with more than two elements that are not zero, which is named.
pub fn compress(elements: &[u8], row: usize, width: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    let row_bytes = row.checked_mul(width).filter(|&bytes| bytes > 0);
    let Some(row_bytes) = row_bytes.filter(|b| row.is_multiple_of(4) && elements.len().is_multiple_of(*b))
    else {
        return Err(Error::Length { what: "rows of groups of four", expected: 0, found: elements.len() });
    };
    let mut values = Vec::with_capacity(elements.len() / 2);
    let mut meta = Vec::with_capacity(elements.len() / width / 8);
    for (i, elements) in elements.chunks_exact(row_bytes).enumerate() {
        let mut nibbles = Vec::with_capacity(row / 4);
        for (j, group) in elements.chunks_exact(4 * width).enumerate() {
            let at = |k: usize| &group[k * width..(k + 1) * width];
            let Some([a, b]) = kept(std::array::from_fn(|k| at(k).iter().any(|&byte| byte != 0))) else {
                let what = format!("row {i}, elements {} to {}, as 2:4", 4 * j, 4 * j + 3);
                return Err(Error::unwritable(what, "at most two that are not zero", "more"));
            };
            values.extend(at(a));
            values.extend(at(b));
            nibbles.push((a | b << 2) as u8);
        }
        meta.extend(nibbles.chunks(2).map(|pair| pair[0] | pair.get(1).copied().unwrap_or_default() << 4));
    }
    Ok((values, meta))
}

/// The places of the kept elements of a group, filled up with others in front; `None` for more than two.
fn kept(nonzero: [bool; 4]) -> Option<[usize; 2]> {
    let count = nonzero.iter().filter(|&&kept| kept).count();
    let mut spare = 2usize.checked_sub(count)?;
    let mut places = [0; 2];
    let mut n = 0;
    for (k, &nonzero) in nonzero.iter().enumerate() {
        if !nonzero && spare == 0 {
            continue;
        }
        spare -= usize::from(!nonzero);
        // As many places as there are non-zeros and spare ones: two.
        places[n] = k;
        n += 1;
        if n == 2 {
            break;
        }
    }
    // A filler in front must not crowd out a non-zero behind.
    let lost = (0..4).any(|k| nonzero[k] && !places.contains(&k));
    (!lost && n == 2).then_some(places)
}

/// Puts elements `[rows, row/2]` back among zeros, `[rows, row]`.
///
/// # Errors
/// [`Error::Length`] for buffers that are not those of such a matrix; [`Error::Unwritable`] for a nibble whose places are
/// not in rising order, or filling that is not 0.
pub fn expand(values: &[u8], meta: &[u8], rows: usize, row: usize, width: usize) -> Result<Vec<u8>> {
    let len = rows.checked_mul(row).and_then(|n| n.checked_mul(width));
    let len = len.filter(|_| row.is_multiple_of(4) && row > 0 && width > 0);
    check_len("kept values", len.map(|len| len / 2), values.len())?;
    check_len("nibbles of places", rows.checked_mul(row.div_ceil(8)), meta.len())?;
    let mut out = zeros("values", len.unwrap_or_default())?;
    let (row_bytes, meta_bytes) = (row * width, row.div_ceil(8));
    for (i, out) in out.chunks_exact_mut(row_bytes).enumerate() {
        let (values, meta) =
            (&values[i * row_bytes / 2..][..row_bytes / 2], &meta[i * meta_bytes..][..meta_bytes]);
        let groups = row / 4;
        if !groups.is_multiple_of(2) && meta[meta_bytes - 1] >> 4 != 0 {
            return Err(Error::unwritable(
                "2:4 values",
                "0 behind the last group of a row",
                "another nibble",
            ));
        }
        for (j, out) in out.chunks_exact_mut(4 * width).enumerate() {
            let nibble = meta[j / 2] >> (4 * (j % 2)) & 15;
            let (a, b) = (usize::from(nibble & 3), usize::from(nibble >> 2));
            if a >= b {
                let found = format!("{a} and {b} in row {i}, group {j}");
                return Err(Error::unwritable("2:4 values", "two places in rising order", found));
            }
            let pair = &values[2 * j * width..][..2 * width];
            out[a * width..][..width].copy_from_slice(&pair[..width]);
            out[b * width..][..width].copy_from_slice(&pair[width..]);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_comes_back() {
        // Every pattern of zeros in two groups beside each other, in two rows.
        for mask in 0u32..256 {
            let row: Vec<u8> = (0..8).map(|i| if mask >> i & 1 == 1 { i + 1 } else { 0 }).collect();
            let both = [row.clone(), row.iter().rev().copied().collect()].concat();
            let fits = (mask & 15).count_ones() <= 2 && (mask >> 4).count_ones() <= 2;
            match compress(&both, 8, 1) {
                Ok((values, meta)) => {
                    assert!(fits, "{mask:#b}");
                    assert_eq!((values.len(), meta.len()), (8, 2));
                    assert_eq!(expand(&values, &meta, 2, 8, 1).unwrap(), both, "{mask:#b}");
                }
                Err(error) => assert!(!fits, "{mask:#b}: {error}"),
            }
        }
    }

    #[test]
    fn bytes_are_those_of_the_container() {
        // Groups (0, 5, 0, 7), (9, 0, 0, 0), (0, 0, 0, 3): a filler is the first free place.
        let row = [0, 5, 0, 7, 9, 0, 0, 0, 0, 0, 0, 3];
        let (values, meta) = compress(&row, 12, 1).unwrap();
        assert_eq!(values, [5, 7, 9, 0, 0, 3]);
        assert_eq!(meta, [0b1101 | 0b0100 << 4, 0b1100]);
        assert_eq!(expand(&values, &meta, 1, 12, 1).unwrap(), row);
        // Elements of two bytes; one half that is not zero is enough.
        let wide = [0, 1, 0, 0, 2, 0, 0, 0];
        let (values, meta) = compress(&wide, 4, 2).unwrap();
        assert_eq!((values, meta), (vec![0, 1, 2, 0], vec![0b1000]));
    }

    #[test]
    fn hostile_bytes_are_errors() {
        assert!(compress(&[1, 1, 1, 0], 4, 1).unwrap_err().to_string().contains("row 0, elements 0 to 3"));
        assert!(compress(&[0; 6], 6, 1).is_err() && compress(&[0; 6], 4, 1).is_err());
        assert!(compress(&[], 0, 1).is_err() && compress(&[0; 4], 4, 0).is_err());
        let (values, meta) = ([1u8, 2, 3, 4], [0b0100 | 0b1110 << 4]);
        assert!(expand(&values, &meta, 1, 8, 1).is_ok());
        for nibble in (0..16u8).filter(|n| n & 3 >= n >> 2) {
            assert!(expand(&values, &[0b0100 | nibble << 4], 1, 8, 1).is_err(), "{nibble:#b}");
        }
        assert!(expand(&values[..2], &[0b0100 | 1 << 4], 1, 4, 1).is_err());
        for (rows, row, width) in
            [(1, 6, 1), (2, 8, 1), (1, 8, 2), (1, 0, 1), (usize::MAX, 8, 1), (1, usize::MAX - 3, 4)]
        {
            assert!(expand(&values, &meta, rows, row, width).is_err(), "{rows} {row} {width}");
        }
    }
}
