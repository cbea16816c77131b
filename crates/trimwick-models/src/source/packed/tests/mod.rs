//! Every layout that is read, by its formula and against everything that can be wrong with its parts.

mod cases;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::{Value, json};
use trimwick_formats::folder::ModelFolder;
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, Writer};
use trimwick_kernels::Rng;

use self::cases::cases;
use crate::error::Result;
use crate::source::coded::Coded;
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

#[test]
fn products_get_the_same_values_from_the_codes() {
    let mut coded = 0;
    for (name, draft, value) in cases() {
        let found = draft.open().unwrap().coded.coded(&format!("{LAYER}.weight")).unwrap();
        coded += usize::from(matches!(found, Coded::Codes(_)));
        let packed = found.pack(N, K);
        let mut row = [0.; K];
        for n in 0..N {
            packed.row(n, &mut row);
            for (k, &found) in row.iter().enumerate() {
                // NVFP4's scale and its factor are multiplied in another order.
                let (want, nvfp4) = (value(n, k), name.to_lowercase().contains("nvfp4"));
                let bound = if nvfp4 { want.abs() * 1e-6 } else { 0. };
                assert!((found - want).abs() <= bound, "{name}: [{n}, {k}] {found}, expected {want}");
            }
        }
    }
    // All but scaled inputs, inputs out of order, and plain floats.
    assert_eq!(coded, cases().len() - 3);
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
                    let byte = [0, 1, 0x7f, 0x80, 0xff, below(256) as u8][below(6)];
                    slot.2.get_mut(at).into_iter().for_each(|old| *old = byte);
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
