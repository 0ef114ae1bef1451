//! What compilers, shells and deploy tools do to a program.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::thread;

use super::*;

impl Bench {
    /// The program is a copy of true(1).
    fn of_true() -> Self {
        Self::with_debounce(DEBOUNCE, |home| {
            fs::copy("/bin/true", home.join("server")).unwrap();
            program("server")(home)
        })
    }

    /// For scripts that must write twice within the debounce time, however busy the machine is.
    fn patient(mut self) -> Self {
        let debounce = Duration::from_secs(3);
        self.watch.debounce = debounce;
        self.quiet = debounce + QUIET;
        self
    }

    /// Runs a script in the directory, looks while it runs, and counts the changes.
    fn expect(&mut self, changes: usize, script: &str) {
        let mut child = Command::new("sh")
            .args(["-ec", script])
            .current_dir(self.home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut seen = 0;
        while child.try_wait().unwrap().is_none() {
            seen += self.turn(sys::now() + Duration::from_millis(5)).len();
        }
        let until = sys::now() + PATIENCE;
        while seen < changes && sys::now() < until {
            seen += self.turn(until).len();
        }
        assert_eq!(seen + self.all().len(), changes, "{script}");
    }
}

/// Runs each script on a bench of its own, all at once, because they mostly wait.
fn each<S: AsRef<str> + Sync>(bench: fn() -> Bench, changes: usize, scripts: &[S]) {
    thread::scope(|scope| {
        for script in scripts.iter().map(AsRef::as_ref) {
            scope.spawn(move || bench().expect(changes, script));
        }
    });
}

/// Whether the machine has `tool`; prints a line if not.
fn has(tool: &str) -> bool {
    let script = format!("command -v {tool}");
    let found = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::null())
        .status();
    let found = found.unwrap().success();
    if !found {
        eprintln!("skipped: there is no {tool} here");
    }
    found
}

#[test]
fn each_way_to_put_another_program_there_is_one_change() {
    each(
        Bench::of_true,
        1,
        &[
            "cp /bin/false server",
            "cp --remove-destination /bin/false server",
            "cp /bin/false new; mv new server",
            "cp /bin/false new; ln -f new server",
            "install -m755 /bin/false server",
            "rm server; cp /bin/false server",
            "cat /bin/false > server",
            "dd if=/bin/false of=server bs=512",
            "mv server old; cp /bin/false server",
            "rm server; sleep 0.1; cp /bin/false server; chmod +x server",
            "cp /bin/false server; touch -d '2001-01-01' server",
        ],
    );
}

#[test]
fn what_leaves_the_same_program_is_no_change() {
    each(
        Bench::of_true,
        0,
        &[
            "touch server",
            "chmod -x server; sleep 0.1; chmod +x server",
            "mv server old; sleep 0.1; mv old server",
            "rm server; sleep 0.1; cp /bin/true server",
            "cp /bin/true server",
            "cp /bin/true new; mv new server",
            "install -m755 /bin/true server",
            "ln server other; rm other",
            "cp /bin/false server.new; rm server.new",
        ],
    );
    let mut bench = Bench::of_true().patient();
    bench.expect(0, "cp /bin/false server; cp /bin/true server");
}

#[test]
fn a_broken_program_is_no_change_until_it_is_whole() {
    let broken = [
        ": > server",
        "head -c 5000 /bin/false > server",
        "echo hello > server",
        "truncate -s -1 server",
        "rm server; cp /bin/false new; chmod -x new; mv new server",
        "rm server; mkdir server",
        "rm server; mkfifo server; chmod +x server",
        "ln -sfn nowhere server",
    ];
    each(Bench::of_true, 0, &broken);
    let mended =
        broken.map(|script| format!("{script}; sleep 0.1; rm -r server; cp /bin/false server"));
    each(Bench::of_true, 1, &mended);
    let late = [
        "cp /bin/false new; chmod -x new; mv new server; sleep 0.1; chmod +x server",
        "head -c 5000 /bin/false > server; sleep 0.1; tail -c +5001 /bin/false >> server",
        ": > server; sleep 0.1; cat /bin/false > server",
    ];
    each(Bench::of_true, 1, &late);
}

#[test]
fn a_program_is_not_run_while_it_is_being_written() {
    let mut bench = Bench::of_true();
    let program = fs::read("/bin/false").unwrap();
    let path = bench.path("server");
    let mut server = OpenOptions::new().write(true).open(path).unwrap();
    for piece in program.chunks(program.len() / 3) {
        server.write_all(piece).unwrap();
        assert_eq!(bench.all(), [], "it is complete by size all the time");
    }
    drop(server);
    bench.one();
}

#[test]
fn a_file_that_is_renamed_while_it_is_written_is_waited_for() {
    let mut bench = Bench::of_true();
    let new = bench.path("new");
    fs::copy("/bin/false", &new).unwrap();
    let writer = OpenOptions::new().append(true).open(&new).unwrap();
    fs::rename(new, bench.path("server")).unwrap();
    assert_eq!(bench.all(), []);
    drop(writer);
    bench.one();
}

#[test]
fn a_file_that_arrives_by_rename_or_link_waits_for_no_debounce_time() {
    const NEVER: Duration = Duration::from_secs(3600);
    let bench = || {
        Bench::with_debounce(NEVER, |home| {
            fs::copy("/bin/true", home.join("server")).unwrap();
            program("server")(home)
        })
    };
    let scripts = [
        "cp /bin/false new; mv new server",
        "cp /bin/false new; ln -f new server",
    ];
    each(bench, 1, &scripts);
    let bench = || Bench::with_debounce(NEVER, releases);
    each(bench, 1, &["ln -sfn releases/2 current"]);
}

fn of_releases() -> Bench {
    Bench::with(releases)
}

fn releases(home: &Path) -> WatchTargets {
    for (release, version) in [("releases/1", "v1"), ("releases/2", "v2")] {
        fs::create_dir_all(home.join(release)).unwrap();
        write(&home.join(release).join("server"), version);
    }
    symlink("releases/1", home.join("current")).unwrap();
    program("current/server")(home)
}

#[test]
fn another_release_is_one_change_however_the_link_is_put_there() {
    let scripts = [
        "ln -sfn releases/2 current",
        "ln -s releases/2 next; mv -T next current",
        "rm current; sleep 0.1; ln -s releases/2 current",
        "rm -r releases/1; ln -sfn releases/2 current",
        "mv releases old; mkdir -p releases; mv old/2 releases/1",
    ];
    each(of_releases, 1, &scripts);
    let scripts = ["ln -sfn $PWD/releases/1 current", "touch releases/2/server"];
    each(of_releases, 0, &scripts);
}

#[test]
fn a_directory_that_goes_and_comes_back_is_followed() {
    let mut bench = Bench::with(|home| {
        fs::create_dir_all(home.join("target/debug")).unwrap();
        write(&home.join("target/debug/server"), "v1");
        program("target/debug/server")(home)
    });
    bench.expect(0, "rm -r target");
    bench.expect(
        0,
        "mkdir -p target/debug; printf '#!/bin/sh\\necho v2\\n' > new",
    );
    bench.expect(1, "chmod +x new; mv new target/debug/server");
    bench.expect(0, "mv target old; sleep 0.1; mv old target");
    bench.expect(1, "sed -i s/v2/v3/ target/debug/server");
}

#[test]
fn a_script_that_is_edited_is_one_change() {
    let mut bench = Bench::with_debounce(Duration::from_millis(500), |home| {
        publish(&home.join("server"), "v1");
        program("server")(home)
    });
    bench.quiet = Duration::from_secs(1);
    bench.expect(1, "sed -i s/v1/v2/ server");
    bench.expect(0, "sed -i s/v1/v2/ server");
    bench.patient().expect(
        1,
        "printf '#!/bin/sh\\n' > server; sleep 0.01; echo 'echo v3' >> server",
    );
}

#[test]
fn a_program_from_another_file_system_is_one_change() {
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: nothing can be written to /dev/shm here");
        return;
    };
    fs::copy("/bin/false", elsewhere.path().join("server")).unwrap();
    let script = format!("mv {}/server server", elsewhere.path().display());
    Bench::of_true().expect(1, &script);
}

#[test]
fn rsync_is_one_change_in_place_or_not() {
    if has("rsync") {
        each(
            Bench::of_true,
            1,
            &[
                "rsync /bin/false server",
                "rsync -t --inplace /bin/false server",
                "rsync --inplace --bwlimit=100 /bin/false server",
            ],
        );
    }
}

#[test]
fn a_compiler_and_each_of_its_linkers_make_one_change() {
    if !has("cc") {
        return;
    }
    for linker in ["bfd", "gold", "lld", "mold"] {
        let name = format!("ld.{linker}");
        if !has(if linker == "mold" { "mold" } else { &name }) {
            continue;
        }
        let mut bench = Bench::of_true();
        for status in [3, 4] {
            fs::write(
                bench.path("a.c"),
                format!("int main(void) {{ return {status}; }}"),
            )
            .unwrap();
            let script = format!("cc -g -fuse-ld={linker} -o server a.c");
            bench.expect(1, &script);
        }
        fs::write(bench.path("a.c"), "int main(void) { return 4 ").unwrap();
        bench.expect(0, "! cc -o server.o a.c"); // that does not compile
    }
}

#[test]
fn a_program_that_is_copied_and_stripped_is_one_change() {
    if has("cc") && has("strip") {
        let mut bench = Bench::with_debounce(Duration::from_secs(1), |home| {
            fs::copy("/bin/true", home.join("server")).unwrap();
            fs::write(home.join("a.c"), "int main(void) { return 5; }").unwrap();
            program("server")(home)
        });
        bench.quiet = Duration::from_millis(1250);
        bench.expect(0, "cc -g -o new a.c");
        bench.expect(1, "cp new server; strip server");
    }
}

#[test]
fn cargo_makes_one_change_for_each_new_binary_and_no_other() {
    if !has("cargo") {
        return;
    }
    let mut bench = Bench::with(|home| {
        fs::create_dir_all(home.join("src")).unwrap();
        let manifest = "[package]\nname = \"shop\"\nedition = \"2021\"\n[workspace]\n";
        fs::write(home.join("Cargo.toml"), manifest).unwrap();
        program("target/debug/shop")(home)
    });
    let main = |bench: &Bench, body: &str| {
        fs::write(bench.path("src/main.rs"), format!("fn main() {{ {body} }}")).unwrap();
    };
    let build = "CARGO_TARGET_DIR=target cargo build --offline";
    main(&bench, "println!(\"v1\")");
    bench.expect(1, build); // the first build
    bench.expect(0, build); // a build with nothing to do
    bench.expect(0, &format!("touch src/main.rs; {build}")); // a build of the same
    main(&bench, "println!(\"v2\")");
    bench.expect(1, build); // the second build
    main(&bench, "println!(\"v3\"");
    bench.expect(0, &format!("! {build}")); // a build that fails
    main(&bench, "println!(\"v2\")");
    bench.expect(0, build); // the fault taken back
    main(&bench, "println!(\"v4\")");
    bench.expect(1, &format!("rm -r target; {build}")); // a build from nothing
}

#[test]
fn a_program_is_found_under_a_flood_of_other_events() {
    let mut bench = Bench::of_true();
    let home = bench.home.path().to_owned();
    let flood = thread::spawn(move || {
        for i in 0..20_000 {
            fs::write(home.join(format!("noise-{}", i % 50)), "x").unwrap();
        }
    });
    let mut changes = 0;
    let until = sys::now() + Duration::from_millis(150);
    while sys::now() < until {
        changes += bench.turn(until).len();
    }
    fs::copy("/bin/false", bench.path("new")).unwrap();
    fs::rename(bench.path("new"), bench.path("server")).unwrap();
    while !flood.is_finished() {
        changes += bench.turn(sys::now() + Duration::from_millis(20)).len();
    }
    flood.join().unwrap();
    assert_eq!(changes + bench.all().len(), 1);
    bench.expect(1, "cp /bin/sleep server"); // after the flood
}
