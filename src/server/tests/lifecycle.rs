//! How generations end, and what goes on after them.

use super::*;

#[test]
fn a_stop_signal_that_comes_early_is_not_lost() {
    let site = Site::start(&server_config(&["sleep", "60"]), launch(0));
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
    // As soon as setsid, whose child it is, has ended.
    site.until("the orphan is ours", |site| {
        site.server.processes().len() == 2
    });
    kill(site.server.pid(), Signal::SIGKILL).unwrap();
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
    let good = Site::start(&server_config(&[program, "60"]), launch(0));
    fs::remove_file(&path).expect("removed");
    let held = good.server.program().expect("it is no script");
    let program = held.try_clone_to_owned().expect("a descriptor");
    good.stop();

    let again = Launch {
        program: Some(program),
        ..launch(1)
    };
    let mut site = Site::start(&server_config(&[path.to_str().expect("text"), "60"]), again);
    site.until("it runs", |site| site.server.runs());
    assert_eq!(site.stop(), Exit::Signal(libc::SIGTERM));
}

#[test]
fn a_generation_is_handed_over_with_all_that_is_known_of_it() {
    let mut site = Site::start(&sh("echo here >&2; sleep 60"), launch(0));
    site.until_it_says("here");
    let other: Server = handoff::carry(&site.server).expect("as it was told");
    assert_eq!(other.pid(), site.server.pid());
    assert_eq!(other.last_lines(), ["here"]);
    assert_eq!(other.processes().len(), site.server.processes().len());
    site.stop();
}

#[test]
fn what_a_daemon_leaves_behind_belongs_to_its_generation() {
    let script = "setsid -f sh -c '(sleep 60 & exit) ; echo away >&2; exec sleep 60'; sleep 60";
    let mut site = Site::start(&sh(script), launch(0));
    site.until_it_says("away");
    site.until("all four are found", |site| {
        site.server.processes().len() == 4
    });
    for process in site.server.processes() {
        assert!(site.server.has(process));
    }
    assert!(!site.server.has(nix::unistd::getpid()));
    assert!(!site.server.has(Pid::from_raw(1)));
}

#[test]
fn a_daemon_without_any_variables_is_known_by_its_stderr() {
    let script = "setsid -f env -i sh -c 'echo away >&2; exec sleep 60'; exec sleep 60";
    let mut site = Site::start(&sh(script), launch(0));
    site.until_it_says("away");
    // As soon as setsid, whose child it is, has ended.
    site.until("the daemon is nobody's", |site| {
        site.server.processes() == [site.server.pid()]
    });
    kill(site.server.pid(), Signal::SIGKILL).unwrap();
    site.reap();
    assert!(!site.server.is_gone());
    let left = site.server.processes();
    site.server.kill();
    waitpid(left[0], None).expect("the daemon is ours");
    assert!(site.server.is_gone());
}
