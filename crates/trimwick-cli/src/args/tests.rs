//! The command line by itself.

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_an_example_that_can_be_given() {
    for verb in Cli::command().get_subcommands() {
        let help = verb.get_after_help().map(|help| help.to_string()).unwrap_or_default();
        let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  trimwick ")).collect();
        assert!(!examples.is_empty(), "{}: {help}", verb.get_name());
        for example in examples {
            // A word in quotes may hold spaces.
            let mut words = vec!["trimwick".to_string()];
            for (i, part) in example.split('"').enumerate() {
                match i % 2 {
                    0 => words.extend(part.split_whitespace().map(str::to_string)),
                    _ => words.push(part.into()),
                }
            }
            assert_eq!(words[1], verb.get_name());
            Cli::try_parse_from(&words).unwrap_or_else(|e| panic!("{example}: {e}"));
        }
    }
}
