//! The command line by itself.

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_an_example_that_can_be_given() {
    let command = Cli::command();
    let verbs = command.get_subcommands().map(|verb| (verb.get_name().to_string(), verb));
    let nested = command.get_subcommands().flat_map(|verb| {
        verb.get_subcommands().map(move |own| (format!("{} {}", verb.get_name(), own.get_name()), own))
    });
    for (name, verb) in verbs.chain(nested) {
        let help = verb.get_after_help().map(|help| help.to_string()).unwrap_or_default();
        let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  trimwick ")).collect();
        assert!(!examples.is_empty(), "{name}: {help}");
        for example in examples {
            // A word in quotes may hold spaces.
            let mut words = vec!["trimwick".to_string()];
            for (i, part) in example.split('"').enumerate() {
                match i % 2 {
                    0 => words.extend(part.split_whitespace().map(str::to_string)),
                    _ => words.push(part.into()),
                }
            }
            assert!(example.starts_with(&name), "{name}: {example}");
            Cli::try_parse_from(&words).unwrap_or_else(|e| panic!("{example}: {e}"));
        }
    }
}
