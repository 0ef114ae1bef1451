//! Opens the rooms, in the order that signals and threads require.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::time::TimeSpec;

use super::World;
use super::addresses::CountingAddresses;
use super::adopt::Claimed;
use super::build::Build;
use super::captures::CaptureSetting;
use super::keys::Keys;
use super::status::StatusData;
use super::store::Passed;
use super::upkeep::Upkeep;
use super::waivers::{SaidReady, Waivers};
use super::working_directory::WorkingDirectory;
use crate::capture::filter::Stops;
use crate::cli::options::{self, RunArgs};
use crate::cli::values;
use crate::control::Control;
use crate::control::name;
use crate::handoff::Incoming;
use crate::listener::{ListenerContext, SocketOptions};
use crate::polled::{Alarm, Polled};
use crate::ready::ReadyMode;
use crate::record::{Record, RecordKind, format_duration};
use crate::server::ServerConfig;
use crate::signals::{SignalRequest, Signals};
use crate::stub::credentials::Credentials;
use crate::stub::{oom_score, open_files};
use crate::supervisor::{Policy, RestartPolicy, SavedState, Time};
use crate::sys::clock::Pulse;
use crate::upgrade::Upgraded;
use crate::watch::{IgnoreOptions, RunsAs, Watch, WatchTargets, launcher, split_glob};
use crate::{connections, program, sys, upgrade};

/// How long requests in flight may take at a stop, and after Ctrl-C, unless --quiesce says it.
const STOP_QUIESCE: Duration = Duration::from_secs(5);
const INTERRUPT_QUIESCE: Duration = Duration::from_secs(1);
/// Descriptors without which not even one listener can be swapped, rounded up.
const DESCRIPTORS: u64 = 48;

/// What the command line says, as the core has it.
pub(super) fn policy(args: &RunArgs) -> Policy {
    Policy {
        ready_timeout: args.ready_timeout,
        min_ready: args.min_ready,
        quiesce: args.quiesce,
        stop_quiesce: args.quiesce_at(STOP_QUIESCE),
        interrupt_quiesce: args.quiesce_at(INTERRUPT_QUIESCE),
        drain_timeout: args.drain_timeout,
        max_draining: usize::try_from(args.max_draining).unwrap_or(usize::MAX),
        stop_first: args.order == options::Order::StopFirst,
        restart: match args.restart {
            options::Restart::Always => RestartPolicy::Always,
            options::Restart::OnFailure => RestartPolicy::OnFailure,
            options::Restart::Never => RestartPolicy::Never,
            options::Restart::OnChange => RestartPolicy::OnChange,
        },
        before_swap: args.before_swap.as_ref().map(|_| args.before_swap_timeout),
        before_first: args.dev,
        fallback: !args.no_fallback,
        unwatched: args.no_watch && args.watch.is_empty(),
        ready_factor: if args.given.ready_timeout { 0 } else { 3 },
        hold: args.hold,
    }
}

impl World {
    /// With what the core remembers, if this hotswap goes on where another one ended.
    pub(super) fn open(args: RunArgs) -> Result<(Self, Option<SavedState>)> {
        open_files::raise();
        oom_score::lower();
        let mut upgraded = Upgraded::at_start()?;
        let directory = match &mut upgraded {
            Some(upgraded) => {
                clock_and_directory(&mut upgraded.state).map_err(|error| upgraded.go_back(error))?
            }
            None => None,
        };
        let directory = directory.unwrap_or_else(WorkingDirectory::at_start);
        // What it was given at its start the hotswap before has handed over with its listeners.
        let mut passed = if upgraded.is_none() {
            Passed::at_start()
        } else {
            Passed::default()
        };
        let kept = std::mem::take(&mut passed.names);
        let ground = match (Prerequisites::open(&args, &directory), upgraded) {
            (Err(error), Some(upgraded)) => return Err(upgraded.start_over(error)),
            (ground, before) => {
                upgraded = before;
                ground?
            }
        };
        let Prerequisites {
            own_path,
            mut signals,
            capture_setting,
            context,
            watch,
            warnings: of_watch,
        } = ground;
        if upgraded.is_none() {
            wait_for_name(&args, &mut signals)?;
        }
        let claimed = match &mut upgraded {
            Some(upgraded) => Claimed::handed_over(&mut upgraded.state, context)
                .map_err(|error| upgraded.go_back(error))?,
            None => Claimed::at_start(&args, context, passed, directory.path().as_os_str())?,
        };
        let Claimed {
            control,
            heritage,
            listeners,
            mut warnings,
        } = claimed;
        warnings.extend(capture_setting.warning);
        warnings.extend(of_watch);
        let server_config = server_config(&args, &control, capture_setting.capture);
        let now = sys::now();
        let mut world = Self {
            own_path,
            ready_mode: args.ready.clone(),
            server_config,
            signals,
            listeners,
            watch,
            build: Build::default(),
            generations: BTreeMap::new(),
            programs: BTreeMap::new(),
            commands: Vec::new(),
            counting: CountingAddresses::default(),
            waivers: Waivers::default(),
            has_served: false,
            said_ready: SaidReady::default(),
            next_version: None,
            not_upgraded: None,
            hints: Vec::new(),
            unbound_restarts: 0,
            stopping_since: None,
            control,
            manager: Passed::by(kept, now),
            status_data: StatusData::new(now),
            fitness_due: Alarm::default(),
            upkeep: Upkeep::new(now),
            paths_looked: Time::ZERO,
            has_worked: true,
            keys: if args.dev { Keys::open() } else { Keys::none() },
            directory,
            pulse: Pulse::begin(),
            few_descriptors: None,
            worked: None,
            heritage,
            keeper: None,
            ended: None,
            args,
        };
        if let Some(mut upgraded) = upgraded {
            let saved = world.restore(&mut upgraded.state);
            let saved = saved.map_err(|error| upgraded.go_back(error))?;
            world.not_upgraded = upgraded.why_back();
            return Ok((world, Some(saved)));
        }
        for address in world.listeners.listening() {
            let text = format!("listening on {address}");
            world.publish(&Record::new(RecordKind::Listening, text));
        }
        for warning in warnings {
            world.warn(warning);
        }
        Ok((world, None))
    }
}

/// Before anything asks what time it is, or what a relative path means.
fn clock_and_directory(incoming: &mut Incoming) -> Result<Option<WorkingDirectory>> {
    sys::clock::resume(incoming.take("clock")?);
    incoming.take("directory")
}

/// What hotswap needs in any case. If it cannot be opened, nothing has happened yet.
struct Prerequisites {
    own_path: PathBuf,
    signals: Signals,
    capture_setting: CaptureSetting,
    context: ListenerContext,
    watch: Watch,
    warnings: Vec<String>,
}

impl Prerequisites {
    fn open(args: &RunArgs, directory: &WorkingDirectory) -> Result<Self> {
        check_descriptors(args)?;
        let own_path = upgrade::own_path();
        check_proc()?;
        // Before any thread: ctrlc's here, the watcher's below.
        let signals = Signals::take()?;
        prctl::set_child_subreaper(true).context("cannot adopt the orphans of servers")?;
        let capture_setting = CaptureSetting::of(args)?;
        let context = ListenerContext::new(socket_options(args, &capture_setting));
        let context = context.context("cannot make an epoll set")?;
        let (watch, mut warnings) = watch(args, directory)?;
        warnings.extend(without_netlink());
        warnings.extend(less_time(args));
        warnings.extend(open_files::not_passed(&args.command));
        Ok(Self {
            own_path,
            signals,
            capture_setting,
            context,
            watch,
            warnings,
        })
    }
}

/// Where --drain-timeout leaves less than what --quiesce says.
fn less_time(args: &RunArgs) -> Option<String> {
    let reserve = policy(args).stop_reserve();
    let left = args.drain_timeout.saturating_sub(reserve);
    let shown = |time| format_duration(time).replace(' ', "");
    (args.given.quiesce && args.quiesce > left).then(|| {
        format!(
            "requests in flight have {}, not the {} of --quiesce: the stop signal is sent {} before the drain timeout\n\
             try: --drain-timeout {}",
            shown(left),
            shown(args.quiesce),
            shown(reserve),
            shown(args.quiesce.saturating_add(Policy::STOP_RESERVE)),
        )
    })
}

/// One that is stopping has the addresses as well as the name, so this comes before everything that it may have.
///
/// # Errors
/// If the name was asked for, and its holder goes on, or hotswap itself is to stop.
fn wait_for_name(args: &RunArgs, signals: &mut Signals) -> Result<()> {
    let Some(name) = args.name.as_deref().filter(|_| args.control.is_none()) else {
        return Ok(());
    };
    let mut named = None;
    while let Some(mut holder) = name::holder(name) {
        let death = holder.death();
        let Some((left, death)) = name::stops_within(&mut holder).zip(death) else {
            bail!("{}", name::is_in_use(name, Some(&holder)));
        };
        let pid = holder.pid;
        if named.replace(pid) != Some(pid) {
            log::info!(
                "waiting for the name {name}: the hotswap that has it (pid {pid}) is stopping"
            );
        }
        let polled = signals.polled().into_iter();
        let mut fds: Vec<PollFd> = polled.map(|(fd, flags)| PollFd::new(fd, flags)).collect();
        fds.push(PollFd::new(death.as_fd(), PollFlags::POLLIN));
        ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None).context("cannot poll")?;
        let stops = |asked: &SignalRequest| {
            matches!(
                asked,
                SignalRequest::Stop { .. }
                    | SignalRequest::Quit
                    | SignalRequest::HungUp
                    | SignalRequest::Interrupt
            )
        };
        if signals.read().iter().any(stops) {
            bail!("stopped before the name {name} was free");
        }
    }
    Ok(())
}

fn socket_options(args: &RunArgs, capture_setting: &CaptureSetting) -> SocketOptions {
    SocketOptions {
        backlog: args.backlog,
        mode: args.socket_mode,
        owner: args.socket_owner,
        share: args.share || capture_setting.share,
    }
}

fn server_config(args: &RunArgs, control: &Control, capture: Option<Stops>) -> ServerConfig {
    ServerConfig {
        command: args.command.clone(),
        user: args.user.clone(),
        group: args.group.clone(),
        chdir: args.chdir.clone(),
        env_file: args.env_file.clone(),
        stdin: args.stdin,
        stderr: args.stderr(),
        name: control.name().to_owned(),
        control: control.path().map(Path::to_owned),
        capture,
    }
}

/// There must be enough for a swap, and the number must be one that the system lets the server have.
fn check_descriptors(args: &RunArgs) -> Result<()> {
    let (_, most) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of descriptors")?;
    if most < DESCRIPTORS {
        bail!(
            "cannot run with {most} open files at most: hotswap needs {DESCRIPTORS}\ntry: ulimit -n 1024"
        );
    }
    if let ReadyMode::Fd(number) = args.ready
        && u64::try_from(number).is_ok_and(|number| number >= most)
    {
        let option = args.as_written("ready");
        bail!(
            "cannot use {option}\"fd:{number}\": the limit of open files is {most}\ntry: {option}fd:3"
        );
    }
    Ok(())
}

/// A path with a glob in it must be one that can be read, unless there is a file of that very name.
fn check_globs(args: &RunArgs, directory: &WorkingDirectory) -> Result<()> {
    for path in &args.watch {
        let text = path.to_string_lossy();
        let is_glob = split_glob(directory.path(), path).is_some();
        if let Some(invalid) = is_glob.then(|| values::glob(&text).err()).flatten() {
            let instead = invalid.instead.unwrap_or_default();
            let option = args.as_written("watch");
            bail!(
                "cannot use {option}{text:?}: {}\ntry: {option}{instead}",
                invalid.why
            );
        }
    }
    Ok(())
}

fn watch(args: &RunArgs, directory: &WorkingDirectory) -> Result<(Watch, Vec<String>)> {
    check_globs(args, directory)?;
    let find = |name: &OsStr| program::find_in_own_path(name, args.chdir.as_deref()).ok();
    let (at, program) = launcher::behind(&args.command, find);
    let targets = WatchTargets {
        command: args.command.get(at..).unwrap_or_default().to_vec(),
        directory: args.chdir.clone(),
        program,
        runs_as: runs_as(args, at > 0),
        watch_program: !args.no_watch,
        paths: args.watch.clone(),
        wanted: IgnoreOptions {
            ignore: args.ignore.clone(),
            endings: args.ext.iter().map(OsString::from).collect(),
            base: directory.path().to_owned(),
        },
        env_file: args.env_file.clone(),
        dev: args.dev,
    };
    let watch = Watch::new(targets, args.debounce, args.poll, sys::now());
    let (watch, mut warnings) = watch.context("cannot watch files")?;
    if args.clear && !args.dev {
        warnings.push("--clear does nothing without --dev\ntry: --dev --clear".into());
    }
    Ok((watch, warnings))
}

fn runs_as(args: &RunArgs, is_launched: bool) -> RunsAs {
    let (user, group) = (args.user.as_deref(), args.group.as_deref());
    let credentials = Credentials::find(user, group).ok().flatten();
    match (is_launched, credentials.and_then(|found| found.uid())) {
        (true, _) => RunsAs::Somebody,
        (false, Some(user)) => RunsAs::User(user),
        (false, None) if group.is_some() => RunsAs::Somebody,
        (false, None) => RunsAs::Hotswap,
    }
}

/// Why drains will take longer than they need, if hotswap may not ask the kernel.
fn without_netlink() -> Option<String> {
    let error = connections::available().err()?;
    Some(format!(
        "cannot ask the kernel about connections: {error}; every drain takes the full --quiesce\n\
         try: AF_NETLINK in RestrictAddressFamilies= of the unit"
    ))
}

/// Everything hotswap knows of its servers it reads from /proc, by their pids.
fn check_proc() -> Result<()> {
    let own = std::fs::read_link("/proc/self").context("cannot read /proc/self")?;
    let pid = std::process::id();
    if own.as_os_str() != pid.to_string().as_str() {
        bail!(
            "cannot use /proc: it belongs to another pid namespace ({} there is {pid} here)\n\
             try: unshare --mount-proc",
            own.display()
        );
    }
    Ok(())
}
