//! One promise, tested for every family of listener that hotswap steers.

/// Makes a module of each function, with one test a family in it: a family that is left out cannot go unnoticed.
macro_rules! on_every_family {
    ($($(#[$about:meta])* fn $promise:ident($plan:ident: Plan) $body:block)+) => { $(
        $(#[$about])*
        mod $promise {
            use super::*;

            fn promise($plan: $crate::common::plan::Plan) $body

            #[test]
            fn on_tcp4() {
                promise(Plan::at(Place::Tcp4));
            }

            #[test]
            fn on_tcp6() {
                promise(Plan::at(Place::Tcp6));
            }

            #[test]
            fn on_a_unix_path() {
                promise(Plan::at(Place::Unix));
            }

            #[test]
            fn on_captured_tcp() {
                promise(Plan::at(Place::captured()));
            }

            #[test]
            fn on_a_captured_unix_path() {
                promise(Plan::at(Place::CapturedUnix));
            }
        }
    )+ };
}

pub(crate) use on_every_family;
