//! The state of a run as the files of a checkpoint, and back, bit for bit.
//!
//! | file | holds |
//! |---|---|
//! | `state.json` | version, plan, position, roles, optimizer step, hooks |
//! | `parameters.safetensors` | parameters and buffers in their own dtype |
//! | `moments.safetensors` | `m.NAME`, `v.NAME`; in 8 bits also `m_scale.NAME`, `v_scale.NAME` |
//! | `kept.safetensors` | kept sets, U8 |
//! | `metrics.jsonl` | the metrics file up to this step |
//!
//! The metrics are part of the checkpoint, so that the file of a resumed run equals that of an uninterrupted one
//! whatever has become of the file meanwhile.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trimwick_formats::checkpoint::{Checkpoint, CheckpointDir, Payload};
use trimwick_formats::safetensors::{Dtype, NewTensor, SafetensorsFile, Writer};
use trimwick_nn::ops;

use crate::plan::Plan;
use crate::state::{Position, SavedRole, TrainState};
use crate::{Error, Result};

const VERSION: u64 = 2;
const STATE: &str = "state.json";
const PARAMETERS: &str = "parameters.safetensors";
const MOMENTS: &str = "moments.safetensors";
const KEPT: &str = "kept.safetensors";
const METRICS: &str = "metrics.jsonl";

/// The content of `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u64,
    plan: Plan,
    position: Position,
    optimizer_steps: u64,
    roles: BTreeMap<String, SavedRole>,
    hooks: BTreeMap<String, Value>,
}

impl TrainState {
    /// Saves the state as a checkpoint of the run `fingerprint`, and returns its folder.
    ///
    /// # Errors
    /// As [`CheckpointDir::save`]; older checkpoints are untouched then.
    pub fn save(&self, dir: &CheckpointDir, fingerprint: &str, plan: &Plan) -> Result<PathBuf> {
        let Self { position, parameters, roles, kept, optimizer_steps, moments, hooks, metrics } = self;
        let state = StateFile {
            version: VERSION,
            plan: plan.clone(),
            position: position.clone(),
            optimizer_steps: *optimizer_steps,
            roles: roles.clone(),
            hooks: hooks.clone(),
        };
        let unwritable = |e: serde_json::Error| Error::io(dir.root(), "encode the state")(e.into());
        let state = serde_json::to_vec(&state).map_err(unwritable)?;
        let parameters = writer(parameters)?;
        let moments = writer(moments)?;
        let kept = kept.iter().map(|(name, bits)| NewTensor::bytes(name, Dtype::U8, &[bits.len()], bits));
        let kept = Writer::new(kept, &BTreeMap::new())?;
        let files = [
            Payload::bytes(STATE, &state),
            Payload::bytes(METRICS, metrics.as_bytes()),
            Payload::stream(KEPT, kept.file_len(), |out| kept.write_to(out)),
            Payload::stream(PARAMETERS, parameters.file_len(), |out| parameters.write_to(out)),
            Payload::stream(MOMENTS, moments.file_len(), |out| moments.write_to(out)),
        ];
        Ok(dir.save(position.step, fingerprint, &files)?)
    }

    /// Reads the state of a checkpoint that must be one of the run `plan`; tensors come to the CPU.
    ///
    /// # Errors
    /// [`Error::OtherRun`] when the plan differs, with the setting that does; [`Error::Format`] for a checkpoint
    /// of another version or one that lacks files.
    pub fn load(checkpoint: &Checkpoint, plan: &Plan) -> Result<Self> {
        let path = checkpoint.file(STATE)?;
        let bytes = checkpoint.read(STATE)?;
        let malformed = |e: serde_json::Error| {
            let at = trimwick_formats::Location::Offset(e.column() as u64);
            let expected = format!("the state of a run, version {VERSION}");
            trimwick_formats::Error::malformed(&path, at, "state", expected, e.to_string())
        };
        let json: Value = serde_json::from_slice(&bytes).map_err(malformed)?;
        let version = &json["version"];
        if *version != VERSION {
            let expected = format!("{VERSION}, which this program writes (a newer program may read it)");
            let at = trimwick_formats::Location::Json("version".into());
            let found = version.to_string();
            return Err(trimwick_formats::Error::malformed(&path, at, "version", expected, found).into());
        }
        // The plan first: the state of another run may not even parse.
        plan.compare(checkpoint.path(), &json["plan"])?;
        let state: StateFile = serde_json::from_slice(&bytes).map_err(malformed)?;
        let metrics = String::from_utf8(checkpoint.read(METRICS)?).map_err(|e| {
            let at = trimwick_formats::Location::Offset(e.utf8_error().valid_up_to() as u64);
            trimwick_formats::Error::malformed(
                checkpoint.path().join(METRICS),
                at,
                "text",
                "UTF-8",
                "other bytes",
            )
        })?;
        let kept = SafetensorsFile::open(checkpoint.file(KEPT)?)?;
        let bits = |name: &String| Ok::<_, Error>((name.clone(), Arc::from(kept.read_raw(name)?)));
        Ok(Self {
            position: state.position,
            parameters: read(&checkpoint.file(PARAMETERS)?)?,
            roles: state.roles,
            kept: kept.tensors().keys().map(bits).collect::<Result<_>>()?,
            optimizer_steps: state.optimizer_steps,
            moments: read(&checkpoint.file(MOMENTS)?)?,
            hooks: state.hooks,
            metrics,
        })
    }
}

fn writer(tensors: &BTreeMap<String, Tensor>) -> Result<Writer<'_>> {
    let stored = |(name, t): (&String, &'_ Tensor)| {
        let dtype = match t.dtype() {
            DType::U8 => Dtype::U8,
            DType::U32 => Dtype::U32,
            DType::I16 => Dtype::I16,
            DType::I32 => Dtype::I32,
            DType::I64 => Dtype::I64,
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            DType::F32 => Dtype::F32,
            DType::F64 => Dtype::F64,
            found => return Err(Error::DType { name: name.clone(), found }),
        };
        let t = t.clone();
        let dims = t.dims().to_vec();
        Ok(NewTensor::stream(name, dtype, &dims, move |out| write_values(&t, out).map_err(io::Error::other)))
    };
    let tensors = tensors.iter().map(stored).collect::<Result<Vec<_>>>()?;
    Ok(Writer::new(tensors, &BTreeMap::new())?)
}

/// Writes a tensor's values, little-endian, a piece at a time.
fn write_values(t: &Tensor, out: &mut dyn Write) -> candle_core::Result<()> {
    fn each<T: WithDType, const N: usize>(
        t: &Tensor,
        out: &mut dyn Write,
        le: impl Fn(T) -> [u8; N],
    ) -> candle_core::Result<()> {
        ops::with_slices::<T, _, 1>([t], |[values]| {
            let mut bytes = Vec::with_capacity(1 << 16);
            for piece in values.chunks((1 << 16) / N) {
                bytes.clear();
                bytes.extend(piece.iter().flat_map(|&v| le(v)));
                out.write_all(&bytes)?;
            }
            Ok(())
        })
    }
    let t = &t.to_device(&Device::Cpu)?;
    match t.dtype() {
        DType::U8 => each(t, out, u8::to_le_bytes),
        DType::U32 => each(t, out, u32::to_le_bytes),
        DType::I16 => each(t, out, i16::to_le_bytes),
        DType::I32 => each(t, out, i32::to_le_bytes),
        DType::I64 => each(t, out, i64::to_le_bytes),
        DType::BF16 => each(t, out, bf16::to_le_bytes),
        DType::F16 => each(t, out, f16::to_le_bytes),
        DType::F32 => each(t, out, f32::to_le_bytes),
        DType::F64 => each(t, out, f64::to_le_bytes),
        other => Err(candle_core::Error::UnsupportedDTypeForOp(other, "save").bt()),
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let file = SafetensorsFile::open(path)?;
    let tensor = |(name, info): (&String, &trimwick_formats::safetensors::TensorInfo)| {
        let dtype = match info.dtype {
            Dtype::U8 => DType::U8,
            Dtype::U32 => DType::U32,
            Dtype::I16 => DType::I16,
            Dtype::I32 => DType::I32,
            Dtype::I64 => DType::I64,
            Dtype::BF16 => DType::BF16,
            Dtype::F16 => DType::F16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            other => {
                let at = trimwick_formats::Location::Tensor(name.clone());
                let (expected, found) = ("a dtype of candle's", other.to_string());
                return Err(trimwick_formats::Error::malformed(path, at, "dtype", expected, found).into());
            }
        };
        let values = Tensor::from_raw_buffer(&file.read_raw(name)?, dtype, &info.shape, &Device::Cpu)?;
        Ok((name.clone(), values))
    };
    file.tensors().iter().map(tensor).collect()
}
