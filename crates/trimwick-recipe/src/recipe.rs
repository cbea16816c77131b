//! The recipe as a whole: read, overridden, checked, all faults at once.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::checked::blockwise::{self, BlockwiseSpec};
use crate::checked::calibration::{self, CalibrationSpec};
use crate::checked::compare::{self, CompareSpec};
use crate::checked::cross::{Report, Sections};
use crate::checked::data::{self, DataSpec};
use crate::checked::distill::{self, DistillSpec};
use crate::checked::export::{self, ExportSpec};
use crate::checked::lora::{self, LoraSpec};
use crate::checked::model::{self, ModelSpec};
use crate::checked::prune::{self, PruneSpec};
use crate::checked::quantize;
use crate::checked::quantize_spec::QuantizeSpec;
use crate::checked::train::{self, TrainSpec};
use crate::error::{Fault, FaultKind, Faults, Place, Plain};
use crate::overrides;
use crate::raw::{
    Count, Key, Places, Section, SectionSpec, Sink, Slot, Sub, Table, Text, nearest, parse_document,
};
use crate::resolve::Writer;

/// The largest recipe that is read, in bytes. Recipes are written by hand; this is a hundred times the longest here.
const LARGEST: u64 = 1 << 18;

static NAME: Key<Text> = Key::optional(
    "name",
    Text {
        what: "a name of 1 to 100 letters, digits, '.', '_' and '-' that does not start with '.'",
        allowed: is_name,
    },
    "\"quickstart\"",
    "the file's name without .toml",
    "Names the run.",
);
static SEED: Key<Count> = Key::default(
    "seed",
    Count { min: 0, max: Count::LARGEST },
    "42",
    "The seed of everything random. The same recipe and seed give the same bytes.",
);
static OUT: Key<Text> = Key::optional(
    "out",
    Text::path("a folder"),
    "\"runs/quickstart\"",
    "runs/NAME",
    "The folder of the run's checkpoints and results.",
)
.known_as(&["output", "output_dir", "out_dir"]);
static MODEL: Key<Sub> = Key::required(
    "model",
    Sub(&model::SPEC),
    "[model] with source = \"builtin:tiny-llama\"",
    "The model to start from.",
);
static DATA: Key<Sub> = Key::required(
    "data",
    Sub(&data::SPEC),
    "[data] with eval = \"builtin:sotu-eval\"",
    "The text to train and measure on.",
);
static CALIBRATION: Key<Sub> = Key::optional(
    "calibration",
    Sub(&calibration::SPEC),
    "[calibration]",
    "its defaults, where something calibrates",
    "The windows that pruning methods, passes and static inputs look at.",
);
static PRUNE: Key<Sub> = Key::optional(
    "prune",
    Sub(&prune::SPEC),
    "[prune]",
    "nothing is pruned",
    "What is pruned, how and when.",
);
static QUANTIZE: Key<Sub> = Key::optional(
    "quantize",
    Sub(&quantize::SPEC),
    "[quantize]",
    "nothing is quantized",
    "Which layers compute on a grid, in training and after.",
)
.known_as(&["quant", "quantization", "qat"]);
static BLOCKWISE: Key<Sub> = Key::optional(
    "blockwise",
    Sub(&blockwise::SPEC),
    "[blockwise]",
    "blocks are not trained one by one",
    "Train each pruned or quantized block against its dense twin, before [train].",
)
.known_as(&["block_wise", "blocks", "layerwise"]);
static LORA: Key<Sub> = Key::optional(
    "lora",
    Sub(&lora::SPEC),
    "[lora]",
    "whole weights are trained",
    "Low-rank adapters in the place of whole weights.",
)
.known_as(&["peft", "adapter"]);
static TRAIN: Key<Sub> =
    Key::optional("train", Sub(&train::SPEC), "[train]", "nothing is trained", "How the model is trained.");
static DISTILL: Key<Sub> = Key::optional(
    "distill",
    Sub(&distill::SPEC),
    "[distill]",
    "training looks at the text alone",
    "Learn from the dense model too.",
);
static COMPARE: Key<Sub> = Key::optional(
    "compare",
    Sub(&compare::SPEC),
    "[compare]",
    "its defaults",
    "What the result is compared with.",
);
static EXPORT: Key<Sub> =
    Key::optional("export", Sub(&export::SPEC), "[export]", "its defaults", "How the model is written.");

/// The declaration of the whole recipe.
pub(crate) static SPEC: SectionSpec = SectionSpec {
    keys: &[
        &NAME,
        &OUT,
        &SEED,
        &MODEL,
        &DATA,
        &CALIBRATION,
        &PRUNE,
        &QUANTIZE,
        &TRAIN,
        &BLOCKWISE,
        &LORA,
        &DISTILL,
        &COMPARE,
        &EXPORT,
    ],
    foreign: &[],
};

/// A checked recipe: every value in range, every default filled in.
///
/// Paths and file patterns are relative to the current directory. Files, and the layers of the model, are checked
/// by [`Recipe::check_files`] and [`Recipe::check_layers`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// Names the run: 1 to 100 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The seed of everything random that has none of its own.
    pub seed: u64,
    /// The folder of the run.
    pub out: PathBuf,
    /// The model to start from.
    pub model: ModelSpec,
    /// Whether one block of the model is in memory at a time; then nothing is trained end to end.
    pub stream: bool,
    /// The texts.
    pub data: DataSpec,
    /// The calibration windows; given exactly where pruning or quantizing looks at activations.
    pub calibration: Option<CalibrationSpec>,
    /// What is pruned, if anything.
    pub prune: Option<PruneSpec>,
    /// Which layers compute on a grid, if any.
    pub quantize: Option<QuantizeSpec>,
    /// How each block is trained against its dense twin, if it is; only beside `prune` or `quantize`.
    pub blockwise: Option<BlockwiseSpec>,
    /// How the model is trained, if it is.
    pub train: Option<TrainSpec>,
    /// Adapters in the place of whole weights; only beside `train`.
    pub lora: Option<LoraSpec>,
    /// Distillation from the dense twin; only beside `prune` or `quantize`, and `train`.
    pub distill: Option<DistillSpec>,
    /// What the result is compared with.
    pub compare: CompareSpec,
    /// How the model is written.
    pub export: ExportSpec,
    /// Where the keys were written, for faults that later checks find.
    #[serde(skip)]
    pub(crate) places: Places,
}

fn is_name(text: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=100).contains(&text.len()) && text.chars().all(sound) && !text.starts_with('.')
}

impl Recipe {
    /// Reads and checks a recipe file, with `overrides` of the form `key.path=value` put over it.
    ///
    /// # Errors
    ///
    /// All faults of the text, its values and the overrides at once; for a file that cannot be read or is not TOML,
    /// only that.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Recipe, Faults> {
        let origin = path.to_string_lossy();
        let unreadable = |found: String, advice: String| {
            let place = Place::File { file: Arc::from(&*origin) };
            Faults::from(Fault { place, key: String::new(), kind: FaultKind::Unreadable { found, advice } })
        };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
            .map_err(|error| unreadable(error.to_string(), advice(path)))?;
        if bytes.len() as u64 > LARGEST {
            let found = format!("a file of more than {LARGEST} bytes");
            return Err(unreadable(found, "give the recipe, not a model or a text".to_string()));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            unreadable(format!("bytes that are not UTF-8 at offset {at}"), "save it as UTF-8".to_string())
        })?;
        Recipe::parse(&text, &origin, overrides)
    }

    /// Checks a recipe's text. `origin` names it in faults, and where it has no `name`, its file name is used.
    ///
    /// # Errors
    ///
    /// As [`Recipe::load`].
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Recipe, Faults> {
        let file: Arc<str> = Arc::from(origin);
        let mut faults = Vec::new();
        let Some(mut tree) = parse_document(text, &file, &mut faults) else {
            return Err(Faults::sorted(faults));
        };
        overrides::apply(&mut tree, overrides, &mut faults);
        let places = Places::new(file.clone(), &tree);
        let sink = Sink::new(faults);
        let recipe = read(&tree, &file, places, &sink);
        Faults::check(sink.into_faults())?;
        recipe.ok_or_else(|| {
            // A section that gave neither a value nor a fault; naming it beats a panic.
            let kind = FaultKind::Unreadable {
                found: "an incomplete recipe".into(),
                advice: "report this recipe".into(),
            };
            Faults::from(Fault { place: Place::File { file }, key: String::new(), kind })
        })
    }

    /// A fault about a key of this recipe, at the line or the override where the key was written.
    pub fn fault(&self, key: &str, kind: FaultKind) -> Fault {
        Fault { place: self.places.of(key), key: key.to_string(), kind }
    }

    pub(crate) fn write_name(&self, out: &mut Writer) {
        out.put(&NAME, &self.name);
        out.put(&OUT, self.out.as_path());
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.put(&SEED, self.seed);
        self.model.write(self.stream, out);
        self.data.write(out);
        if let Some(calibration) = &self.calibration {
            calibration.write(out);
        }
        if let Some(prune) = &self.prune {
            prune.write(out);
        }
        if let Some(quantize) = &self.quantize {
            quantize.write(out);
        }
        if let Some(train) = &self.train {
            train.write(out);
        }
        if let Some(blockwise) = &self.blockwise {
            blockwise.write(out);
        }
        if let Some(lora) = &self.lora {
            lora.write(out);
        }
        if let Some(distill) = &self.distill {
            distill.write(out);
        }
        self.compare.write(out);
        self.export.write(out);
    }
}

/// What to do about a file that cannot be read: its neighbour with the closest name.
fn advice(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wanted = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".toml") && *name != wanted)
        .take(1000)
        .collect();
    match nearest(&wanted, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {}?", Plain(&folder.join(near).to_string_lossy())),
        None => "give the path of a recipe, a .toml file; `trimwick recipes` lists those that can be copied"
            .to_string(),
    }
}

/// Reads every section, then checks them against each other. `None` only after a fault.
fn read(tree: &Table, file: &Arc<str>, places: Places, sink: &Sink) -> Option<Recipe> {
    let root = Section::root(&SPEC, tree, Place::File { file: file.clone() }, sink);
    let name = root.maybe(&NAME).or(default_name(file));
    let out = root.maybe(&OUT);
    let seed = root.get(&SEED);
    let required = |key: &'static Key<Sub>| match root.sub(key) {
        Slot::Absent => {
            root.missing(key, format!("the section [{}]", key.name));
            None
        }
        section => section.given(),
    };
    let model = required(&MODEL).and_then(model::read);
    let data = required(&DATA).and_then(data::read);
    let prune = root.sub(&PRUNE).and_then(prune::read);
    let quantize = root.sub(&QUANTIZE).and_then(quantize::read);
    let blockwise = root.sub(&BLOCKWISE).and_then(blockwise::read);
    let lora = root.sub(&LORA).and_then(lora::read);
    let train = root.sub(&TRAIN).and_then(|section| train::read(section, seed));
    let distill = root.sub(&DISTILL).and_then(distill::read);
    let calibration = root.sub_or_empty(&CALIBRATION).and_then(|section| calibration::read(section, seed));
    let arms = match root.sub_or_empty(&COMPARE) {
        Some(section) => compare::read(section),
        None => Slot::Faulty,
    };
    let export = root.sub_or_empty(&EXPORT).and_then(|section| export::read(section, quantize.present()));
    root.finish();

    let stream = model.as_ref().is_some_and(|(_, stream)| *stream);
    let mut model = model.map(|(model, _)| model);
    if let (Some(ModelSpec::Pretrain(pretrain)), Some(data)) = (&mut model, &data) {
        pretrain.complete(data.context);
    }
    let sections = Sections {
        model: model.as_ref(),
        stream,
        data: data.as_ref(),
        calibration: calibration.as_ref(),
        prune: prune.as_ref(),
        quantize: quantize.as_ref(),
        blockwise: blockwise.as_ref(),
        train: train.as_ref(),
        lora: lora.as_ref(),
        distill: distill.as_ref(),
        arms: arms.as_ref(),
        export: export.as_ref(),
    };
    sections.check(&Report { sink, places: &places });
    let compare = sections.compare();

    let name = name?;
    let prune = prune.sound()?;
    let quantize = quantize.sound()?;
    let calibrates = prune.as_ref().is_some_and(|prune| prune.method.calibrates())
        || quantize.as_ref().is_some_and(QuantizeSpec::calibrates);
    Some(Recipe {
        out: out.sound()?.map_or_else(|| Path::new("runs").join(&name), PathBuf::from),
        name,
        seed: seed?,
        model: model?,
        stream,
        data: data?,
        calibration: Some(calibration?).filter(|_| calibrates),
        prune,
        quantize,
        blockwise: blockwise.sound()?,
        train: train.sound()?,
        lora: lora.sound()?,
        distill: distill.sound()?,
        compare: compare?,
        export: export?,
        places,
    })
}

/// The file's name without its extension, with what a name cannot hold replaced.
fn default_name(file: &str) -> String {
    let stem =
        Path::new(file).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let sound = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = stem.trim_start_matches('.').chars().map(sound).take(100).collect();
    if name.is_empty() { "recipe".to_string() } else { name }
}
