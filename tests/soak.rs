//! Everything at once and in any order, for as long as wanted: chance picks the events, clients come all the while, and
//! after each event every promise is looked at.
//!
//! `./scripts/check` soaks for a moment, `scripts/soak` for as many minutes as it is told. A seed gives the same events
//! again; what they meet depends on the machine.

use std::env;
use std::time::{Duration, Instant, SystemTime};

use chance::Chance;
use life::Life;
use report::Report;

mod chance;
mod checks;
mod ending;
mod events;
mod ledger;
mod life;
mod report;
mod setting;

/// How long `./scripts/check` soaks.
const SECONDS: u64 = 60;

fn variable(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {value}, and no number")),
    )
}

fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::from(now.expect("a time").subsec_micros())
}

#[test]
fn no_event_breaks_a_promise() {
    let seed = variable("SOAK_SEED").unwrap_or_else(any_seed);
    let time = Duration::from_secs(variable("SOAK_SECONDS").unwrap_or(SECONDS));
    println!("seed {seed}, {} seconds", time.as_secs());
    let (mut chance, mut report) = (Chance::from_seed(seed), Report::of(seed));
    let until = Instant::now() + time;
    while Instant::now() < until {
        let mut life = Life::begin(&mut chance, &mut report);
        life.check();
        for _ in 0..20 + chance.below(150) {
            events::any(&mut life, &mut chance);
            life.check();
            if Instant::now() >= until {
                break;
            }
        }
        ending::any(life, &mut chance);
    }
}
