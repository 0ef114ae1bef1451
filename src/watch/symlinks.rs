//! The directories and symlinks that decide which file a path leads to.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The kernel follows this many symlinks in one path.
const MOST_LINKS: usize = 40;

/// A directory: its path without symlinks, and which directory is there now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Directory {
    pub path: PathBuf,
    pub dev: u64,
    pub ino: u64,
}

impl Directory {
    pub fn at(path: PathBuf) -> Option<Self> {
        let metadata = fs::symlink_metadata(&path).ok()?;
        let (dev, ino) = (metadata.dev(), metadata.ino());
        metadata.is_dir().then_some(Self { path, dev, ino })
    }
}

/// One name in one directory on the way to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStep {
    pub directory: Directory,
    pub name: OsString,
}

impl PathStep {
    pub fn path(&self) -> PathBuf {
        self.directory.path.join(&self.name)
    }
}

/// The way to `path`, which is absolute: each symlink, and last the file itself or the first name that is missing.
pub fn steps(path: &Path) -> Vec<PathStep> {
    let mut places = Vec::new();
    let mut here = PathBuf::from("/");
    let mut ahead: Vec<PathBuf> = components(path);
    let mut links = 0;
    while let Some(component) = ahead.pop() {
        match component.components().next() {
            Some(Component::RootDir) => here = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                here.pop();
            }
            Some(Component::Normal(name)) => {
                let next = here.join(name);
                let kind = fs::symlink_metadata(&next).map(|metadata| metadata.file_type());
                let is_link = kind.as_ref().is_ok_and(fs::FileType::is_symlink);
                let passes_by = kind.is_ok_and(|kind| kind.is_dir()) && !ahead.is_empty();
                if passes_by {
                    here = next;
                    continue;
                }
                let Some(directory) = Directory::at(here.clone()) else {
                    break;
                };
                let name = name.to_owned();
                places.push(PathStep { directory, name });
                match fs::read_link(&next) {
                    Ok(target) if is_link && links < MOST_LINKS => {
                        links += 1;
                        ahead.extend(components(&target));
                    }
                    _ => break,
                }
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => {}
        }
    }
    places
}

/// When what `path` leads to became another file, as far as its links tell: the latest ctime on the way.
pub fn linked_since(path: &Path) -> (i64, i64) {
    let links = steps(path).into_iter();
    let found = links.flat_map(|step| fs::symlink_metadata(step.path()));
    let times = found.map(|found| (found.ctime(), found.ctime_nsec()));
    times.max().unwrap_or_default()
}

/// In reverse order, so that `pop` gives the first one.
fn components(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .map(|component| component.as_os_str().into())
        .collect()
}

/// Whether a name is that of a temporary file that an editor or interpreter makes beside the edited file.
pub fn is_editors_own(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let within = |start: &[u8], end: &[u8]| name.starts_with(start) && name.ends_with(end);
    // vim creates a file called 4913 to test the directory; JetBrains writes a new file and renames it. What Python
    // compiles as a new generation starts would be the next change.
    [&b"4913"[..], b"__pycache__"].contains(&name)
        || within(b".#", b"")
        || within(b"#", b"#")
        || [
            &b"~"[..],
            b".swp",
            b".swo",
            b".swx",
            b".swpx",
            b".kate-swp",
            b"___jb_tmp___",
            b"___jb_old___",
            b".pyc",
        ]
        .iter()
        .any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(path: &Path) -> Vec<String> {
        let names = steps(path).into_iter().map(|place| place.name);
        names.map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn a_way_names_every_symlink_and_then_the_file() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("releases/1/bin")).unwrap();
        fs::write(home.join("releases/1/bin/server-1"), "").unwrap();
        symlink("server-1", home.join("releases/1/bin/server")).unwrap();
        symlink(home.join("releases/1"), home.join("current")).unwrap();
        symlink("../x/../current/bin", home.join("releases/bin")).unwrap();
        fs::create_dir(home.join("x")).unwrap();
        let way_names = names(&home.join("releases/bin/server"));
        assert_eq!(way_names, ["bin", "current", "server", "server-1"]);
        let steps = steps(&home.join("current/bin/server"));
        assert_eq!(
            steps.last().unwrap().path(),
            home.join("releases/1/bin/server-1")
        );
    }

    #[test]
    fn a_way_ends_at_the_first_missing_name() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let steps = steps(&home.join("target/debug/server"));
        assert_eq!(steps.last().unwrap().path(), home.join("target"));
    }

    #[test]
    fn a_way_in_a_circle_ends() {
        let home = tempfile::tempdir().unwrap();
        symlink("b", home.path().join("a")).unwrap();
        symlink("a", home.path().join("b")).unwrap();
        assert!(names(&home.path().join("a")).len() > MOST_LINKS);
    }

    #[test]
    fn what_tools_leave_beside_a_file_is_theirs() {
        for name in [
            "4913",
            "main.rs~",
            ".#main.rs",
            "#main.rs#",
            ".main.rs.swp",
            "a.rs___jb_tmp___",
            "__pycache__",
            "main.pyc",
        ] {
            assert!(is_editors_own(OsStr::new(name)), "{name}");
        }
        for name in ["main.rs", "49131", "a#b", "swp", "main.py", "pyc"] {
            assert!(!is_editors_own(OsStr::new(name)), "{name}");
        }
    }
}
