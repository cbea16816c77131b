//! The book: the commands that it shows run, its list of keys is the program's, its pages and links are there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{done, ran};

/// The repository.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The pages below `docs`, and the README.
fn pages() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.sort();
    pages.push(root().join("README.md"));
    pages
}

fn name(page: &Path) -> String {
    page.file_name().unwrap().to_string_lossy().into_owned()
}

/// The lines of a page with their numbers, each with what its fence is called, if it stands in one.
fn lines(text: &str) -> Vec<(usize, &str, Option<&str>)> {
    let mut fence = None;
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), fence) {
            (Some(info), None) => fence = Some(info.trim()),
            (Some(_), Some(_)) => fence = None,
            (None, _) => found.push((i + 1, line, fence)),
        }
    }
    found
}

/// A command's words as a shell has them, as long as it is asked for no more than quotes.
fn words(command: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in command.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => word.get_or_insert_with(String::new).push(c),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_with(String::new);
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None if "|&;<>$`\\*?~#(){}".contains(c) => {
                return Err(format!("{c:?} means something to a shell"));
            }
            None => word.get_or_insert_with(String::new).push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote that does not end".into());
    }
    words.extend(word);
    Ok(words)
}

/// Where the links of a page lead to within the repository, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line, fence) in lines(text) {
        if fence.is_some() {
            continue;
        }
        for rest in line.split("](").skip(1) {
            let target = rest.split([')', ' ', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number, target.to_string()));
            }
        }
    }
    found
}

#[test]
fn every_command_of_the_book_runs() {
    let mut of_start = 0;
    let mut broken = Vec::new();
    for page in pages() {
        let (name, text) = (name(&page), fs::read_to_string(&page).unwrap());
        // The commands of a page come after one another in a folder of their own.
        let dir = tempfile::tempdir().unwrap();
        for (number, line, fence) in lines(&text) {
            let Some(command) = line.strip_prefix("$ ").filter(|_| fence == Some("console")) else {
                continue;
            };
            let words = words(command).unwrap_or_else(|why| panic!("{name}:{number}: {why}: {command}"));
            let args: Vec<&str> = words.iter().map(String::as_str).collect();
            let ["trimwick", args @ ..] = &args[..] else {
                panic!("{name}:{number}: expected a command of trimwick, found {command}");
            };
            let (code, _, stderr) = ran(dir.path(), args);
            if code != 0 {
                broken.push(format!("{name}:{number}: {command}\n  ends with {code}: {stderr}"));
                break;
            }
            of_start += usize::from(name == "start.md");
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(of_start > 0, "no command in start.md");
}

/// The command that a line of a page shows, without what a shell would do with it.
fn shown<'a>(line: &'a str, fence: Option<&str>) -> Option<&'a str> {
    let code = fence.map_or(line.starts_with("    "), |fence| ["console", "sh", ""].contains(&fence));
    let line = line.trim_start().trim_start_matches("$ ");
    let command =
        line.strip_prefix("trimwick ").or(line.strip_prefix("cargo run --release -- ")).filter(|_| code)?;
    let end = [" # ", " | ", " > ", " && ", "; ", " \\"].iter().filter_map(|mark| command.find(mark)).min();
    Some(command[..end.unwrap_or(command.len())].trim_end())
}

/// The parts of commands that cannot run here, for want of a model or of time: options that there are, and keys that recipes have.
#[test]
fn every_command_that_is_shown_could_be_given() {
    let (mut seen, mut broken) = (0, Vec::new());
    for page in pages() {
        let (name, text) = (name(&page), fs::read_to_string(&page).unwrap());
        for (number, line, fence) in lines(&text) {
            let Some(command) = shown(line, fence) else { continue };
            seen += 1;
            // What a shell would put in the place of a pattern is a name.
            let words = words(&command.replace('*', "x"))
                .unwrap_or_else(|why| panic!("{name}:{number}: {why}: {command}"));
            // Options are read before help is given.
            let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
            args.push("--help");
            let (code, _, stderr) = ran(Path::new("."), &args);
            if code != 0 {
                broken.push(format!("{name}:{number}: {command}: {stderr}"));
            }
            let recipe = words.get(1).map(|path| root().join(path)).filter(|path| path.is_file());
            if let (Some("run" | "check" | "preview"), Some(path)) =
                (words.first().map(String::as_str), recipe)
            {
                let values: Vec<String> =
                    words[2..].iter().filter(|word| word.contains('=')).cloned().collect();
                if let Err(faults) = trimwick_recipe::Recipe::load(&path, &values) {
                    broken.push(format!("{name}:{number}: {command}: {faults}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(seen > 60, "{seen} commands");
}

#[test]
fn the_book_s_keys_are_the_program_s() {
    let book = fs::read_to_string(root().join("docs/recipe_keys.md")).unwrap();
    let keys = done(Path::new("."), &["recipes", "keys"]);
    let head = "# Recipe keys\n\n<!-- generated by `trimwick recipes keys` -->\n\n";
    let printed = format!("{head}{keys}");
    let differs = book.lines().zip(printed.lines()).position(|(a, b)| a != b);
    assert!(book == printed, "docs/recipe_keys.md is not what the program prints, from line {differs:?} on");
}

#[test]
fn every_page_is_in_the_list_and_every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut listed = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (number, target) in links(&text) {
            if !page.parent().unwrap().join(&target).exists() {
                broken.push(format!("{}:{number}: there is no {target}", name(&page)));
            }
            if name(&page) == "SUMMARY.md" {
                listed.push(target);
            }
        }
    }
    for page in pages() {
        let name = name(&page);
        if name != "SUMMARY.md" && name != "README.md" && !listed.contains(&name) {
            broken.push(format!("SUMMARY.md: {name} is not in the list"));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn words_are_those_of_a_shell() {
    let split = |text: &str| words(text).unwrap();
    assert_eq!(split("trimwick  run a.toml"), ["trimwick", "run", "a.toml"]);
    assert_eq!(
        split(r#"run 'export.targets=["gguf"]' --prompt "a b" ''"#),
        ["run", "export.targets=[\"gguf\"]", "--prompt", "a b", ""]
    );
    assert!(words("run | head").is_err() && words("run 'a").is_err());
}
