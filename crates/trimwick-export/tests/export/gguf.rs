//! Blocks written here are read by the crate that reads llama.cpp's.

use trimwick_export::Packed;
use trimwick_formats::blocks::{GgmlType, dequantize};
use trimwick_kernels::quant::fake_quant_dynamic;
use trimwick_quant::Scheme;

use crate::support::{Draw, adversary, first_difference};

#[test]
fn gguf_blocks_decode_to_the_same_bits() {
    for (name, ggml) in [("q8_0", GgmlType::Q8_0), ("q4_0", GgmlType::Q4_0)] {
        let spec = Scheme::preset(name).unwrap().weight.unwrap();
        for seed in 0..2000 {
            let (shape, values) = adversary(&spec, &mut Draw::new(seed));
            let mut trained = vec![0.; values.len()];
            fake_quant_dynamic(spec.grid(), &values, 32, None, &mut trained).unwrap();
            let packed = Packed::pack("w", &values, &shape, &spec).unwrap();
            let parts: Vec<_> = packed.parts().collect();
            assert_eq!(parts.len(), 1);
            assert_eq!(parts[0].shape, [shape[0], shape[1] / 32 * ggml.block_bytes()]);
            let mut read = vec![f32::NAN; values.len()];
            dequantize(ggml, &parts[0].bytes, &mut read).unwrap();
            if let Some(i) = first_difference(&trained, &read) {
                panic!("{name} seed {seed} element {i}: trained {:?}, block {:?}", trained[i], read[i]);
            }
        }
    }
}

#[test]
fn bytes_of_a_known_block() {
    // amax 8: ours is symmetric, so the scale is 8/7 as f16, 0x3c92 = 1.142578125.
    let values: Vec<f32> = (0..32).map(|i| (i as f32 - 16.) / 2.).collect();
    let spec = Scheme::preset("q4_0").unwrap().weight.unwrap();
    let packed = Packed::pack("w", &values, &[1, 32], &spec).unwrap();
    let bytes = &packed.parts().next().unwrap().bytes;
    assert_eq!(bytes[..2], [0x92, 0x3c]);
    // −8 / 1.1426 = −7.002 → 1 in the low nibble; 0 → 8 in the high one.
    assert_eq!(bytes[2], 0x81);
    // −.5 / 1.1426 = −.44 → 8; 7.5 / 1.1426 = 6.56 → 15.
    assert_eq!(bytes[17], 0xf8);
}
