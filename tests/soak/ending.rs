//! How a hotswap of the soak comes to its end, and what it leaves.

use nix::sys::signal::{Signal, kill};

use super::chance::Chance;
use super::checks::at_last;
use super::life::Life;
use crate::commands::{ended, run};

pub fn any(mut life: Life, chance: &mut Chance) {
    let end = *chance.one_of(&[by_signal as fn(&mut Life), by_command, of_hotswap_alone]);
    end(&mut life);
    life.expect_no_unexplained();
}

fn by_signal(life: &mut Life) {
    life.say("stop", "by SIGTERM");
    life.clients.leave();
    let status = life.site.stop();
    assert_eq!(status.code(), Some(0));
    life.site.expect_nothing_left();
}

fn by_command(life: &mut Life) {
    life.say("stop", "by command");
    life.clients.leave();
    let output = run(&life.site, &["stop", "server"]);
    ended(&output, 0, &[]);
    life.site.expect_status(0).expect_nothing_left();
}

/// Whoever serves then keeps serving; another that is there at this moment would get some of the clients. Those who are
/// in the hands of hotswap itself go with it.
fn of_hotswap_alone(life: &mut Life) {
    life.say("hotswap killed", "and its server keeps serving");
    at_last("one generation", || {
        let status = life.status().ok_or("no status")?;
        let alone = status["generations"]
            .as_array()
            .is_some_and(|all| all.len() == 1);
        alone.then_some(()).ok_or_else(|| status.to_string())
    });
    let from = life.site.age();
    kill(life.site.hotswap(), Signal::SIGKILL).expect("a signal to hotswap");
    life.site.end();
    life.ledger.excuse("hotswap killed", from, life.site.age());
    life.clients.until_answered(200);
    life.clients.leave();
}
