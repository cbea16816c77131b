//! The command line: verbs, arguments, help.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use trimwick_models::KvFormat;

use crate::error::EXIT_CODES;

/// What a model may be given as.
const MODEL: &str = "A folder with config.json and safetensors, a .gguf file, a hub id such as \
                     HuggingFaceTB/SmolLM2-135M (with @REVISION if need be), or builtin:tiny-llama";

/// What stands below a verb's arguments: how it is used, and what the exit codes mean.
fn after(examples: &[&str]) -> String {
    let title = if examples.len() == 1 { "Example" } else { "Examples" };
    let lines: String = examples.iter().map(|example| format!("  {example}\n")).collect();
    format!("{title}:\n{lines}\n{EXIT_CODES}")
}

/// Makes Llama-family models smaller: prunes them 2:4, trains the loss back, proves the mask on what it writes.
#[derive(Debug, Parser)]
#[command(name = "trimwick", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a recipe: prune, train, compare, write, prove. The same command continues a run that was stopped.
    #[command(after_help = after(&["trimwick run configs/quickstart.toml train.steps=20 --out runs/try"]))]
    Run(RunArgs),
    /// Check a recipe, its files and the layers it names, and say what it would do; no weight is read.
    #[command(after_help = after(&["trimwick check my.toml model.source=./SmolLM2-135M"]))]
    Check(CheckArgs),
    /// Show the text that a recipe trains on as its model sees it, and which of it is trained.
    #[command(after_help = after(&["trimwick preview my.toml --windows 4", "trimwick preview my.toml --windows 1 --tokens"]))]
    Preview(PreviewArgs),
    /// Measure a model: its perplexity on texts, its answers to multiple-choice questions, alone or beside another's.
    #[command(after_help = after(&["trimwick eval ./SmolLM2-135M --text held_out.txt --context 512", "trimwick eval model.gguf --against ./SmolLM2-135M --tasks arc=ARC-Easy.jsonl"]))]
    Eval(EvalArgs),
    /// Time prompts and generation of one model or several, beside what the memory of the machine allows.
    #[command(after_help = after(&["trimwick bench model.gguf --f32 --prompt 256", "trimwick bench runs/my/exports/model.gguf --into runs/my"]))]
    Bench(BenchArgs),
    /// Continue a prompt.
    #[command(after_help = after(&[r#"trimwick generate builtin:tiny-llama --prompt "My fellow Americans" --max-tokens 40"#]))]
    Generate(GenerateArgs),
    /// Show what is in a model file or folder.
    #[command(after_help = after(&["trimwick inspect --zeros runs/my/model"]))]
    Inspect(InspectArgs),
    /// Put the weights of a safetensors file on a quantization grid, and prove it on the written bytes.
    #[command(after_help = after(&["trimwick quantize in.safetensors out.safetensors --scheme int4-g64"]))]
    Quantize(QuantizeArgs),
    /// Read an export back, every tensor decoded, and compare it bit for bit with the model that it was made from.
    #[command(after_help = after(&["trimwick verify runs/my/exports/model.gguf --against runs/my"]))]
    Verify(VerifyArgs),
    /// Write what finished runs found as a page for a browser: one run, or several side by side.
    #[command(after_help = after(&["trimwick report runs/a runs/b --out both.html"]))]
    Report(ReportArgs),
    /// The recipes that come with the program.
    #[command(after_help = after(&["trimwick recipes cp quickstart my.toml"]))]
    Recipes(RecipesArgs),
    /// Print the completions of a shell, for its startup file.
    #[command(after_help = after(&["trimwick completions bash"]))]
    Completions {
        /// The shell.
        #[arg(value_name = "SHELL", value_enum)]
        shell: Shell,
    },
    /// Print the manual page, or write one for each verb.
    #[command(after_help = after(&["trimwick man", "trimwick man --out man1"]))]
    Man(ManArgs),
}

/// `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder for the pages.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The recipe, a .toml file.
    #[arg(value_name = "RECIPE")]
    pub(crate) recipe: PathBuf,
    /// Values put over the recipe's, such as train.steps=200; an empty value takes the key out.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Folder of checkpoints and results [default: runs/NAME, NAME being the recipe's].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print summary.json in the place of the table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Show the run on a live screen, with keys to pause, save and stop it.
    #[arg(long)]
    pub(crate) dashboard: bool,
}

/// `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The recipe, a .toml file.
    #[arg(value_name = "RECIPE")]
    pub(crate) recipe: PathBuf,
    /// Values put over the recipe's, such as train.steps=200; an empty value takes the key out.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Multiply matrices for two seconds, and say how long the run will take at that rate.
    #[arg(long)]
    pub(crate) time: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `preview`.
#[derive(Debug, Args)]
pub(crate) struct PreviewArgs {
    /// The recipe, a .toml file.
    #[arg(value_name = "RECIPE")]
    pub(crate) recipe: PathBuf,
    /// Values put over the recipe's, such as data.context=256; an empty value takes the key out.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Windows to show, in the order of training.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least::<1>)]
    pub(crate) windows: usize,
    /// Show each token on a line of its own: place, id, whether it is trained, how the vocabulary spells it.
    #[arg(long)]
    pub(crate) tokens: bool,
    /// Print JSON.
    #[arg(long, conflicts_with = "tokens")]
    pub(crate) json: bool,
}

/// What questions may be given as.
const TASKS: &str = "Files of multiple-choice questions, scored by log-likelihood. LAYOUT: choice (lines such as \
                     {\"query\": \"…\", \"choices\": [\"…\", \"…\"], \"gold\": 0}), hellaswag, arc, piqa or mmlu, as published, or samples, as lm-evaluation-harness logs them. \
                     FILE: a path, or builtin:sotu-choice";

/// `eval`.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[arg(value_name = "MODEL", help = MODEL)]
    pub(crate) model: String,
    /// Files of text, joined by a blank line; the built-in model has a text of its own.
    #[arg(long, value_name = "FILE", num_args = 1.., action = ArgAction::Append)]
    pub(crate) text: Vec<PathBuf>,
    /// Tokens of a window; in each, all but the first are scored [default: 512, or the model's longest if that is less].
    #[arg(long, value_name = "TOKENS", value_parser = at_least::<2>)]
    pub(crate) context: Option<usize>,
    /// Tokens from one window to the next: in windows that overlap, only tokens that none before has scored are scored, so
    /// that each has a longer past [default: windows side by side].
    #[arg(long, value_name = "TOKENS", value_parser = at_least::<1>)]
    pub(crate) stride: Option<usize>,
    /// Score the windows of the first N tokens [default: of all].
    #[arg(long, value_name = "N", value_parser = at_least::<2>)]
    pub(crate) tokens: Option<usize>,
    /// How the files hold text [default: jsonl if all end in .jsonl, text if none does].
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// The field of each line's JSON object that holds the text; only with jsonl [default: text].
    #[arg(long, value_name = "NAME")]
    pub(crate) field: Option<String>,
    /// Text between two documents; \n and \t are understood [default: a blank line].
    #[arg(long, value_name = "TEXT")]
    pub(crate) separator: Option<String>,
    #[arg(long, value_name = "LAYOUT=FILE", num_args = 1.., action = ArgAction::Append, help = TASKS)]
    pub(crate) tasks: Vec<String>,
    /// Ask the first N questions of each file of --tasks [default: all].
    #[arg(long, value_name = "N", value_parser = at_least::<1>)]
    pub(crate) limit: Option<usize>,
    /// Measure this model on the same too, and test whether the two differ.
    #[arg(long, value_name = "MODEL2")]
    pub(crate) against: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How files hold text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A file is a document.
    Text,
    /// A line is a JSON object that holds a document; or a row of a .parquet file.
    Jsonl,
}

/// `generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[arg(value_name = "MODEL", help = MODEL)]
    pub(crate) model: String,
    /// The text to continue.
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// Tokens to generate at most; fewer if the model ends the text.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least::<1>)]
    pub(crate) max_tokens: usize,
    /// Flattens (above 1) or sharpens (below 1) the model's choice; 0 always takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub(crate) temperature: f64,
    /// Choose among the likeliest tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub(crate) top_p: f64,
    /// Selects the random numbers: the same seed gives the same text.
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub(crate) seed: u64,
    /// How keys and values of the past are kept.
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    pub(crate) kv: Kv,
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kv {
    /// As they are.
    F32,
    /// Half precision.
    F16,
    /// int8 with a scale for each position and head.
    Int8,
}

impl Kv {
    pub(crate) fn format(self) -> KvFormat {
        match self {
            Self::F32 => KvFormat::F32,
            Self::F16 => KvFormat::F16,
            Self::Int8 => KvFormat::Int8,
        }
    }
}

/// `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[arg(value_name = "MODEL", num_args = 1.., required = true, help = MODEL)]
    pub(crate) models: Vec<String>,
    /// Measure the first model with its weights decoded to f32 too.
    #[arg(long)]
    pub(crate) f32: bool,
    /// Tokens of the prompt.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least::<2>)]
    pub(crate) prompt: usize,
    /// Tokens to generate behind it.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least::<1>)]
    pub(crate) tokens: usize,
    /// Rounds, in each of which every model has a turn; the best of each counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least::<1>)]
    pub(crate) rounds: usize,
    /// How keys and values of the past are kept.
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    pub(crate) kv: Kv,
    /// Put the result into the folder of a finished run, as a table of its report.
    #[arg(long, value_name = "RUN")]
    pub(crate) into: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A folder, a .safetensors file or index, or a .gguf file.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Read the weights too: the share of zeros of each tensor, and whether it is 2:4 sparse.
    #[arg(long)]
    pub(crate) zeros: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a scheme may be given as.
const SCHEME: &str = "A preset (int8, int4-g32, int4-g64, int4-g128, fp8, nvfp4, mxfp4, mxfp6-e2m3, mxfp6-e3m2, \
                      mxfp8, mxint8, q8_0, q4_0 and others), of which a file takes the part for weights, or parts \
                      such as 'weight int4 g48 bf16'";

/// `quantize`.
#[derive(Debug, Args)]
pub(crate) struct QuantizeArgs {
    /// A .safetensors file or index, or a folder of them.
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The new .safetensors file.
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    #[arg(long, value_name = "SCHEME", help = SCHEME)]
    pub(crate) scheme: String,
    /// Write the values that the codes stand for, as F32 under the names of IN, in the place of codes and scales.
    #[arg(long)]
    pub(crate) fake: bool,
    /// Quantize only tensors whose name matches one of these; * matches dots too [default: all floats of two or more
    /// dimensions].
    #[arg(long, value_name = "GLOB", num_args = 1.., action = ArgAction::Append)]
    pub(crate) tensors: Vec<String>,
    /// Copy tensors whose name matches one of these, such as '{lm_head,*embed*}.weight'.
    #[arg(long, value_name = "GLOB", num_args = 1.., action = ArgAction::Append)]
    pub(crate) skip: Vec<String>,
    /// Overwrite a file that is there.
    #[arg(long)]
    pub(crate) force: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A folder (plain, compressed-tensors, ModelOpt, GPTQ, AWQ, 2:4 container) or a .gguf file.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// The folder of a run, or another export of the same model: every value must be the same.
    #[arg(long, value_name = "RUN_OR_FOLDER")]
    pub(crate) against: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Folders of finished runs.
    #[arg(value_name = "RUN", required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// The page [default: report.html in the run's folder, or here for several].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Write the runs' metrics as event files of TensorBoard in the place of a page; the runs may still be going on.
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub(crate) tensorboard: Option<PathBuf>,
    /// Replace a page or a picture at --out.
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the files written as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `recipes`.
#[derive(Debug, Args)]
pub(crate) struct RecipesArgs {
    /// What to do [default: ls].
    #[command(subcommand)]
    pub(crate) verb: Option<RecipesVerb>,
}

/// What can be done with recipes.
#[derive(Debug, Subcommand)]
pub(crate) enum RecipesVerb {
    /// List them.
    #[command(after_help = after(&["trimwick recipes ls"]))]
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Copy one into a file, to change it and run it.
    #[command(after_help = after(&["trimwick recipes cp smollm2/sparse24_recover my.toml"]))]
    Cp {
        /// Its name in the list.
        #[arg(value_name = "NAME")]
        name: String,
        /// The new file, or the folder for it [default: the recipe's file name, here].
        #[arg(value_name = "DEST")]
        dest: Option<PathBuf>,
        /// Overwrite a file that is there.
        #[arg(long)]
        force: bool,
    },
    /// Print every key that a recipe can have: what it takes, its default, what it is for.
    #[command(after_help = after(&["trimwick recipes keys"]))]
    Keys {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number >= LEAST => Ok(number),
        _ => Err(format!("expected a whole number of at least {LEAST}")),
    }
}

#[cfg(test)]
mod tests;
