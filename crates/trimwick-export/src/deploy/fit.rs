//! Which form a quantized weight takes in a target, or why it takes none and what would hold it.

use trimwick_formats::safetensors::Dtype;
use trimwick_kernels::quant::{Code, ScaleFormat};
use trimwick_quant::{Granularity, QuantSpec, Quantized, has_divisor};

use super::model::Subject;
use super::part::{Kind, Slot, matrix, scale_shape, stream, words};
use super::target::{Dense, Target};
use crate::{Error, Result};

/// A packed weight in a folder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Form {
    /// The layout's name in the target's configuration.
    pub format: &'static str,
    pub slots: Vec<Slot>,
}

/// Why not, and what then.
pub(crate) type Refusal = (String, &'static str);

/// The error of a refusal.
pub(crate) fn refused(target: Target, subject: &Subject, (problem, nearest): Refusal) -> Error {
    let (layer, scheme) = (subject.path.clone(), subject.scheme());
    Error::Refused { target, layer, scheme, problem, nearest }
}

/// The packed form of a quantized weight in a folder, none where the target keeps plain floats.
pub(crate) fn form(
    target: Target,
    subject: &Subject,
    q: &Quantized,
    dense: Dense,
    sparse: bool,
) -> Result<Option<Form>, Refusal> {
    if !subject.linear && matches!(target, Target::CompressedTensors | Target::ModelOpt) {
        return no(
            "runtimes read embeddings and convolutions of this format in full",
            "leave it out of the quantization; gguf and sparse24 hold it",
        );
    }
    match target {
        Target::CompressedTensors => compressed(subject, q, dense).map(Some),
        Target::ModelOpt => modelopt(subject, q, dense).map(Some),
        Target::Sparse24 => container(subject, q, sparse).map(Some),
        Target::Hf | Target::Gguf => Ok(None),
    }
}

fn no<T>(problem: impl Into<String>, nearest: &'static str) -> Result<T, Refusal> {
    Err((problem.into(), nearest))
}

fn scale_dtype(spec: &QuantSpec) -> Dtype {
    match spec.scale {
        ScaleFormat::F32 => Dtype::F32,
        ScaleFormat::F16 => Dtype::F16,
        ScaleFormat::BF16 => Dtype::BF16,
        ScaleFormat::E4M3 => Dtype::F8_E4M3,
        ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => Dtype::U8,
    }
}

/// A type of floats that holds every one of the scales; the model's own if it does.
fn float_scales(q: &Quantized, dense: Dense) -> Result<Dtype, Refusal> {
    match q.scales.iter().find(|s| !dense.holds(**s)) {
        None => Ok(dense.dtype()),
        Some(s) => no(
            format!("its scale {s:e} is not one of {}, the type of the model", dense.torch()),
            "set dense = \"f32\", or train with scales of that type",
        ),
    }
}

/// Static inputs need a number.
fn input_number(subject: &Subject) -> Result<f32, Refusal> {
    match subject.input_scale {
        Some(scale) if scale.is_finite() && scale > 0. => Ok(scale),
        _ => no("its input has no calibrated scale", "calibrate static inputs before the export"),
    }
}

/// What compressed-tensors writes.
fn compressed(subject: &Subject, q: &Quantized, dense: Dense) -> Result<Form, Refusal> {
    const NEAREST: &str =
        "hf with dense = \"f32\" holds it; int4, int8, fp8, nvfp4, mxfp4 and mxfp8 fit here";
    let [n, k] = matrix(&subject.shape);
    let scales = scale_shape(&q.spec, &subject.shape);
    let own = |dtype| Slot::new("weight", dtype, &[n, k], Kind::Bytes);
    let scale = |dtype, shape: &[usize]| Slot::new("weight_scale", dtype, shape, Kind::Scales);
    let one_or = |shape: [usize; 2]| match q.spec.granularity {
        Granularity::Tensor => vec![1],
        _ => shape.to_vec(),
    };
    let grouped = matches!(q.spec.granularity, Granularity::Group(_));
    let (format, mut slots) = match (q.spec.code, q.spec.scale) {
        (Code::Int { bits: 8 }, ScaleFormat::F32 | ScaleFormat::BF16) if !grouped => {
            ("int-quantized", vec![own(Dtype::I8), scale(scale_dtype(&q.spec), &one_or(scales))])
        }
        (Code::Int { .. } | Code::Uint { .. } | Code::Ternary, _) => {
            let bits = q.spec.code.bits();
            let scale_type = float_scales(q, dense)?;
            let mut slots = vec![
                Slot::new("weight_packed", Dtype::I32, &[n, words(k, bits)], Kind::Words),
                scale(scale_type, &one_or(scales)),
                Slot::new("weight_shape", Dtype::I64, &[2], Kind::Shape),
            ];
            if q.spec.asymmetric() {
                if q.spec.granularity == Granularity::Tensor {
                    return no("zero points of the whole tensor", "take channel or a group");
                }
                let shape = [words(n, bits), scales[1]];
                slots.push(Slot::new("weight_zero_point", Dtype::I32, &shape, Kind::WordZeros));
            }
            ("pack-quantized", slots)
        }
        (Code::E4M3, ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor)
            if q.spec.granularity == Granularity::Group(32) =>
        {
            ("mxfp8-quantized", vec![own(Dtype::F8_E4M3), scale(Dtype::U8, &scales)])
        }
        (Code::E4M3, ScaleFormat::F32 | ScaleFormat::BF16) if !grouped => {
            ("float-quantized", vec![own(Dtype::F8_E4M3), scale(scale_dtype(&q.spec), &one_or(scales))])
        }
        (Code::E2M1, ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor)
            if q.spec.granularity == Granularity::Group(32) =>
        {
            let codes = Slot::new("weight_packed", Dtype::U8, &[n, stream(k, 4)], Kind::Stream);
            ("mxfp4-pack-quantized", vec![codes, scale(Dtype::U8, &scales)])
        }
        (Code::E2M1, ScaleFormat::E4M3) if q.spec.granularity == Granularity::Group(16) => {
            if has_divisor(q.global).is_none() {
                return no(
                    format!(
                        "its scale of the tensor, {:e}, has no inverse that gives the same values",
                        q.global
                    ),
                    "modelopt and gguf hold it; or call quant::share_fused before training",
                );
            }
            let codes = Slot::new("weight_packed", Dtype::U8, &[n, stream(k, 4)], Kind::Stream);
            let global = Slot::new("weight_global_scale", Dtype::F32, &[1], Kind::Divisor);
            ("nvfp4-pack-quantized", vec![codes, scale(Dtype::F8_E4M3, &scales), global])
        }
        _ => return no("compressed-tensors has no layout for this grid", NEAREST),
    };
    if let Some(input) = subject.input.filter(|input| !input.dynamic) {
        let scale = input_number(subject)?;
        slots.push(match input.spec.has_global() {
            true => Slot::new("input_global_scale", Dtype::F32, &[1], Kind::Number(1. / scale)),
            false => Slot::new("input_scale", Dtype::F32, &[1], Kind::Number(scale)),
        });
    }
    Ok(Form { format, slots })
}

/// What ModelOpt writes; the form's name is the algorithm's.
fn modelopt(subject: &Subject, q: &Quantized, dense: Dense) -> Result<Form, Refusal> {
    const NEAREST: &str = "compressed-tensors holds it; or train with fp8, nvfp4, int8-static or int4 groups";
    let [n, k] = matrix(&subject.shape);
    let scales = scale_shape(&q.spec, &subject.shape);
    let input = subject.input.map(|input| (input.spec.code, input.spec.granularity, input.dynamic));
    let static_tensor = |code| input == Some((code, Granularity::Tensor, false));
    let number = |part, v| Slot::new(part, Dtype::F32, &[], Kind::Number(v));
    let float = matches!(q.spec.scale, ScaleFormat::F32 | ScaleFormat::BF16 | ScaleFormat::F16);
    match (q.spec.code, q.spec.granularity) {
        (Code::E4M3, Granularity::Tensor) if float && static_tensor(Code::E4M3) => Ok(Form {
            format: "FP8",
            slots: vec![
                Slot::new("weight", Dtype::F8_E4M3, &[n, k], Kind::Bytes),
                Slot::new("weight_scale", Dtype::F32, &[], Kind::Scales),
                number("input_scale", input_number(subject)?),
            ],
        }),
        (Code::E2M1, Granularity::Group(16))
            if q.spec.has_global() && input == Some((Code::E2M1, Granularity::Group(16), false)) =>
        {
            Ok(Form {
                format: "NVFP4",
                slots: vec![
                    Slot::new("weight", Dtype::U8, &[n, stream(k, 4)], Kind::Stream),
                    Slot::new("weight_scale", Dtype::F8_E4M3, &scales, Kind::Scales),
                    Slot::new("weight_scale_2", Dtype::F32, &[], Kind::Global),
                    number("input_scale", input_number(subject)?),
                ],
            })
        }
        (Code::Int { bits: 4 }, Granularity::Group(_)) if float => {
            if !n.is_multiple_of(2) {
                return no("an odd number of outputs, which are stored in pairs", NEAREST);
            }
            let mut slots = vec![
                Slot::new("weight", Dtype::U8, &[n / 2, k], Kind::RowPairs),
                Slot::new("weight_scale", Dtype::F32, &scales, Kind::Scales),
                Slot::new("pre_quant_scale", dense.dtype(), &[k], Kind::Ones),
            ];
            if input.is_none() {
                return Ok(Form { format: "W4A16_AWQ", slots });
            }
            if !static_tensor(Code::E4M3) {
                return no("W4A8_AWQ takes static e4m3 inputs", NEAREST);
            }
            let amax = q.dequantize().iter().fold(0f32, |amax, v| amax.max(v.abs()));
            slots.push(number("weight_scale_2", amax / 448.));
            slots.push(number("input_scale", input_number(subject)?));
            Ok(Form { format: "W4A8_AWQ", slots })
        }
        (Code::Int { bits: 8 }, Granularity::Channel) if float && static_tensor(Code::Int { bits: 8 }) => {
            Ok(Form {
                format: "W8A8_SQ_PER_CHANNEL",
                slots: vec![
                    Slot::new("weight", Dtype::I8, &[n, k], Kind::Bytes),
                    Slot::new("weight_scale", Dtype::F32, &[n], Kind::Scales),
                    number("input_scale", input_number(subject)?),
                ],
            })
        }
        _ => no("ModelOpt has no algorithm for these weights and inputs", NEAREST),
    }
}

/// Our container, of which `sparse` weights keep half.
fn container(subject: &Subject, q: &Quantized, sparse: bool) -> Result<Form, Refusal> {
    if q.spec.asymmetric() {
        return no(
            "a grid with zero points has no exact zero of its own",
            "take int4 or int8, which are symmetric",
        );
    }
    let [n, k] = matrix(&subject.shape);
    let kept = if sparse { k / 2 } else { k };
    let bits = q.spec.code.bits();
    let dtype = match q.spec.code {
        Code::Int { bits: 8 } => Dtype::I8,
        Code::E4M3 => Dtype::F8_E4M3,
        Code::E5M2 => Dtype::F8_E5M2,
        _ => Dtype::U8,
    };
    let (width, kind) = match (dtype, sparse) {
        (Dtype::U8, false) => (stream(kept, bits), Kind::Stream),
        (Dtype::U8, true) => (stream(kept, bits), Kind::Kept),
        (_, false) => (kept, Kind::Bytes),
        (_, true) => (kept, Kind::Kept),
    };
    let scales = match q.spec.granularity {
        Granularity::Tensor => vec![1],
        _ => scale_shape(&q.spec, &subject.shape).to_vec(),
    };
    let mut slots = vec![
        Slot::new("weight_values", dtype, &[n, width], kind),
        Slot::new("weight_shape", Dtype::I64, &[2], Kind::Shape),
        Slot::new("weight_scale", scale_dtype(&q.spec), &scales, Kind::Scales),
    ];
    if dtype == Dtype::U8 {
        slots.push(Slot::new("weight_bits", Dtype::I64, &[2], Kind::Bits));
    }
    if q.spec.has_global() {
        slots.push(Slot::new("weight_scale_2", Dtype::F32, &[1], Kind::Global));
    }
    if sparse {
        slots.push(Slot::new("weight_meta", Dtype::U8, &[n, k.div_ceil(8)], Kind::Meta));
    }
    Ok(Form { format: "container", slots })
}
