//! Clients of the control socket that send nonsense, or leave before they are answered.

use std::io::Write;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use super::super::chance::Chance;
use super::super::life::{Life, Trigger, pause};
use crate::commands::start;

/// They all leave without reading.
pub fn nonsense(life: &mut Life, chance: &mut Chance) {
    let flood = vec![b'x'; 256 * 1024];
    let words: [(&str, &[u8]); 6] = [
        ("nothing", b""),
        ("half a line", b"{\"do\":"),
        ("no object", b"[1,2]\n\xff\xfe\n"),
        ("an unknown request", b"{\"do\":\"dance\"}\n"),
        ("events that nobody reads", b"{\"do\":\"events\"}\n"),
        ("an endless line", &flood),
    ];
    let (what, words) = *chance.one_of(&words);
    let count = 1 + chance.below(30);
    life.say(
        "nonsense",
        &format!("{count} clients of the control socket send {what}"),
    );
    let path = life.site.dir().join("run/hotswap/server.sock");
    let clients: Vec<_> = (0..count)
        .filter_map(|_| {
            let mut client = UnixStream::connect(&path).ok()?;
            client.set_nonblocking(true).expect("a client");
            let _ = client.write(words);
            Some(client)
        })
        .collect();
    assert!(!clients.is_empty(), "nobody could connect");
}

/// The swap that it had asked for goes on.
pub fn client_leaves(life: &mut Life, chance: &mut Chance) {
    let gap = chance.below(100);
    let build = life.good_build(chance);
    life.say(
        "client leaves",
        &format!("{gap} ms after it asked for a swap"),
    );
    // Where the file is watched, its candidate gives way to the one that was asked for.
    life.ledger
        .permit(&[" aborted: replaced by a newer generation"]);
    life.make_room();
    life.publish(build.as_bytes(), 0o755, Trigger::Rename);
    let mut client = start(&life.site, &["swap", "server"]);
    pause(gap);
    client.kill().expect("an end of the client");
    client.wait().expect("its end");
    // It may have left before it asked.
    life.site.signal(Signal::SIGHUP);
}
