//! dequantize(pack(w)) == fake_quant(w), and the parts are those of the formats.

use rayon::prelude::*;
use trimwick_export::Packed;
use trimwick_formats::safetensors::Dtype;
use trimwick_kernels::quant::fake_quant_dynamic;
use trimwick_quant::{Granularity, QuantSpec, Scheme};

use crate::reference;
use crate::support::{Draw, adversary, first_difference, grids};

/// Of each grid.
const TENSORS: u64 = 10_000;

/// What a layer computes with in training.
fn fake_quant(spec: &QuantSpec, values: &[f32], row: usize) -> Vec<f32> {
    let block = match spec.granularity {
        Granularity::Tensor => values.len(),
        Granularity::Group(group) => group,
        _ => row,
    };
    let mut y = vec![f32::NAN; values.len()];
    fake_quant_dynamic(spec.grid(), values, block, None, &mut y).unwrap();
    y
}

#[test]
fn what_is_packed_is_what_was_trained_bit_for_bit() {
    grids().par_iter().for_each(|(name, spec)| {
        for seed in 0..TENSORS {
            let mut draw = Draw::new(seed);
            let (shape, values) = adversary(spec, &mut draw);
            let trained = fake_quant(spec, &values, shape[1]);
            let packed = Packed::pack("w", &values, &shape, spec).unwrap();
            let read = packed.decode().unwrap();
            if let Some(i) = first_difference(&trained, &read) {
                let what = format!("{name} {shape:?}, seed {seed}, element {i} of {:?}", values[i]);
                panic!("{what}: trained {:?}, packed {:?}", trained[i], read[i]);
            }
            // A reader that knows nothing of the writer.
            if seed % 8 == 0 {
                let read = reference::decode(&packed);
                if let Some(i) = first_difference(&trained, &read) {
                    let what = format!("{name} {shape:?}, seed {seed}, element {i} of {:?}", values[i]);
                    panic!("{what}: trained {:?}, by the layout {:?}", trained[i], read[i]);
                }
            }
            assert!(read.iter().all(|y| y.is_finite() && y.to_bits() != (-0f32).to_bits()), "{name} {seed}");
            assert_eq!(packed.unpack(), spec.quantize("w", &values, &shape).unwrap(), "{name} {seed}");
        }
    });
}

#[test]
fn adversaries_are_what_they_should_be() {
    // The test above is only as good as its tensors.
    let spec = Scheme::preset("int8").unwrap().weight.unwrap();
    let all: Vec<f32> = (0..500).flat_map(|seed| adversary(&spec, &mut Draw::new(seed)).1).collect();
    let share = |is: fn(&f32) -> bool| all.iter().filter(|x| is(x)).count() as f64 / all.len() as f64;
    assert!(share(|x| x.is_finite()) == 1.);
    assert!(share(|x| x.is_subnormal()) > 0.03);
    assert!(share(|x| x.to_bits() == (-0f32).to_bits()) > 0.02);
    assert!(share(|x| x.abs() == f32::MAX) > 0.01);
    assert!(share(|x| *x < 0.) > 0.2 && share(|x| *x > 0.) > 0.2);
}

#[test]
fn parts_have_the_types_and_shapes_of_the_formats() {
    use Dtype::{BF16, F8_E4M3, F8_E5M2, F16, F32, I8, I32, I64, U8};
    type Parts<'a> = &'a [(&'static str, Dtype, &'a [usize])];
    let own = |spec: &str| Scheme::preset(spec).map_or_else(|_| spec.parse().unwrap(), |s| s.weight.unwrap());
    let table: &[(&str, &[usize], Parts)] = &[
        ("int8", &[6, 128], &[("", I8, &[6, 128]), ("_scale", F32, &[6, 1])]),
        ("int8 tensor f32", &[6, 3, 5], &[("", I8, &[6, 3, 5]), ("_scale", F32, &[1])]),
        (
            "int4-g32",
            &[6, 128],
            &[("_packed", I32, &[6, 16]), ("_scale", BF16, &[6, 4]), ("_shape", I64, &[2])],
        ),
        (
            "int4-g128",
            &[6, 2, 64],
            &[("_packed", I32, &[6, 16]), ("_scale", BF16, &[6, 1]), ("_shape", I64, &[3])],
        ),
        (
            "int4-channel",
            &[6, 9],
            &[("_packed", I32, &[6, 2]), ("_scale", BF16, &[6, 1]), ("_shape", I64, &[2])],
        ),
        (
            "int3-g32",
            &[6, 32],
            &[("_packed", I32, &[6, 3]), ("_scale", BF16, &[6, 1]), ("_shape", I64, &[2])],
        ),
        ("ternary", &[6, 64], &[("_packed", I32, &[6, 4]), ("_scale", BF16, &[6, 1]), ("_shape", I64, &[2])]),
        (
            "uint4 g32 f16",
            &[9, 64],
            &[
                ("_packed", I32, &[9, 8]),
                ("_scale", F16, &[9, 2]),
                ("_zero_point", I32, &[2, 2]),
                ("_shape", I64, &[2]),
            ],
        ),
        ("fp8", &[6, 128], &[("", F8_E4M3, &[6, 128]), ("_scale", F32, &[1])]),
        ("fp8-token", &[6, 128], &[("", F8_E4M3, &[6, 128]), ("_scale", F32, &[6, 1])]),
        ("fp8-e5m2", &[6, 128], &[("", F8_E5M2, &[6, 128]), ("_scale", F32, &[1])]),
        (
            "nvfp4",
            &[6, 128],
            &[("_packed", U8, &[6, 64]), ("_scale", F8_E4M3, &[6, 8]), ("_scale_2", F32, &[1])],
        ),
        ("mxfp4", &[6, 128], &[("_packed", U8, &[6, 64]), ("_scale", U8, &[6, 4])]),
        ("mxfp4", &[6, 4, 32], &[("_packed", U8, &[6, 64]), ("_scale", U8, &[6, 4]), ("_shape", I64, &[3])]),
        (
            "e2m1 channel f32",
            &[6, 5],
            &[("_packed", U8, &[6, 3]), ("_scale", F32, &[6, 1]), ("_shape", I64, &[2])],
        ),
        ("mxfp6-e2m3", &[6, 128], &[("_packed", U8, &[6, 96]), ("_scale", U8, &[6, 4])]),
        ("mxfp6-e3m2", &[6, 128], &[("_packed", U8, &[6, 96]), ("_scale", U8, &[6, 4])]),
        ("mxfp8", &[6, 128], &[("", F8_E4M3, &[6, 128]), ("_scale", U8, &[6, 4])]),
        ("mxint8", &[6, 128], &[("", I8, &[6, 128]), ("_scale", U8, &[6, 4])]),
        ("q8_0", &[6, 128], &[("_packed", U8, &[6, 136])]),
        ("q4_0", &[6, 128], &[("_packed", U8, &[6, 72])]),
    ];
    for (name, shape, expected) in table {
        let values = vec![1.; shape.iter().product()];
        let packed = Packed::pack("w", &values, shape, &own(name)).unwrap();
        let expected: Vec<_> =
            expected.iter().map(|(suffix, dtype, s)| (*suffix, *dtype, s.to_vec())).collect();
        assert_eq!(reference::describe(&packed), expected, "{name} {shape:?}");
        assert!(packed.parts().all(|part| part.dtype.byte_len(&part.shape) == Some(part.bytes.len() as u64)));
    }
}

#[test]
fn bytes_of_known_values() {
    // The block of NUMERICS whose values are known: MXFP4 of .1 .2 .35 .16 .85 .9 .67 .76 with e = −3 of a block of 32,
    // the rest zeros.
    let mut block = [0f32; 32];
    block[..8].copy_from_slice(&[0.1, 0.2, 0.35, 0.16, 0.85, 0.9, 0.67, 0.76]);
    let spec = |name| Scheme::preset(name).unwrap().weight.unwrap();
    let packed = Packed::pack("w", &block, &[1, 32], &spec("mxfp4")).unwrap();
    let y = packed.decode().unwrap();
    let parts: Vec<_> = packed.parts().collect();
    // .9 / 6 = .15 → 2^−2: codes of .5 1 1.5 .5 3 4 3 3, two in a byte.
    assert_eq!((y[4], &parts[1].bytes[..]), (0.75, &[125][..]));
    assert_eq!(parts[0].bytes[..5], [0x21, 0x13, 0x65, 0x55, 0]);

    // NVFP4: amax 12 → global 12/2688, block scale 448 → 0x7e; 12 is 6, −1 is −.5.
    let mut block = [0f32; 16];
    (block[0], block[1], block[15]) = (12., -1., 6.);
    let packed = Packed::pack("w", &block, &[1, 16], &spec("nvfp4")).unwrap();
    let parts: Vec<_> = packed.parts().map(|part| &part.bytes[..]).collect();
    assert_eq!(parts[0], [0x97, 0, 0, 0, 0, 0, 0, 0x50]);
    assert_eq!(parts[1], [0x7e]);
    assert_eq!(parts[2], (12f32 / 2688.).to_le_bytes());

    // int8: amax 127 → scale 1.
    let packed = Packed::pack("w", &[127., -1., 0.5, 1.5], &[1, 4], &spec("int8")).unwrap();
    let parts: Vec<_> = packed.parts().map(|part| &part.bytes[..]).collect();
    assert_eq!(parts, [&[127, 255, 0, 2][..], &1f32.to_le_bytes()]);

    // int4 with a channel of 7: scale 1, q + 8 in nibbles, the shape beside it.
    let packed = Packed::pack("w", &[7., -7., 0., 1., -1.], &[1, 5], &spec("int4-channel")).unwrap();
    let parts: Vec<_> = packed.parts().map(|part| &part.bytes[..]).collect();
    assert_eq!(parts[0], 0x0007_981fu32.to_le_bytes());
    assert_eq!(parts[1], [0x80, 0x3f]);
    assert_eq!(parts[2], [1i64.to_le_bytes(), 5i64.to_le_bytes()].concat());
}
