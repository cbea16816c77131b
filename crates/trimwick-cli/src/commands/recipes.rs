//! `trimwick recipes`: the repository's recipes, compiled in.
//!
//! `configs` in this crate is a link to the repository's folder, so that a packaged crate holds the files themselves.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::print;
use crate::args::{RecipesArgs, RecipesVerb};
use crate::error::{BadInput, DONE, bad_input};
use crate::progress::line;
use crate::table::{Side, Table};
use crate::text::{plain, plain_json, quoted};

/// Every recipe: its path in the repository's `configs` without `.toml`, and its text.
const RECIPES: &[(&str, &str)] = &[
    ("quickstart", include_str!("../../configs/quickstart.toml")),
    ("ptq/quickstart_w4a8", include_str!("../../configs/ptq/quickstart_w4a8.toml")),
    ("qat/quickstart_int4", include_str!("../../configs/qat/quickstart_int4.toml")),
    ("qat/quickstart_nvfp4", include_str!("../../configs/qat/quickstart_nvfp4.toml")),
    ("llama2/7b_qat_int4_g128", include_str!("../../configs/llama2/7b_qat_int4_g128.toml")),
    ("llama2/7b_sparse24_recover", include_str!("../../configs/llama2/7b_sparse24_recover.toml")),
    ("llama2/7b_streamed", include_str!("../../configs/llama2/7b_streamed.toml")),
    ("pretrain/tiny_llama", include_str!("../../configs/pretrain/tiny_llama.toml")),
    ("smollm2/ptq_int4_awq", include_str!("../../configs/smollm2/ptq_int4_awq.toml")),
    ("smollm2/ptq_int4_gptq", include_str!("../../configs/smollm2/ptq_int4_gptq.toml")),
    ("smollm2/ptq_int8_smoothquant", include_str!("../../configs/smollm2/ptq_int8_smoothquant.toml")),
    ("smollm2/ptq_mixed5", include_str!("../../configs/smollm2/ptq_mixed5.toml")),
    ("smollm2/ptq_nvfp4", include_str!("../../configs/smollm2/ptq_nvfp4.toml")),
    ("smollm2/qat_int4_g32", include_str!("../../configs/smollm2/qat_int4_g32.toml")),
    ("smollm2/qat_nvfp4", include_str!("../../configs/smollm2/qat_nvfp4.toml")),
    ("smollm2/qat_w4a8", include_str!("../../configs/smollm2/qat_w4a8.toml")),
    ("smollm2/sparse24_int4", include_str!("../../configs/smollm2/sparse24_int4.toml")),
    ("smollm2/sparse24_recover", include_str!("../../configs/smollm2/sparse24_recover.toml")),
];

/// Lists, copies or explains recipes.
///
/// # Errors
/// An unknown name; a file that is there already, or cannot be written.
pub(super) fn recipes(args: &RecipesArgs) -> Result<u8> {
    match &args.verb {
        None | Some(RecipesVerb::Ls { json: false }) => print(&list())?,
        Some(RecipesVerb::Ls { json: true }) => {
            let all = RECIPES.iter().map(|(name, text)| json!({ "name": name, "purpose": purpose(text) }));
            print(&(plain_json(&all.collect()) + "\n"))?;
        }
        Some(RecipesVerb::Cp { name, dest, force }) => copy(name, dest.as_deref(), *force)?,
        Some(RecipesVerb::Keys { json: false }) => print(&trimwick_recipe::reference())?,
        Some(RecipesVerb::Keys { json: true }) => print(&(plain_json(&trimwick_recipe::keys()) + "\n"))?,
    }
    Ok(DONE)
}

fn list() -> String {
    let mut table = Table::new([("recipe", Side::Left), ("what it does", Side::Left)]);
    for (name, text) in RECIPES {
        table.row([name.to_string(), purpose(text)]);
    }
    table.to_string()
}

/// The first sentence after the launch command that a recipe opens with.
fn purpose(text: &str) -> String {
    let comment = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
    let words: Vec<&str> =
        comment.skip_while(|line| !line.is_empty()).filter(|line| !line.is_empty()).collect();
    let words = words.join(" ");
    words.split_once(". ").map_or(words.as_str(), |(first, _)| first).trim_end_matches('.').to_string()
}

fn copy(name: &str, dest: Option<&Path>, force: bool) -> Result<()> {
    let wanted = name.strip_prefix("configs/").unwrap_or(name);
    let wanted = wanted.strip_suffix(".toml").unwrap_or(wanted);
    let Some((name, text)) = RECIPES.iter().find(|(name, _)| *name == wanted) else {
        let known = RECIPES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        return Err(bad_input("recipes cp", format!("one of {known}"), format!("\"{}\"", plain(name))));
    };
    let path = destination(name, dest);
    if path.exists() && !force {
        let text = format!("{}: a file is there already; give another name, or --force", path.display());
        return Err(BadInput(text).into());
    }
    trimwick_formats::atomic_write(&path, text.as_bytes())?;
    let run = quoted(&path.to_string_lossy());
    line(&format!("wrote {}; change it, then: trimwick run {run}", plain(&path.to_string_lossy())));
    Ok(())
}

/// The file itself, or the recipe's own file name in a folder.
fn destination(name: &str, dest: Option<&Path>) -> PathBuf {
    let file = format!("{}.toml", name.rsplit('/').next().unwrap_or(name));
    match dest {
        None => file.into(),
        Some(dest) if dest.is_dir() => dest.join(file),
        Some(dest) => dest.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(folder: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                read(&path, &format!("{prefix}{name}/"), found);
            } else if let Some(stem) = name.strip_suffix(".toml") {
                found.insert(format!("{prefix}{stem}"), std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn every_recipe_of_the_repository_is_compiled_in() {
        let mut found = BTreeMap::new();
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("configs"), "", &mut found);
        let compiled: BTreeMap<String, String> =
            RECIPES.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
        assert_eq!(compiled.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
        assert_eq!(compiled, found);
    }

    #[test]
    fn every_recipe_says_what_it_does() {
        for (name, text) in RECIPES {
            let purpose = purpose(text);
            assert!((10..120).contains(&purpose.len()), "{name}: {purpose:?}");
            let opening = format!("# cargo run --release -- run configs/{name}.toml\n");
            assert!(text.starts_with(&opening), "{name} does not open with its launch command");
        }
    }
}
