//! A file of tensors through a grid.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use trimwick_formats::atomic_write_on;
use trimwick_formats::checkpoint::{Fs, RealFs};
use trimwick_formats::floats::f32_to_le_bytes;
use trimwick_formats::folder::{INDEX, ModelFolder};
use trimwick_formats::safetensors::{Dtype, NewTensor, Writer};
use trimwick_kernels::quant as kernels;
use trimwick_quant::Scheme;

use crate::files::{check_output, check_space};
use crate::layout::{Layout, Role};
use crate::packed::{pieces, write_part};
use crate::proof::prove;
use crate::proved::Proved;
use crate::report::Report;
use crate::scales::Scales;
use crate::select::select;
use crate::store::Store;
use crate::{Error, Result, metadata};

/// What is to be done to a file.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeOptions {
    /// The scheme, of which weights take the weight quantizer.
    pub scheme: Scheme,
    /// Whether to write the values that the codes stand for, as F32 under the names of the input, in the place of the
    /// codes.
    pub fake: bool,
    /// Globs over names (`*` matches dots too): quantize only what one of them matches. None of them: everything.
    pub tensors: Vec<String>,
    /// Globs over names: leave alone what one of them matches.
    pub skip: Vec<String>,
    /// Whether a file may be replaced.
    pub replace: bool,
}

impl QuantizeOptions {
    /// Everything packed into a new file.
    pub fn new(scheme: Scheme) -> Self {
        Self { scheme, fake: false, tensors: Vec::new(), skip: Vec::new(), replace: false }
    }
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Tensors of the output are written.
    Writing,
    /// Tensors of the input are compared with what was written.
    Proving,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Tensors done.
    pub done: usize,
    /// Of so many.
    pub total: usize,
}

/// Quantizes the tensors of `input`, a safetensors file, an index or a folder of them, into the file `output`.
///
/// Tensors of F64, F32, F16 or BF16 with at least two dimensions take the weight quantizer of the scheme, a row being
/// all but the first dimension; all others are copied byte for byte. The layout is that of the [crate docs](crate). One
/// tensor is in memory at a time. Before the file gets its name it is reopened, decoded and compared with the input,
/// bit for bit; `progress` is called after each tensor and may end the work.
///
/// # Errors
/// Before anything is written: what [`Error`] says of schemes, patterns, shapes and names; a group that does not divide
/// a row. While writing: [`Error::NonFinite`], [`Error::Proof`], [`Error::Stopped`], a full disk. Whatever it is,
/// nothing is left behind, and a file that was there is as it was.
pub fn quantize_file(
    input: impl AsRef<Path>,
    output: impl AsRef<Path>,
    options: &QuantizeOptions,
    progress: &mut (dyn FnMut(Progress) -> ControlFlow<()> + Send),
) -> Result<Report> {
    quantize_on(&RealFs, input.as_ref(), output.as_ref(), options, progress)
}

/// The same with the output's operations on `fs`; it is read back from the operating system.
pub(crate) fn quantize_on(
    fs: &dyn Fs,
    input: &Path,
    output: &Path,
    options: &QuantizeOptions,
    progress: &mut (dyn FnMut(Progress) -> ControlFlow<()> + Send),
) -> Result<Report> {
    let Some(spec) = options.scheme.weight else {
        return Err(Error::NoWeight { scheme: options.scheme.to_string() });
    };
    spec.check()?;
    let folder = ModelFolder::open(input)?;
    let index = input.join(INDEX);
    let read = folder.files().iter().map(|file| file.path());
    check_output(output, options.replace, read.chain([input, index.as_path()]))?;
    metadata::refuse_packed(&folder)?;
    let chosen = select(&folder, spec, options)?;
    let names = output_names(&folder, &chosen, options.fake)?;

    let meter = Meter { progress: Mutex::new(progress), done: Mutex::new(0) };
    let job = Job { folder: &folder, chosen: &chosen, fake: options.fake, meter: &meter, parts: names };
    let of_input = metadata::of_folder(&folder);
    let metadata =
        metadata::describe(of_input, &options.scheme, options.fake, chosen.keys().map(String::as_str));
    let writer = Writer::new(job.tensors(), &metadata)?;
    check_space(fs, output, writer.file_len())?;

    let report = Mutex::new(Report {
        scheme: options.scheme,
        fake: options.fake,
        tensors: Vec::new(),
        copied: 0,
        copied_bytes: 0,
        bytes_before: folder.total_bytes(),
        bytes_after: 0,
    });
    let prove =
        |path: &Path| prove(&job, path, output, &mut report.lock().unwrap_or_else(PoisonError::into_inner));
    atomic_write_on(&Proved { fs, prove: &prove }, output, |out| writer.write_to(out))?;
    Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The number of tensors of the output, no two of one name.
fn output_names(folder: &ModelFolder, chosen: &BTreeMap<String, Layout>, fake: bool) -> Result<usize> {
    let mut names: BTreeSet<String> =
        folder.names().filter(|name| fake || !chosen.contains_key(*name)).map(str::to_string).collect();
    let mut parts = names.len();
    for layout in chosen.values().filter(|_| !fake) {
        let slots = layout.slots();
        parts += slots.len();
        // A reader looks for a shape wherever there can be one.
        let shape = (!matches!(layout.store, Store::Own(_))).then(|| Role::Shape.suffix());
        let suffixes: BTreeSet<&str> = slots.iter().map(|slot| slot.suffix).chain(shape).collect();
        for suffix in suffixes {
            let part = format!("{}{suffix}", layout.name);
            if !names.insert(part.clone()) {
                return Err(Error::Taken { path: folder.path().into(), tensor: layout.name.clone(), part });
            }
        }
    }
    Ok(parts)
}

/// A caller who is told how far it is, from wherever the work is.
struct Meter<'a> {
    progress: Mutex<&'a mut (dyn FnMut(Progress) -> ControlFlow<()> + Send)>,
    done: Mutex<usize>,
}

/// Everything that writing and proving need.
pub(crate) struct Job<'a> {
    pub folder: &'a ModelFolder,
    pub chosen: &'a BTreeMap<String, Layout>,
    pub fake: bool,
    meter: &'a Meter<'a>,
    /// Tensors of the output.
    parts: usize,
}

impl<'a> Job<'a> {
    /// The tensors of the output, each of which reads the one of the input when its turn comes.
    fn tensors(&'a self) -> Vec<NewTensor<'a>> {
        let mut tensors = Vec::with_capacity(self.parts);
        for name in self.folder.names() {
            let Some(info) = self.folder.info(name) else { continue };
            match self.chosen.get(name) {
                None => tensors.push(NewTensor::stream(name, info.dtype, &info.shape, move |out| {
                    out.write_all(&self.folder.read_raw(name).map_err(Error::from)?)?;
                    self.wrote()
                })),
                Some(layout) if self.fake => {
                    tensors.push(NewTensor::stream(name, Dtype::F32, &info.shape, move |out| {
                        self.write_fake(layout, out)?;
                        self.wrote()
                    }));
                }
                Some(layout) => {
                    for slot in layout.slots() {
                        let (name, role) = (format!("{name}{}", slot.suffix), slot.role);
                        tensors.push(NewTensor::stream(name, slot.dtype, &slot.shape, move |out| {
                            self.write_part(layout, role, out)?;
                            self.wrote()
                        }));
                    }
                }
            }
        }
        tensors
    }

    /// Values and scales of a tensor.
    ///
    /// # Errors
    /// [`Error::NonFinite`]; of reading.
    pub(crate) fn read(&self, layout: &Layout) -> Result<(Vec<f32>, Scales)> {
        let values = self.folder.read_f32(&layout.name)?;
        match Scales::of(layout, &values) {
            Ok(scales) => Ok((values, scales)),
            Err(index) => Err(Error::NonFinite {
                path: self.folder.path().into(),
                tensor: layout.name.clone(),
                index,
                found: values.get(index).copied().unwrap_or(f32::NAN),
            }),
        }
    }

    fn write_part(&self, layout: &Layout, role: Role, out: &mut dyn Write) -> io::Result<()> {
        if role == Role::Shape {
            let none = Scales { scales: Vec::new(), zeros: None, global: 1. };
            return write_part(layout, role, &[], &none, out);
        }
        let (values, scales) = self.read(layout)?;
        write_part(layout, role, &values, &scales, out)
    }

    fn write_fake(&self, layout: &Layout, out: &mut dyn Write) -> io::Result<()> {
        let (values, scales) = self.read(layout)?;
        let mut y = Vec::new();
        for rows in pieces(layout) {
            let x = &values[rows.start * layout.row()..rows.end * layout.row()];
            y.resize(x.len(), 0.);
            let s = scales.rows(layout, rows);
            kernels::fake_quant(layout.spec.grid(), x, s.block, s.scales, s.zeros, &mut y);
            out.write_all(&f32_to_le_bytes(&y))?;
        }
        Ok(())
    }

    fn wrote(&self) -> io::Result<()> {
        let mut done = self.meter.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += 1;
        Ok(self.tell(Stage::Writing, *done, self.parts)?)
    }

    /// Tells the caller.
    ///
    /// # Errors
    /// [`Error::Stopped`] if that was enough.
    pub(crate) fn tell(&self, stage: Stage, done: usize, total: usize) -> Result<()> {
        let mut progress = self.meter.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match progress(Progress { stage, done, total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped),
        }
    }
}
