//! How soon the OOM killer picks a process: hotswap lowers its own score where it may, and gives every child the original
//! one.
//!
//! hotswap is small and holds what its servers have to lose; the one that has eaten the memory is a better victim.

use std::fs;
use std::sync::OnceLock;

const SCORE: &str = "/proc/self/oom_score_adj";

/// The first that is permitted: what services get that others depend on (-1000 would never be killed), or what anybody
/// may have.
const LOWER: [i32; 2] = [-900, 0];

/// As hotswap was started with it.
static GIVEN: OnceLock<i32> = OnceLock::new();

/// Once, at the start. If it may not be lowered, that is no error.
pub fn lower() {
    let score = fs::read_to_string(SCORE).ok();
    let score = score.and_then(|score| score.trim().parse().ok());
    let Some(score) = score else { return };
    let mut lower = LOWER.iter().filter(|lower| **lower < score);
    if lower.any(|lower| fs::write(SCORE, lower.to_string()).is_ok()) {
        let _ = GIVEN.set(score);
    }
}

/// For the program that this process becomes.
pub fn put_back() {
    if let Some(score) = GIVEN.get() {
        let _ = fs::write(SCORE, score.to_string());
    }
}
