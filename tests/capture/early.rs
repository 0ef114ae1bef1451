//! What a candidate listens on beside the address that is served: no client comes there before the cut-over.

use std::net::SocketAddr;

use super::closed::python;
use super::{at, free_address, swap};
use crate::common::alone;
use crate::common::crowd::Habit;
use crate::common::place::{Place, Target};
use crate::common::plan::Plan;
use crate::common::site::Site;
use crate::nonroot::as_nobody;

/// detect-port and portfinder listen for a moment on every address, the served one's own clients among them.
const TRIES_ALL: &str = "\
for host in ['127.0.0.1', '::1']:
    one = listen(host)
    time.sleep(0.2)
    one.close()
serve(listen('::'))";

fn is_swapped_twice(plan: Plan) -> Site {
    let _alone = alone();
    let site = plan.serving("");
    let mut clients = site.guests().and(4, Habit::default()).come();
    clients.until_answered(8);
    swap(&site, 2);
    clients.until_answered(8);
    clients.expect_no_failure();
    site
}

fn is_tried_out_in_peace(address: SocketAddr, plan: Plan) {
    let Some(plan) = python(plan, address, TRIES_ALL) else {
        return;
    };
    let site = is_swapped_twice(plan);
    for words in [" closed ", "address changed"] {
        assert!(!site.log.says(words));
    }
}

#[test]
fn a_port_may_be_tried_out_where_the_clients_of_a_wider_address_come() {
    let address = free_address();
    is_tried_out_in_peace(address, super::at(address));
}

/// Without root the clients of that moment ask once more.
#[test]
fn a_port_may_be_tried_out_without_root() {
    let address = free_address();
    let place = Place::Given(Target::Tcp(address));
    if let Some(plan) = as_nobody("a_port_may_be_tried_out_without_root", place) {
        is_tried_out_in_peace(address, plan);
    }
}

/// It ends if a client comes to its narrow address before it serves; then it answers there.
const COMES_TO_LISTEN: &str = "\
import select
if os.environ['HOTSWAP_GENERATION'] == '1':
    serve(listen('0.0.0.0'))
narrow = listen('127.0.0.1')
if select.select([narrow], [], [], 0.5)[0]:
    sys.exit('a client is here already')
threading.Thread(target=serve, args=[listen('0.0.0.0')]).start()
serve(narrow)";

#[test]
fn a_new_version_may_listen_on_a_narrower_address_as_well() {
    let address = free_address();
    let Some(plan) = python(super::at(address), address, COMES_TO_LISTEN) else {
        return;
    };
    is_swapped_twice(plan);
}

/// A server pinned to its processors attaches a program of its own, which would lead every second client to it.
#[test]
fn a_program_that_a_candidate_attaches_leads_no_client_to_it() {
    let address = free_address();
    let script = "\
import ctypes, struct
RANDOM = 0xfffff000 + 56
code = b''.join(struct.pack('HBBI', *step) for step in [(0x20, 0, 0, RANDOM), (0x94, 0, 0, 2), (0x16, 0, 0, 0)])
kept = ctypes.create_string_buffer(code)
program = struct.pack('HL', 3, ctypes.addressof(kept))
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
one.bind(('127.0.0.1', port))
one.listen()
one.setsockopt(socket.SOL_SOCKET, 51, program)
if os.environ['HOTSWAP_GENERATION'] == '2':
    time.sleep(0.5)
    os._exit(3)
serve(one)";
    let Some(plan) = python(at(address), address, script) else {
        return;
    };
    let site = plan.serving("");
    let mut clients = site.guests().and(4, Habit::default()).come();
    let verdict = site.swap_in_vain();
    assert!(verdict.contains("exited with status 3"), "{verdict}");
    clients.until_answered(8);
    clients.expect_no_failure();
    assert!(!site.log.says("queued on"));
}
