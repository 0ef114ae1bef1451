//! Random clients, in random order, with whatever bytes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::{Clients, NOW, heard, re_executed};
use crate::control::{Reply, RequestKind};

/// What a random client does next.
#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Ask(&'static str),
    Read,
    HalfClose,
    Vanish,
    Tell(usize),
    Wait(u64),
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    let requests = [
        "{\"do\":\"swap\",\"drained\":true}\n",
        "{\"do\":\"status\"}\n",
        "{\"do\":\"events\"}\n",
        "{\"do\":\"stop\"}\n",
        "{\"do\":\"up",
    ];
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..6000).prop_map(Step::Send),
        prop::sample::select(requests.to_vec()).prop_map(Step::Ask),
        Just(Step::Read),
        Just(Step::HalfClose),
        Just(Step::Vanish),
        (0_usize..50_000).prop_map(Step::Tell),
        (0_u64..20).prop_map(Step::Wait),
        Just(Step::Upgrade),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_clients_do_the_next_one_is_served(steps in prop::collection::vec((0_usize..4, step()), 0..40)) {
        let mut room = Clients::open();
        let mut streams: Vec<Option<UnixStream>> = (0..4).map(|_| None).collect();
        for (who, step) in steps {
            let stream = streams[who].get_or_insert_with(|| room.connect());
            match step {
                Step::Send(bytes) => drop(stream.write(&bytes)),
                Step::Ask(line) => drop(stream.write(line.as_bytes())),
                Step::Read => drop(stream.read(&mut [0; 3000])),
                Step::HalfClose => drop(stream.shutdown(std::net::Shutdown::Write)),
                Step::Vanish => streams[who] = None,
                Step::Tell(bytes) => room.control.publish(&json!({"message": "x".repeat(bytes)})),
                Step::Upgrade => room = re_executed(room),
                Step::Wait(seconds) => room.control.look(NOW + Duration::from_secs(seconds)),
            }
            for request in room.settle() {
                if request.what == RequestKind::Status {
                    room.control.answer(request.client, &Reply::Status(json!({})), NOW);
                }
            }
        }
        let (mut stream, request) = room.asking("{\"do\":\"status\"}");
        room.control.answer(request.client, &Reply::Status(json!({"name": "api"})), NOW);
        prop_assert_eq!(&heard(&mut stream).0[1]["status"]["name"], "api");
    }
}
