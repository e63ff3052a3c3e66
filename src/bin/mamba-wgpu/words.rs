//! That what is said about the command line is true of it: every command in the documents can be given, and --help has one style.

use super::Cli;
use clap::{Command, CommandFactory, Parser};
use std::fs;
use std::path::{Path, PathBuf};

/// The documents that tell users what to type.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    all.push(root.join("README.md"));
    all
}

/// A shell's words, double quotes being the only ones, up to a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in format!("{line} ").chars() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted && word.is_empty() => break,
            ' ' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    words
}

/// The commands of a document: lines that begin with the program, or with cargo's way to run it.
fn commands(text: &str) -> Vec<Vec<String>> {
    let cargo = |line: &str| {
        let (flags, rest) = line.strip_prefix("cargo run ")?.split_once(" -- ")?;
        (!flags.contains("--example")).then(|| words(rest))
    };
    // Not `mamba-wgpu = { path = ... }` of a Cargo.toml.
    let program = |line: &str| line.strip_prefix("mamba-wgpu ").filter(|rest| !rest.starts_with('=')).map(words);
    text.lines().map(str::trim_start).filter_map(|line| program(line).or_else(|| cargo(line))).collect()
}

#[test]
fn every_command_in_the_documents_can_be_given() {
    assert_eq!(words("eval --text \"a # b\" --x  # y"), ["eval", "--text", "a # b", "--x"]);
    let mut count = 0;
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for command in commands(&text) {
            if command[0] == "app" && Cli::command().find_subcommand("app").is_none() {
                continue; // built without the window
            }
            count += 1;
            if let Err(error) = Cli::try_parse_from(std::iter::once("mamba-wgpu".to_owned()).chain(command.clone())) {
                panic!("{}: {command:?}: {error}", path.display());
            }
        }
    }
    assert!(count > 25, "only {count} commands were found");
    assert!(Cli::try_parse_from(["mamba-wgpu", "eval", "--model", "run", "--lengths", "4"]).is_err());
}

/// Says what is amiss with a help text: of a flag or a command, a phrase that begins with a capital and ends without a full stop.
fn amiss(help: &str) -> Option<&'static str> {
    match (help.chars().next(), help.chars().last()) {
        (Some(first), Some(last)) if first.is_uppercase() || first.is_ascii_digit() => {
            (last == '.').then_some("it ends in a full stop")
        }
        (Some(_), _)
            if help.starts_with(['`', '-']) || help.split([' ', ':']).next().is_some_and(|name| name.contains('-')) =>
        {
            None
        }
        (Some(_), _) => Some("it begins in lower case"),
        _ => Some("it is empty"),
    }
}

fn check(command: &Command, name: &str) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    assert_eq!(amiss(&about), None, "{name}: {about:?}");
    for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        assert_eq!(amiss(&help), None, "{name} {}: {help:?}", argument.get_id());
    }
    for sub in command.get_subcommands() {
        check(sub, &format!("{name} {}", sub.get_name()));
    }
}

#[test]
fn help_is_there_for_everything_and_in_one_style() {
    assert!(amiss("How many.").is_some() && amiss("how many").is_some() && amiss("").is_some());
    check(&Cli::command(), "mamba-wgpu");
}
