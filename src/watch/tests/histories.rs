//! Random histories of a program: whatever was done to it, the last report is of what is there at the end.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::thread;

use proptest::prelude::*;

use super::*;

/// What a user or tool does to the program.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Rename,
    WriteInPlace,
    /// In two parts, this many milliseconds apart.
    WriteSlowly(u64),
    /// Rename a file that is still being written.
    RenameEarly(u64),
    Remove,
    Touch,
    Truncate,
    Link,
    FlipDirectory,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        Just(Deed::Rename),
        Just(Deed::WriteInPlace),
        (0_u64..120).prop_map(Deed::WriteSlowly),
        (0_u64..120).prop_map(Deed::RenameEarly),
        Just(Deed::Remove),
        Just(Deed::Touch),
        Just(Deed::Truncate),
        Just(Deed::Link),
        Just(Deed::FlipDirectory),
    ]
}

fn content(version: usize) -> Vec<u8> {
    // All of the same length, so that the size tells nothing.
    let mut content = format!("#!/bin/sh\necho {version:04}\n").into_bytes();
    content.resize(10_000, b'#');
    content
}

/// `home/current` leads to `home/1` or `home/2`.
fn act(home: &Path, deed: Deed, version: usize) -> std::io::Result<()> {
    let (server, new) = (home.join("current/server"), home.join("current/new"));
    // A file that is written by its other name changes without an event; only the poll would see that.
    let _ = fs::remove_file(&new);
    let make = |path: &Path, content: &[u8]| {
        fs::write(path, content)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    let content = content(version);
    let (begin, end) = content.split_at(5000);
    let slowly = |path: &Path, pause: u64, middle: &dyn Fn() -> std::io::Result<()>| {
        make(path, begin)?;
        let mut file = OpenOptions::new().append(true).open(path)?;
        middle()?;
        thread::sleep(Duration::from_millis(pause));
        file.write_all(end)
    };
    match deed {
        Deed::Rename => {
            make(&new, &content)?;
            fs::rename(new, server)
        }
        Deed::WriteInPlace => make(&server, &content),
        Deed::WriteSlowly(pause) => slowly(&server, pause, &|| Ok(())),
        Deed::RenameEarly(pause) => slowly(&new, pause, &|| fs::rename(&new, &server)),
        Deed::Remove => fs::remove_file(server),
        Deed::Touch => fs::File::open(server)?.set_modified(std::time::SystemTime::now()),
        Deed::Truncate => make(&server, b""),
        Deed::Link => {
            make(&new, &content)?;
            let _ = fs::remove_file(&server);
            fs::hard_link(new, server)
        }
        Deed::FlipDirectory => {
            let other = if fs::read_link(home.join("current"))? == Path::new("1") {
                "2"
            } else {
                "1"
            };
            make(&home.join(other).join("server"), &content)?;
            symlink(other, home.join("next"))?;
            fs::rename(home.join("next"), home.join("current"))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_there_at_the_end_was_reported_last(
        history in proptest::collection::vec((deed(), 0_u64..80), 1..20),
    ) {
        // Without a poll, which would find what the events have missed.
        let mut bench = Bench::with_times(DEBOUNCE, Duration::ZERO, |home| {
            fs::create_dir(home.join("1")).unwrap();
            fs::create_dir(home.join("2")).unwrap();
            symlink("1", home.join("current")).unwrap();
            act(home, Deed::WriteInPlace, 0).unwrap();
            program("current/server")(home)
        });
        let home = bench.home.path().to_owned();
        let told = history.clone();
        let doer = thread::spawn(move || {
            for (version, (deed, pause)) in told.into_iter().enumerate() {
                // It fails where the file to touch or remove is missing.
                let _ = act(&home, deed, version + 1);
                thread::sleep(Duration::from_millis(pause));
            }
        });
        let server = bench.path("current/server");
        let mut runs = content(0);
        let swap = |bench: &mut Bench, changed: Vec<Changed>, runs: &mut Vec<u8>| {
            if !changed.is_empty() {
                bench.watch.starts(false, sys::now());
                *runs = fs::read(&server).unwrap_or_default();
                bench.watch.confirm(nix::unistd::getpid(), sys::now());
                bench.watch.serves();
            }
        };
        while !doer.is_finished() {
            let changed = bench.turn(sys::now() + Duration::from_millis(5));
            swap(&mut bench, changed, &mut runs);
        }
        doer.join().unwrap();
        let there = fs::read(bench.path("current/server")).unwrap_or_default();
        if there.starts_with(b"#!") {
            let until = sys::now() + PATIENCE;
            while runs != there && sys::now() < until {
                let changed = bench.turn(until);
                swap(&mut bench, changed, &mut runs);
            }
            prop_assert_eq!(&runs[..20], &there[..20]);
            prop_assert_eq!(runs, there);
        }
    }
}
