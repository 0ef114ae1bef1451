//! What an administrator may have set for TCP, one setting a row: swaps lose nothing under any of them.

use std::fs::{self, File};
use std::process::Command;
use std::thread;

use crate::common::crowd::Habit;
use crate::common::network::{door, namespace};
use crate::common::place::{Place, free_address};
use crate::common::plan::Plan;
use crate::common::skipped;

const SWAPS: usize = 5;
const SETTINGS: [(&str, &str); 8] = [
    ("net/ipv4/tcp_migrate_req", "1"),
    ("net/ipv4/tcp_abort_on_overflow", "1"),
    ("net/ipv4/tcp_syncookies", "0"),
    ("net/ipv4/tcp_syncookies", "2"),
    // for every listener, without a cookie
    ("net/ipv4/tcp_fastopen", "1539"),
    ("net/core/somaxconn", "16"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/ipv4/tcp_timestamps", "0"),
];

/// A network namespace with nothing but a loopback device, and these settings.
fn set(setting: &'static str, value: &'static str) -> Result<File, String> {
    let network = namespace()?;
    let enter = door(&network);
    let change = move || {
        enter();
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        match up.map_err(|why| format!("needs ip(8): {why}"))? {
            status if status.success() => {}
            status => return Err(format!("ip link: {status}")),
        }
        fs::write(format!("/proc/sys/{setting}"), value).map_err(|why| format!("{setting}: {why}"))
    };
    thread::spawn(change).join().expect("the settings")?;
    Ok(network)
}

fn swaps_lose_nothing(network: &File, setting: &str, plan: Plan) {
    let site = plan.by_odd("").through(door(network)).serving("v1");
    let guests = site.guests().arriving(200, Habit::default());
    let mut clients = guests
        .arriving(10, Habit::hesitating())
        .and(4, Habit::slow())
        .come_through(door(network));
    clients.until_answered(20);
    site.swaps(SWAPS);
    clients.until_all_see(&format!("v{}", SWAPS + 1));
    let tally = clients.leave();
    assert!(tally.failures.is_empty(), "with {setting}: {tally}");
}

fn under_every_setting(name: &str, place: fn() -> Place) {
    for (setting, value) in SETTINGS {
        match set(setting, value) {
            Ok(network) => swaps_lose_nothing(&network, setting, Plan::at(place())),
            Err(why) => skipped(&format!("{name}, {setting}={value}"), &why),
        }
    }
}

#[test]
fn swaps_lose_nothing_under_any_setting() {
    under_every_setting("swaps_lose_nothing_under_any_setting", || Place::Tcp4);
}

#[test]
fn captured_swaps_lose_nothing_under_any_setting() {
    let name = "captured_swaps_lose_nothing_under_any_setting";
    under_every_setting(name, || Place::Captured(free_address()));
}
