//! The variables that stand in for options: HOTSWAP_READY_TIMEOUT for `--ready-timeout`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

use super::usage::{self, NotParsed};
use super::values;

/// The options that the environment asks for, and the line does not, as if they had been written first on it.
pub fn as_options(
    grammar: &Command,
    matches: &ArgMatches,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, NotParsed> {
    let mut options = Vec::new();
    for argument in grammar.get_arguments() {
        let Some(long) = argument.get_long() else {
            continue;
        };
        if matches!(long, "help" | "version") {
            continue;
        }
        let name = usage::variable_of(long);
        let on_the_line =
            matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine);
        let Some(value) = variable(&name).filter(|value| !on_the_line && !value.is_empty()) else {
            continue;
        };
        if !argument.get_action().takes_values() {
            if values::switch(&value).map_err(|why| {
                NotParsed::Usage(format!("cannot use {name}={}: {why}", value.display()))
            })? {
                options.push(format!("--{long}").into());
            }
        } else if matches!(argument.get_action(), ArgAction::Append) {
            let words = value.as_bytes().split(u8::is_ascii_whitespace);
            options.extend(
                words
                    .filter(|word| !word.is_empty())
                    .map(|word| option(long, word)),
            );
        } else {
            options.push(option(long, value.as_bytes()));
        }
    }
    Ok(options)
}

fn option(long: &str, value: &[u8]) -> OsString {
    OsString::from_vec([b"--", long.as_bytes(), b"=", value].concat())
}
