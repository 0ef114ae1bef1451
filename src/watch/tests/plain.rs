//! Settings, trees, what is held or tried, and whether a program is fit.

use super::*;

#[test]
fn a_renamed_program_is_one_change() {
    let mut bench = Bench::new();
    publish(&bench.path("server"), "v2");
    assert_eq!(bench.one().path, bench.path("server"));
}
