//! What a generation finds when it starts, and why some never do.

use super::*;
use crate::capture::filter::Stops;

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
    // what its loader has opened is closed again
    let pid = site.server.pid();
    site.until("it has its sockets and nothing else", |_| {
        open_descriptors(pid) == ["0 /dev/null", "2 pipe", "3 socket", "4 socket"]
    });
}

#[test]
fn a_server_starts_with_no_signal_blocked_or_ignored() {
    let mut site = Site::start(
        &sh("exec grep -E 'Sig(Blk|Ign)' /proc/self/status >&2"),
        launch(0),
    );
    site.reap();
    assert_eq!(
        site.lines(),
        ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"]
    );
}

#[test]
fn many_sockets_keep_their_order() {
    let file = |at: u64| {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(at).expect("room for nothing");
        file
    };
    let all = Launch {
        sockets: (0..600).map(|at| inherited_socket(0, file(at))).collect(),
        ..launch(0)
    };
    let script = "echo $(stat -Lc %s /proc/$$/fd/3 /proc/$$/fd/255 /proc/$$/fd/602) >&2";
    let mut site = Site::start(&sh(script), all);
    site.reap();
    assert_eq!(site.lines(), ["0 252 599"]);
}

#[test]
fn a_program_that_is_not_there_is_127_with_its_errno() {
    let mut site = Site::start(&server_config(&["./no-such-server"]), launch(0));
    let expected = "cannot run ./no-such-server: No such file or directory (os error 2)";
    assert_eq!(reason(site.reap()), (127, expected.into()));
}

#[test]
fn a_program_that_may_not_be_run_is_126() {
    let mut site = Site::start(&server_config(&["/etc/passwd"]), launch(0));
    let expected =
        "cannot run /etc/passwd: Permission denied (os error 13)\ntry: chmod +x /etc/passwd";
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
    let mut site = Site::start(&server_config(&[&empty]), launch(0));
    let expected = format!("cannot run {empty}: Exec format error (os error 8)");
    assert_eq!(reason(site.reap()), (126, expected));

    let script = executable(place.path(), "script", "#!/no/such/interpreter -x\n");
    let mut site = Site::start(&server_config(&[&script]), launch(0));
    let expected = format!(
        "cannot run {script} with its interpreter /no/such/interpreter: \
         No such file or directory (os error 2)"
    );
    assert_eq!(reason(site.reap()), (127, expected));
}

#[test]
fn a_directory_and_a_user_that_cannot_be_are_told() {
    let nowhere = ServerConfig {
        chdir: Some("/no/such".into()),
        ..sh(":")
    };
    let mut site = Site::start(&nowhere, launch(0));
    let expected = "cannot change to /no/such: No such file or directory (os error 2)";
    assert_eq!(reason(site.reap()), (125, expected.into()));

    let nobody = ServerConfig {
        user: Some("no-such-user".into()),
        ..sh(":")
    };
    let mut site = Site::start(&nobody, launch(0));
    let expected = "cannot run as no-such-user: no such user";
    assert_eq!(reason(site.reap()), (125, expected.into()));
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
fn a_program_that_is_still_being_written_is_waited_for() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("server");
    fs::copy("/bin/sleep", &path).expect("sleep is there");
    let writer = fs::OpenOptions::new().append(true).open(&path);
    let writer = writer.expect("it is ours");
    let mut site = Site::start(
        &server_config(&[path.to_str().expect("text"), "60"]),
        launch(0),
    );
    for _ in 0..20 {
        site.read_channel();
    }
    assert!(!site.server.runs(), "it is open for writing");
    drop(writer);
    site.until("it runs", |site| site.server.runs());
    site.stop();
}

#[test]
fn a_captured_generation_sends_where_its_calls_are_answered() {
    let captured = ServerConfig {
        capture: Some(Stops::default()),
        ..server_config(&["sleep", "60"])
    };
    let mut site = Site::start(&captured, launch(0));
    site.until("it runs", |site| site.server.runs());
    // not inside another hotswap, which has the one filter of this kind
    let [
        ServerEvent::Captured(_) | ServerEvent::NotCaptured(libc::EBUSY),
        ServerEvent::Running,
    ] = site.reports.as_slice()
    else {
        panic!("{:?}", site.reports)
    };
    site.stop();
}

#[test]
fn another_user_has_its_own_groups_and_home() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped another_user_has_its_own_groups_and_home: needs root");
        return;
    }
    let script = "echo $USER $LOGNAME $HOME $(id -un) $(id -G) >&2";
    let nobody = ServerConfig {
        user: Some("nobody".into()),
        ..sh(script)
    };
    let mut site = Site::start(&nobody, launch(0));
    site.reap();
    let known = nix::unistd::User::from_name("nobody").expect("a user data base");
    let known = known.expect("every system has nobody");
    let expected = format!("nobody nobody {} nobody {}", known.dir.display(), known.gid);
    assert_eq!(site.lines(), [expected]);

    let numbers = ServerConfig {
        user: Some("4711".into()),
        group: Some("4712".into()),
        ..sh("echo $(id -u) $(id -G) >&2")
    };
    let mut site = Site::start(&numbers, launch(0));
    site.reap();
    assert_eq!(site.lines(), ["4711 4712"]);
}

#[test]
fn a_user_is_left_its_own_variables_by_the_env_file() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("env");
    fs::write(&file, "HOME=/elsewhere\nGREETING=\"hi\"  \n").expect("written");
    let server_config = ServerConfig {
        user: Some("root".into()),
        env_file: Some(file.clone()),
        ..sh("echo \"$HOME $GREETING|\" >&2")
    };
    if nix::unistd::geteuid().is_root() {
        let mut site = Site::start(&server_config, launch(0));
        site.reap();
        assert_eq!(site.lines(), ["/elsewhere \"hi\"  |"]);
    }
    fs::write(&file, "export A=1").expect("written");
    let error = environment::inherited_by(&server_config).expect_err("it is not docker's");
    let expected = format!(
        "cannot use {}: line 1: the name contains a blank",
        file.display()
    );
    assert_eq!(error.to_string(), expected);
}
