//! What the next version of hotswap knows of this one.

use super::*;
use crate::supervisor::{Draining, SavedState, Serving};

#[test]
fn an_upgrade_forgets_nothing() {
    let saved = SavedState {
        last: G4,
        serving: Some(Serving {
            generation: G4,
            since: seconds(9),
            before: Some(G3),
        }),
        draining: vec![Draining::failed(G3, seconds(9), Some(crash()), true)],
        orphans: vec![G1],
        has_served: true,
        restarts: 5,
        last_good: Some(G3),
        fallen_back: Some(G2),
        rejected: true,
        longest_start: seconds(7),
        clients_wait_until: Some(seconds(40)),
        previous: vec![G3, G2],
        restart_at: Some(seconds(12)),
    };
    let restored = Supervisor::restore(policy(), saved.clone());
    assert_eq!(restored.saved_state(), saved);
}
