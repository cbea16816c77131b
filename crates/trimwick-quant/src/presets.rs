//! The named schemes.

use trimwick_kernels::quant::{Code, ScaleFormat};

use crate::scheme::{InputSpec, Scheme};
use crate::spec::{Granularity, QuantSpec};

const INT8: Code = Code::Int { bits: 8 };
const INT4: Code = Code::Int { bits: 4 };
const INT3: Code = Code::Int { bits: 3 };
const INT2: Code = Code::Int { bits: 2 };

const CHANNEL: Granularity = Granularity::Channel;
const TENSOR: Granularity = Granularity::Tensor;
const G32: Granularity = Granularity::Group(32);

const fn weight(code: Code, granularity: Granularity) -> Scheme {
    Scheme { weight: Some(QuantSpec::new(code, granularity)), input: None }
}

impl Scheme {
    const fn scaled(self, scale: ScaleFormat) -> Self {
        match self.weight {
            Some(weight) => Self { weight: Some(weight.with_scale(scale)), input: self.input },
            None => self,
        }
    }

    const fn and_input(self, code: Code, granularity: Granularity, dynamic: bool) -> Self {
        let spec = QuantSpec::new(code, granularity);
        Self { weight: self.weight, input: Some(InputSpec { spec, dynamic }) }
    }

    /// The preset `int8`: weights per channel, inputs per token.
    pub const fn int8() -> Self {
        a8(weight(INT8, CHANNEL))
    }

    /// `int4-g32` and its like: weights alone, in groups of `group` inputs.
    pub const fn int4(group: usize) -> Self {
        weight(INT4, Granularity::Group(group))
    }

    /// The preset `nvfp4`: weights and inputs.
    pub const fn nvfp4() -> Self {
        group(Code::E2M1, 16).both(false)
    }

    /// The input like the weight.
    const fn both(self, dynamic: bool) -> Self {
        match self.weight {
            Some(spec) => Self { weight: self.weight, input: Some(InputSpec { spec, dynamic }) },
            None => self,
        }
    }
}

const fn group(code: Code, size: usize) -> Scheme {
    weight(code, Granularity::Group(size))
}

const fn a8(scheme: Scheme) -> Scheme {
    scheme.and_input(INT8, Granularity::Token, true)
}

const MXINT8: Scheme = weight(INT8, G32).scaled(ScaleFormat::E8M0Ceil);

/// Every preset, in the order in which they are listed to people.
pub(crate) const TABLE: &[(&str, Scheme)] = &[
    ("int8", Scheme::int8()),
    ("int8-static", weight(INT8, CHANNEL).and_input(INT8, TENSOR, false)),
    ("int8-weight", weight(INT8, CHANNEL)),
    ("int4-g32", Scheme::int4(32)),
    ("int4-g64", Scheme::int4(64)),
    ("int4-g128", Scheme::int4(128)),
    ("int4-channel", weight(INT4, CHANNEL)),
    ("int3-g32", group(INT3, 32)),
    ("int3-g64", group(INT3, 64)),
    ("int3-g128", group(INT3, 128)),
    ("int2-g32", group(INT2, 32)),
    ("int2-g64", group(INT2, 64)),
    ("int2-g128", group(INT2, 128)),
    ("ternary", group(Code::Ternary, 64)),
    ("w4a8", a8(weight(INT4, CHANNEL))),
    ("w4a8-g32", a8(group(INT4, 32))),
    ("w4a8-g64", a8(group(INT4, 64))),
    ("w4a8-g128", a8(group(INT4, 128))),
    ("fp8", weight(Code::E4M3, TENSOR).both(false)),
    ("fp8-token", weight(Code::E4M3, CHANNEL).and_input(Code::E4M3, Granularity::Token, true)),
    ("fp8-e5m2", weight(Code::E5M2, TENSOR).both(false)),
    ("fp8-weight", weight(Code::E4M3, CHANNEL)),
    ("nvfp4", Scheme::nvfp4()),
    ("nvfp4-weight", group(Code::E2M1, 16)),
    ("mxfp4", weight(Code::E2M1, G32).both(true)),
    ("mxfp4-weight", weight(Code::E2M1, G32)),
    ("mxfp6-e2m3", weight(Code::E2M3, G32).both(true)),
    ("mxfp6-e2m3-weight", weight(Code::E2M3, G32)),
    ("mxfp6-e3m2", weight(Code::E3M2, G32).both(true)),
    ("mxfp6-e3m2-weight", weight(Code::E3M2, G32)),
    ("mxfp8", weight(Code::E4M3, G32).both(true)),
    ("mxfp8-weight", weight(Code::E4M3, G32)),
    ("mxint8", MXINT8.both(true)),
    ("mxint8-weight", MXINT8),
    ("q8_0", weight(INT8, G32).scaled(ScaleFormat::F16)),
    ("q4_0", weight(INT4, G32).scaled(ScaleFormat::F16)),
];

/// Their names.
pub(crate) const NAMES: &[&str] = &{
    let mut names = [""; TABLE.len()];
    let mut i = 0;
    while i < TABLE.len() {
        names[i] = TABLE[i].0;
        i += 1;
    }
    names
};
