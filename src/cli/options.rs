//! The options of `hotswap -- COMMAND`: names, defaults, and which go together.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use nix::libc::c_int;
use nix::unistd::{Gid, Uid};

use super::usage;
use super::values;
use crate::address::{AddressPattern, Listen};
use crate::ready::ReadyMode;

/// The options of `hotswap [OPTIONS] -- COMMAND`. `None` means not given; the field says what applies then.
#[derive(Clone, Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // a switch on the line is a bool here
#[allow(rustdoc::broken_intra_doc_links)] // the help is plain text, where [::1] is an address
pub struct RunArgs {
    /// Listen on this address, and give every generation a socket for it; may be repeated
    ///
    /// 8080 and :8080 mean all addresses of this host. Others: 127.0.0.1:8080, [::1]:8080, localhost:8080, unix:/path,
    /// unix:@abstract, udp:127.0.0.1:53. Port 0 picks a free port, and the log says which.
    #[arg(short, long, value_name = "[NAME=]ADDR", help_heading = "Listeners")]
    pub listen: Vec<Listen>,

    /// The accept backlog of every listener
    #[arg(long, value_name = "N", default_value = "4096", value_parser = values::count, help_heading = "Listeners")]
    pub backlog: u32,

    /// The mode of the unix sockets of --listen, in octal [default: set by the umask]
    #[arg(long, value_name = "MODE", value_parser = values::mode, help_heading = "Listeners")]
    pub socket_mode: Option<u32>,

    /// The owner of those sockets
    #[arg(long, value_name = "U[:G]", value_parser = values::owner, help_heading = "Listeners")]
    pub socket_owner: Option<(Option<Uid>, Option<Gid>)>,

    /// Use one socket for all generations, instead of one for each
    #[arg(long, help_heading = "Listeners")]
    pub share: bool,

    /// Whether to capture the addresses that the server binds, so that swaps keep them
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = CaptureMode::Auto, help_heading = "Listeners")]
    pub capture: CaptureMode,

    /// Leave this port, address, path, or glob to the server; may be repeated
    ///
    /// It is not captured, and not kept across a swap.
    #[arg(long, value_name = "ADDR", help_heading = "Listeners")]
    pub capture_not: Vec<AddressPattern>,

    /// Let a new version leave out this port, address, path, or glob; may be repeated
    ///
    /// Without it, a new version must accept connections wherever the serving one does.
    #[arg(long, value_name = "ADDR", help_heading = "Swapping")]
    pub optional: Vec<AddressPattern>,

    /// How a new generation shows that it accepts connections
    ///
    /// auto, notify, fd:N, http:PATH, http://HOST/PATH, tcp, exec:COMMAND, after:D
    #[arg(long, value_name = "MODE", default_value = "auto")]
    #[arg(help_heading = "Swapping")]
    pub ready: ReadyMode,

    /// Abort if the new generation is not ready in time [default: 30s, or three times the longest start so far]
    #[arg(long, value_name = "D", default_value = "30s", hide_default_value = true, value_parser = values::patience)]
    #[arg(help_heading = "Swapping")]
    pub ready_timeout: Duration,

    /// How long a new generation must serve before the old one is drained; if it fails, roll back to the old one
    #[arg(long, value_name = "D", default_value = "0s", value_parser = values::duration, help_heading = "Swapping")]
    pub min_ready: Duration,

    /// The signal that asks the server to stop [default: TERM, or another for some known servers]
    #[arg(long, value_name = "SIG", value_parser = values::signal, help_heading = "Swapping")]
    pub stop_signal: Option<c_int>,

    /// How long requests in flight may take before the stop signal
    #[arg(long, value_name = "D", default_value = "10s", value_parser = values::duration, help_heading = "Swapping")]
    pub quiesce: Duration,

    /// Kill an old generation that still runs this long after the cut-over
    #[arg(long, value_name = "D", default_value = "30s", value_parser = values::duration, help_heading = "Swapping")]
    pub drain_timeout: Duration,

    #[arg(skip)]
    pub given: Given,

    /// Which options come from variables instead of the line.
    #[arg(skip)]
    pub from_variables: Vec<String>,

    /// Kill the oldest generation when more than N are draining
    #[arg(long, value_name = "N", default_value = "4", value_parser = values::count, help_heading = "Swapping")]
    pub max_draining: u32,

    /// Whether the new generation starts before the old one stops
    #[arg(long, value_enum, value_name = "ORDER", default_value_t = Order::StartFirst, help_heading = "Swapping")]
    pub order: Order,

    /// When to restart a server that has died [default: on-failure; under --dev, when a file changes]
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Restart::OnFailure, hide_default_value = true)]
    #[arg(help_heading = "Swapping")]
    pub restart: Restart,

    /// Also swap when this file, tree, or glob changes; may be repeated
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Watching")]
    pub watch: Vec<PathBuf>,

    /// Skip these files in trees, as a line of .gitignore would; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = values::glob, help_heading = "Watching")]
    pub ignore: Vec<String>,

    /// In trees, watch only files with these extensions, such as py,html
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = values::ending, help_heading = "Watching")]
    pub ext: Vec<String>,

    /// Do not watch the program file
    #[arg(long, help_heading = "Watching")]
    pub no_watch: bool,

    /// How long a file must be unchanged before a write in place counts
    #[arg(long, value_name = "D", default_value = "50ms", value_parser = values::duration, help_heading = "Watching")]
    pub debounce: Duration,

    /// How often to check for changes on file systems without events; 0 means never
    #[arg(long, value_name = "D", default_value = "1s", value_parser = values::duration, help_heading = "Watching")]
    pub poll: Duration,

    /// Run this shell command before each swap; if it fails, abort the swap
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString, help_heading = "Watching")]
    pub before_swap: Option<String>,

    /// How long --before-swap may take
    #[arg(long, value_name = "D", default_value = "10m", value_parser = values::patience, help_heading = "Watching")]
    pub before_swap_timeout: Duration,

    /// Run this shell command when a generation is serving, aborted, rolled back, dead, or gone
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString, help_heading = "Watching")]
    pub on_event: Option<String>,

    /// For local development: --drain-timeout 2s, --quiesce 200ms, and after a failure, wait for a change
    #[arg(long, help_heading = "Watching")]
    pub dev: bool,

    /// Under --dev, make clients wait for the next version once a file changes or a swap is requested
    #[arg(long, help_heading = "Watching")]
    pub hold: bool,

    /// Under --dev, clear the terminal before each swap
    #[arg(long, help_heading = "Watching")]
    pub clear: bool,

    /// After a crash, never fall back to the last program that served
    #[arg(long, help_heading = "Swapping")]
    pub no_fallback: bool,

    /// Do not start the process that stands in for hotswap if hotswap is killed
    #[arg(long, help_heading = "Instance")]
    pub no_keeper: bool,

    /// The name of this instance [default: the program's name]
    #[arg(long, value_name = "NAME", value_parser = values::name, help_heading = "Instance")]
    pub name: Option<String>,

    /// Where to put the control socket [default: NAME.sock in the runtime directory]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, help_heading = "Instance")]
    pub control: Option<PathBuf>,

    /// A file of variables for the server; watched, and read again for every generation
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Instance")]
    pub env_file: Option<PathBuf>,

    /// Run the server as this user
    #[arg(long, value_name = "U", value_parser = values::user, value_hint = ValueHint::Username, help_heading = "Instance")]
    pub user: Option<String>,

    /// Run the server as this group
    #[arg(long, value_name = "G", value_parser = values::group, help_heading = "Instance")]
    pub group: Option<String>,

    /// Run the server in this directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Instance")]
    pub chdir: Option<PathBuf>,

    /// What the server's stdin is
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Stdin::Null, help_heading = "Output")]
    pub stdin: Stdin,

    /// Where the server's stderr goes [default: pass; on a terminal, inherit]
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Output")]
    pub stderr: Option<Stderr>,

    /// The format of log lines
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text, help_heading = "Output")]
    pub log_format: LogFormat,

    /// Log only what went wrong
    #[arg(short, long, overrides_with = "verbose", help_heading = "Output")]
    pub quiet: bool,

    /// Log more
    #[arg(short, long, overrides_with = "quiet", help_heading = "Output")]
    pub verbose: bool,

    /// The server and its arguments, in which {fd}, {fd:NAME}, {addr}, {port}, and {generation} are replaced
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CaptureMode {
    /// Capture them if possible
    Auto,
    /// Capture them, or exit with 125
    Always,
    /// Leave them to the server
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// The old one keeps serving until the new one is ready
    StartFirst,
    /// For servers that must not run twice at once; clients wait in between
    StopFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Restart {
    /// Regardless of its exit status
    Always,
    /// Unless it exited with 0
    OnFailure,
    /// hotswap exits as the server did
    Never,
    /// What `--dev` does by itself: wait until a file changes.
    #[value(skip)]
    OnChange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stdin {
    /// /dev/null
    Null,
    /// A pipe that stays open and stays empty, for tools that exit when their stdin ends
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stderr {
    /// Through hotswap, which keeps the last lines for the verdict
    Pass,
    /// To hotswap's own stderr
    Inherit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// What the user has asked for, though it may be the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    pub quiesce: bool,
    pub ready_timeout: bool,
}

impl RunArgs {
    /// How long requests in flight may take where less time is usual than at a swap.
    pub fn quiesce_at(&self, usual: Duration) -> Duration {
        if self.given.quiesce {
            self.quiesce
        } else {
            self.quiesce.min(usual)
        }
    }

    /// An option as the user has written it, up to its value: `--watch `, or `HOTSWAP_WATCH=`.
    pub fn as_written(&self, long: &str) -> String {
        if self.from_variables.iter().any(|option| option == long) {
            format!("{}=", usage::variable_of(long))
        } else {
            format!("--{long} ")
        }
    }

    /// What `--dev` changes, where nothing was said.
    pub(super) fn set_dev_defaults(&mut self, is_unsaid: impl Fn(&str) -> bool) {
        if is_unsaid("drain_timeout") {
            self.drain_timeout = Duration::from_secs(2);
        }
        if is_unsaid("quiesce") {
            self.quiesce = Duration::from_millis(200);
        }
        if is_unsaid("restart") {
            self.restart = Restart::OnChange;
        }
    }

    /// What clients call this instance, before a number is put behind a name in use.
    pub fn instance(&self) -> String {
        let program = self.command.first().map(Path::new);
        let program = program
            .and_then(Path::file_name)
            .unwrap_or(OsStr::new("server"));
        let fitting = |name: &str| values::name(name).ok();
        self.name
            .clone()
            .or_else(|| program.to_str().and_then(fitting))
            .unwrap_or_else(|| "server".to_owned())
    }

    /// What the server's stderr is: on a terminal the server writes to it itself, so that it may use colors.
    pub fn stderr(&self) -> Stderr {
        self.stderr.unwrap_or(if stderr().is_terminal() {
            Stderr::Inherit
        } else {
            Stderr::Pass
        })
    }
}
