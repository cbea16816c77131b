//! `trimwick recipes`.

use std::fs;

use crate::support::{done, json, ran};

#[test]
fn the_list_names_every_recipe_and_what_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let list = done(dir.path(), &["recipes", "ls"]);
    for expected in
        ["quickstart", "smollm2/sparse24_recover", "llama2/7b_sparse24_recover", "Prunes Llama-2-7B 2:4"]
    {
        assert!(list.contains(expected), "no {expected:?} in\n{list}");
    }
    let value = json(dir.path(), &["recipes", "ls", "--json"]);
    let named =
        value.as_array().unwrap().iter().filter(|r| list.contains(r["name"].as_str().unwrap())).count();
    assert_eq!(named, list.lines().count() - 1, "{value}");
    let keys = done(dir.path(), &["recipes", "keys"]);
    assert!(keys.contains("`[prune]`") && keys.contains("`save_every`"), "{keys}");
}

#[test]
fn a_copy_is_the_repository_s_recipe_and_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let original = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/smollm2/sparse24_recover.toml");
    let original = fs::read(original).unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    for (args, path) in [
        (&["smollm2/sparse24_recover"][..], "sparse24_recover.toml"),
        (&["configs/smollm2/sparse24_recover.toml", "mine.toml"], "mine.toml"),
        (&["smollm2/sparse24_recover.toml", "sub"], "sub/sparse24_recover.toml"),
    ] {
        let args = [&["recipes", "cp"], args].concat();
        done(dir.path(), &args);
        let path = dir.path().join(path);
        assert_eq!(fs::read(&path).unwrap(), original, "{args:?}");

        fs::write(&path, "mine").unwrap();
        let (code, _, stderr) = ran(dir.path(), &args);
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
        assert!(stderr.contains("a file is there already"), "{stderr}");
        assert_eq!(fs::read(&path).unwrap(), b"mine", "{args:?}");

        done(dir.path(), &[&args[..], &["--force"]].concat());
        assert_eq!(fs::read(&path).unwrap(), original, "{args:?}");
    }
}
