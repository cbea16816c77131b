//! Every layout that is read, by its formula and against everything that can be wrong with its parts.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::{Value, json};
use trimwick_formats::folder::ModelFolder;
use trimwick_formats::minifloat::{e2m1, e4m3, e8m0};
use trimwick_formats::packed::{pack_awq, pack_columns, pack_row_pairs, pack_rows, sparse24};
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, Writer};
use trimwick_kernels::Rng;

use crate::error::Result;
use crate::source::{HubOptions, ModelFiles, ModelSource, OpenOptions, open};

const LAYER: &str = "model.layers.0.mlp.up_proj";
/// Outputs and inputs of the layer, in the model `llama2` of the golden files.
const N: usize = 80;
const K: usize = 32;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A model folder one of whose weights is packed.
#[derive(Clone)]
struct Draft {
    config: Value,
    tensors: Tensors,
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama2")
}

impl Draft {
    fn new(quantization: Value) -> Self {
        let folder = ModelFolder::open(golden()).unwrap();
        let tensors = folder.names().map(|name| {
            let info = folder.info(name).unwrap();
            (name.to_string(), (info.dtype, info.shape.clone(), folder.read_raw(name).unwrap()))
        });
        let mut tensors: Tensors = tensors.collect();
        let (_, shape, _) = tensors.remove(&format!("{LAYER}.weight")).unwrap();
        assert_eq!(shape, [N, K]);
        let text = std::fs::read_to_string(golden().join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["quantization_config"] = quantization;
        Self { config, tensors }
    }

    fn part(mut self, part: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        assert_eq!(dtype.byte_len(shape), Some(bytes.len() as u64), "{part}");
        self.tensors.insert(format!("{LAYER}.{part}"), (dtype, shape.into(), bytes));
        self
    }

    fn floats(self, part: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.part(part, Dtype::F32, shape, bytes)
    }

    fn longs(self, part: &str, values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.part(part, Dtype::I64, &[values.len()], bytes)
    }

    fn open(&self) -> Result<ModelFiles> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), self.config.to_string()).unwrap();
        let tensors = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| NewTensor::bytes(name, *dtype, shape, bytes));
        let mut bytes = Vec::new();
        Writer::new(tensors, &BTreeMap::new()).unwrap().write_to(&mut bytes).unwrap();
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let options = OpenOptions { revision: None, hub: HubOptions::default() };
        open(&ModelSource::Folder(dir.path().into()), &options).inspect(|_| {
            // The files stay open; where there is no such thing the folder stays.
            if cfg!(windows) {
                std::mem::forget(dir);
            }
        })
    }

    fn values(&self) -> Result<Vec<f32>> {
        let files = self.open()?;
        let tensor = files.weights.load(&format!("{LAYER}.weight"), DType::F32, &Device::Cpu)?;
        Ok(tensor.flatten_all()?.to_vec1()?)
    }
}

fn ct() -> Value {
    json!({"quant_method": "compressed-tensors", "quantization_status": "compressed"})
}

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
type Case = (&'static str, Draft, Box<dyn Fn(usize, usize) -> f32>);

fn cases() -> Vec<Case> {
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

#[test]
fn every_layout_gives_the_values_of_its_formula() {
    for (name, draft, value) in cases() {
        let values = draft.values().unwrap_or_else(|e| panic!("{name}: {e}"));
        for (i, found) in values.iter().enumerate() {
            assert_eq!(*found, value(i / K, i % K), "{name}: element {i}");
        }
        assert!(values.iter().filter(|v| **v != 0.).count() > values.len() / 4, "{name} says little");
    }
}

/// Weights packed by compressed-tensors itself; see `make_packed_golden.py`.
#[test]
fn what_compressed_tensors_packs_has_the_values_that_it_unpacks() {
    let path = golden().with_file_name("packed").join("compressed_tensors.safetensors");
    let file = SafetensorsFile::open(path).unwrap();
    let cases: BTreeSet<&str> = file.tensors().keys().filter_map(|name| name.split('.').next()).collect();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let mut draft = Draft::new(ct());
        for (name, info) in file.tensors() {
            let part = name.strip_prefix(case).and_then(|rest| rest.strip_prefix('.'));
            let Some(part) = part.filter(|part| *part != "expected") else { continue };
            draft = draft.part(part, info.dtype, &info.shape, file.read_raw(name).unwrap());
        }
        let expected = file.read_f32(&format!("{case}.expected")).unwrap();
        assert_eq!(draft.values().unwrap(), expected, "{case}");
    }
}

#[test]
fn inputs_that_are_not_taken_over_are_mentioned() {
    for (name, draft, _) in cases() {
        let says = draft.open().unwrap().notes.iter().any(|note| note.contains("1 layers also say how"));
        let has = draft.tensors.keys().any(|t| t.starts_with(&format!("{LAYER}.input_")));
        assert_eq!(says, has, "{name}");
    }
}

#[test]
fn a_missing_part_or_one_of_another_type_or_shape_is_an_error() {
    let mut refused = 0;
    for (name, draft, value) in cases() {
        let parts: Vec<String> =
            draft.tensors.keys().filter(|t| t.starts_with(&format!("{LAYER}."))).cloned().collect();
        for part in parts {
            let mut less = draft.clone();
            less.tensors.remove(&part);
            let mut other = draft.clone();
            let slot = other.tensors.get_mut(&part).unwrap();
            (slot.0, slot.1) = (Dtype::BOOL, vec![slot.2.len()]);
            let mut cut = draft.clone();
            let slot = cut.tensors.get_mut(&part).unwrap();
            if slot.1.len() == 2 && slot.1[0] % 2 == 0 {
                slot.1[0] /= 2;
                slot.2.truncate(slot.2.len() / 2);
            } else {
                slot.1.push(2);
                slot.2.extend(slot.2.clone());
            }
            for (what, changed) in [("without", less), ("another type of", other), ("another shape of", cut)]
            {
                match changed.values() {
                    Err(error) => {
                        refused += 1;
                        let message = error.to_string();
                        assert!(message.lines().next().is_some_and(|line| line.contains(": ")), "{message}");
                    }
                    // What speaks of inputs, zero points that go, and an order that goes.
                    Ok(values) => {
                        let optional = part.contains(".input_") || what == "without";
                        let same = values.iter().enumerate().all(|(i, v)| *v == value(i / K, i % K));
                        assert!(optional || same, "{name}: {what} {part} gives other values");
                    }
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn numbers_of_the_configuration_are_checked() {
    let open = |quantization: Value| Draft::new(quantization).open().unwrap_err().to_string();
    for (quantization, what) in [
        (json!({"quant_method": "fp8"}), "compressed-tensors, modelopt, gptq, awq, trimwick"),
        (json!({"quant_method": "gptq"}), "bits: expected 2, 4 or 8, found nothing"),
        (json!({"quant_method": "gptq", "bits": 3}), "expected 2, 4 or 8, found 3"),
        (json!({"quant_method": "awq", "bits": 4, "version": "GEMV"}), "AWQ layout \"gemv, 4 bits\""),
        (json!({"quant_method": "compressed-tensors", "quantization_status": "frozen"}), "compressed"),
        (ct(), "a packed weight"),
    ] {
        let message = open(quantization);
        assert!(message.contains(what), "{message} lacks {what}");
    }
}

/// Shapes, types and bytes of the parts changed at random: an error of one line, or values of the right number.
#[test]
fn mutants_end_in_an_error_or_in_values() {
    let mutants: u64 = std::env::var("TRIMWICK_MUTANTS").map_or(1000, |n| n.parse().unwrap());
    let cases = cases();
    let types = [Dtype::I8, Dtype::U8, Dtype::F8_E4M3, Dtype::I32, Dtype::F32, Dtype::BF16, Dtype::I64];
    let mut accepted = 0;
    for seed in 0..mutants {
        let rng = Rng::new(seed, "packed", 0, "mutant");
        let mut drawn = 0;
        let mut below = |n: usize| {
            drawn += 1;
            rng.u32_at(drawn) as usize % n.max(1)
        };
        let (_, draft, _) = &cases[below(cases.len())];
        let mut draft = draft.clone();
        for _ in 0..1 + below(2) {
            let parts: Vec<String> = draft.tensors.keys().filter(|t| t.starts_with(LAYER)).cloned().collect();
            let Some(slot) = draft.tensors.get_mut(&parts[below(parts.len())]) else { continue };
            match below(4) {
                0 => {
                    let at = below(slot.2.len());
                    slot.2[at] = [0, 1, 0x7f, 0x80, 0xff, below(256) as u8][below(6)];
                }
                1 => slot.0 = types[below(types.len())],
                2 => {
                    let at = below(slot.1.len());
                    let Some(dim) = slot.1.get_mut(at) else { continue };
                    *dim = [0, 1, 2, *dim / 2, *dim * 2, *dim + 1, dim.saturating_sub(1)][below(7)];
                }
                _ => slot.1.reverse(),
            }
            let len = slot.0.byte_len(&slot.1).unwrap_or(0) as usize;
            slot.2.resize(len, 3);
        }
        match catch_unwind(AssertUnwindSafe(|| draft.values())) {
            Ok(Ok(values)) => {
                accepted += 1;
                assert_eq!(values.len(), N * K, "seed {seed}");
                assert!(values.iter().all(|v| v.is_finite()), "seed {seed}");
            }
            Ok(Err(error)) => {
                let message = error.to_string();
                // Candle may append a backtrace.
                let line = message.lines().next().unwrap_or_default();
                assert!(line.contains(": ") && line.len() < 800, "seed {seed}: {message}");
            }
            Err(_) => panic!("seed {seed}"),
        }
    }
    assert!(accepted > mutants / 10 && accepted < mutants * 9 / 10, "{accepted} of {mutants} accepted");
}
