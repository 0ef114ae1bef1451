//! What `--listen` opens, and the error where it cannot.

use super::*;

#[test]
fn nobody_else_can_have_the_address_and_the_owner_is_named() {
    let fixture = Fixture::listening(&["127.0.0.1:0"]);
    let address = fixture.address();
    let said = fixture.refusal(&address);
    assert!(
        said.starts_with(&format!("cannot listen on {address}: Address")),
        "{said}"
    );
    assert!(said.contains("another address of this hotswap"), "{said}");
    assert!(said.contains("\ntry: "), "{said}");
}

#[test]
fn an_address_of_another_host_is_refused_with_what_to_try() {
    let fixture = Fixture::listening(&[]);
    let said = fixture.refusal("198.51.100.1:8080");
    assert!(said.contains("Cannot assign requested address"), "{said}");
    assert!(said.contains("\ntry: 127.0.0.1:8080"), "{said}");
    let said = fixture.refusal("nowhere.invalid:8080");
    assert!(
        said.starts_with("cannot listen on nowhere.invalid:8080: "),
        "{said}"
    );
}

#[test]
fn the_pair_of_wildcards_is_two_listeners() {
    let free = Fixture::listening(&["0"]).listeners.all[0]
        .steering
        .kind()
        .tcp_port()
        .unwrap();
    let (v4, v6) = (format!("0.0.0.0:{free}"), format!("[::]:{free}"));
    let fixture = Fixture::listening(&[&v4, &v6]);
    assert_eq!(fixture.listeners.listening(), [v4, v6]);
}

#[test]
fn names_are_told_apart_and_port_zero_is_spelled_out() {
    let listens = [
        "a=127.0.0.1:0",
        "127.0.0.1:0",
        "a=127.0.0.1:0",
        "udp:127.0.0.1:0",
    ];
    let mut fixture = Fixture::listening(&listens);
    let inherited_sockets = fixture
        .listeners
        .inherited_sockets(G1, SocketChoice::Own)
        .unwrap();
    let names: Vec<_> = inherited_sockets
        .iter()
        .map(|inherited_socket| inherited_socket.name.as_str())
        .collect();
    assert_eq!(names, ["a", "listen1", "a-2", "listen2"]);
    assert_eq!(inherited_sockets[0].as_given, inherited_sockets[0].addr);
    assert_eq!(
        inherited_sockets[3].as_given,
        format!("udp:{}", inherited_sockets[3].addr)
    );
}
