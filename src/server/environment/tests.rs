use std::fs::File;

use super::*;
use crate::cli::options::{Stderr, Stdin};
use crate::listener::SocketKind;

fn variables(
    server_config: &ServerConfig,
    generation: Generation,
    sockets: &[InheritedSocket],
    notify: &str,
) -> io::Result<Variables> {
    let inherited = inherited_by(server_config)?;
    Ok(super::variables(
        inherited,
        server_config,
        generation,
        sockets,
        notify,
    ))
}

fn inherited_socket(name: &str, as_given: &str, addr: &str, kind: SocketKind) -> InheritedSocket {
    InheritedSocket {
        name: name.into(),
        as_given: as_given.into(),
        addr: addr.into(),
        kind,
        fd: File::open("/dev/null").expect("there").into(),
    }
}

fn sockets() -> Vec<InheritedSocket> {
    let tcp = SocketKind::Tcp { port: 8080 };
    vec![
        inherited_socket("web", "8080", "0.0.0.0:8080", tcp),
        inherited_socket(
            "listen2",
            "unix:/run/a.sock",
            "/run/a.sock",
            SocketKind::Unix,
        ),
        inherited_socket("web-2", "[::1]:8080", "[::1]:8080", tcp),
    ]
}

fn server_config(command: &[&str]) -> ServerConfig {
    ServerConfig {
        command: command.iter().map(OsString::from).collect(),
        user: None,
        group: None,
        chdir: None,
        env_file: None,
        stderr: Stderr::Inherit,
        name: "api".into(),
        control: Some("/run/api.sock".into()),
        capture: None,
        stdin: Stdin::Null,
    }
}

fn variable(
    server_config: &ServerConfig,
    sockets: &[InheritedSocket],
    name: &str,
) -> Option<String> {
    let variables =
        variables(server_config, Generation(7), sockets, "@n").expect("nothing to go wrong");
    let named: Vec<_> = variables
        .iter()
        .filter(|(known, _)| known == name)
        .collect();
    assert!(named.len() < 2, "{name} is set twice: {named:?}");
    named
        .first()
        .map(|(_, value)| value.to_str().expect("text").to_owned())
}

#[test]
fn every_protocol_finds_its_sockets() {
    let server_config = server_config(&["./server"]);
    let of = |name| variable(&server_config, &sockets(), name);
    assert_eq!(of("LISTEN_FDS").as_deref(), Some("3"));
    assert_eq!(of("LISTEN_FDNAMES").as_deref(), Some("web:listen2:web-2"));
    assert_eq!(
        of("SERVER_STARTER_PORT").as_deref(),
        Some("8080=3;/run/a.sock=4;[::1]:8080=5")
    );
    assert_eq!(of("SERVER_STARTER_GENERATION").as_deref(), Some("7"));
    assert_eq!(of("PORT").as_deref(), Some("8080"));
    assert_eq!(of("NGINX"), None);
    assert_eq!(of("FPM_SOCKETS"), None);
}

#[test]
fn only_nginx_and_php_fpm_get_theirs() {
    let nginx = server_config(&["/usr/sbin/nginx", "-g", "daemon off;"]);
    assert_eq!(
        variable(&nginx, &sockets(), "NGINX").as_deref(),
        Some("3;4;5;")
    );
    let fpm = server_config(&["php-fpm8.2", "-F"]);
    assert_eq!(
        variable(&fpm, &sockets(), "FPM_SOCKETS").as_deref(),
        Some("0.0.0.0:8080=3,/run/a.sock=4,[::1]:8080=5")
    );
}

#[test]
fn without_a_listener_only_hotswap_itself_is_named() {
    let server_config = server_config(&["./worker"]);
    let of = |name| variable(&server_config, &[], name);
    assert_eq!(of("LISTEN_FDS"), None);
    assert_eq!(of("SERVER_STARTER_GENERATION"), None);
    assert_eq!(of("NOTIFY_SOCKET").as_deref(), Some("@n"));
    assert_eq!(of("HOTSWAP_GENERATION").as_deref(), Some("7"));
    assert_eq!(of("HOTSWAP_INSTANCE").as_deref(), Some("api"));
    assert_eq!(of("HOTSWAP_SOCKET").as_deref(), Some("/run/api.sock"));
}

#[test]
fn port_is_that_of_the_first_tcp_listener() {
    let server_config = server_config(&["./server"]);
    let sockets = [
        inherited_socket("dns", "udp:53", "0.0.0.0:53", SocketKind::Udp { port: 53 }),
        inherited_socket("web", "81", "0.0.0.0:81", SocketKind::Tcp { port: 81 }),
    ];
    assert_eq!(
        variable(&server_config, &sockets, "PORT").as_deref(),
        Some("81")
    );
}

#[test]
fn what_belongs_to_hotswap_itself_is_scrubbed() {
    let scrubbed = [
        "LISTEN_FDS",
        "LISTEN_PIDFDID",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "HOTSWAP_LISTEN",
    ];
    for name in scrubbed {
        assert!(is_for_hotswap(OsStr::new(name)), "{name}");
    }
    for name in ["PATH", "LISTEN_ADDR", "WATCHDOG_DIR", "XNOTIFY_SOCKET"] {
        assert!(!is_for_hotswap(OsStr::new(name)), "{name}");
    }
}

fn replaced(argument: &str) -> String {
    let command = ["./server".into(), argument.into()];
    let mut arguments = arguments(&command, Generation(7), &sockets()).expect("all are there");
    arguments.remove(1).into_string().expect("text")
}

#[test]
fn placeholders_are_replaced_and_nothing_else() {
    assert_eq!(replaced("fd://{fd}"), "fd://3");
    assert_eq!(replaced("{fd:listen2},{fd:web-2}"), "4,5");
    assert_eq!(replaced("{addr} {port}"), "0.0.0.0:8080 8080");
    assert_eq!(replaced("/run/{generation}.pid"), "/run/7.pid");
    for other in [
        "{}",
        "{",
        "}",
        "{{}}",
        "{FD}",
        "{fd",
        "fd}",
        "{ fd }",
        "{fd:}",
        "{x}",
        "{{x}}",
        r#"{"fd": 3}"#,
        "{fd: 3}",
        "${PORT}",
    ] {
        assert_eq!(replaced(other), other);
    }
}

#[test]
fn doubled_braces_are_a_literal_placeholder() {
    assert_eq!(replaced("{{fd}}"), "{fd}");
    assert_eq!(replaced("a{{fd:web}}b{{port}}c"), "a{fd:web}b{port}c");
    assert_eq!(replaced("{{fd}"), "{3");
    assert_eq!(replaced("{{{fd}}}"), "{{fd}}");
    assert_eq!(replaced("{fd}}"), "3}");
}

#[test]
fn the_program_itself_is_never_touched() {
    let command = ["./{fd}".into()];
    let same = arguments(&command, Generation(1), &[]).expect("nothing to replace");
    assert_eq!(same, command);
}

fn refused(argument: &str, sockets: &[InheritedSocket]) -> String {
    let command = ["./server".into(), argument.into()];
    let error = arguments(&command, Generation(1), sockets).expect_err("it stands for nothing");
    error.to_string()
}

#[test]
fn a_placeholder_without_its_listener_is_told() {
    assert_eq!(
        refused("--fd={fd}", &[]),
        "cannot replace {fd}: there is no listener\n\
         try: --listen 127.0.0.1:8080, or {{fd}} for the text itself"
    );
    assert_eq!(
        refused("{fd:admin}", &sockets()),
        "cannot replace {fd:admin}: no listener has that name (there are: web, listen2, web-2)\n\
         try: --listen admin=ADDR, or {{fd:admin}} for the text itself"
    );
    let unix = [inherited_socket("listen1", "/a", "/a", SocketKind::Unix)];
    assert_eq!(
        refused("{port}", &unix),
        "cannot replace {port}: the first listener, /a, has no TCP port\n\
         try: a TCP address as the first --listen, or {{port}} for the text itself"
    );
}
