//! The digits of the examples: 8×8 grey images, split into 1437 to learn from and 360 to test on.

use candle_core::{Device, Result, Tensor};
use trimwick::kernels::permute;

const FILE: &str = include_str!("digits.csv");

/// Images in [0, 1] and their digits.
pub struct Digits {
    /// `[n, 64]`, f32.
    pub images: Tensor,
    /// `[n]`, u32.
    pub labels: Tensor,
}

impl Digits {
    /// Every fifth image is for testing.
    pub fn split() -> Result<(Self, Self)> {
        let (test, train): (Vec<_>, Vec<_>) = FILE.lines().enumerate().partition(|(i, _)| i % 5 == 4);
        Ok((Self::parse(train)?, Self::parse(test)?))
    }

    fn parse(lines: Vec<(usize, &str)>) -> Result<Self> {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for (_, line) in &lines {
            let mut numbers: Vec<f32> = line.split(',').filter_map(|n| n.trim().parse().ok()).collect();
            labels.extend(numbers.pop().map(|digit| digit as u32));
            images.extend(numbers.iter().map(|pixel| pixel / 16.));
        }
        let images = Tensor::from_vec(images, (lines.len(), 64), &Device::Cpu)?;
        Ok(Self { images, labels: Tensor::new(labels, &Device::Cpu)? })
    }

    /// Batch `step` of `size` images, in an order that depends on the step alone.
    pub fn batch(&self, step: usize, size: usize) -> Result<Self> {
        let n = self.labels.dim(0)?;
        let index =
            |i| permute(((step * size + i) / n) as u64, n as u64, ((step * size + i) % n) as u64) as u32;
        let index = Tensor::new((0..size).map(index).collect::<Vec<_>>(), &Device::Cpu)?;
        let images = self.images.index_select(&index, 0)?;
        Ok(Self { images, labels: self.labels.index_select(&index, 0)? })
    }

    /// The share of images whose largest logit is that of their digit.
    pub fn accuracy(&self, logits: &Tensor) -> Result<f64> {
        let right = logits.argmax(1)?.eq(&self.labels)?.to_dtype(candle_core::DType::F64)?;
        right.mean_all()?.to_scalar()
    }
}
