//! From codes, one a byte, to the bytes of a file, and back.

use trimwick_formats::blocks::GgmlType;
use trimwick_formats::floats::f16_to_le_bytes;
use trimwick_formats::safetensors::Dtype;
use trimwick_kernels::quant::{pack_bits, unpack_bits};

/// Values of a GGUF block.
const BLOCK: usize = 32;

/// How rows of codes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// A byte each, in a type that says what it means.
    Own(Dtype),
    /// A dense stream of bits along each row, filled up to whole words of `word` bytes; `offset` turns two's
    /// complement into offset binary.
    Dense { bits: u32, word: usize, offset: u8 },
    /// Q8_0 or Q4_0: blocks of 32 codes with their f16 scale in front.
    Blocks(GgmlType),
}

impl Store {
    /// Element type of the codes.
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::Own(dtype) => dtype,
            Self::Dense { word: 4, .. } => Dtype::I32,
            Self::Dense { .. } | Self::Blocks(_) => Dtype::U8,
        }
    }

    /// Bytes of a row of `row` codes.
    pub(crate) fn row_bytes(self, row: usize) -> usize {
        match self {
            Self::Own(_) => row,
            Self::Dense { bits, word, .. } => (row * bits as usize).div_ceil(8 * word) * word,
            Self::Blocks(ggml) => row / BLOCK * ggml.block_bytes(),
        }
    }

    /// The longest row that takes `bytes` bytes.
    pub(crate) fn row_of(self, bytes: usize) -> usize {
        match self {
            Self::Own(_) => bytes,
            // Not `bytes * 8`, which a file of another may let overflow.
            Self::Dense { bits, .. } => {
                (bytes / bits as usize) * 8 + (bytes % bits as usize) * 8 / bits as usize
            }
            Self::Blocks(ggml) => bytes / ggml.block_bytes() * BLOCK,
        }
    }

    /// The bytes of rows of codes, two's complement where there are signs. `scales` are those of the rows, which only
    /// blocks hold. The codes are not what they were afterwards.
    pub(crate) fn pack(self, codes: &mut [u8], row: usize, scales: &[f32]) -> Vec<u8> {
        let rows = codes.len() / row;
        let width = self.row_bytes(row);
        match self {
            Self::Own(_) => codes.to_vec(),
            Self::Dense { bits, offset, .. } => {
                codes.iter_mut().for_each(|code| *code ^= offset);
                let mut out = vec![0; rows * width];
                let used = (row * bits as usize).div_ceil(8);
                if used == width && (row * bits as usize).is_multiple_of(8) {
                    pack_bits(codes, bits, &mut out);
                } else {
                    for (codes, out) in codes.chunks_exact(row).zip(out.chunks_exact_mut(width)) {
                        pack_bits(codes, bits, &mut out[..used]);
                    }
                }
                out
            }
            Self::Blocks(ggml) => {
                let mut out = vec![0; rows * width];
                let scales = f16_to_le_bytes(scales);
                let blocks = out.chunks_exact_mut(ggml.block_bytes());
                for ((out, codes), scale) in
                    blocks.zip(codes.as_chunks::<BLOCK>().0).zip(scales.as_chunks::<2>().0)
                {
                    let (head, body) = out.split_at_mut(2);
                    head.copy_from_slice(scale);
                    match ggml {
                        // Value j and value j + 16 share a byte; q is stored as q + 8.
                        GgmlType::Q4_0 => {
                            let (low, high) = codes.split_at(BLOCK / 2);
                            for ((byte, low), high) in body.iter_mut().zip(low).zip(high) {
                                *byte = (low ^ 8) | (high ^ 8) << 4;
                            }
                        }
                        _ => body.copy_from_slice(codes),
                    }
                }
                out
            }
        }
    }

    /// The codes of whole rows, as [`pack`](Self::pack) took them.
    pub(crate) fn unpack(self, bytes: &[u8], row: usize, codes: &mut [u8]) {
        match self {
            Self::Own(_) => codes.copy_from_slice(bytes),
            Self::Dense { bits, offset, .. } => {
                let width = self.row_bytes(row);
                let used = (row * bits as usize).div_ceil(8);
                if used == width && (row * bits as usize).is_multiple_of(8) {
                    unpack_bits(bytes, bits, codes);
                } else {
                    for (bytes, codes) in bytes.chunks_exact(width).zip(codes.chunks_exact_mut(row)) {
                        unpack_bits(&bytes[..used], bits, codes);
                    }
                }
                codes.iter_mut().for_each(|code| *code ^= offset);
            }
            Self::Blocks(ggml) => {
                let blocks = bytes.chunks_exact(ggml.block_bytes());
                for (bytes, codes) in blocks.zip(codes.as_chunks_mut::<BLOCK>().0) {
                    match ggml {
                        GgmlType::Q4_0 => {
                            let (low, high) = codes.split_at_mut(BLOCK / 2);
                            for ((byte, low), high) in bytes[2..].iter().zip(low).zip(high) {
                                (*low, *high) = ((byte & 15) ^ 8, (byte >> 4) ^ 8);
                            }
                        }
                        _ => codes.copy_from_slice(&bytes[2..]),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn dense(bits: u32, word: usize, offset: u8) -> Store {
        Store::Dense { bits, word, offset }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn bytes_are_those_of_the_formats() {
        let q8: Vec<u8> = (0..32u8).map(|i| i.wrapping_sub(16)).collect();
        let (ramp, mut q4) = ((0..16).map(|i| i ^ 8).collect::<Vec<u8>>(), Vec::new());
        q4.extend(&ramp);
        q4.extend(ramp.iter().rev());
        for (store, row, codes, expected) in [
            // compressed-tensors: element 8w + j is nibble j of word w, as q + 8; a row ends with its word.
            (dense(4, 4, 8), 9, &[0, 1, 2, 3, 4, 5, 6, 7, 15][..], "98badcfe07000000"),
            (dense(4, 4, 8), 2, &[8, 7, 15, 0], "f000000087000000"),
            // 0 1 2 3 −4 −3 −2 −1 as q + 4: 4 5 6 7 0 1 2 3, of which each third bit is 0.
            (dense(3, 4, 4), 8, &[0, 1, 2, 3, 4, 5, 6, 7], "ac8f6800"),
            (dense(2, 4, 2), 5, &[0, 1, 3, 2, 1], "1e030000"),
            // Two codes in a byte, the first one low.
            (dense(4, 1, 0), 4, &[1, 2, 15, 8], "218f"),
            (dense(4, 1, 0), 3, &[1, 2, 15, 8, 0, 7], "210f0807"),
            // Four codes in three bytes.
            (dense(6, 1, 0), 4, &[0x3f, 0, 0x15, 0x2a], "3f50a9"),
            (Store::Own(Dtype::I8), 2, &[0x80, 0x7f], "807f"),
            // 1.0 is 0x3c00 as f16.
            (
                Store::Blocks(GgmlType::Q8_0),
                32,
                &q8,
                "003cf0f1f2f3f4f5f6f7f8f9fafbfcfdfeff000102030405060708090a0b0c0d0e0f",
            ),
            // n = 0 … 15 in the low nibbles, 15 … 0 in the high ones.
            (Store::Blocks(GgmlType::Q4_0), 32, &q4, "003cf0e1d2c3b4a5968778695a4b3c2d1e0f"),
        ] {
            let mut given = codes.to_vec();
            let bytes = store.pack(&mut given, row, &[1.0]);
            assert_eq!(hex(&bytes), expected, "{store:?} {codes:?}");
            let mut back = vec![0; codes.len()];
            store.unpack(&bytes, row, &mut back);
            assert_eq!(back, codes, "{store:?}");
        }
    }

    #[test]
    fn the_length_of_a_row_follows_from_its_bytes_where_it_can() {
        for (store, row, known) in [
            (dense(4, 1, 0), 6, 6),
            (dense(4, 1, 0), 5, 6),
            (dense(6, 1, 0), 32, 32),
            (dense(6, 1, 0), 5, 5),
            (Store::Blocks(GgmlType::Q4_0), 96, 96),
        ] {
            assert_eq!(store.row_of(store.row_bytes(row)), known, "{store:?} {row}");
        }
        assert_eq!(dense(4, 1, 0).row_of(usize::MAX / 2), usize::MAX - 1);
    }
}
