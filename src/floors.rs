//! Holds the floors in src/README.md against the `use` lines: no file uses a room above its own, and no files go in a
//! circle. And no two types have one name.
//!
//! A file may use what its folder's own file declares (`super`), since a type may be split over several files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A file by its path without `src/` and `.rs`, and what it imports or names by path.
type Files = BTreeMap<String, Vec<Vec<String>>>;

/// The code of each file, without comments and tests.
fn sources() -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    read(source(), &mut sources);
    sources
}

fn read(directory: &Path, sources: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(source()).unwrap().with_extension("");
        let name = name.to_str().unwrap().to_owned();
        if name.split('/').any(|part| part == "tests") || ["main", "floors"].contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            read(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.insert(name, code(&fs::read_to_string(&path).unwrap()));
        }
    }
}

fn source() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

/// Without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap());
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Each path of a `use`, with its groups taken apart, and each path of two names or more in the code.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut rest = String::new();
    let mut import = None::<String>;
    for line in code.lines() {
        let begun = line.trim_start();
        let begun = begun.strip_prefix("pub ").unwrap_or(begun);
        let begun = begun.strip_prefix("pub(super) ").unwrap_or(begun);
        match (&mut import, begun.strip_prefix("use ")) {
            (Some(import), _) => import.push_str(line),
            (None, Some(first)) => import = Some(first.to_owned()),
            (None, None) => rest.extend([line, "\n"]),
        }
        if let Some(whole) = import.take_if(|import| import.trim_end().ends_with(';')) {
            take_apart(whole.trim_end().trim_end_matches(';'), &[], &mut paths);
        }
    }
    let words = rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let words = words.filter(|word| word.contains("::") && !word.starts_with(':'));
    paths.extend(words.map(|word| word.split("::").map(str::to_owned).collect()));
    paths
}

/// `a::{b, c::d}` is `a::b` and `a::c::d`.
fn take_apart(tree: &str, before: &[String], paths: &mut Vec<Vec<String>>) {
    let mut depth = 0;
    let branches = tree.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for branch in branches.map(str::trim).filter(|branch| !branch.is_empty()) {
        let (stem, group) = branch.split_once('{').unwrap_or((branch, ""));
        let name = stem.split(" as ").next().unwrap_or_default();
        let names = name
            .split("::")
            .map(str::trim)
            .filter(|name| !name.is_empty());
        let path: Vec<String> = before
            .iter()
            .cloned()
            .chain(names.map(str::to_owned))
            .collect();
        match group.rsplit_once('}') {
            Some((group, _)) => take_apart(group, &path, paths),
            None => paths.push(path),
        }
    }
}

/// The file that a path leads to from this one, through what other files export again.
fn target(files: &Files, from: &str, path: &[String], depth: u32) -> Option<String> {
    let mut folder: Vec<&str> = from.split('/').collect();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => (folder, rest) = (Vec::new(), &path[1..]),
        "self" => rest = &path[1..],
        _ => {}
    }
    while let Some((_, after)) = rest.split_first().filter(|(name, _)| *name == "super") {
        folder.pop();
        rest = after;
    }
    let is_own = path[0] != "crate" && path[0] != "super";
    let mut found = None;
    while let Some((name, after)) = rest.split_first() {
        let below = [&folder[..], &[name.as_str()]].concat();
        let file = below.join("/");
        if !files.contains_key(&file) {
            break;
        }
        (folder, rest, found) = (below, after, Some(file));
    }
    if is_own && found.is_none() {
        return None;
    }
    let here = found.unwrap_or_else(|| folder.join("/"));
    let exported = files.get(&here).filter(|_| here != from && depth < 5);
    let exported = exported.zip(rest.first()).and_then(|(exports, name)| {
        let mut exports = exports.iter().filter(|export| export.last() == Some(name));
        exports.find_map(|export| target(files, &here, export, depth + 1))
    });
    exported
        .or(Some(here))
        .filter(|file| files.contains_key(file))
}

fn room(file: &str) -> &str {
    file.split('/').next().unwrap()
}

/// Which files each file uses, without those whose folder it lies in.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources().into_iter();
    let files: Files = sources.map(|(file, code)| (file, paths(&code))).collect();
    let is_within = |file: &str, other: &str| file.starts_with(&format!("{other}/"));
    let uses = files.iter().map(|(file, paths)| {
        let targets = paths
            .iter()
            .filter_map(|path| target(&files, file, path, 0));
        let targets = targets.filter(|other| other != file && !is_within(file, other));
        (file.clone(), targets.collect())
    });
    uses.collect()
}

/// The floor of each room, counted from the ground, as the README lists them from the top.
fn floors() -> BTreeMap<String, usize> {
    let readme = fs::read_to_string(source().join("README.md")).unwrap();
    let list = readme
        .split("\n## Floors\n")
        .nth(1)
        .expect("a list of floors");
    let list = list.split("\n## ").next().unwrap();
    let mut floors = BTreeMap::new();
    for (floor, part) in list
        .split("\n### ")
        .skip(1)
        .collect::<Vec<_>>()
        .iter()
        .rev()
        .enumerate()
    {
        for room in part
            .lines()
            .filter_map(|line| line.strip_prefix("- `")?.split('`').next())
        {
            let before = floors.insert(room.to_owned(), floor);
            assert!(before.is_none(), "{room} is listed twice in src/README.md");
        }
    }
    floors
}

#[test]
fn every_room_is_listed_on_a_floor() {
    let listed = floors();
    let mut rooms: BTreeSet<String> = uses().keys().map(|file| room(file).to_owned()).collect();
    rooms.insert("main".into());
    let listed: BTreeSet<String> = listed.into_keys().collect();
    assert_eq!(
        rooms, listed,
        "the rooms in src, and those that src/README.md lists"
    );
}

#[test]
fn every_room_uses_only_rooms_below_it() {
    let floors = floors();
    let mut wrong = Vec::new();
    let uses = uses();
    for (file, others) in &uses {
        for other in others.iter().filter(|other| room(other) != room(file)) {
            if floors.get(room(other)) >= floors.get(room(file)) {
                wrong.push(format!("{file} uses {other}, which is not below it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_go_in_a_circle() {
    let uses = uses();
    let circles = uses.keys().filter_map(|file| circle(&uses, file));
    // each of them once
    let circles = circles.filter(|circle| circle.iter().min() == circle.first());
    let circles: Vec<String> = circles.map(|circle| circle.join(" -> ")).collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn no_two_types_have_one_name() {
    let mut homes = BTreeMap::<String, BTreeSet<String>>::new();
    for (file, code) in sources() {
        for name in code.lines().filter_map(declared_type) {
            let homes = homes.entry(name.to_owned()).or_default();
            homes.insert(file.clone());
        }
    }
    homes.retain(|_, files| files.len() > 1);
    assert!(homes.is_empty(), "{homes:#?}");
}

fn declared_type(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let kind = words.find(|word| !word.starts_with("pub"))?;
    // what a trait calls a type of its own is not a name of ours
    let is_named =
        ["struct", "enum", "trait"].contains(&kind) || kind == "type" && !line.starts_with(' ');
    let name = words.next().filter(|_| is_named)?;
    name.split(|c: char| !c.is_alphanumeric()).next()
}

/// The shortest way from a file back to itself.
fn circle(uses: &BTreeMap<String, BTreeSet<String>>, start: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in &uses[way.last().unwrap()] {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next) {
                    longer.push([&way[..], std::slice::from_ref(next)].concat());
                }
            }
        }
        ways = longer;
    }
    None
}
