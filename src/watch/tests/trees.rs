//! Random histories of a tree: whatever was done to it, the last report is of what is there at the end, and what is left out
//! is never reported.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::symlink;
use std::thread;

use proptest::prelude::*;

use super::*;

/// What counts, each reached by another way.
const FILES: [&str; 5] = ["a", "deep/b", ".env", "app.py", ".hidden/page"];
/// What does not.
const LEFT_OUT: [&str; 5] = ["a.log", ".state", "node_modules/m", "gen/c", "a.swp"];

#[derive(Clone, Copy, Debug)]
enum Deed {
    Write(usize),
    /// In place, with the size and the times of the old content.
    WriteWithOldTimes(usize),
    /// By rename.
    Replace(usize),
    Remove(usize),
    /// A directory with an old file in it is moved in, or away.
    MoveIn,
    MoveOut,
    /// The link to what is hidden leads elsewhere.
    Flip,
    LeftOut(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    let file = 0..FILES.len();
    prop_oneof![
        3 => file.clone().prop_map(Deed::Write),
        2 => file.clone().prop_map(Deed::WriteWithOldTimes),
        2 => file.clone().prop_map(Deed::Replace),
        2 => file.prop_map(Deed::Remove),
        1 => Just(Deed::MoveIn),
        1 => Just(Deed::MoveOut),
        1 => Just(Deed::Flip),
        2 => (0..LEFT_OUT.len()).prop_map(Deed::LeftOut),
    ]
}

fn act(home: &Path, deed: Deed, version: usize) -> io::Result<()> {
    let source = home.join("src");
    let content = format!("{version:06}");
    match deed {
        Deed::Write(file) => fs::write(source.join(FILES[file]), content),
        Deed::WriteWithOldTimes(file) => {
            let path = source.join(FILES[file]);
            let modified = fs::metadata(&path)?.modified()?;
            fs::write(&path, content)?;
            fs::File::options()
                .write(true)
                .open(path)?
                .set_modified(modified)
        }
        Deed::Replace(file) => {
            fs::write(home.join("new"), content)?;
            fs::rename(home.join("new"), source.join(FILES[file]))
        }
        Deed::Remove(file) => fs::remove_file(source.join(FILES[file])),
        Deed::MoveIn => fs::rename(home.join("prepared"), source.join("moved")),
        Deed::MoveOut => fs::rename(source.join("moved"), home.join("prepared")),
        Deed::Flip => {
            let other = if fs::read_link(source.join("shown"))? == Path::new(".hidden") {
                ".other"
            } else {
                ".hidden"
            };
            symlink(other, source.join("next"))?;
            fs::rename(source.join("next"), source.join("shown"))
        }
        Deed::LeftOut(file) => fs::write(source.join(LEFT_OUT[file]), content),
    }
}

fn prepare(home: &Path) -> WatchTargets {
    let source = home.join("src");
    for directory in ["deep", ".hidden", ".other", "node_modules", "gen"] {
        fs::create_dir_all(source.join(directory)).unwrap();
    }
    fs::create_dir(home.join("prepared")).unwrap();
    fs::write(home.join("prepared/old"), "old").unwrap();
    fs::write(source.join(".other/page"), "another page").unwrap();
    fs::write(source.join(".gitignore"), "*.log\n").unwrap();
    symlink(".hidden", source.join("shown")).unwrap();
    for file in 0..FILES.len() {
        act(home, Deed::Write(file), 0).unwrap();
    }
    WatchTargets {
        paths: vec![source],
        wanted: IgnoreOptions {
            ignore: vec!["gen/".into()],
            ..IgnoreOptions::default()
        },
        ..WatchTargets::default()
    }
}

/// What a server would read: every file that counts, by the way on which it is part of the tree.
fn content(home: &Path) -> BTreeMap<&'static str, Vec<u8>> {
    let names = ["a", "deep/b", ".env", "app.py", "shown/page", "moved/old"];
    let read = |name| Some((name, fs::read(home.join("src").join(name)).ok()?));
    names.into_iter().filter_map(read).collect()
}

/// Does all of it, takes each report as a request for a swap, and gives what the last one read, and how many there were.
fn follow(
    bench: &mut Bench,
    history: Vec<(Deed, u64)>,
) -> (BTreeMap<&'static str, Vec<u8>>, usize) {
    let home = bench.home.path().to_owned();
    let mut read = content(&home);
    let mut reports = 0;
    let there = home.clone();
    let doer = thread::spawn(move || {
        for (version, (deed, pause)) in history.into_iter().enumerate() {
            // It fails where the file is missing.
            let _ = act(&there, deed, version + 1);
            thread::sleep(Duration::from_millis(pause));
        }
    });
    let mut until = sys::now() + bench.quiet;
    while !doer.is_finished() || sys::now() < until {
        let changed = bench.turn(sys::now() + Duration::from_millis(5));
        if !doer.is_finished() || !changed.is_empty() {
            until = sys::now() + bench.quiet;
        }
        if !changed.is_empty() {
            reports += 1;
            bench.watch.asked();
            bench.watch.starts(false, sys::now());
            read = content(&home);
        }
    }
    doer.join().unwrap();
    (read, reports)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_in_a_tree_at_the_end_was_reported_last(
        history in proptest::collection::vec((deed(), 0_u64..80), 1..25),
    ) {
        let mut bench = Bench::with(prepare);
        let (read, _) = follow(&mut bench, history);
        prop_assert_eq!(read, content(bench.home.path()));
    }

    #[test]
    fn what_is_left_out_of_a_tree_is_never_reported(
        history in proptest::collection::vec((0..LEFT_OUT.len(), 0_u64..80), 1..10),
    ) {
        let mut bench = Bench::with(prepare);
        let deeds = history.into_iter().map(|(file, pause)| (Deed::LeftOut(file), pause));
        let (_, reports) = follow(&mut bench, deeds.collect());
        prop_assert_eq!(reports, 0);
    }
}
