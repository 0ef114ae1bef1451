//! Settings, trees, commands that change files, and whether a program is fit to run.

use super::*;
use crate::polled::Polled;
use crate::watch::HookKind;

fn paths(changed: &[Changed]) -> Vec<&Path> {
    changed
        .iter()
        .map(|changed| changed.path.as_path())
        .collect()
}

/// Watches the path of that name.
fn path(name: &str) -> impl FnOnce(&Path) -> WatchTargets {
    move |home| WatchTargets {
        paths: vec![home.join(name)],
        ..WatchTargets::default()
    }
}

/// Watches `src`, which has two files and an ignored one.
fn tree() -> Bench {
    Bench::with(|home| {
        fs::create_dir_all(home.join("src/deep")).unwrap();
        fs::write(home.join("src/main.rs"), "main").unwrap();
        fs::write(home.join("src/deep/lib.rs"), "lib").unwrap();
        fs::write(home.join("src/noise.log"), "1").unwrap();
        fs::write(home.join("src/.gitignore"), "*.log\nout/\n").unwrap();
        path("src")(home)
    })
}

#[test]
fn settings_that_change_are_one_change_and_their_removal_is_none() {
    let mut bench = Bench::with(|home| {
        fs::write(home.join("env"), "A=1").unwrap();
        WatchTargets {
            env_file: Some(home.join("env")),
            ..WatchTargets::default()
        }
    });
    let env = bench.path("env");
    fs::write(&env, "A=2").unwrap();
    assert_eq!(bench.one().path, env);
    fs::write(&env, "A=2").unwrap();
    assert_eq!(bench.all(), []);
    fs::remove_file(&env).unwrap();
    assert_eq!(bench.all(), []);
    fs::write(&env, "A=3").unwrap();
    bench.one();
}

#[test]
fn a_file_that_does_not_exist_yet_is_waited_for() {
    let mut bench = Bench::with(path("conf/app.toml"));
    assert!(
        bench
            .warnings
            .concat()
            .contains("conf/app.toml does not exist yet")
    );
    fs::create_dir(bench.path("conf")).unwrap();
    assert_eq!(bench.all(), []);
    fs::write(bench.path("conf/app.toml"), "a = 1").unwrap();
    bench.one();
}

#[test]
fn each_file_that_changes_in_a_tree_is_one_change() {
    let mut bench = tree();
    for (name, content) in [
        ("src/main.rs", "main 2"),
        ("src/deep/lib.rs", "lib 2"),
        ("src/new.rs", "new"),
    ] {
        fs::write(bench.path(name), content).unwrap();
        assert_eq!(bench.one().path, bench.path(name));
    }
    fs::rename(bench.path("src/new.rs"), bench.path("src/old.rs")).unwrap();
    bench.one();
    fs::remove_file(bench.path("src/old.rs")).unwrap();
    assert_eq!(bench.one().path, bench.path("src/old.rs"));
}

#[test]
fn a_new_directory_in_a_tree_is_watched_too() {
    let mut bench = tree();
    fs::create_dir_all(bench.path("src/a/b")).unwrap();
    assert_eq!(bench.all(), [], "there is nothing in it");
    fs::write(bench.path("src/a/b/c.rs"), "c").unwrap();
    assert_eq!(bench.one().path, bench.path("src/a/b/c.rs"));
    fs::write(bench.path("src/a/b/c.rs"), "c 2").unwrap();
    bench.one();
}

#[test]
fn many_files_at_once_are_one_change() {
    let mut bench = tree();
    for i in 0..300 {
        fs::write(bench.path(&format!("src/{i}.rs")), "new").unwrap();
    }
    bench.one();
}

#[test]
fn what_is_ignored_hidden_temporary_or_the_same_is_no_change_of_a_tree() {
    let mut bench = tree();
    fs::create_dir(bench.path("src/out")).unwrap();
    for name in [
        "noise.log",
        "out/a.rs",
        ".hidden",
        ".main.rs.swp",
        "main.rs~",
        "4913",
        "#main.rs#",
    ] {
        fs::write(bench.path("src").join(name), "x").unwrap();
    }
    fs::write(bench.path("src/main.rs"), "main").unwrap();
    fs::create_dir(bench.path("src/empty")).unwrap();
    assert_eq!(bench.all(), []);
}

#[test]
fn a_log_that_is_open_in_a_tree_does_not_hide_a_change() {
    use std::io::Write;
    let mut bench = tree();
    let mut log = fs::File::create(bench.path("src/server.out")).unwrap();
    log.write_all(b"begun").unwrap();
    assert_eq!(bench.all(), []);
    fs::write(bench.path("src/main.rs"), "main 2").unwrap();
    log.write_all(b"still").unwrap();
    assert_eq!(bench.one().path, bench.path("src/main.rs"));
}

#[test]
fn a_program_and_its_settings_in_a_watched_tree_are_told_apart() {
    let mut bench = Bench::with(|home| {
        write(&home.join("server"), "v1");
        fs::write(home.join("main.rs"), "main").unwrap();
        let paths = vec![home.to_owned()];
        WatchTargets {
            paths,
            ..program("server")(home)
        }
    });
    publish(&bench.path("server"), "v2");
    assert_eq!(bench.one().path, bench.path("server"));
    fs::write(bench.path("main.rs"), "main 2").unwrap();
    assert_eq!(bench.one().path, bench.path("main.rs"));
}

#[test]
fn another_tree_behind_a_link_is_one_change() {
    let mut bench = Bench::with(|home| {
        for version in ["1", "2"] {
            fs::create_dir(home.join(version)).unwrap();
            fs::write(home.join(version).join("page"), version).unwrap();
        }
        std::os::unix::fs::symlink("1", home.join("current")).unwrap();
        path("current")(home)
    });
    std::os::unix::fs::symlink("2", bench.path("next")).unwrap();
    fs::rename(bench.path("next"), bench.path("current")).unwrap();
    assert_eq!(bench.one().path, bench.path("current/page"));
    fs::write(bench.path("2/page"), "3").unwrap();
    bench.one();
}

#[test]
fn files_that_change_together_are_reported_together() {
    let mut bench = Bench::with(|home| {
        write(&home.join("server"), "v1");
        fs::create_dir(home.join("src")).unwrap();
        fs::write(home.join("env"), "A=1").unwrap();
        WatchTargets {
            paths: vec![home.join("src")],
            env_file: Some(home.join("env")),
            ..program("server")(home)
        }
    });
    fs::write(bench.path("src/main.rs"), "main").unwrap();
    fs::write(bench.path("env"), "A=2").unwrap();
    publish(&bench.path("server"), "v2");
    let until = sys::now() + PATIENCE;
    let mut told = Vec::new();
    while told.is_empty() && sys::now() < until {
        told = bench.turn(until);
    }
    let mut told = paths(&told);
    told.sort_unstable();
    let expected = ["env", "server", "src/main.rs"].map(|name| bench.path(name));
    assert_eq!(told, expected);
}

#[test]
fn what_a_command_builds_is_part_of_this_swap_and_what_is_saved_meanwhile_is_not() {
    let mut bench = Bench::with(|home| {
        write(&home.join("server"), "v1");
        fs::create_dir(home.join("src")).unwrap();
        fs::write(home.join("src/main.rs"), "main").unwrap();
        fs::write(home.join("settings"), "a").unwrap();
        let paths = vec![home.join("src"), home.join("settings")];
        WatchTargets {
            paths,
            ..program("server")(home)
        }
    });
    fs::write(bench.path("src/main.rs"), "main 2").unwrap();
    assert_eq!(bench.one().path, bench.path("src/main.rs"));
    bench.watch.command_begins(HookKind::BeforeSwap);
    publish(&bench.path("server"), "v2");
    assert_eq!(bench.all(), [], "the command makes the program");
    for name in ["src/main.rs", "settings"] {
        fs::write(bench.path(name), "saved meanwhile").unwrap();
        assert_eq!(bench.one().path, bench.path(name));
    }
    bench.watch.command_ends(HookKind::BeforeSwap, sys::now());
    bench.watch.starts(true, sys::now());
    assert_eq!(bench.all(), []);
    write(&bench.path("server"), "v3");
    bench.one();
}

#[test]
fn a_program_that_is_built_later_is_not_part_of_the_tree_around_it() {
    let mut bench = Bench::with(|home| WatchTargets {
        paths: vec![home.to_owned()],
        ..program("bin/server")(home)
    });
    fs::create_dir(bench.path("bin")).unwrap();
    publish(&bench.path("bin/server"), "v1");
    assert_eq!(paths(&bench.all()), [bench.path("bin/server")]);
}

#[test]
fn a_fix_that_is_saved_while_the_command_fails_is_reported_once() {
    let mut bench = tree();
    for told in [true, false] {
        bench.watch.command_begins(HookKind::BeforeSwap);
        fs::write(bench.path("src/main.rs"), format!("mended {told}")).unwrap();
        bench.watch.command_ends(HookKind::BeforeSwap, sys::now());
        assert_eq!(bench.all(), [], "it is told when the command has ended");
        assert_eq!(bench.watch.judge_build().is_some(), told);
    }
    fs::write(bench.path("src/main.rs"), "mended false").unwrap();
    assert_eq!(bench.all().len(), 1, "saved once more");
}

#[test]
fn what_a_failing_command_does_to_the_program_is_no_change() {
    let mut bench = Bench::new();
    bench.watch.command_begins(HookKind::BeforeSwap);
    publish(&bench.path("server"), "v2");
    bench.watch.command_ends(HookKind::BeforeSwap, sys::now());
    assert_eq!(bench.all(), []);
}

#[test]
fn a_program_that_returns_to_what_serves_is_no_change() {
    let mut bench = Bench::new();
    publish(&bench.path("server"), "broken");
    bench.one();
    publish(&bench.path("server"), "v1");
    assert_eq!(bench.all(), [], "v1 still serves");
    publish(&bench.path("server"), "broken");
    bench.one();
    bench.watch.nothing_serves();
    publish(&bench.path("server"), "v1");
    bench.one();
    bench.watch.starts(false, sys::now());
    bench.watch.serves();
    publish(&bench.path("server"), "v2");
    bench.one();
    bench.watch.serves();
    publish(&bench.path("server"), "v1");
    bench.one();
}

#[test]
fn what_the_candidate_already_runs_is_no_change() {
    let mut bench = Bench::with(|home| {
        fs::copy("/bin/true", home.join("server")).unwrap();
        program("server")(home)
    });
    bench.watch.starts(false, sys::now());
    fs::copy("/bin/sleep", bench.path("new")).unwrap();
    fs::rename(bench.path("new"), bench.path("server")).unwrap();
    let mut child = loop {
        let mut command = std::process::Command::new(bench.path("server"));
        match command.arg("60").spawn() {
            // A child that another test has forked still has our copy open.
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {}
            child => break child.unwrap(),
        }
    };
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    bench.watch.confirm(pid, sys::now());
    assert_eq!(bench.all(), []);
    fs::remove_file(bench.path("server")).unwrap();
    fs::copy("/bin/false", bench.path("server")).unwrap();
    bench.watch.confirm(pid, sys::now());
    bench.one();
    child.kill().unwrap();
    child.wait().unwrap();
}

const INSTALL: &str = "install -m 755 PROGRAM";

#[test]
fn only_a_whole_program_that_nobody_writes_is_fit() {
    let bench = Bench::with(|home| {
        publish(&home.join("server"), "v1");
        WatchTargets {
            command: vec!["./server".into()],
            ..program("server")(home)
        }
    });
    let server = bench.path("server");
    let fit = || bench.watch.fit();
    let unfit =
        |why: &str, hint: &str| Fitness::Unfit(format!("./server {why}\ntry: {hint} ./server"));
    assert_eq!(fit(), Fitness::Fit);
    let writer = fs::OpenOptions::new().append(true).open(&server).unwrap();
    assert_eq!(fit(), Fitness::BeingWritten);
    drop(writer);
    assert_eq!(fit(), Fitness::Fit);
    fs::set_permissions(&server, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(fit(), unfit("is not executable", "chmod +x"));
    fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&server, "").unwrap();
    assert_eq!(fit(), unfit("is not complete", INSTALL));
    fs::write(&server, "hello").unwrap();
    assert_eq!(
        fit(),
        unfit("is neither an ELF program nor a script with #!", INSTALL)
    );
    fs::remove_file(&server).unwrap();
    assert_eq!(
        fit(),
        unfit(
            "cannot be run: No such file or directory (os error 2)",
            INSTALL
        )
    );
    fs::create_dir(&server).unwrap();
    let hint = "mv ./server ./server.old; install -m 755 PROGRAM";
    assert_eq!(fit(), unfit("is a directory", hint));
}

#[test]
fn an_interpreter_is_not_watched_and_it_is_said_once() {
    let bench = Bench::with(|home| {
        fs::copy("/bin/true", home.join("python3")).unwrap();
        fs::write(home.join("app.py"), "").unwrap();
        WatchTargets {
            command: vec!["python3".into(), home.join("app.py").into()],
            ..program("python3")(home)
        }
    });
    let app = bench.path("app.py");
    let advice = format!(
        "python3 is an interpreter and is not watched\ntry: --watch {}",
        app.display()
    );
    assert_eq!(bench.warnings, [advice]);
    assert_eq!(bench.watch.deadline(), None);
    assert!(bench.watch.polled().is_empty());
    assert_eq!(bench.watch.fit(), Fitness::Fit);
}

#[test]
fn a_file_name_cannot_control_a_terminal() {
    let path = PathBuf::from("src/\u{1b}[2J\nhotswap: stopped.é");
    let said = Changed::of(path).to_string();
    assert_eq!(said, "src/\\u{1b}[2J\\nhotswap: stopped.é");
}
