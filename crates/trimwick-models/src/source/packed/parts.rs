//! The tensors under one layer's path.

use trimwick_formats::folder::ModelFolder;
use trimwick_formats::safetensors::{Dtype, TensorInfo};

use crate::error::{Error, Result};

/// Parts that speak of activations.
const INPUTS: [&str; 7] = [
    "input_scale",
    "input_global_scale",
    "input_zero_point",
    "output_scale",
    "k_scale",
    "v_scale",
    "q_scale",
];

/// The tensors of one layer, which are marked as they are looked at.
pub(super) struct Parts<'a> {
    folder: &'a ModelFolder,
    base: &'a str,
    origin: &'a str,
    taken: Vec<String>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(folder: &'a ModelFolder, base: &'a str, origin: &'a str) -> Self {
        Self { folder, base, origin, taken: Vec::new() }
    }

    pub(super) fn folder(&self) -> &'a ModelFolder {
        self.folder
    }

    /// The full name of a part.
    pub(super) fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.base)
    }

    /// A part's description without taking it.
    pub(super) fn peek(&self, part: &str) -> Option<&'a TensorInfo> {
        self.folder.info(&self.name(part))
    }

    /// A part's description, if it is there.
    pub(super) fn get(&mut self, part: &str) -> Option<&'a TensorInfo> {
        let info = self.peek(part)?;
        self.taken.push(self.name(part));
        Some(info)
    }

    /// A part that must be there.
    pub(super) fn need(&mut self, part: &str) -> Result<&'a TensorInfo> {
        self.get(part).ok_or_else(|| self.fault(part, "a tensor, beside its codes", "nothing"))
    }

    /// A part of one of these types and of this shape.
    pub(super) fn need_of(&mut self, part: &str, types: &[Dtype], shape: &[usize]) -> Result<&'a TensorInfo> {
        let info = self.need(part)?;
        self.check(part, info, types, Some(shape))?;
        Ok(info)
    }

    /// Checks the type and the shape of a part.
    pub(super) fn check(
        &self,
        part: &str,
        info: &TensorInfo,
        types: &[Dtype],
        shape: Option<&[usize]>,
    ) -> Result<()> {
        let right = types.contains(&info.dtype) && shape.is_none_or(|shape| info.shape == shape);
        if right {
            return Ok(());
        }
        let types: Vec<_> = types.iter().map(|dtype| dtype.name()).collect();
        let shape = shape.map_or("a matrix".into(), |shape| format!("{shape:?}"));
        let expected = format!("{} {shape}", types.join(" or "));
        Err(self.fault(part, &expected, &format!("{} {:?}", info.dtype, info.shape)))
    }

    /// Both dimensions of a matrix of one of these types.
    pub(super) fn matrix(&self, part: &str, info: &TensorInfo, types: &[Dtype]) -> Result<[usize; 2]> {
        self.check(part, info, types, None)?;
        match info.shape[..] {
            [rows, cols] if rows > 0 && cols > 0 => Ok([rows, cols]),
            _ => Err(self.fault(part, "a matrix without a dimension of 0", &format!("{:?}", info.shape))),
        }
    }

    /// What is wrong with a part.
    pub(super) fn fault(&self, part: &str, expected: &str, found: &str) -> Error {
        Error::weights(self.origin, &self.name(part), expected, found)
    }

    /// Whether there are parts that speak of activations, which are taken here.
    pub(super) fn takes_inputs(&mut self) -> bool {
        INPUTS.iter().filter(|part| self.get(part).is_some()).count() > 0
    }

    /// The full names of what was looked at.
    pub(super) fn taken(self) -> Vec<String> {
        self.taken
    }
}
