//! What is quantized of a layer, and how.

use std::fmt;
use std::str::FromStr;

use trimwick_nn::LayerKind;

use crate::presets;
use crate::spec::QuantSpec;
use crate::words;
use crate::{Error, Result};

/// The quantizer of a layer's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InputSpec {
    /// Codes, scales, granularity.
    pub spec: QuantSpec,
    /// Whether every scale is found anew in each forward pass. If not, the scale of the tensor is calibrated: the only
    /// one there is, or the one behind the e4m3 scales of groups (which themselves always follow the values).
    pub dynamic: bool,
}

impl fmt::Display for InputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.spec, if self.dynamic { "dynamic" } else { "static" })
    }
}

impl FromStr for InputSpec {
    type Err = Error;

    /// `int8 token dynamic`, `e4m3 tensor f32 static`: a [`QuantSpec`] and one word more.
    fn from_str(text: &str) -> Result<Self> {
        let (spec, when) = text.trim().rsplit_once(char::is_whitespace).unwrap_or(("", text));
        let dynamic = words::find("kind of scales", when, &[("dynamic", true), ("static", false)])?;
        Ok(Self { spec: spec.parse()?, dynamic })
    }
}

/// What is quantized of a layer, and how.
///
/// As text it is the name of a preset, or its parts: `weight int4 g64 bf16, input int8 token f32 dynamic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// The quantizer of the weight; `None` leaves it as it is.
    pub weight: Option<QuantSpec>,
    /// The quantizer of the input; `None` leaves it as it is.
    pub input: Option<InputSpec>,
}

impl Scheme {
    /// The names of the presets.
    pub const PRESETS: &'static [&'static str] = presets::NAMES;

    /// A scheme by its name:
    ///
    /// | name | weight | input |
    /// |---|---|---|
    /// | `int8` | int8 channel | int8 token, dynamic |
    /// | `int8-static` | int8 channel | int8 tensor, static |
    /// | `int8-weight` | int8 channel | |
    /// | `int4-g32` `int4-g64` `int4-g128` `int4-channel` | int4, bf16 scales | |
    /// | `int3-g32` `int3-g64` `int3-g128` | int3, bf16 scales | |
    /// | `int2-g32` `int2-g64` `int2-g128` | int2, bf16 scales | |
    /// | `ternary` | −1, 0, 1 in groups of 64, bf16 scales | |
    /// | `w4a8` `w4a8-g32` `w4a8-g64` `w4a8-g128` | int4 channel or group, bf16 scales | int8 token, dynamic |
    /// | `fp8` | e4m3 tensor | e4m3 tensor, static |
    /// | `fp8-token` | e4m3 channel | e4m3 token, dynamic |
    /// | `fp8-e5m2` | e5m2 tensor | e5m2 tensor, static |
    /// | `fp8-weight` | e4m3 channel | |
    /// | `nvfp4`, `nvfp4-weight` | e2m1 in groups of 16, e4m3 scales, f32 of the tensor | the same, static |
    /// | `mxfp4` `mxfp6-e2m3` `mxfp6-e3m2` `mxfp8` `mxint8`, each with `-weight` | groups of 32, powers of two | the same, dynamic |
    /// | `q8_0` `q4_0` | int8, int4 in groups of 32, f16 scales: GGUF's blocks | |
    ///
    /// # Errors
    /// [`Error::Unknown`], with the nearest name that exists.
    pub fn preset(name: &str) -> Result<Self> {
        words::find("scheme", name, presets::TABLE)
    }

    /// The preset that this scheme is, if it is one.
    pub fn name(&self) -> Option<&'static str> {
        presets::TABLE.iter().find(|(_, scheme)| scheme == self).map(|(name, _)| *name)
    }

    /// Whether a layer can take the scheme, by the shape of its weight. The input of an embedding are ids: what a
    /// scheme says of the input is left out there.
    ///
    /// # Errors
    /// A group that does not divide the rows (with those that do), a granularity that makes no sense for the layer.
    pub fn check(&self, path: &str, kind: LayerKind, shape: &[usize]) -> Result<()> {
        if let Some(weight) = &self.weight {
            weight.check_weight(path, shape)?;
        }
        if let Some(InputSpec { spec, dynamic }) = &self.input {
            spec.check_input(path, kind, shape, *dynamic)?;
        }
        Ok(())
    }

    /// Bits that a weight of `shape` takes in an export, for each of its values, scales counted: 4.125 for
    /// `int4-g128`, 4.5 for `nvfp4` (and 32 over the size of the tensor). A weight that is not quantized counts as
    /// the 16 bits of its bf16 export.
    pub fn bits(&self, shape: &[usize]) -> f64 {
        self.weight.map_or(16., |weight| weight.bits(shape))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.weight, &self.input) {
            (None, None) => f.write_str("nothing"),
            (Some(weight), None) => write!(f, "weight {weight}"),
            (None, Some(input)) => write!(f, "input {input}"),
            (Some(weight), Some(input)) => write!(f, "weight {weight}, input {input}"),
        }
    }
}

impl FromStr for Scheme {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if !text.contains(char::is_whitespace) {
            return Self::preset(text);
        }
        let mut scheme = Self { weight: None, input: None };
        for part in text.split(',') {
            let (word, spec) = part.trim().split_once(char::is_whitespace).unwrap_or((part.trim(), ""));
            match word {
                "weight" if scheme.weight.is_none() => scheme.weight = Some(spec.parse()?),
                "input" if scheme.input.is_none() => scheme.input = Some(spec.parse()?),
                "weight" | "input" => {
                    return Err(Error::Spec { spec: word.into(), problem: "given twice; give it once" });
                }
                _ => return Err(words::unknown("part of a scheme", word, ["weight", "input"])),
            }
        }
        Ok(scheme)
    }
}
