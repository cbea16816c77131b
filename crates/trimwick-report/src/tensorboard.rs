//! The metrics of a run as event files of TensorBoard.
//!
//! A file is a row of records: the length of the data (u64), a masked CRC-32C of that, the data, a masked CRC-32C of it, all
//! little-endian. The data is a protobuf message `Event` with a time (field 1, f64), a step (2) and, in the first record, the
//! version of the file (3) or a summary of values by tag (5); sources: TensorFlow's `record_writer.cc`, `event.proto`,
//! `summary.proto`.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use trimwick_train::{StepRecord, ValidationRecord};

use crate::run::{Curve, curves};
use crate::{Error, Result};

/// TensorBoard takes any file whose name has this part.
const FILE: &str = "events.out.tfevents.trimwick";

/// Writes an event file for each arm that a run has trained, or is training, to folders below `to`; gives the files. The
/// time of all events is that of the metrics file, since the metrics are a function of the recipe and hold none.
///
/// # Errors
/// [`Error::File`] for a folder without metrics and files that cannot be read or written, [`Error::Line`].
pub fn tensorboard(run: &Path, to: &Path) -> Result<Vec<PathBuf>> {
    let found = curves(run, "main")?;
    if found.is_empty() {
        let problem = "no metrics here; expected the folder of a run that trains".into();
        return Err(Error::File { path: run.into(), problem });
    }
    let write = |(path, curve): &(PathBuf, Curve)| {
        let modified = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let time = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let folder = to.join(&curve.arm);
        std::fs::create_dir_all(&folder)
            .map_err(|e| Error::File { path: folder.clone(), problem: e.to_string() })?;
        let file = folder.join(FILE);
        trimwick_formats::atomic_write(&file, &events(curve, time.unwrap_or_default().as_secs_f64()))?;
        Ok(file)
    };
    found.iter().map(write).collect()
}

/// The records of an arm.
fn events(curve: &Curve, time: f64) -> Vec<u8> {
    let mut out = Vec::new();
    let version = message(3, b"brain.Event:2");
    record(&[double(1, time), version].concat(), &mut out);
    let mut put = |step: u64, values: &[(&str, f64)]| {
        let value = |(tag, value): &(&str, f64)| {
            let simple = [vec![2 << 3 | 5], (*value as f32).to_le_bytes().to_vec()].concat();
            message(1, &[message(1, tag.as_bytes()), simple].concat())
        };
        let summary = message(5, &values.iter().flat_map(value).collect::<Vec<u8>>());
        record(&[double(1, time), vec![2 << 3], varint(step), summary].concat(), &mut out);
    };
    for StepRecord { step, loss, cross_entropy, divergence, features, lr, grad_norm, .. } in &curve.steps {
        let mut values = vec![
            ("train/loss", *loss),
            ("train/cross_entropy", *cross_entropy),
            ("train/learning_rate", *lr),
            ("train/gradient_norm", *grad_norm),
        ];
        values.extend(divergence.map(|value| ("train/divergence", value)));
        values.extend(features.map(|value| ("train/features", value)));
        put(*step, &values);
    }
    for ValidationRecord { step, eval_loss, eval_perplexity, .. } in &curve.validations {
        put(*step, &[("eval/loss", *eval_loss), ("eval/perplexity", *eval_perplexity)]);
    }
    out
}

fn record(data: &[u8], out: &mut Vec<u8>) {
    // A rotated sum plus a constant: a sum of data that holds sums is weak.
    let masked = |data: &[u8]| crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8);
    let length = (data.len() as u64).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked(&length).to_le_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&masked(data).to_le_bytes());
}

/// A field of bytes, text or a message.
fn message(field: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![field << 3 | 2], varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn double(field: u8, value: f64) -> Vec<u8> {
    [vec![field << 3 | 1], value.to_le_bytes().to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of each record, its sums checked.
    fn read(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let sum = |of: &[u8]| crc32c::crc32c(of).rotate_right(15).wrapping_add(0xa282_ead8);
            assert_eq!(bytes[8..12], sum(&bytes[..8]).to_le_bytes());
            let data = &bytes[12..12 + length];
            assert_eq!(bytes[12 + length..16 + length], sum(data).to_le_bytes());
            found.push(data.to_vec());
            bytes = &bytes[16 + length..];
        }
        found
    }

    #[test]
    fn records_are_those_that_tensorflow_writes() {
        // The check value of CRC-32C, and the first twelve bytes of any event file of TensorFlow.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let bytes = events(&Curve::default(), 1.5);
        assert_eq!(bytes[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(read(&bytes), [[&[9][..], &1.5f64.to_le_bytes(), b"\x1a\x0dbrain.Event:2"].concat()]);
    }

    #[test]
    fn a_step_is_a_summary_of_its_values() {
        let step = StepRecord {
            step: 300,
            epoch: 0,
            tokens: 1,
            loss: 2.5,
            cross_entropy: 2.25,
            divergence: None,
            features: Some(0.5),
            lr: 1e-3,
            grad_norm: 1.,
        };
        let curve = Curve { arm: "main".into(), steps: vec![step], validations: vec![] };
        let records = read(&events(&curve, 0.));
        assert_eq!(records.len(), 2);
        // Time, then step 300 as a varint, then the summary.
        assert_eq!(records[1][9..12], [0x10, 0xac, 0x02]);
        let loss = [&[0x0a, 17, 0x0a, 10][..], b"train/loss", &[0x15], &2.5f32.to_le_bytes()].concat();
        assert!(records[1].windows(loss.len()).any(|part| part == loss), "{:?}", records[1]);
        let text = String::from_utf8_lossy(&records[1]).into_owned();
        assert!(text.contains("train/features") && !text.contains("train/divergence"), "{text}");
    }
}
