//! Parses and checks the command line.
//!
//! It opens, starts and prints nothing; [`parse`] takes the arguments and a way to look up variables, so that every command
//! line can be tested.

pub mod options;
pub mod smoke;
pub mod usage;
pub mod values;

mod checks;
mod completions;
#[cfg(test)]
mod tests;
mod variables;

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::address::AddressPattern;
use crate::program;
use options::RunArgs;
use smoke::Trial;
use usage::{NotParsed, Usage};

/// The variable that tells a server's own children which instance they run under.
const INSTANCE: &str = "HOTSWAP_INSTANCE";

/// What one command line asks for.
#[derive(Debug)]
pub enum Invocation {
    Run(Box<RunArgs>),
    Client(ClientCommand),
    Smoke(Box<Trial>),
    /// Help, version or completions: for stdout, status 0.
    Print(String),
    /// The manual, in mdoc(7).
    Manual(String),
}

/// Run your server, and replace it with a new version without losing a client request.
#[derive(Debug, Parser)]
#[command(
    name = "hotswap",
    version,
    disable_help_flag = true,
    after_help = "hotswap swaps on SIGHUP, on `hotswap swap`, and when the program file changes. Every long option \
                  above can be set by a variable, such as HOTSWAP_READY_TIMEOUT; if it may be repeated, separate its \
                  values with spaces. For more, run `hotswap man`.",
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    max_term_width = 110,
    override_usage = "hotswap [OPTIONS] -- COMMAND [ARGS]...\n       \
                      hotswap swap|rollback|status|history|stop|events|upgrade [NAME] [OPTIONS]\n       \
                      hotswap smoke [OPTIONS] -- COMMAND [ARGS]...\n       \
                      hotswap completions SHELL | hotswap man"
)]
struct CommandLine {
    /// Print this help
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// What the first word asks for.
#[derive(Debug, Subcommand)]
enum Verb {
    #[command(flatten)]
    Client(ClientCommand),
    /// Test whether a server can be swapped: send it requests during swaps
    ///
    /// Runs hotswap with all other options, sends requests from new, keep-alive, slow, and hesitating clients during the
    /// swaps, and exits with 1 if a request or a swap fails.
    #[command(override_usage = "hotswap smoke [OPTIONS] -- COMMAND [ARGS]...")]
    Smoke(Box<Trial>),
    /// Print completions for a shell
    Completions {
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// What is asked of a running hotswap.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Swap, and wait for the verdict
    Swap {
        #[command(flatten)]
        target: InstanceArg,
        /// Stop waiting after D: the swap continues, and the exit status is 124
        #[arg(long, value_name = "D", value_parser = values::duration)]
        timeout: Option<Duration>,
        /// Wait until the old generation is gone as well
        #[arg(long)]
        drained: bool,
        /// For this swap, let the new version leave out this port, address, path, or glob; may be repeated
        #[arg(long, value_name = "ADDR")]
        without: Vec<AddressPattern>,
        /// Do not wait for READY=1, even if an earlier version sent it
        #[arg(long)]
        forget_ready: bool,
        /// Swap every instance of this user
        #[arg(long, conflicts_with = "name")]
        all: bool,
        /// Print the verdict as one JSON object
        #[arg(long)]
        json: bool,
        /// Start the new version, wait until it is ready, then discard it
        #[arg(long, conflicts_with = "drained")]
        check: bool,
    },
    /// Swap to the program that served before
    Rollback {
        #[command(flatten)]
        target: InstanceArg,
        /// Stop waiting after D: the swap continues, and the exit status is 124
        #[arg(long, value_name = "D", value_parser = values::duration)]
        timeout: Option<Duration>,
        /// Print the verdict as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the last 50 verdicts, newest first
    History {
        #[command(flatten)]
        target: InstanceArg,
        /// Print the verdicts as a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show generations and listeners; --json adds counters
    #[command(mut_arg("name", |name| name.help("The instance, or the path of its control socket [default: all]")))]
    Status {
        #[command(flatten)]
        target: InstanceArg,
        /// Print JSON: an object if NAME is given, otherwise an array
        #[arg(long)]
        json: bool,
        /// Repeat every second
        #[arg(long)]
        watch: bool,
    },
    /// Finish the requests in flight and stop
    Stop {
        #[command(flatten)]
        target: InstanceArg,
        /// Stop waiting after D: the stop continues, and the exit status is 124
        #[arg(long, value_name = "D", value_parser = values::duration)]
        timeout: Option<Duration>,
        /// Print the outcome as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show events as they happen
    Events {
        #[command(flatten)]
        target: InstanceArg,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Replace the running hotswap with the installed version
    Upgrade {
        #[command(flatten)]
        target: InstanceArg,
    },
}

#[derive(Debug, Args)]
pub struct InstanceArg {
    /// The instance, or the path of its control socket; may be left out if only one is running
    #[arg(value_name = "NAME", value_parser = values::instance)]
    pub name: Option<String>,
}

impl ClientCommand {
    pub fn target(&mut self) -> &mut InstanceArg {
        match self {
            Self::Swap { target, .. }
            | Self::Rollback { target, .. }
            | Self::History { target, .. }
            | Self::Status { target, .. }
            | Self::Stop { target, .. }
            | Self::Events { target, .. }
            | Self::Upgrade { target } => target,
        }
    }
}

impl InstanceArg {
    /// Without a name it is the hotswap that runs us, if one does.
    fn name_our_own(&mut self, instance: Option<OsString>) {
        let ours = instance.and_then(|name| name.into_string().ok());
        self.name = self.name.take().or(ours).filter(|name| !name.is_empty());
    }
}

/// Reads the arguments behind the program's own name. `variable` looks a name up in the environment.
///
/// # Errors
/// An invalid command line, with the exit status that this form of the command has for it.
pub fn parse(
    arguments: &[OsString],
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Invocation, Usage> {
    let is_request = arguments.first().is_some_and(|first| is_request(first));
    if let Some(word) = arguments.first().and_then(|first| first.to_str())
        && !is_request
        && is_no_program(word, variable("PATH").as_deref())
    {
        let grammar = grammar();
        let commands: Vec<&str> = grammar.get_subcommands().map(Command::get_name).collect();
        return Err(usage::unknown_command(word, &commands));
    }
    let read = if is_request {
        read(arguments).and_then(|(line, _)| request(line, arguments, variable(INSTANCE)))
    } else {
        run(arguments, variable)
    };
    read.or_else(|not_parsed| match not_parsed {
        NotParsed::Answer(text) => Ok(Invocation::Print(text)),
        NotParsed::Usage(lines) => Err(Usage {
            status: if is_request { 2 } else { 125 },
            lines,
            object_of: object_of(arguments),
        }),
    })
}

/// The command that answers with one object about what came of it, if that is asked for.
fn object_of(arguments: &[OsString]) -> Option<String> {
    let command = arguments.first()?.to_str()?;
    let has_object = matches!(command, "swap" | "rollback" | "stop");
    let is_asked = has_object && arguments.iter().any(|word| word == "--json");
    is_asked.then(|| command.to_owned())
}

fn is_request(first: &OsStr) -> bool {
    first == "help" || grammar().find_subcommand(first).is_some()
}

/// A single word that nothing can be run by.
fn is_no_program(word: &str, path: Option<&OsStr>) -> bool {
    let is_word = !word.starts_with('-') && !word.contains(['/', '.', ' ']) && !word.is_empty();
    is_word && program::find(OsStr::new(word), None, path).is_err()
}

fn grammar() -> Command {
    <CommandLine as clap::CommandFactory>::command()
}

fn read(arguments: &[OsString]) -> Result<(CommandLine, ArgMatches), NotParsed> {
    let program = OsString::from("hotswap");
    let matches = grammar()
        .try_get_matches_from(std::iter::once(&program).chain(arguments))
        .map_err(|error| usage::not_parsed(&error))?;
    let line =
        CommandLine::from_arg_matches(&matches).map_err(|error| usage::not_parsed(&error))?;
    Ok((line, matches))
}

fn run(
    arguments: &[OsString],
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Invocation, NotParsed> {
    let (line, matches) = read(arguments)?;
    usage::expect_command_behind_dashes("hotswap", arguments, &line.run.command)?;

    let from_variables = variables::as_options(&grammar(), &matches, variable)?;
    let (line, matches) = read(&[&from_variables, arguments].concat())
        .map_err(|not_parsed| usage::blame_variable(not_parsed, &from_variables))?;
    let mut run = line.run;
    if run.dev {
        run.set_dev_defaults(|option| {
            matches.value_source(option) == Some(ValueSource::DefaultValue)
        });
    }
    run.given = options::Given {
        quiesce: matches.value_source("quiesce") != Some(ValueSource::DefaultValue),
        ready_timeout: matches.value_source("ready_timeout") != Some(ValueSource::DefaultValue),
    };
    let from_variables = from_variables.iter();
    run.from_variables = from_variables.map(|given| usage::long_of(given)).collect();
    run.check().map_err(NotParsed::Usage)?;
    Ok(Invocation::Run(Box::new(run)))
}

fn request(
    line: CommandLine,
    arguments: &[OsString],
    instance: Option<OsString>,
) -> Result<Invocation, NotParsed> {
    Ok(match line.verb {
        None => return Err(NotParsed::Usage("no command to run".into())),
        Some(Verb::Client(mut command)) => {
            command.target().name_our_own(instance);
            Invocation::Client(command)
        }
        Some(Verb::Smoke(smoke)) => Invocation::Smoke(Box::new(
            smoke.with_options(arguments.get(1..).unwrap_or_default())?,
        )),
        Some(Verb::Completions { shell }) => Invocation::Print(completions::script(shell)),
        Some(Verb::Man) => Invocation::Manual(include_str!("../man/hotswap.1").into()),
    })
}
