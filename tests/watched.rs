//! What is watched: files, trees and globs, what is left out, and what people and tools do to them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::eventually;
use crate::common::place::Place;
use crate::common::plan::Plan;
use crate::common::program::install;
use crate::common::site::Site;
use crate::nonroot::as_nobody;
use crate::watch::{binary, expect_swaps, run, shell_script, watching};

/// Makes each of these files, with its name in it.
pub fn files(dir: &Path, names: &[&str]) {
    for name in names {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, name).expect("a file");
    }
}

/// Its program is not watched, and these paths in its directory are.
pub fn watching_only(plan: Plan, paths: &[&str]) -> Plan {
    let dir = plan.dir().to_owned();
    paths.iter().fold(plan.with(&["--no-watch"]), |plan, path| {
        let path = dir.join(path);
        plan.with(&["--watch", path.to_str().expect("a path")])
    })
}

/// A script for each change that counts, in the site's directory.
pub fn each_is_a_swap(site: &Site, scripts: &[&str]) {
    for script in scripts {
        run(site, 1, script);
    }
}

pub fn none_is_a_swap(site: &Site, scripts: &[&str]) {
    for script in scripts {
        run(site, 0, script);
    }
}

#[test]
fn one_line_says_what_is_watched() {
    let plan = watching();
    files(
        plan.dir(),
        &["src/a.rs", "src/b.rs", "src/deep/c.rs", "src/x.log"],
    );
    files(
        plan.dir(),
        &["src/node_modules/a/1.js", "src/node_modules/2.js"],
    );
    fs::write(plan.dir().join("src/.gitignore"), "*.log\n").expect("rules");
    let source = plan.dir().join("src");
    let source = source.to_str().expect("a path");
    let site = plan.with(&["--watch", source, "-v"]).serving("v1");
    let line = site.log.wait_for("watching 3 files in ");
    // x.log, two in node_modules, and .gitignore itself.
    assert!(
        line.contains(&format!("{source} (4 ignored) and ")),
        "{line}"
    );
    assert!(line.ends_with("/server"), "{line}");
    site.log.wait_for("1 by .gitignore and .ignore");
}

#[test]
fn a_program_alone_is_named() {
    let site = watching().serving("v1");
    let line = site.log.wait_for("watching ");
    assert!(line.ends_with(&format!("watching {}", site.program().display())));
}

#[test]
fn a_tree_of_which_nothing_is_watched_is_a_warning() {
    let plan = watching();
    files(plan.dir(), &["src/a.py", "src/b.py"]);
    fs::write(plan.dir().join("src/.gitignore"), "*.py\n").expect("rules");
    fs::create_dir(plan.dir().join("empty")).expect("made");
    let site = watching_only(plan, &["src", "empty"]).serving("v1");
    site.log
        .wait_for("src is watched: all 3 files are left out");
    site.log.wait_for("empty is watched: there is no file");
}

#[test]
fn a_program_that_is_alone_in_its_tree_is_watched_all_the_same() {
    let plan = watching();
    let program = plan.dir().join("bin/server");
    fs::create_dir(plan.dir().join("bin")).expect("made");
    let server = crate::common::program::Server::hello();
    install(&program, server.script("v1").as_bytes(), 0o755);
    let bin = plan.dir().join("bin");
    let plan = plan.with(&["--watch", bin.to_str().expect("a path")]);
    let site = plan.by_program(program, &[]).serving("v1");
    let line = site.log.wait_for("there is no ");
    assert!(
        line.ends_with("bin is watched: there is no other file"),
        "{line}"
    );
    assert!(line.contains("nothing else in "), "{line}");
}

#[test]
fn a_path_that_was_named_is_stronger_than_the_rules_above_it() {
    for rules in ["dist/*", "dist", "build/**\ndist/**", "*"] {
        let plan = watching();
        files(plan.dir(), &["dist/app.js"]);
        fs::write(plan.dir().join(".gitignore"), rules).expect("rules");
        let site = watching_only(plan, &["dist"]).serving("v1");
        run(&site, 1, "echo 2 > dist/app.js");
    }
}

#[test]
fn a_config_map_that_is_mounted_anew_is_one_swap() {
    let plan = watching();
    files(plan.dir(), &["config/..1/app.toml", "config/..1/sub/page"]);
    let config = plan.dir().join("config");
    for (link, target) in [
        ("..data", "..1"),
        ("app.toml", "..data/app.toml"),
        ("sub", "..data/sub"),
    ] {
        symlink(target, config.join(link)).expect("a link");
    }
    let site = watching_only(plan, &["config"]).serving("v1");
    let flip = |number: u32, file: &str| {
        let old = number - 1;
        format!(
            "cd config; cp -r ..{old} ..{number}; echo {number} > ..{number}/{file}; \
             ln -s ..{number} ..tmp; mv -T ..tmp ..data; rm -r ..{old}"
        )
    };
    run(&site, 1, &flip(2, "app.toml"));
    run(&site, 1, &flip(3, "sub/page"));
}

#[test]
fn a_file_that_was_named_counts_when_it_is_touched() {
    let plan = watching();
    files(plan.dir(), &["restart.txt"]);
    let site = watching_only(plan, &["restart.txt"]).serving("v1");
    each_is_a_swap(
        &site,
        &[
            "touch restart.txt",
            "touch -d '2001-01-01' restart.txt",
            "echo 2 > restart.txt",
        ],
    );
    none_is_a_swap(&site, &["chmod 600 restart.txt", "cat restart.txt"]);
}

#[test]
fn another_content_of_the_same_size_and_time_is_a_swap() {
    let plan = watching();
    files(plan.dir(), &["src/aaa", "bbb", "named"]);
    let site = watching_only(plan, &["src", "named"]).serving("v1");
    each_is_a_swap(
        &site,
        &[
            "echo xyz > new; touch -r src/aaa new; cat new > src/aaa; touch -r new src/aaa",
            "echo zyx > new; touch -r src/aaa new; cp -p new src/aaa",
            "printf 12345 > new; touch -r named new; cp -p new named",
            "mkdir t; cp -rp src t; printf abc > t/src/aaa; touch -r src/aaa t/src/aaa; tar cf t.tar -C t src; tar xf t.tar",
        ],
    );
}

#[test]
fn links_within_a_tree_are_followed_and_circles_end() {
    let plan = watching();
    files(
        plan.dir(),
        &["src/.hidden/page", "src/real/deep/file", "outside/file"],
    );
    let source = plan.dir().join("src");
    for (link, target) in [
        ("page", ".hidden/page"),
        ("shown", ".hidden"),
        ("real/circle", ".."),
        ("out", "../outside"),
        ("nowhere", "missing"),
    ] {
        symlink(target, source.join(link)).expect("a link");
    }
    let site = watching_only(plan, &["src"]).serving("v1");
    each_is_a_swap(
        &site,
        &[
            "echo 2 > src/.hidden/page",
            "echo 1 > src/.hidden/new",
            "echo 3 > src/real/deep/file",
            "ln -sfn real src/shown",
            "ln -sfn real/deep/file src/page",
        ],
    );
    none_is_a_swap(&site, &["echo 2 > outside/file", "echo 3 > src/.other"]);
}

#[test]
fn settings_in_a_tree_count_and_other_hidden_names_do_not() {
    let plan = watching();
    files(plan.dir(), &["src/a", "src/.env"]);
    let site = watching_only(plan, &["src"]).serving("v1");
    each_is_a_swap(&site, &["echo A=2 > src/.env", "echo A=1 > src/.env.local"]);
    none_is_a_swap(
        &site,
        &[
            "echo 1 > src/.a.swp; echo 1 > src/.state",
            "mkdir -p src/node_modules/a src/target/debug src/__pycache__ src/.git; \
             for d in node_modules/a target/debug __pycache__ .git; do echo 1 > src/$d/x; done",
        ],
    );
}

#[test]
fn a_glob_names_the_files_that_count() {
    let plan = watching();
    files(plan.dir(), &["src/a.py", "src/deep/b.py", "src/c.txt"]);
    fs::write(plan.dir().join(".gitignore"), "*.py\n").expect("rules");
    let site = watching_only(plan, &["src/**/*.py", "*.conf", "later/*.py"]).serving("v1");
    site.log.wait_for("later/*.py does not exist yet");
    site.log.wait_for("watching 2 files in ");
    each_is_a_swap(
        &site,
        &[
            "echo 2 > src/a.py",
            "echo 2 > src/deep/b.py",
            "mkdir src/new; echo 1 > src/new/d.py",
            "echo 1 > app.conf",
            "mkdir later; echo 1 > later/a.py",
        ],
    );
    none_is_a_swap(&site, &["echo 2 > src/c.txt", "echo 2 > src/deep/app.conf"]);
}

#[test]
fn what_is_ignored_or_has_another_ending_does_not_count() {
    let plan = watching();
    files(
        plan.dir(),
        &["src/a.py", "src/a.html", "src/gen/b.py", "src/c.txt"],
    );
    let absolute = plan.dir().join("src/absolute.py");
    let absolute = absolute.to_str().expect("a path").to_owned();
    let site = watching_only(plan, &["src"])
        .with(&[
            "--ignore",
            "gen/",
            "--ignore",
            "*_test.py",
            "--ignore",
            &absolute,
        ])
        .with(&["--ext", "py,.html"])
        .serving("v1");
    each_is_a_swap(&site, &["echo 2 > src/a.py", "echo 2 > src/a.html"]);
    none_is_a_swap(
        &site,
        &[
            "echo 2 > src/gen/b.py; echo 2 > src/c.txt; echo 1 > src/a_test.py",
            "echo 1 > src/absolute.py",
        ],
    );
}

#[test]
fn a_rule_that_is_added_or_taken_back_is_obeyed_at_once() {
    let plan = watching();
    files(plan.dir(), &["src/a.py", "src/b.log"]);
    let site = watching_only(plan, &["src"]).serving("v1");
    run(&site, 1, "echo 2 > src/b.log");
    for rules in ["src/.gitignore", ".gitignore"] {
        expect_rules(&site, &format!("echo '*.log' > {rules}"), 1);
        run(&site, 0, "echo 3 > src/b.log");
        expect_rules(&site, &format!("rm {rules}"), 2);
        run(&site, 1, &format!("echo {rules} > src/b.log"));
    }
}

/// It waits until that number of files is watched. Whether what a rule adds or takes away is a swap by itself is left open.
fn expect_rules(site: &Site, script: &str, files: u32) {
    let status = std::process::Command::new("sh")
        .args(["-ec", script])
        .current_dir(site.dir())
        .status();
    assert!(status.expect("a shell").success());
    eventually(&format!("{files} files after {script}"), || {
        (tree_in_status(site)["files"] == files).then_some(())
    });
    eventually("rest", || {
        let before = crate::watch::swaps(site);
        std::thread::sleep(crate::watch::QUIET);
        (crate::watch::swaps(site) == before).then_some(())
    });
}

/// The first tree that is watched, as the status has it.
fn tree_in_status(site: &Site) -> Value {
    let status = crate::commands::status(site);
    status["watch"]["watched"][0].clone()
}

#[test]
fn a_checkout_of_many_files_is_one_swap() {
    let plan = watching();
    files(plan.dir(), &["repo/src/a", "repo/src/b", "repo/.git/HEAD"]);
    let site = watching_only(plan, &["repo/src"]).serving("v1");
    run(
        &site,
        1,
        "cd repo; : > .git/index.lock; for i in 1 2 3 4 5 6; do echo $i > src/$i; sleep 0.2; done; rm .git/index.lock",
    );
    // What a crash of git has left behind holds nothing up.
    run(
        &site,
        1,
        "touch -d '-1 minute' repo/.git/index.lock; echo 2 > repo/src/a",
    );
}

/// Nobody but its owner can ask whether a file is being written.
#[test]
fn a_script_that_another_user_writes_slowly_is_not_run_half_written() {
    let test = "a_script_that_another_user_writes_slowly_is_not_run_half_written";
    let Some(plan) = as_nobody(test, Place::Tcp4) else {
        return;
    };
    if !nix::unistd::geteuid().is_root() {
        return crate::common::skipped(test, "only root can write as another user");
    }
    let site = plan.watching().serving("v1");
    let mut clients = site.clients(4);
    expect_swaps(&site, 1, || {
        let script = fs::read_to_string(site.program()).expect("the program");
        let next = script.replace("VERSION=v1", "VERSION=v2");
        let (shebang, rest) = next.split_once('\n').expect("two lines");
        let slowly = "{ printf '%s\\n' \"$1\"; sleep 1.5; printf 'exit 7\\n' | head -c 0; printf '%s' \"$2\"; } > server";
        let status = std::process::Command::new("sh")
            .args(["-ec", slowly, "sh", shebang, rest])
            .current_dir(site.dir())
            .status();
        assert!(status.expect("a shell").success());
    });
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

/// A copy of env(1) starts the server; with its path and that of the server.
fn behind_a_nameless_launcher(plan: Plan, is_named: bool) -> (Site, String, String) {
    let (launcher, server) = (plan.dir().join("wrap"), plan.dir().join("app"));
    fs::copy("/usr/bin/env", &launcher).expect("a launcher");
    install(&server, &binary(1), 0o755);
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    let (wrap, app) = (text(&launcher), text(&server));
    let named: &[&str] = if is_named { &["--watch", &wrap] } else { &[] };
    let plan = plan.with(named);
    let site = plan.by_program(launcher, &[&app, "127.0.0.1:0"]);
    (site.serving(""), wrap, app)
}

#[test]
fn a_server_behind_a_launcher_that_no_list_knows_is_said_not_to_be_watched() {
    let (site, wrap, app) = behind_a_nameless_launcher(watching(), false);
    let said = format!("{wrap} runs {app}, which is not watched");
    site.log.wait_for(&said);
    site.log.wait_for(&format!("try: --watch {app}"));
}

/// Who names what to watch knows what runs.
#[test]
fn nothing_is_said_of_a_launcher_if_what_to_watch_is_named() {
    let (site, ..) = behind_a_nameless_launcher(watching(), true);
    expect_swaps(&site, 1, || {
        site.signal(Signal::SIGHUP);
    });
    assert_eq!(site.log.count("is not watched"), 0);
}

#[test]
fn a_server_behind_a_launcher_is_watched() {
    let plan = watching();
    let program = plan.dir().join("server");
    let path = program.to_str().expect("a path").to_owned();
    let server = crate::common::program::Server::hello();
    install(&program, server.script("v1").as_bytes(), 0o755);
    let env = Path::new("/usr/bin/env").to_owned();
    let site = plan
        .by_program(env, &["A=1", "nice", "-n", "1", &path])
        .serving("v1");
    site.log.wait_for(&format!("watching {path}"));
    let mut clients = site.clients(4);
    expect_swaps(&site, 1, || site.publish("v2"));
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn under_dev_the_script_of_an_interpreter_is_watched() {
    let plan = watching().with(&["--dev"]);
    let (path, app) = shell_script(plan.dir());
    let site = plan.by_program("/bin/sh".into(), &[&path]).serving("v1");
    site.log
        .wait_for("app.sh is watched, and what it loads is not");
    let mut clients = site.clients(4);
    expect_swaps(&site, 1, || app("v2"));
    clients.until_all_see("v2");
    clients.expect_no_failure();
}

#[test]
fn the_status_says_what_is_watched_and_why_not() {
    let plan = watching();
    files(plan.dir(), &["src/a.rs", "src/x.log"]);
    fs::write(plan.dir().join("src/.ignore"), "*.log\n").expect("rules");
    let site = watching_only(plan, &["src"]).serving("v1");
    site.log.wait_for("watching 1 file in ");
    let tree = tree_in_status(&site);
    assert_eq!(tree["kind"], "tree", "{tree}");
    assert_eq!(tree["files"], 1, "{tree}");
    assert_eq!(tree["ignored"], 2, "{tree}");
    assert_eq!(tree["left_out"][".gitignore and .ignore"], 1, "{tree}");
}

/// A step that is no script.
const UPGRADE: &str = "upgrade";

/// hotswap is started in `current`, a link that leads to one of two releases, by a shell that says so in $PWD.
#[test]
fn the_directory_that_hotswap_was_started_in_is_followed() {
    let scripts: [&[&str]; 5] = [
        &["ln -sfn 2 current"],
        &["mv 1 old; mv 2 1"],
        &["rm -r 1; mv 2 1"],
        &["mv 1 old", UPGRADE, "mv 2 1"],
        &["rm -r 1", UPGRADE, "mv 2 1"],
    ];
    for steps in scripts {
        let plan = watching();
        let dir = plan.dir().to_owned();
        for version in ["1", "2"] {
            let content = crate::common::program::Server::hello().script(&format!("v{version}"));
            fs::create_dir(dir.join(version)).expect("a release");
            fs::write(dir.join(version).join("page"), version).expect("a page");
            let program = dir.join(version).join("server");
            install(&program, content.as_bytes(), 0o755);
        }
        symlink("1", dir.join("current")).expect("a link");
        let go = format!("cd {}/current; export PWD; exec \"$@\"", dir.display());
        let site = plan
            .inside(&["sh", "-c", &go, "sh"])
            .with(&["--watch", "page"])
            .by_program("./server".into(), &[])
            .serving("v1");
        let mut clients = site.clients(4);
        clients.until_all_see("v1");
        for step in steps {
            match *step {
                UPGRADE => assert!(
                    crate::commands::run(&site, &["upgrade", "server"])
                        .status
                        .success()
                ),
                script => run(&site, usize::from(script.contains(" 2 ")), script),
            }
        }
        clients.until_all_see("v2");
        clients.expect_no_failure();
        assert!(site.log.says("now leads to another directory"));
    }
}
