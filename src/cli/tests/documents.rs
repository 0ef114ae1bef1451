//! Holds the manual, the README and the recipes against the options that exist.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;

use crate::cli::{grammar, parse};
use crate::record::{Record, RecordKind};
use crate::supervisor::Generation;

const MANUAL: &str = include_str!("../../../man/hotswap.1");
const README: &str = include_str!("../../../README.md");
const RECIPES: &str = include_str!("../../../tests/servers/README.md");

/// Long options with the defaults that are told for them, where one is.
type Options = BTreeMap<String, Option<String>>;

/// Those that clap itself makes go without saying.
const OF_CLAP: [&str; 2] = ["help", "version"];

fn options_there_are() -> Options {
    let grammar = grammar();
    let options = grammar
        .get_arguments()
        .filter(|option| option.get_long().is_some());
    options
        .map(|option| {
            let default = option.get_default_values().first();
            (
                option.get_long().unwrap().to_owned(),
                default
                    .filter(|_| option.get_action().takes_values())
                    .map(|value| value.to_str().unwrap().to_owned()),
            )
        })
        .filter(|(long, _)| !OF_CLAP.contains(&long.as_str()))
        .collect()
}

fn options_in_the_manual() -> Options {
    let (options, _) = MANUAL.split_once(".Ss Client commands").unwrap();
    let mut found = Options::new();
    for item in options.split("\n.It ").skip(1) {
        let (heading, text) = item.split_once('\n').unwrap();
        let long = heading.split(' ').find_map(|word| word.strip_prefix('-'));
        let Some(long) = long.filter(|long| !OF_CLAP.contains(long)) else {
            continue;
        };
        let default = text
            .split_once("The default is")
            .map(|(_, rest)| rest.trim_start());
        let default =
            default.map(|rest| rest.trim_start_matches(".Cm ").trim_start_matches(".Dv "));
        let default = default.map(|rest| rest.split([' ', '\n']).next().unwrap());
        let default = default.map(|word| word.trim_end_matches(['.', ';', ':', ',']).to_owned());
        found.insert(long.to_owned(), default);
    }
    found
}

/// Only an option with a fixed default has to name it; others may say in words what happens.
fn expect_the_same(there_are: &Options, told: &Options, document: &str) {
    let names = |options: &Options| options.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(there_are), names(told), "the options in {document}");
    for (option, default) in there_are.iter().filter(|(_, default)| default.is_some()) {
        assert_eq!(
            *default, told[option],
            "the default of --{option} in {document}"
        );
    }
}

#[test]
fn the_manual_has_every_option_and_its_default() {
    expect_the_same(&options_there_are(), &options_in_the_manual(), "the manual");
}

#[test]
fn the_manual_has_every_client_command_and_its_options() {
    for request in grammar().get_subcommands() {
        let name = request.get_name();
        assert!(
            MANUAL.contains(&format!("\n.Cm {name}\n")),
            "hotswap {name}"
        );
        let of_run: Vec<String> = grammar()
            .get_arguments()
            .filter_map(|option| option.get_long().map(str::to_owned))
            .collect();
        let own = request.get_arguments().filter_map(|one| one.get_long());
        for option in own.filter(|own| !of_run.iter().any(|one| one == own)) {
            assert!(
                MANUAL.contains(&format!(" Fl -{option}"))
                    || MANUAL.contains(&format!("\n.Fl -{option}")),
                "hotswap {name} --{option}"
            );
        }
    }
}

/// The literal words between two lines of the manual.
fn literals(from: &str, to: &str) -> Vec<String> {
    let (_, behind) = MANUAL.split_once(from).unwrap();
    let (text, _) = behind.split_once(to).unwrap();
    let literal = text.lines().filter_map(|line| {
        line.strip_prefix(".Li ")
            .or_else(|| line.strip_prefix(".It Li "))
    });
    let words = literal.flat_map(|line| line.split([' ', ',', '.']));
    let mut words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    words.sort();
    words
}

#[test]
fn the_manual_has_every_event_and_its_fields() {
    let mut there_are: Vec<String> = RecordKind::value_variants()
        .iter()
        .map(|kind| kind.name())
        .collect();
    let event = Record {
        pid: Some(1),
        reason: Some(String::new()),
        after: Some(Duration::ZERO),
        connections: Some(1),
        ..Record::of(RecordKind::Gone, Generation(1), "")
    };
    there_are.extend(event.fields().keys().cloned());
    // when it is written, it gets its time; for clients the program, too
    let program = [
        "program", "path", "size", "modified", "hash", "differs", "time",
    ];
    there_are.extend(program.map(str::to_owned));
    there_are.sort();
    let told = literals("\nAn event, of\n", "\nA verdict, of\n");
    assert_eq!(there_are, told);
}

#[test]
fn help_tells_the_default_of_the_manual() {
    let help = grammar().render_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (option, default) in options_there_are() {
        let Some(default) = default else { continue };
        let (_, behind) = help.split_once(&format!("--{option} <")).unwrap();
        let (_, told) = behind.split_once("[default: ").unwrap();
        assert!(
            told.starts_with(&default),
            "the default of --{option} in --help"
        );
    }
}

#[test]
fn every_command_of_the_readme_and_the_recipes_is_valid() {
    let blocks = README.split("```sh\n").skip(1);
    let lines = blocks
        .filter_map(|block| block.split("```").next())
        .flat_map(str::lines)
        .filter_map(|line| line.split(" # ").next())
        .map(str::trim_end)
        .filter(|line| line.starts_with("hotswap "));
    let in_tables = RECIPES
        .lines()
        .filter(|line| line.starts_with("| "))
        .flat_map(|line| line.split('`'));
    let commands: Vec<_> = lines
        .chain(in_tables.filter(|code| code.starts_with("hotswap ")))
        .collect();
    assert!(commands.len() > 35, "{commands:?}");
    for command in commands {
        let words = words(command);
        let read = parse(&words[1..], |_| None);
        assert!(read.is_ok(), "{command}: {read:?}");
    }
}

#[test]
fn every_option_that_the_readme_mentions_exists() {
    let options = options_there_are();
    let commands = grammar();
    let of_commands = commands
        .get_subcommands()
        .flat_map(clap::Command::get_arguments);
    let of_commands: Vec<&str> = of_commands.filter_map(clap::Arg::get_long).collect();
    let code = README.split('`').skip(1).step_by(2);
    let mentioned = code.filter_map(|code| code.strip_prefix("--"));
    for mention in mentioned {
        let long = mention.split([' ', '=']).next().unwrap();
        assert!(
            options.contains_key(long) || of_commands.contains(&long),
            "--{long}"
        );
    }
}

/// As a shell splits them, as far as the README goes: single quotes, and no substitution.
fn words(command: &str) -> Vec<std::ffi::OsString> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words.into_iter().map(Into::into).collect()
}
