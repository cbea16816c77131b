//! What a packed weight is made from: codes, and what turns them into numbers.

/// Twice the values of E2M1, and 12: the unsigned code of an integer whose zero is 12.
pub(super) const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// What a code is, one to a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Two's complement.
    Int8,
    /// 0 to 255, with zero points or minima.
    Uint8,
    /// Two's complement in the low half, −8 to 7.
    Int4,
    /// 0 to 15 in the low half, with zero points or minima.
    Uint4,
    /// FP4 in the low half.
    E2M1,
    /// FP8.
    E4M3,
}

impl Element {
    pub(super) fn small(self) -> bool {
        matches!(self, Self::Int4 | Self::Uint4 | Self::E2M1)
    }

    /// The unsigned code as it is stored.
    pub(super) fn stored(self, code: u8) -> u8 {
        match self {
            Self::Int8 => code ^ 0x80,
            Self::Uint8 | Self::E4M3 => code,
            Self::Int4 => (code ^ 8) & 15,
            Self::Uint4 | Self::E2M1 => code & 15,
        }
    }

    /// The stored code of zero; of E2M1 also the table's.
    pub(super) fn zero(self) -> u8 {
        match self {
            Self::Int8 => 128,
            Self::Int4 => 8,
            _ => 0,
        }
    }

    /// What is subtracted from a code, or from its entry in the table.
    pub(super) fn offset(self) -> u8 {
        if self == Self::E2M1 { E2M1[0] } else { self.zero() }
    }
}

/// What turns codes into numbers: (code − zero) · scale, or code · scale + minimum, for groups of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    /// Inputs of a group: a multiple of 16, or all of a row.
    pub size: usize,
    /// `[rows, ⌈cols / size⌉]`.
    pub scales: &'a [f32],
    /// Zero points, of unsigned integers alone: `[rows, ⌈cols / size⌉]`.
    pub zeros: Option<&'a [u8]>,
    /// Minima, of unsigned integers alone: `[rows, ⌈cols / size⌉]`.
    pub minima: Option<&'a [f32]>,
    /// A number of which scales may be E4M3 multiples: NVFP4's.
    pub global: Option<f32>,
}
