use super::*;
use crate::handoff;

impl Fixture {
    /// As after a re-execution: only what was told is known, and only what was handed over is open.
    pub fn after_exec(self) -> Self {
        let Self {
            listeners,
            listens,
            incidents,
        } = self;
        let options = listeners.context.options.clone();
        let state = handoff::carry(&listeners.state()).unwrap();
        // exec runs no destructor
        std::mem::forget(listeners);
        let context = ListenerContext::new(options).unwrap();
        let listeners = Listeners::resume(state, context).unwrap();
        Self {
            listeners,
            listens,
            incidents,
        }
    }
}

#[test]
fn swaps_go_on_after_a_re_execution() {
    let directory = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", directory.path().join("api.sock").display());
    let name = abstract_address("upgrade");
    for listen in ["127.0.0.1:0", "[::1]:0", "0", &path, &name] {
        let mut fixture = Fixture::listening(&[listen]);
        let first = fixture.serving(G1);
        let second = fixture.spawn(G2, SocketChoice::Own);
        let mut fixture = fixture.after_exec();
        let steered = fixture.listeners.sockets_of(G2)[0].steered;
        if steered {
            let _clients = fixture.clients(5);
            assert_eq!((first.answers(), second.answers()), (5, 0), "{listen}");
        }
        fixture.cut_over(G2);
        let _clients = fixture.clients(5);
        assert_eq!(second.answers(), 5, "{listen}");
        fixture.leave(G1);
        let mut fixture = fixture.after_exec();
        let third = fixture.serving(G3);
        let _clients = fixture.clients(5);
        assert_eq!(third.answers(), 5, "{listen}");
        second.shuts_down();
        fixture.wake();
        if steered {
            let _clients = fixture.clients(5);
            assert_eq!(third.answers(), 5, "{listen}");
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_path_stays_if_the_next_version_cannot_read_what_follows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let fixture = Fixture::listening(&[&format!("unix:{}", path.display())]);
    let state = (&fixture.listeners.all, "what follows");
    assert!(handoff::carry::<(Vec<Listener>, u32)>(&state).is_err());
    UnixStream::connect(&path).unwrap();
}

#[test]
fn captured_addresses_are_read_as_they_were_written() {
    let at = "[fe80::1%2]:80".parse().unwrap();
    for asked in [
        CapturedAddress::Tcp {
            at,
            only_v6: true,
            device: 3,
        },
        CapturedAddress::Udp(at),
        CapturedAddress::Abstract(vec![0, 255]),
        CapturedAddress::Path(PathEntry {
            directory: (1, 2),
            name: "a\u{e9}".into(),
            path: "/x".into(),
        }),
    ] {
        assert_eq!(handoff::carry::<CapturedAddress>(&asked).unwrap(), asked);
    }
}
