//! What is watched, in words and for `status --json`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::program;
use crate::record::Record;
use crate::watch::advice;
use crate::watch::changed::escaped;
use crate::watch::file::WatchedFile;
use crate::watch::filter::IgnoreReason;
use crate::watch::tree::WatchedTree;
use crate::watch::walk::Extent;
use crate::watch::{FileRole, Watch};

impl Watch {
    /// Once every tree has been looked at: in one line, and in full for `-v`. A tree of which nothing is watched is a warning.
    pub(super) fn say_what_is_watched(&mut self) {
        let is_seen = |tree: &WatchedTree| tree.is_absent() || tree.extent().is_some();
        if !self.is_unsaid || !self.trees.iter().all(is_seen) {
            return;
        }
        self.is_unsaid = false;
        let mut parts = Vec::new();
        for tree in &self.trees {
            let Some(extent) = tree.extent() else {
                continue;
            };
            let name = plain_name(tree);
            if extent.files == 0 {
                let text = nothing_in(&name, &extent, tree.has_others());
                self.news.push(Record::warning(text));
                continue;
            }
            log::debug!("of {name} {}", in_full(&extent));
            parts.push(in_short(&name, &extent));
        }
        let is_there = |path: &Path| path.is_file();
        let files = self
            .files
            .iter()
            .rev()
            .filter(|file| file.role == FileRole::Program || is_there(file.path()));
        parts.extend(files.map(|file| escaped(&file.as_given)));
        if let Some((last, rest)) = parts.split_last() {
            let list = if rest.is_empty() {
                last.clone()
            } else {
                format!("{} and {last}", rest.join(", "))
            };
            self.news.push(Record::notice(format!("watching {list}")));
        }
    }

    /// That the program that serves is not what is watched, where the user left it to hotswap what to watch.
    pub fn about_unwatched(&self, serves: &Path) -> Option<String> {
        let is_program = |file: &&WatchedFile| file.role == FileRole::Program;
        let program = self.files.iter().find(is_program)?;
        // a named file may become a tree, and is one among them
        let is_chosen = !self.trees.is_empty();
        let found = fs::metadata(serves).ok()?;
        let is_found = |file: &WatchedFile| {
            fs::metadata(file.path())
                .is_ok_and(|file| (file.dev(), file.ino()) == (found.dev(), found.ino()))
        };
        let is_interpreter =
            advice::interpreter(serves).is_some() || program::is_run_by(program.path(), serves);
        if is_chosen || is_interpreter || self.files.iter().any(is_found) {
            return None;
        }
        let (name, path) = (escaped(&program.as_given), escaped(serves));
        Some(format!(
            "{name} runs {path}, which is not watched\ntry: --watch {path}"
        ))
    }

    /// For `status --json`: what is watched, what is left out, and why.
    pub fn report(&self) -> Value {
        let files = self.files.iter().map(|file| {
            let kind = match file.role {
                FileRole::Program => "program",
                FileRole::Named => "file",
                FileRole::Settings => "env-file",
            };
            let exists = file.path().exists();
            let mut shown =
                json!({"path": file.as_given.to_string_lossy(), "kind": kind, "exists": exists});
            if let Some(why) = file.cannot_run() {
                shown["unfit"] = why.into();
            }
            shown
        });
        // A path that was named is a file or a tree, whichever is there.
        let files = files.filter(|file| file["kind"] != "file" || !self.is_tree(&file["path"]));
        let trees = self.trees.iter().filter_map(|tree| {
            let extent = tree.extent()?;
            let left_out: Map<String, Value> = extent
                .left_out
                .iter()
                .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
                .collect();
            Some(json!({
                "path": plain_name(tree),
                "kind": "tree",
                "files": extent.files,
                "ignored": ignored(&extent),
                "left_out": left_out,
            }))
        });
        let braked: Vec<_> = self
            .brake
            .braked()
            .chain(self.server_writes.left_out())
            .chain(self.new_files.left_out())
            .map(|path| path.to_string_lossy())
            .collect();
        let watched: Vec<Value> = trees.chain(files).collect();
        json!({"watched": watched, "braked": braked})
    }

    fn is_tree(&self, path: &Value) -> bool {
        self.trees
            .iter()
            .any(|tree| tree.extent().is_some() && *path == *tree.as_given.to_string_lossy())
    }
}

fn plain_name(tree: &WatchedTree) -> String {
    let name = escaped(&tree.named());
    if name.is_empty() { ".".into() } else { name }
}

fn ignored(extent: &Extent) -> usize {
    extent.left_out.values().sum()
}

fn in_short(name: &str, extent: &Extent) -> String {
    let ignored = match ignored(extent) {
        0 => String::new(),
        count => format!(" ({} ignored)", grouped(count)),
    };
    let files = if extent.files == 1 { "file" } else { "files" };
    format!("{} {files} in {name}{ignored}", grouped(extent.files))
}

fn in_full(extent: &Extent) -> String {
    let reasons = reasons(extent);
    let reasons = if reasons.is_empty() {
        "nothing is left out".into()
    } else {
        format!("left out: {reasons}")
    };
    format!("{} files are watched; {reasons}", grouped(extent.files))
}

fn nothing_in(name: &str, extent: &Extent, has_others: bool) -> String {
    match ignored(extent) {
        0 if has_others => format!("nothing else in {name} is watched: there is no other file"),
        0 => format!("nothing in {name} is watched: there is no file"),
        1 => format!(
            "nothing in {name} is watched: its only file is left out, {}",
            reasons(extent)
        ),
        count => format!(
            "nothing in {name} is watched: all {} files are left out, {}",
            grouped(count),
            reasons(extent)
        ),
    }
}

/// How many are left out by what.
fn reasons(extent: &Extent) -> String {
    let by = |(reason, count): (&IgnoreReason, &usize)| {
        format!("{} by {}", grouped(*count), reason.name())
    };
    extent
        .left_out
        .iter()
        .map(by)
        .collect::<Vec<_>>()
        .join(", ")
}

/// 1032 as 1,032.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_one_line() {
        let mut extent = Extent {
            files: 214,
            ..Extent::default()
        };
        assert_eq!(in_short("src", &extent), "214 files in src");
        extent.left_out.insert(IgnoreReason::RuleFile, 1_031);
        extent.left_out.insert(IgnoreReason::Hidden, 1);
        assert_eq!(in_short("src", &extent), "214 files in src (1,032 ignored)");
        extent.files = 1;
        assert_eq!(in_short(".", &extent), "1 file in . (1,032 ignored)");
        assert_eq!(
            nothing_in("dist", &extent, false),
            "nothing in dist is watched: all 1,032 files are left out, 1 by hidden names, 1,031 by .gitignore and .ignore"
        );
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let numbers = [0, 12, 999, 1_000, 214_012, 1_000_000];
        let expected = ["0", "12", "999", "1,000", "214,012", "1,000,000"];
        assert_eq!(numbers.map(grouped), expected);
    }
}
