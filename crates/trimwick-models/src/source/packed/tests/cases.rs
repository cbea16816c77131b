//! A folder for each layout, and the formula of its values.

use serde_json::{Value, json};
use trimwick_formats::minifloat::{e2m1, e4m3, e8m0};
use trimwick_formats::packed::{pack_awq, pack_columns, pack_row_pairs, pack_rows, sparse24};
use trimwick_formats::safetensors::Dtype;

use super::{Draft, K, N, ct};

fn modelopt() -> Value {
    json!({"quant_method": "modelopt"})
}

fn method(name: &str) -> Value {
    json!({"quant_method": name, "bits": 4})
}

fn codes(n: usize, of: u8) -> Vec<u8> {
    (0..n).map(|i| ((i * i + i / 3) % usize::from(of)) as u8).collect()
}

fn some_scales(n: usize) -> Vec<f32> {
    (0..n).map(|i| 0.003 + 0.0007 * i as f32).collect()
}

/// A name, the folder, and the value of element (n, k).
pub(super) type Case = (&'static str, Draft, Box<dyn Fn(usize, usize) -> f32>);

pub(super) fn cases() -> Vec<Case> {
    let mut out: Vec<Case> = Vec::new();
    let mut case = |name, draft, value: Box<dyn Fn(usize, usize) -> f32>| out.push((name, draft, value));
    let bytes = codes(N * K, 251);
    let (b, s) = (bytes.clone(), some_scales(N));
    case(
        "int-quantized",
        Draft::new(ct()).part("weight", Dtype::I8, &[N, K], bytes.clone()).floats(
            "weight_scale",
            &[N, 1],
            &s,
        ),
        Box::new(move |n, k| f32::from(b[n * K + k].cast_signed()) * some_scales(N)[n]),
    );
    let (b, zeros) = (bytes.clone(), codes(N, 100));
    let z = zeros.clone();
    case(
        "int-quantized with zero points",
        Draft::new(ct())
            .part("weight", Dtype::I8, &[N, K], bytes.clone())
            .part("weight_zero_point", Dtype::I8, &[N, 1], zeros)
            .floats("weight_scale", &[N, 1], &some_scales(N)),
        Box::new(move |n, k| {
            let q = f32::from(b[n * K + k].cast_signed()) - f32::from(z[n].cast_signed());
            q * some_scales(N)[n]
        }),
    );
    let fp8: Vec<u8> = codes(N * K, 120);
    let f = fp8.clone();
    case(
        "float-quantized of the tensor, and ModelOpt FP8",
        Draft::new(modelopt())
            .part("weight", Dtype::F8_E4M3, &[N, K], fp8.clone())
            .floats("weight_scale", &[], &[0.25])
            .floats("input_scale", &[], &[0.5]),
        Box::new(move |n, k| e4m3(f[n * K + k]) * 0.25),
    );
    let f = fp8.clone();
    case(
        "mxfp8",
        Draft::new(ct()).part("weight", Dtype::F8_E4M3, &[N, K], fp8).part(
            "weight_scale",
            Dtype::U8,
            &[N, 1],
            (0..N as u8).map(|n| 100 + n).collect(),
        ),
        Box::new(move |n, k| e4m3(f[n * K + k]) * e8m0(100 + n as u8)),
    );
    for (bits, name) in [(4u32, "pack-quantized 4"), (3, "pack-quantized 3"), (8, "pack-quantized 8")] {
        let q = codes(N * K, (1u16 << bits).min(255) as u8);
        let packed = pack_rows(&q, K, bits, 4).unwrap();
        let width = packed.len() / N / 4;
        let draft = Draft::new(ct())
            .part("weight_packed", Dtype::I32, &[N, width], packed)
            .longs("weight_shape", &[N as i64, K as i64])
            .floats("weight_scale", &[N, 2], &some_scales(2 * N));
        let half = f32::from(1u8 << (bits - 1));
        let c = q.clone();
        let value =
            move |n: usize, k: usize| (f32::from(c[n * K + k]) - half) * some_scales(2 * N)[2 * n + k / 16];
        case(name, draft.clone(), Box::new(value));
        let zeros = codes(2 * N, 1 << bits.min(3));
        let packed = pack_columns(&zeros, 2, bits).unwrap();
        let draft = draft.part("weight_zero_point", Dtype::I32, &[packed.len() / 8, 2], packed);
        let value = move |n: usize, k: usize| {
            let g = 2 * n + k / 16;
            (f32::from(q[n * K + k]) - f32::from(zeros[g])) * some_scales(2 * N)[g]
        };
        case(name, draft, Box::new(value));
    }
    let fp4 = codes(N * K, 8);
    let packed = pack_rows(&fp4, K, 4, 1).unwrap();
    let scales: Vec<u8> = (0..2 * N).map(|i| 8 + (i % 100) as u8).collect();
    let (c, s) = (fp4.clone(), scales.clone());
    case(
        "nvfp4-pack-quantized",
        Draft::new(ct())
            .part("weight_packed", Dtype::U8, &[N, K / 2], packed.clone())
            .part("weight_scale", Dtype::F8_E4M3, &[N, 2], scales.clone())
            .floats("weight_global_scale", &[1], &[1234.5])
            .floats("input_global_scale", &[1], &[3.]),
        Box::new(move |n, k| e2m1(c[n * K + k]) * (e4m3(s[2 * n + k / 16]) / 1234.5)),
    );
    let (c, s) = (fp4.clone(), scales.clone());
    case(
        "ModelOpt NVFP4",
        Draft::new(modelopt())
            .part("weight", Dtype::U8, &[N, K / 2], packed.clone())
            .part("weight_scale", Dtype::F8_E4M3, &[N, 2], scales)
            .floats("weight_scale_2", &[], &[0.00123]),
        Box::new(move |n, k| e2m1(c[n * K + k]) * (e4m3(s[2 * n + k / 16]) * 0.00123)),
    );
    let c = fp4.clone();
    case(
        "mxfp4-pack-quantized",
        Draft::new(ct()).part("weight_packed", Dtype::U8, &[N, K / 2], packed).part(
            "weight_scale",
            Dtype::U8,
            &[N, 1],
            vec![120; N],
        ),
        Box::new(move |n, k| e2m1(c[n * K + k]) * e8m0(120)),
    );
    let int4 = codes(N * K, 16);
    let c = int4.clone();
    let signed = |c: u8| f32::from((c << 4).cast_signed() >> 4);
    let factors: Vec<f32> = (0..K).map(|k| 1. + k as f32 / 8.).collect();
    case(
        "ModelOpt W4A16_AWQ",
        Draft::new(modelopt())
            .part("weight", Dtype::U8, &[N / 2, K], pack_row_pairs(&int4, K).unwrap())
            .floats("weight_scale", &[N, 2], &some_scales(2 * N))
            .floats("pre_quant_scale", &[K], &factors),
        Box::new(move |n, k| {
            signed(c[n * K + k]) * some_scales(2 * N)[2 * n + k / 16] * (1. + k as f32 / 8.)
        }),
    );
    // Codes of the transposed weight, [K, N].
    let zeros = codes(2 * N, 15);
    let (c, z) = (int4.clone(), zeros.clone());
    let gptq = Draft::new(method("gptq"))
        .part("qweight", Dtype::I32, &[K / 8, N], pack_columns(&int4, N, 4).unwrap())
        .part("qzeros", Dtype::I32, &[2, N / 8], pack_rows(&zeros, N, 4, 4).unwrap())
        .floats("scales", &[2, N], &some_scales(2 * N));
    case(
        "GPTQ",
        gptq.clone(),
        Box::new(move |n, k| {
            let g = (k / 16) * N + n;
            (f32::from(c[k * N + n]) - f32::from(z[g]) - 1.) * some_scales(2 * N)[g]
        }),
    );
    let (c, z) = (int4.clone(), zeros.clone());
    let order = (0..K).flat_map(|k| ((k % 2) as i32).to_le_bytes()).collect();
    case(
        "GPTQ in another order",
        gptq.part("g_idx", Dtype::I32, &[K], order),
        Box::new(move |n, k| {
            let g = (k % 2) * N + n;
            (f32::from(c[k * N + n]) - f32::from(z[g]) - 1.) * some_scales(2 * N)[g]
        }),
    );
    let c = int4.clone();
    case(
        "AWQ",
        Draft::new(method("awq"))
            .part("qweight", Dtype::I32, &[K, N / 8], pack_awq(&int4).unwrap())
            .part("qzeros", Dtype::I32, &[2, N / 8], pack_awq(&zeros).unwrap())
            .floats("scales", &[2, N], &some_scales(2 * N)),
        Box::new(move |n, k| {
            let g = (k / 16) * N + n;
            (f32::from(c[k * N + n]) - f32::from(zeros[g])) * some_scales(2 * N)[g]
        }),
    );
    // Every group of four keeps its second and its last.
    let kept = |k: usize| k % 2 == 1;
    let pruned: Vec<u8> = int4.iter().enumerate().map(|(i, &c)| if kept(i % K) { c } else { 0 }).collect();
    let (values, meta) = sparse24::compress(&pruned, K, 1).unwrap();
    let container = Draft::new(method("trimwick"))
        .part("weight_meta", Dtype::U8, &[N, K / 8], meta)
        .longs("weight_shape", &[N as i64, K as i64])
        .floats("weight_scale", &[N, 2], &some_scales(2 * N));
    let value = move |n: usize, k: usize| signed(pruned[n * K + k]) * some_scales(2 * N)[2 * n + k / 16];
    let v = value.clone();
    case(
        "the container, int4",
        container
            .clone()
            .part("weight_values", Dtype::U8, &[N, K / 4], pack_rows(&values, K / 2, 4, 1).unwrap())
            .longs("weight_bits", &[4, 0]),
        Box::new(v),
    );
    let wide = values.iter().map(|&c| ((c << 4).cast_signed() >> 4).cast_unsigned()).collect();
    case(
        "the container, int8",
        container.part("weight_values", Dtype::I8, &[N, K / 2], wide),
        Box::new(value),
    );
    let dense: Vec<f32> = (0..N * K).map(|i| i as f32 / 7.).collect();
    let d = dense.clone();
    case(
        "the container, dense",
        Draft::new(method("trimwick"))
            .floats("weight_values", &[N, K], &dense)
            .longs("weight_shape", &[N as i64, K as i64]),
        Box::new(move |n, k| d[n * K + k]),
    );
    out
}
