//! The metrics file: one JSON object per line, a pure function of the run. Times are reported, never written, so that
//! a resumed run's file equals an uninterrupted one's byte for byte.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The metrics line of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// Times that all windows had been visited before the last window of this step.
    pub epoch: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// What was minimized: the mean over micro-batches.
    pub loss: f64,
    /// Cross-entropy in nats per token.
    pub cross_entropy: f64,
    /// Divergence from the teacher in nats per token, if there is a teacher.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub divergence: Option<f64>,
    /// Mean relative error of the blocks' outputs, where it is part of the loss.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub features: Option<f64>,
    /// Learning rate, before the factors of parameter groups.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// The metrics line of a validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationRecord {
    /// Steps done.
    pub step: u64,
    /// Mean loss in nats per scored token.
    pub eval_loss: f64,
    /// e to the loss.
    pub eval_perplexity: f64,
    /// Tokens of a window.
    pub eval_context: usize,
    /// Tokens scored.
    pub eval_scored: usize,
}

/// The lines so far, and the file that they go to.
pub(crate) struct Metrics {
    text: String,
    file: Option<(PathBuf, File)>,
}

impl Metrics {
    /// Starts or continues a metrics file: it holds `text` afterwards, whatever it held.
    pub(crate) fn start(path: Option<&Path>, text: String) -> Result<Self> {
        let open = |path: &Path| {
            trimwick_formats::atomic_write(path, text.as_bytes())?;
            let file = OpenOptions::new().append(true).open(path).map_err(Error::io(path, "open"))?;
            Ok::<_, Error>((path.to_path_buf(), file))
        };
        let file = path.map(open).transpose()?;
        Ok(Self { text, file })
    }

    /// Appends a line.
    pub(crate) fn record(&mut self, record: &impl Serialize) -> Result<()> {
        let path = self.file.as_ref().map_or(Path::new("metrics"), |(path, _)| path);
        let mut line =
            serde_json::to_string(record).map_err(|e| Error::io(path, "encode a line")(e.into()))?;
        line.push('\n');
        self.text.push_str(&line);
        if let Some((path, file)) = &mut self.file {
            // One write per line: a reader never sees half of one.
            file.write_all(line.as_bytes()).map_err(Error::io(path, "append to"))?;
        }
        Ok(())
    }

    /// All lines.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}
