//! Every promise, shown with the real program: one crate, so that it is linked once.
//!
//! A file here is a module of it. Run one with `cargo test harness`, all with `./scripts/check`.

mod absent;
mod bad_candidates;
mod bad_clients;
mod bad_input;
mod bad_servers;
mod capture;
mod clocks;
mod commands;
mod common;
mod containers;
mod control;
mod deploys;
mod dev;
mod environment;
mod far_away;
mod faults;
mod hard_to_watch;
mod harness;
mod hold;
mod idle;
mod killed;
mod limits;
mod loops;
mod many;
mod misuse;
mod moved;
mod names;
mod neighbors;
mod nonroot;
mod not_adopted;
mod order;
mod pid1;
mod promises;
mod readme;
mod ready;
mod rejected;
mod remote;
mod rescue;
mod restart;
mod saturated;
mod security;
mod server_writes;
mod shared;
mod signals;
mod smoke;
mod soak;
mod stop;
mod store;
mod styles;
mod suspended;
mod sysctls;
mod systemd;
mod terminal;
mod thousand;
mod unix_paths;
mod upgrade;
mod upgraded;
mod waiting;
mod watch;
mod watched;
mod words;
mod written;

/// With `autotests = false` a file that is not named above would never run, and nobody would notice.
#[test]
fn every_file_here_is_a_module() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for file in here.read_dir().expect("a folder").flatten() {
        let path = file.path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .expect("a name");
        if path.extension().is_some_and(|e| e == "rs") && name != "main" {
            assert!(
                include_str!("main.rs").contains(&format!("mod {name};")),
                "{name}.rs is not run"
            );
        }
    }
}
