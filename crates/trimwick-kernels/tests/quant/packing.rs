//! Dense bit streams.

use trimwick_kernels::Rng;
use trimwick_kernels::quant::{pack_bits, packed_len, unpack_bits};

#[test]
fn bits_are_little_endian_and_dense() {
    for (bits, codes, want) in [
        (4, &[0x1, 0x2, 0x3][..], &[0x21, 0x03][..]),
        (8, &[0x12, 0x34], &[0x12, 0x34]),
        (2, &[1, 2, 3, 0, 1], &[0b0011_1001, 0b01]),
        // 1 + 2·8 + 3·8² + … = 0x1f58d1.
        (3, &[1, 2, 3, 4, 5, 6, 7, 0, 1], &[0xd1, 0x58, 0x1f, 0x01]),
        (6, &[0x3f, 0, 0x3f], &[0x3f, 0xf0, 0x03]),
        (1, &[1, 0, 0, 0, 0, 0, 0, 1, 1], &[0x81, 0x01]),
        (5, &[], &[]),
        // Bits above a code are dropped: −1 in two's complement.
        (4, &[0xff, 0xff], &[0xff]),
    ] {
        let mut packed = vec![0xaa; packed_len(codes.len(), bits)];
        pack_bits(codes, bits, &mut packed);
        assert_eq!(packed, want, "{bits} bits");
    }
}

#[test]
fn every_width_and_length_comes_back() {
    let rng = Rng::new(4, "packing", 0, "");
    for bits in 1..=8 {
        for n in (0..70).chain([16_383, 16_384, 16_385, 50_003]) {
            let codes: Vec<u8> =
                (0..n as u64).map(|i| rng.u32_at(i) as u8 & (u8::MAX >> (8 - bits))).collect();
            assert_eq!(packed_len(n, bits), (n * bits as usize).div_ceil(8));
            let mut packed = vec![0xaa; packed_len(n, bits)];
            pack_bits(&codes, bits, &mut packed);
            // Bit by bit, as a reader would.
            for (i, code) in codes.iter().enumerate().step_by(1 + n / 500) {
                for bit in 0..bits as usize {
                    let at = i * bits as usize + bit;
                    assert_eq!(
                        packed[at / 8] >> (at % 8) & 1,
                        code >> bit & 1,
                        "{bits} bits, code {i} of {n}"
                    );
                }
            }
            let mut unpacked = vec![0xaa; n];
            unpack_bits(&packed, bits, &mut unpacked);
            assert_eq!(unpacked, codes, "{bits} bits, {n} codes");
        }
    }
}

#[test]
#[should_panic(expected = "unpack_bits: 3 bytes for 3 codes of 4 bits, expected 2")]
fn lengths_that_do_not_fit() {
    unpack_bits(&[0; 3], 4, &mut [0; 3]);
}

#[test]
#[should_panic(expected = "pack_bits: codes of 9 bits, expected 1 to 8")]
fn more_bits_than_a_byte_has() {
    pack_bits(&[0], 9, &mut [0; 2]);
}
