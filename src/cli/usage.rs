//! The message about an invalid command line: one line, and one that says what to try.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// An invalid command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Usage {
    /// What to end with: 125 where a server was to run, 2 for the client commands, also for one that does not exist.
    pub status: u8,
    /// One line, or two if there is something to try.
    pub lines: String,
    /// The client command that was asked for the object of `--json`.
    pub object_of: Option<String>,
}

/// Why a line was not read to its end.
pub enum NotParsed {
    /// It asked for help or the version.
    Answer(String),
    Usage(String),
}

const HELP: &str = "try: hotswap --help";

/// `--ready-timeout` is HOTSWAP_READY_TIMEOUT.
pub fn variable_of(long: &str) -> String {
    format!("HOTSWAP_{}", long.to_ascii_uppercase().replace('-', "_"))
}

/// `watch` of `--watch=src`.
pub fn long_of(given: &OsStr) -> String {
    let given = given.to_string_lossy();
    let option = given.split('=').next().unwrap_or_default();
    option.trim_start_matches('-').to_owned()
}

/// clap's error, in our words.
pub fn not_parsed(error: &clap::Error) -> NotParsed {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            NotParsed::Answer(error.render().to_string())
        }
        _ => NotParsed::Usage(lines(error)),
    }
}

fn lines(error: &clap::Error) -> String {
    let option = bare(error, ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument => unknown_argument(error, &option),
        ErrorKind::InvalidSubcommand => {
            let wrong = text(error, ContextKind::InvalidSubcommand);
            format!("unknown command {wrong:?}\n{HELP}")
        }
        ErrorKind::InvalidValue => invalid_value(error, &option),
        ErrorKind::ValueValidation => wrong_value(error, &option),
        ErrorKind::TooManyValues => too_many_values(error, &option),
        ErrorKind::ArgumentConflict => {
            let prior = bare(error, ContextKind::PriorArg);
            format!("cannot use {option} together with {prior}\n{HELP}")
        }
        ErrorKind::MissingRequiredArgument => format!("{option} is missing\n{HELP}"),
        ErrorKind::InvalidUtf8 => format!("an argument is not valid UTF-8\n{HELP}"),
        _ => first_line(&error.render().to_string()),
    }
}

/// An option that is to be off must not be there.
fn too_many_values(error: &clap::Error, option: &str) -> String {
    let instead = match text(error, ContextKind::InvalidValue).as_str() {
        "0" | "false" | "no" | "off" => "to leave it out",
        _ => option,
    };
    format!("{option} takes no value\ntry: {instead}")
}

/// `--listen` out of clap's `--listen <[NAME=]ADDR>`.
fn bare(error: &clap::Error, kind: ContextKind) -> String {
    let shown = text(error, kind);
    let option = shown.split([' ', '=']).next().unwrap_or_default();
    let option = option.trim_matches(['<', '>', '[', ']', '.']);
    option.to_owned()
}

fn unknown_argument(error: &clap::Error, option: &str) -> String {
    if !option.starts_with('-') {
        let usage = text(error, ContextKind::Usage);
        let why = if usage.contains("[NAME]") {
            "only one name is allowed"
        } else {
            "no argument is allowed there"
        };
        return format!("cannot use {option:?}: {why}\n{HELP}");
    }
    let suggested = text(error, ContextKind::SuggestedArg);
    let distance = strsim::damerau_levenshtein(option, &suggested);
    // clap's guess may be far off
    let is_near = suggested.starts_with(option) || distance <= option.len() / 3;
    if suggested.is_empty() || !is_near {
        format!("unknown option {option}\n{HELP}")
    } else {
        format!("unknown option {option}\ntry: {suggested}")
    }
}

fn invalid_value(error: &clap::Error, option: &str) -> String {
    let valid = text(error, ContextKind::ValidValue);
    let wrong = text(error, ContextKind::InvalidValue);
    let problem = if wrong.is_empty() {
        format!("{option} needs a value")
    } else {
        format!("cannot use {option} {wrong:?}: unknown value")
    };
    if valid.is_empty() {
        format!("{problem}\n{HELP}")
    } else {
        format!("{problem}\ntry: one of {valid}")
    }
}

fn wrong_value(error: &clap::Error, option: &str) -> String {
    let value = text(error, ContextKind::InvalidValue);
    let Some(source) = std::error::Error::source(error) else {
        return format!("cannot use {option} {value:?}\n{HELP}");
    };
    let said = source.to_string();
    let Some((why, instead)) = said.split_once("\ntry: ") else {
        return format!("cannot use {option} {value:?}: {said}");
    };
    // a value to write, or a piece of advice
    let option_again = if instead.contains(' ') && !instead.starts_with('\'') {
        String::new()
    } else {
        format!("{option} ")
    };
    format!("cannot use {option} {value:?}: {why}\ntry: {option_again}{instead}")
}

fn text(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        Some(ContextValue::StyledStr(text)) => text.to_string(),
        _ => String::new(),
    }
}

fn first_line(rendered: &str) -> String {
    let line = rendered.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    format!("{line}\n{HELP}")
}

/// The command line alone is valid, so the invalid value came from a variable: the message names that.
pub fn blame_variable(not_parsed: NotParsed, from_variables: &[OsString]) -> NotParsed {
    let NotParsed::Usage(mut lines) = not_parsed else {
        return not_parsed;
    };
    for given in from_variables {
        let long = long_of(given);
        let variable = variable_of(&long);
        if given.to_str().is_none() {
            lines = lines.replace("an argument ", &format!("{variable} "));
        }
        lines = lines.replace(&format!("--{long} "), &format!("{variable}="));
    }
    NotParsed::Usage(lines)
}

/// What other programs call what ours calls otherwise.
const CALLED_OTHERWISE: [(&str, &str); 24] = [
    ("list", "status"),
    ("ls", "status"),
    ("ps", "status"),
    ("info", "status"),
    ("show", "status"),
    ("version", "--version"),
    ("reload", "swap"),
    ("restart", "swap"),
    ("deploy", "swap"),
    ("undo", "rollback"),
    ("quit", "stop"),
    ("kill", "stop"),
    ("log", "events"),
    ("logs", "events"),
    ("follow", "events"),
    ("tail", "events"),
    ("test", "smoke"),
    ("dev", "--dev -- ./server"),
    ("run", "-- ./server"),
    ("start", "-- ./server"),
    ("serve", "-- ./server"),
    ("server", "-- ./server"),
    ("exec", "-- ./server"),
    ("update", "upgrade"),
];

/// A letter that is wrong, missing or one too many, and two that are exchanged: a command is rarely further away than that.
const TYPING_MISTAKES: usize = 2;

/// The first word is no command of ours, and no program either: `hotswap statsu`.
pub fn unknown_command(word: &str, commands: &[&str]) -> Usage {
    let called = CALLED_OTHERWISE.iter().find(|(known, _)| *known == word);
    let nearest = || {
        let distance = |command: &str| strsim::damerau_levenshtein(word, command);
        let near = commands.iter().filter(|command| {
            // a guess that is followed must not stop a server
            let most = if **command == "stop" {
                1
            } else {
                TYPING_MISTAKES
            };
            let is_near = distance(command) <= most.min(word.len() / 2);
            is_near || (word.len() > 2 && command.starts_with(word))
        });
        near.min_by_key(|command| distance(command)).copied()
    };
    let meant = called.map(|(_, meant)| *meant).or_else(nearest);
    Usage {
        status: 2,
        lines: format!(
            "unknown command {word:?}\ntry: hotswap {}",
            meant.unwrap_or("--help")
        ),
        object_of: None,
    }
}

/// Without the dashes an option of the server's could not be told from one of hotswap's.
pub fn expect_command_behind_dashes(
    called: &str,
    arguments: &[OsString],
    command: &[OsString],
) -> Result<(), NotParsed> {
    let refuse = |why: &str| {
        Err(NotParsed::Usage(format!(
            "{why}\ntry: {called} -- ./server"
        )))
    };
    let program = match command.first() {
        None => return refuse("no command to run"),
        Some(program) if program.is_empty() => return refuse("the command is an empty word"),
        Some(program) => program,
    };
    let options = arguments.len().saturating_sub(command.len());
    if options > 0 && arguments[options - 1] == "--" {
        return Ok(());
    }
    let (options, command) = arguments.split_at(options);
    let watches = options
        .iter()
        .any(|option| option == "--watch" || option == "-w");
    if watches && command.iter().any(|word| word == "--") {
        let lines = format!(
            "{} comes before -- but is not an option\ntry: --watch '*.py' in quotes, or --watch before each file",
            quoted(program)
        );
        return Err(NotParsed::Usage(lines));
    }
    let words = [options, &["--".into()], command].concat();
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    Err(NotParsed::Usage(format!(
        "cannot tell where the command begins: there is no -- before {}\ntry: {called} {}",
        quoted(program),
        words.join(" ")
    )))
}

/// As it may be pasted into a shell, on one line.
pub fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@,+%{}[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    let word = word.replace(char::is_control, "?");
    format!("'{}'", word.replace('\'', r"'\''"))
}
