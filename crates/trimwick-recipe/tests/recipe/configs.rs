//! Every recipe under `configs/` is sound and opens with the command that runs it.

use std::fs;
use std::path::{Path, PathBuf};

use trimwick_recipe::Recipe;

fn recipes(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            recipes(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
}

#[test]
fn configs_are_sound_and_open_with_their_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    recipes(&root.join("configs"), &mut found);
    assert!(found.len() >= 4, "{found:?}");
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(first, format!("# cargo run --release -- run {shown}"));
        let recipe = Recipe::load(&path, &[]).unwrap_or_else(|faults| panic!("{faults}"));
        let again = Recipe::parse(&recipe.resolve(), "resolved.toml", &[])
            .unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(again, recipe, "{shown}");
    }
}
