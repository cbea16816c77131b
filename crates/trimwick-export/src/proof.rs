//! What was written is what the input gives, bit for bit.

use std::path::Path;

use trimwick_formats::ByteSource;
use trimwick_formats::floats::f32_from_le_bytes;
use trimwick_formats::safetensors::{SafetensorsFile, TensorInfo};
use trimwick_kernels::quant as kernels;
use trimwick_quant::Granularity;

use crate::layout::Layout;
use crate::packed::{Packed, pieces};
use crate::quantize::{Job, Stage};
use crate::reader::PackedFile;
use crate::report::{Report, TensorReport};
use crate::{Error, Result};

/// Bytes that are compared at a time.
const CHUNK: usize = 1 << 20;

/// Reopens the file at `written`, which is to become `output`, and compares it with the input: the values of quantized
/// tensors with those that a training step would compute, all others byte by byte. What is found goes into `report`.
///
/// # Errors
/// [`Error::Proof`]; whatever keeps the file from being read.
pub(crate) fn prove(job: &Job<'_>, written: &Path, output: &Path, report: &mut Report) -> Result<()> {
    let source = ByteSource::open(written)?;
    let file = SafetensorsFile::open(written)?;
    let packed = if job.fake { None } else { Some(PackedFile::open(written)?) };
    report.bytes_after = file.total_bytes();
    for (i, name) in job.folder.names().enumerate() {
        let Some(info) = job.folder.info(name) else { continue };
        match job.chosen.get(name) {
            Some(layout) => {
                let stored = match &packed {
                    Some(packed) => Stored::Packed(packed.load(name)?),
                    None => Stored::Floats(&source, file.info(name)?),
                };
                let (signal, noise) = compare(job, layout, &stored, output)?;
                report.tensors.push(TensorReport {
                    name: name.into(),
                    shape: info.shape.clone(),
                    bytes_before: info.bytes,
                    bytes_packed: layout.packed_bytes(),
                    signal,
                    noise,
                });
            }
            None => {
                compare_copy(job, &source, file.info(name)?, output)?;
                report.copied += 1;
                report.copied_bytes += info.bytes;
            }
        }
        job.tell(Stage::Proving, i + 1, job.folder.len())?;
    }
    Ok(())
}

/// Where the values of a tensor are.
enum Stored<'a> {
    Packed(Packed),
    Floats(&'a ByteSource, &'a TensorInfo),
}

/// Sums of the squares of values and of what the grid took from them.
fn compare(job: &Job<'_>, layout: &Layout, stored: &Stored<'_>, output: &Path) -> Result<(f64, f64)> {
    let (values, scales) = job.read(layout)?;
    let (mut want, mut got, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut signal, mut noise) = (0., 0.);
    for rows in pieces(layout) {
        let start = rows.start * layout.row();
        let x = &values[start..rows.end * layout.row()];
        want.resize(x.len(), 0.);
        got.resize(x.len(), 0.);
        let s = scales.rows(layout, rows.clone());
        let grid = layout.spec.grid();
        match layout.spec.granularity {
            // One scale for all pieces.
            Granularity::Tensor => kernels::fake_quant(grid, x, s.block, s.scales, s.zeros, &mut want),
            // What a layer computes in training, which finds the scales by itself.
            _ => kernels::fake_quant_dynamic(grid, x, s.block, Some(scales.global), &mut want)?,
        }
        match stored {
            Stored::Packed(packed) => packed.decode_rows(rows, &mut got),
            Stored::Floats(source, info) => {
                bytes.resize(4 * x.len(), 0);
                source.read_exact_at(info.offset + 4 * start as u64, &mut bytes)?;
                f32_from_le_bytes(&bytes, &mut got)?;
            }
        }
        if let Some(at) = want.iter().zip(&got).position(|(a, b)| a.to_bits() != b.to_bits()) {
            return Err(Error::Proof {
                path: output.into(),
                tensor: layout.name.clone(),
                index: start + at,
                expected: want[at],
                found: got[at],
            });
        }
        for (x, y) in x.iter().zip(&want) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            signal += x * x;
            noise += (x - y) * (x - y);
        }
    }
    Ok((signal, noise))
}

fn compare_copy(job: &Job<'_>, source: &ByteSource, written: &TensorInfo, output: &Path) -> Result<()> {
    let want = job.folder.read_raw(&written.name)?;
    let mut got = Vec::new();
    for (i, want) in want.chunks(CHUNK).enumerate() {
        let start = i * CHUNK;
        got.resize(want.len(), 0);
        source.read_exact_at(written.offset + start as u64, &mut got)?;
        if let Some(at) = want.iter().zip(&got).position(|(a, b)| a != b) {
            return Err(Error::Proof {
                path: output.into(),
                tensor: written.name.clone(),
                index: start + at,
                expected: want[at].into(),
                found: got[at].into(),
            });
        }
    }
    Ok(())
}
