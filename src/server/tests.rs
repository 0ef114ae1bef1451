//! Generations of programs that every machine has.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitStatus, waitpid};

use super::*;
use crate::listener::{Kind, ListenerId};
use crate::sys;

const PATIENCE: Duration = Duration::from_secs(20);

fn recipe(command: &[&str]) -> Recipe {
    Recipe {
        command: command.iter().map(OsString::from).collect(),
        user: None,
        group: None,
        chdir: None,
        env_file: None,
        stderr: Stderr::Pass,
        name: format!("test-{:?}", std::thread::current().id()),
        control: None,
        capture: false,
        open_files: None,
    }
}

fn sh(script: &str) -> Recipe {
    recipe(&["sh", "-c", script])
}

fn seat(at: usize, fd: impl Into<OwnedFd>) -> Seat {
    Seat {
        listener: ListenerId(at),
        name: format!("listen{}", at + 1),
        spelled: "127.0.0.1:0".into(),
        addr: "127.0.0.1:0".into(),
        port: None,
        kind: Kind::Tcp { port: 1 },
        fd: fd.into(),
    }
}

fn launch(sockets: usize) -> Launch {
    let socket = || TcpListener::bind("127.0.0.1:0").expect("a port");
    Launch {
        generation: Generation(1),
        seats: (0..sockets).map(|at| seat(at, socket())).collect(),
        notify: "@nobody".into(),
        ready_fd: None,
        program: None,
    }
}

/// A generation, and what is heard of it.
struct Site {
    server: Server,
    exit: Option<Exit>,
}

impl Site {
    fn start(recipe: &Recipe, launch: Launch) -> Self {
        set_child_subreaper(true).expect("Linux");
        let server = Server::spawn(recipe, launch, sys::now()).expect("processes to be had");
        Self { server, exit: None }
    }

    /// Hears what there is to hear until this is so.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let started = sys::now();
        while !is_so(self) {
            let late = sys::now() > started + PATIENCE;
            assert!(!late, "{what}: {:?}", self.server.last_lines());
            self.hear();
        }
    }

    fn hear(&mut self) {
        let polled = self.server.polled();
        let mut fds: Vec<PollFd> = polled
            .iter()
            .map(|(fd, flags)| PollFd::new(*fd, *flags))
            .collect();
        poll(&mut fds, PollTimeout::from(5_u8)).expect("poll works");
        let ready: Vec<RawFd> = polled
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| fd.revents().is_some_and(|seen| !seen.is_empty()))
            .map(|((fd, _), _)| fd.as_raw_fd())
            .collect();
        for fd in ready {
            self.server.woken(fd);
        }
    }

    fn until_it_says(&mut self, line: &str) {
        self.until(line, |site| site.lines().iter().any(|said| said == line));
    }

    fn lines(&self) -> Vec<String> {
        self.server.last_lines()
    }

    fn reap(&mut self) -> Exit {
        let raw = match waitpid(self.server.pid(), None).expect("it is our child") {
            WaitStatus::Exited(_, status) => status << 8,
            WaitStatus::Signaled(_, signal, _) => signal as i32,
            other => panic!("it did not end: {other:?}"),
        };
        let exit = self.server.died(ExitStatus::from_raw(raw));
        self.exit = Some(exit.clone());
        exit
    }

    fn stop(mut self) -> Exit {
        self.server.stop(Signal::SIGTERM);
        self.reap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.kill();
        if self.exit.is_none() {
            let _ = waitpid(self.server.pid(), None);
        }
    }
}

fn reason(exit: Exit) -> (i32, String) {
    match exit {
        Exit::CannotRun(status, reason) => (status, reason),
        other => panic!("it ran, and then {other:?}"),
    }
}

/// What a process has open, but for its stdout, which is that of whoever runs the tests.
fn open_descriptors(pid: Pid) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    let shown = |entry: fs::DirEntry| {
        let number = entry.file_name().into_string().ok()?;
        let target = fs::read_link(entry.path()).ok()?.into_os_string();
        let target = target.into_string().ok()?;
        let kind = target.split(':').next()?;
        (number != "1").then(|| format!("{number} {kind}"))
    };
    let mut all: Vec<String> = open.flatten().filter_map(shown).collect();
    all.sort();
    all
}

#[test]
fn a_server_finds_its_sockets_and_its_own_pid_and_nothing_else() {
    let script = "[ $LISTEN_PID = $$ ] && echo its own >&2; exec sleep $LISTEN_FDS$LISTEN_FDS";
    let mut site = Site::start(&sh(script), launch(2));
    site.until_it_says("its own");
    let command = format!("/proc/{}/cmdline", site.server.pid());
    site.until("it sleeps", |_| {
        fs::read(&command).is_ok_and(|read| read == b"sleep\x0022\0")
    });
    let open = open_descriptors(site.server.pid());
    assert_eq!(open, ["0 /dev/null", "2 pipe", "3 socket", "4 socket"]);
}

#[test]
fn many_sockets_keep_their_order() {
    let file = |at: u64| {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(at).expect("room for nothing");
        file
    };
    let all = Launch {
        seats: (0..600).map(|at| seat(0, file(at))).collect(),
        ..launch(0)
    };
    let script = "echo $(stat -Lc %s /proc/$$/fd/3 /proc/$$/fd/255 /proc/$$/fd/602) >&2";
    let mut site = Site::start(&sh(script), all);
    site.reap();
    assert_eq!(site.lines(), ["0 252 599"]);
}

#[test]
fn a_program_that_is_not_there_is_127_with_its_errno() {
    let mut site = Site::start(&recipe(&["./no-such-server"]), launch(0));
    let expected = "cannot run ./no-such-server: No such file or directory (os error 2)";
    assert_eq!(reason(site.reap()), (127, expected.into()));
}

#[test]
fn a_program_that_may_not_be_run_is_126() {
    let mut site = Site::start(&recipe(&["/etc/passwd"]), launch(0));
    let expected = "cannot run /etc/passwd: Permission denied (os error 13)";
    assert_eq!(reason(site.reap()), (126, expected.into()));
}

fn executable(place: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = place.join(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("allowed");
    path.to_str().expect("text").to_owned()
}

#[test]
fn an_empty_program_and_a_missing_interpreter_are_told_apart() {
    let place = tempfile::tempdir().expect("a directory");
    let empty = executable(place.path(), "empty", "");
    let mut site = Site::start(&recipe(&[&empty]), launch(0));
    let expected = format!("cannot run {empty}: Exec format error (os error 8)");
    assert_eq!(reason(site.reap()), (126, expected));

    let script = executable(place.path(), "script", "#!/no/such/interpreter -x\n");
    let mut site = Site::start(&recipe(&[&script]), launch(0));
    let expected = format!(
        "cannot run {script} by its interpreter /no/such/interpreter: \
         No such file or directory (os error 2)"
    );
    assert_eq!(reason(site.reap()), (127, expected));
}

#[test]
fn a_directory_and_a_user_that_cannot_be_are_told() {
    let nowhere = Recipe {
        chdir: Some("/no/such".into()),
        ..sh(":")
    };
    let mut site = Site::start(&nowhere, launch(0));
    let expected = "cannot change to /no/such: No such file or directory (os error 2)";
    assert_eq!(reason(site.reap()), (125, expected.into()));

    let nobody = Recipe {
        user: Some("no-such-user".into()),
        ..sh(":")
    };
    let mut site = Site::start(&nobody, launch(0));
    let expected = "cannot run as no-such-user: no such user";
    assert_eq!(reason(site.reap()), (125, expected.into()));
}

#[test]
fn a_stop_signal_that_comes_early_is_not_lost() {
    let site = Site::start(&recipe(&["sleep", "60"]), launch(0));
    assert_eq!(site.stop(), Exit::Signal(libc::SIGTERM));
}

#[test]
fn a_stopped_server_is_woken_up_to_end() {
    let mut site = Site::start(&sh("echo up >&2; kill -STOP $$; sleep 60"), launch(0));
    site.until_it_says("up");
    assert_eq!(site.stop(), Exit::Signal(libc::SIGTERM));
}

#[test]
fn killing_a_generation_reaches_who_left_its_group() {
    let script = "setsid -f sh -c 'echo escaped >&2; exec sleep 60'; exec sleep 60";
    let mut site = Site::start(&sh(script), launch(0));
    site.until_it_says("escaped");
    site.server.signal_main(Signal::SIGKILL);
    assert_eq!(site.reap(), Exit::Signal(libc::SIGKILL));
    assert!(!site.server.is_gone(), "its orphan lives");
    let left = site.server.processes();
    assert_eq!(left.len(), 1);
    site.server.kill();
    waitpid(left[0], None).expect("the orphan is ours");
    assert!(site.server.is_gone());
}

#[test]
fn the_last_good_program_runs_when_another_is_in_its_place() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("server");
    fs::copy("/bin/sleep", &path).expect("sleep is there");
    let program = path.to_str().expect("text");
    let good = Site::start(&recipe(&[program, "60"]), launch(0));
    fs::remove_file(&path).expect("removed");
    let held = good.server.program().expect("it is no script");
    let program = held.try_clone_to_owned().expect("a descriptor");
    good.stop();

    let again = Launch {
        program: Some(program),
        ..launch(1)
    };
    let mut site = Site::start(&recipe(&[path.to_str().expect("text"), "60"]), again);
    site.until("it runs", |site| site.server.runs());
    assert_eq!(site.stop(), Exit::Signal(libc::SIGTERM));
}

#[test]
fn a_ready_descriptor_has_its_number_and_a_listener_keeps_its_own() {
    let (ours, theirs) = nix::unistd::pipe().expect("a pipe");
    let ready = Launch {
        ready_fd: Some((9, theirs)),
        ..launch(1)
    };
    let mut site = Site::start(&sh("echo ready >&9"), ready);
    site.reap();
    let mut said = [0; 6];
    nix::unistd::read(&ours, &mut said).expect("it has said something");
    assert_eq!(&said, b"ready\n");

    let taken = Launch {
        ready_fd: Some((3, ours)),
        ..launch(1)
    };
    let error = Server::spawn(&sh(":"), taken, sys::now()).expect_err("3 is taken");
    assert_eq!(
        error.to_string(),
        "cannot use --ready fd:3: 3 is the number of a listener\ntry: --ready fd:4"
    );
}

#[test]
fn a_generation_is_handed_over_with_all_that_is_known_of_it() {
    let mut site = Site::start(&sh("echo here >&2; sleep 60"), launch(0));
    site.until_it_says("here");
    let (told, descriptors) = site.server.hand_over();
    let mut descriptors = descriptors
        .into_iter()
        .map(|fd| fd.try_clone_to_owned().expect("a descriptor"))
        .collect::<Vec<_>>()
        .into_iter();
    let other = Server::take_over(&told, &mut descriptors).expect("as it was told");
    assert_eq!(other.pid(), site.server.pid());
    assert_eq!(other.last_lines(), ["here"]);
    assert_eq!(other.processes().len(), site.server.processes().len());
    assert_eq!(other.hand_over().0, told);
    site.stop();
}
