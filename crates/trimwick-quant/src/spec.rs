//! One quantizer: which codes, which scales, how many values share one.

use std::fmt;
use std::str::FromStr;

use trimwick_kernels::quant::{Code, Grid, ScaleFormat};
use trimwick_nn::LayerKind;

use crate::words::{self, CODES, SCALES};
use crate::{Error, Result};

/// How many values share a scale. The scales of a weight `[out, in]` (a convolution's `[out, in, kh, kw]` counts as
/// `[out, in·kh·kw]`) or of an input `[.., in]`:
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// One: `[1]`.
    Tensor,
    /// One for each output of a weight, row of an embedding: `[out]`.
    Channel,
    /// One for each run of that many consecutive values of a row: `[out, in / group]`.
    Group(usize),
    /// One for each token of an input, `[..]`; for each token and head of keys and values, `[b, tokens, heads]`; for
    /// each image of a convolution's input, `[b]`.
    Token,
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => f.write_str("tensor"),
            Self::Channel => f.write_str("channel"),
            Self::Group(g) => write!(f, "g{g}"),
            Self::Token => f.write_str("token"),
        }
    }
}

impl FromStr for Granularity {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        if let Some(group) = word.strip_prefix('g').and_then(|digits| digits.parse().ok()) {
            return Ok(Self::Group(group));
        }
        const KNOWN: &[(&str, Granularity)] = &[
            ("tensor", Granularity::Tensor),
            ("channel", Granularity::Channel),
            ("token", Granularity::Token),
            // Stands for every group in the list of what is known.
            ("g32", Granularity::Group(32)),
        ];
        words::find("granularity", word, KNOWN)
    }
}

/// One quantizer: codes, the format of their scales, and how many values share one.
///
/// As text it is three words, `code granularity scale`: `int4 g128 bf16`, `e2m1 g16 e4m3`, `int8 token f32`. The
/// last may be left out where one is usual: `bf16` for integers of at most 4 bits, `e4m3` for groups of 16 E2M1,
/// `e8m0` for groups of 32 of any float, else `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantSpec {
    /// What a value is rounded to.
    pub code: Code,
    /// What a scale is rounded to.
    pub scale: ScaleFormat,
    /// How many values share a scale.
    pub granularity: Granularity,
}

impl QuantSpec {
    /// A quantizer with the usual format of scales.
    pub const fn new(code: Code, granularity: Granularity) -> Self {
        let scale = match (code, granularity) {
            (Code::Int { bits: ..=4 } | Code::Uint { bits: ..=4 } | Code::Ternary, _) => ScaleFormat::BF16,
            (Code::E2M1, Granularity::Group(16)) => ScaleFormat::E4M3,
            (Code::E2M1 | Code::E2M3 | Code::E3M2 | Code::E4M3 | Code::E5M2, Granularity::Group(32)) => {
                ScaleFormat::E8M0Ceil
            }
            _ => ScaleFormat::F32,
        };
        Self { code, scale, granularity }
    }

    /// The same with scales of another format.
    pub const fn with_scale(self, scale: ScaleFormat) -> Self {
        Self { scale, ..self }
    }

    /// The grid, as kernels take it.
    pub fn grid(&self) -> Grid {
        Grid { code: self.code, scale: self.scale }
    }

    /// Whether zero points come with the scales.
    pub fn asymmetric(&self) -> bool {
        matches!(self.code, Code::Uint { .. })
    }

    /// Whether a scale of the whole tensor stands behind those of the blocks.
    pub fn has_global(&self) -> bool {
        self.scale == ScaleFormat::E4M3
    }

    /// Values that share a scale in a tensor of `shape` whose rows are of `row` values.
    pub(crate) fn block(&self, len: usize, row: usize) -> usize {
        match self.granularity {
            Granularity::Tensor => len,
            Granularity::Channel | Granularity::Token => row,
            Granularity::Group(g) => g,
        }
    }

    /// Whether there is such a quantizer at all.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn check(&self) -> Result<()> {
        let problem = match (self.code, self.scale, self.granularity) {
            (_, _, Granularity::Group(0)) => "a group of 0 has no values; give at least 1",
            (Code::Int { bits: 0..2 | 9.. } | Code::Uint { bits: 0..2 | 9.. }, ..) => {
                "integers have 2 to 8 bits"
            }
            (Code::Uint { .. }, ScaleFormat::E4M3 | ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor, _) => {
                "zero points go with scales of f32, f16 or bf16"
            }
            (_, ScaleFormat::E4M3, Granularity::Tensor | Granularity::Channel | Granularity::Token) => {
                "e4m3 scales belong to groups, under one f32 scale of the tensor; give a group, such as g16"
            }
            _ => return Ok(()),
        };
        Err(Error::Spec { spec: self.to_string(), problem })
    }

    /// Whether a weight of `shape` can take it; `path` is named in the error.
    ///
    /// # Errors
    /// [`Error::Spec`], [`Error::Layer`], and [`Error::Group`] with the groups that fit.
    pub fn check_weight(&self, path: &str, shape: &[usize]) -> Result<()> {
        self.check()?;
        match self.granularity {
            Granularity::Token => {
                Err(self
                    .misfit(path, "a weight has no tokens; give channel, a group such as g128, or tensor"))
            }
            Granularity::Group(group) => self.check_group(path, group, row_of(shape)),
            Granularity::Tensor | Granularity::Channel => Ok(()),
        }
    }

    /// Whether the input of a layer can take it. Embeddings have none: whatever is asked of it is left out.
    ///
    /// # Errors
    /// [`Error::Spec`], [`Error::Layer`], and [`Error::Group`] with the groups that fit.
    pub(crate) fn check_input(
        &self,
        path: &str,
        kind: LayerKind,
        shape: &[usize],
        dynamic: bool,
    ) -> Result<()> {
        self.check()?;
        match (kind, self.granularity) {
            (LayerKind::Embedding, _) => Ok(()),
            (_, Granularity::Channel) => Err(self.misfit(
                path,
                "scales for each input feature cannot be taken out of the product; give token or tensor",
            )),
            (LayerKind::Conv2d, Granularity::Group(_)) => Err(self.misfit(
                path,
                "the input of a convolution has no rows to cut into groups; give token or tensor, or quantize the weight alone",
            )),
            (_, Granularity::Token) if !dynamic => Err(self.misfit(
                path,
                "no two inputs have the same tokens, so their scales are dynamic; give dynamic, or tensor",
            )),
            (_, Granularity::Group(_)) if !dynamic && !self.has_global() => Err(self.misfit(
                path,
                "the scales of an input's groups are dynamic, but for the one behind e4m3 scales; give dynamic",
            )),
            (LayerKind::Linear, Granularity::Group(group)) => self.check_group(path, group, row_of(shape)),
            _ => Ok(()),
        }
    }

    pub(crate) fn misfit(&self, path: &str, problem: &'static str) -> Error {
        Error::Layer { layer: path.into(), spec: self.to_string(), problem }
    }

    fn check_group(&self, path: &str, group: usize, row: usize) -> Result<()> {
        if row.is_multiple_of(group) {
            return Ok(());
        }
        Err(Error::Group {
            layer: path.into(),
            spec: self.to_string(),
            group,
            row,
            fits: groups_that_fit(row),
        })
    }

    /// Bits that a value of a tensor of `shape` takes on average: its code and its share of the scales, zero points
    /// (as many bits as the code) and the scale of the tensor.
    pub fn bits(&self, shape: &[usize]) -> f64 {
        let len = shape.iter().product::<usize>().max(1);
        let block = self.block(len, row_of(shape)).max(1);
        let scale = match self.scale {
            ScaleFormat::F32 => 32,
            ScaleFormat::F16 | ScaleFormat::BF16 => 16,
            ScaleFormat::E4M3 | ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => 8,
        };
        let code = f64::from(self.code.bits());
        let zero = if self.asymmetric() { code } else { 0. };
        let global = if self.has_global() { 32. / len as f64 } else { 0. };
        code + (f64::from(scale) + zero) / block as f64 + global
    }
}

/// Length of a row: all but the first dimension.
pub(crate) fn row_of(shape: &[usize]) -> usize {
    match shape {
        [] => 1,
        [len] => *len,
        [_, rest @ ..] => rest.iter().product(),
    }
}

/// Groups up to 512 that divide `row`: multiples of 32 if there are any, of 16, of 8, or whatever there is.
fn groups_that_fit(row: usize) -> String {
    let fitting = |unit: usize| {
        let groups = (1..=512 / unit).map(|i| i * unit).filter(|g| *g > 1 && row.is_multiple_of(*g));
        groups.map(|g| g.to_string()).collect::<Vec<_>>()
    };
    match [32, 16, 8, 1].into_iter().map(fitting).find(|groups| !groups.is_empty()) {
        Some(groups) => groups.join(", "),
        None => "none up to 512; give channel or tensor".into(),
    }
}

impl fmt::Display for QuantSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, scale) = (words::name_of(&self.code, CODES), words::name_of(&self.scale, SCALES));
        write!(f, "{code} {} {scale}", self.granularity)
    }
}

impl FromStr for QuantSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let (Some(code), Some(granularity), scale, None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            let problem = "expected `code granularity` or `code granularity scale`, such as `int4 g128 bf16`";
            return Err(Error::Spec { spec: text.chars().take(64).collect(), problem });
        };
        let spec = Self::new(words::find("code", code, CODES)?, granularity.parse()?);
        let spec = match scale {
            Some(scale) => spec.with_scale(words::find("scale format", scale, SCALES)?),
            None => spec,
        };
        spec.check()?;
        Ok(spec)
    }
}
