//! An upgrade, while one call fails: the old image goes on, or the new one takes over.

use nix::sys::signal::Signal;

use super::{Calls, Came, Outcomes, all, descriptors, expect_no_leak, plan, report_in};
use crate::common::crowd::Habit;
use crate::common::place::Place;
use crate::common::strace::{Attached, Struck, is_here, struck};
use crate::common::{alone, eventually};

fn an_upgrade_bears(what: &str, place: &Place) {
    let _alone = alone();
    let calls = Calls::of(plan(place.clone()));
    let mut requests = 0;
    Outcomes::of(&format!("upgrading, {what}"), &calls, |fault| {
        let mut site = plan(place.clone()).serving("v1");
        let mut clients = site.guests().and(2, Habit::default()).come();
        let before = descriptors(site.hotswap()).len() + 2;
        let report = report_in(site.dir());
        let strace = Attached::to(site.hotswap(), fault, &report);
        site.signal(Signal::SIGUSR2);
        let upgraded = eventually("an upgrade or a refusal", || {
            if site.has_ended() {
                return Some(None);
            }
            let said = |text| site.log.says(text);
            said("upgraded to")
                .then_some(Some(true))
                .or_else(|| said("cannot upgrade to").then_some(Some(false)))
        });
        strace.let_go();
        let came = struck(&report);
        if came == Struck::Elsewhere {
            clients.leave();
            return Came::Elsewhere;
        }
        let said = site.log.timed();
        let upgraded = upgraded.unwrap_or_else(|| panic!("{fault:?}: hotswap has ended: {said}"));
        site.swap().wait_until_gone(1);
        expect_no_leak(&site, before);
        clients.until_answered(2);
        requests += clients.expect_no_failure().answers;
        assert_eq!(site.stop().code(), Some(0), "{fault:?}");
        match came {
            Struck::Nothing => Came::Not,
            _ if upgraded => Came::To("upgraded"),
            _ => Came::To("refused"),
        }
    });
    println!("{requests} requests, none failed");
}

#[test]
fn an_upgrade_bears_every_fault() {
    if all() && is_here("an_upgrade_bears_every_fault") {
        an_upgrade_bears("tcp", &Place::Tcp4);
    }
}

#[test]
fn an_upgrade_bears_every_fault_on_a_unix_path() {
    if all() && is_here("an_upgrade_bears_every_fault_on_a_unix_path") {
        an_upgrade_bears("unix path", &Place::Unix);
    }
}
