//! The files a recipe names, checked against a folder.

use std::fs;
use std::path::Path;

use trimwick_recipe::{Recipe, TextSource};

fn recipe(text: &str) -> Recipe {
    Recipe::parse(text, "r.toml", &[]).unwrap_or_else(|faults| panic!("{faults}"))
}

fn answer(recipe: &Recipe, root: &Path) -> String {
    match recipe.check_files() {
        Ok(()) => "sound".to_string(),
        Err(faults) => faults.to_string().replace(&*root.to_string_lossy(), "ROOT"),
    }
}

#[test]
fn every_file_that_is_missing_empty_or_something_else_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for folder in ["model", "weights", "texts", "blank"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    for (file, text) in [
        ("model/config.json", "{}"),
        ("weights/model.safetensors", "x"),
        ("m.gguf", "GGUF"),
        ("texts/b.txt", "b"),
        ("texts/a.txt", "a"),
        ("texts/c.jsonl", "{}"),
        ("blank/a.txt", ""),
        ("blank/b.txt", " \n\t"),
    ] {
        fs::write(root.join(file), text).unwrap();
    }
    let at = root.to_string_lossy();
    let text = |source: &str, train: &str| {
        format!(
            "[model]\nsource = \"{at}/{source}\"\n[data]\ntrain = {train}\neval = \"builtin:sotu-eval\"\n[train]\nsteps = 1\nlr = 1e-4\n"
        )
    };
    let files = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|pattern| format!("\"{at}/{pattern}\"")).collect();
        format!("{{ files = [\n{},\n] }}", patterns.join(",\n"))
    };
    for (source, train, expected) in [
        ("model", files(&["texts/*.txt"]), "sound"),
        ("m.gguf", files(&["blank/*.txt", "texts/a.txt"]), "sound"),
        (
            "mdoel",
            files(&["texts/*"]),
            "r.toml:2: model.source: expected the folder of a model, found nothing at ROOT/mdoel; did you mean ROOT/model?",
        ),
        (
            "x.gguf",
            files(&["texts/*"]),
            "r.toml:2: model.source: expected a .gguf file, found nothing at ROOT/x.gguf; did you mean ROOT/m.gguf?",
        ),
        (
            "m.gguf/",
            files(&["texts/*"]),
            "r.toml:2: model.source: expected the folder of a model, found a file on the way to ROOT/m.gguf/; give another path",
        ),
        (
            "weights",
            files(&["texts/*"]),
            "r.toml:2: model.source: expected a folder with config.json, found none in ROOT/weights; ROOT/weights holds model.safetensors",
        ),
        (
            "model",
            files(&["texts/*.md", "texts", "txts/*"]),
            "r.toml:5: data.train.files.0: expected a file that matches, found none for \"ROOT/texts/*.md\"; ROOT/texts holds a.txt, b.txt, c.jsonl\n\
             r.toml:6: data.train.files.1: expected a file, found the folder \"ROOT/texts\"; write for example ROOT/texts/*.txt\n\
             r.toml:7: data.train.files.2: expected a file that matches, found none for \"ROOT/txts/*\"; did you mean ROOT/texts?",
        ),
        (
            "model",
            files(&["blank/*"]),
            "r.toml:4: data.train: expected files with text, found white space or nothing in all 2; name files that hold some",
        ),
        (
            "model",
            format!("\"{at}/blank/a.txt\""),
            "r.toml:4: data.train: expected files with text, found white space or nothing in ROOT/blank/a.txt; name files that hold some",
        ),
        (
            "model",
            format!("\"{at}/no.txt\""),
            "r.toml:4: data.train: expected a file that matches, found none for \"ROOT/no.txt\"; ROOT holds blank, m.gguf, model, texts, weights",
        ),
    ] {
        assert_eq!(answer(&recipe(&text(source, &train)), root), expected, "{source} {train}");
    }
}

#[test]
fn patterns_expand_in_their_order_sorted_and_each_file_once() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_string_lossy();
    for name in ["2.txt", "10.txt", "1.txt", "x.md"] {
        fs::write(dir.path().join(name), "text").unwrap();
    }
    let recipe = recipe(&format!(
        "[model]\nsource = \"builtin:tiny-llama\"\n[data]\neval = {{ files = [\"{at}/x.*\", \"{at}/*.txt\", \"{at}/1*\"] }}\n\
         [prune]\npattern = \"2:4\"\nmethod = \"magnitude\"\n"
    ));
    let TextSource::Files(set) = &recipe.data.eval else { panic!("files") };
    let names: Vec<_> = set
        .expand()
        .unwrap()
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["x.md", "1.txt", "10.txt", "2.txt"]);
}

#[test]
fn a_hub_id_needs_a_build_that_knows_the_hub() {
    let recipe = recipe(
        "[model]\nsource = \"no-such-org/model\"\n[data]\neval = \"builtin:sotu-eval\"\n\
         [prune]\npattern = \"2:4\"\nmethod = \"magnitude\"\n",
    );
    let expected = if cfg!(feature = "hub") {
        "sound"
    } else {
        "r.toml:2: model.source: expected a folder or a .gguf file, found the hub id no-such-org/model, in a build without \
         hub; build with the feature hub, or give a folder"
    };
    assert_eq!(answer(&recipe, Path::new("/nowhere")), expected);
}

#[test]
fn a_tokenizer_is_looked_for_in_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_string_lossy();
    let recipe = recipe(&format!(
        "[model.config]\nhidden_size = 32\nintermediate_size = 64\nnum_hidden_layers = 1\nnum_attention_heads = 2\n\
         [model.tokenizer]\nsource = \"{at}\"\n[data]\ntrain = \"builtin:sotu-train\"\neval = \"builtin:sotu-eval\"\n\
         [train]\nsteps = 1\nlr = 1e-3\n"
    ));
    assert_eq!(
        answer(&recipe, dir.path()),
        "r.toml:7: model.tokenizer.source: expected a tokenizer.json, found nothing at ROOT/tokenizer.json; ROOT holds nothing"
    );
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert_eq!(answer(&recipe, dir.path()), "sound");
}
