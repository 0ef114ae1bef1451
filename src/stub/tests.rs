use super::*;

/// Not a test by itself: tests that start servers start this program again, with this line alone to run.
#[test]
fn becomes_a_server() {
    if was_asked_for() {
        run().expect("hotswap is there");
        std::process::exit(125);
    }
}
