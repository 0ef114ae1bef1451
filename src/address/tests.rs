use super::*;

fn read(text: &str) -> Listen {
    match text.parse() {
        Ok(listen) => listen,
        Err(error) => panic!("{text}: {error}"),
    }
}

fn address(text: &str) -> Address {
    read(text).address
}

fn refusal(text: &str) -> String {
    match text.parse::<Listen>() {
        Ok(listen) => panic!("{text} was read as {listen:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_form_of_the_manual_is_read() {
    assert_eq!(address("8080"), Address::Tcp(Endpoint::Any(8080)));
    assert_eq!(address(":8080"), Address::Tcp(Endpoint::Any(8080)));
    assert_eq!(
        address("127.0.0.1:8080"),
        Address::Tcp(Endpoint::At(SocketAddr::from(([127, 0, 0, 1], 8080))))
    );
    assert_eq!(
        address("[::1]:8080"),
        Address::Tcp(Endpoint::At(SocketAddr::from((Ipv6Addr::LOCALHOST, 8080))))
    );
    assert_eq!(
        address("localhost:0"),
        Address::Tcp(Endpoint::Named("localhost".into(), 0))
    );
    assert_eq!(address("unix:/a/b"), Address::Path("/a/b".into()));
    assert_eq!(address("unix:b"), Address::Path("b".into()));
    assert_eq!(address("./b"), Address::Path("./b".into()));
    assert_eq!(address("/run/a=b"), Address::Path("/run/a=b".into()));
    assert_eq!(address("unix:@a b"), Address::Abstract("a b".into()));
    assert_eq!(
        address("udp:127.0.0.1:53"),
        Address::Udp(Endpoint::At(SocketAddr::from(([127, 0, 0, 1], 53))))
    );
    assert_eq!(address("[127.0.0.1]:80"), address("127.0.0.1:80"));
    assert_eq!(address("udp:53"), Address::Udp(Endpoint::Any(53)));
}

#[test]
fn a_name_and_the_users_own_spelling_are_kept() {
    let web = read("web=127.0.0.1:8080");
    assert_eq!(web.name.as_deref(), Some("web"));
    assert_eq!(web.as_given, "127.0.0.1:8080");
    let path = read("api=unix:/run/api.sock");
    assert_eq!(path.name.as_deref(), Some("api"));
    assert_eq!(path.as_given, "/run/api.sock");
    assert_eq!(read("8080").name, None);
}

#[test]
fn a_refusal_says_what_to_try() {
    for (text, why, instead) in [
        ("::1", "the port is missing", "[::1]:8080"),
        ("127.0.0.1", "the port is missing", "127.0.0.1:8080"),
        ("localhost", "the port is missing", "localhost:8080"),
        ("", "not a number", "8080"),
        (":", "not a number", "8080"),
        ("65536", "not a number", "8080"),
        ("host:http", "not a number", "host:8080"),
        ("fe80::1:2:8080", "the port is missing", "8080"),
        ("1.2.3.400:80", "not an IPv4 address", "127.0.0.1:8080"),
        ("a b:80", "the host is not a name", "127.0.0.1:8080"),
        ("*:90", "the host is not a name", ":90"),
        ("@x", "begins with unix:@", "unix:@x"),
        ("unix:@", "the name is missing", "unix:@name"),
        ("unix:/", "does not name a file", "unix:/run/api.sock"),
        ("unix:", "does not name a file", "unix:/run/api.sock"),
        ("http://127.0.0.1:80/x", "a URL", "127.0.0.1:80"),
        ("a b=80", "a name has only", "web=80"),
        ("=80", "a name has only", "web=80"),
        ("34007=0", "the name 34007 is a number", "127.0.0.1:34007"),
        ("12=[::1]:80", "the name 12 is a number", "web=[::1]:80"),
        ("udp:unix:/x", "UDP has no unix addresses", "unix:/x"),
        ("udp:@x", "UDP has no unix addresses", "unix:@x"),
        ("[127.0.0.1]:x", "not a number", "127.0.0.1:8080"),
        ("udp:1.2.3.4.5", "the port is missing", "udp:localhost:8080"),
        ("udp:1.2.3.4:x", "not a number", "udp:1.2.3.4:8080"),
        ("udp://1.2.3.4:53", "a URL", "udp:1.2.3.4:53"),
        ("dns=udp:x", "the port is missing", "dns=udp:x:8080"),
        ("http://localhost", "a URL", "localhost:80"),
        ("https://[::1]/", "a URL", "[::1]:443"),
        ("fe80::1%eth0:80", "wants brackets", "[fe80::1%eth0]:80"),
        ("[::1%lo]:80", "begins with fe80", "[::1]:80"),
    ] {
        let said = refusal(text);
        let (first, second) = said.split_once("\ntry: ").unwrap_or_default();
        assert!(first.contains(why), "{text}: {said}");
        assert!(second.contains(instead), "{text}: {said}");
    }
    assert!(refusal(&format!("/{}", "x".repeat(107))).contains("longer than 107 bytes"));
}

#[test]
fn a_wildcard_covers_what_its_family_answers() {
    let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
    assert!(covers(at("0.0.0.0:80"), false, at("127.0.0.1:80")));
    assert!(covers(at("127.0.0.1:80"), false, at("127.0.0.1:80")));
    assert!(!covers(at("127.0.0.1:80"), false, at("0.0.0.0:80")));
    assert!(!covers(at("0.0.0.0:80"), false, at("127.0.0.1:81")));
    assert!(covers(at("[::]:80"), true, at("127.0.0.1:80")));
    assert!(covers(at("[::]:80"), false, at("[::1]:80")));
    assert!(!covers(at("[::]:80"), false, at("0.0.0.0:80")));
    assert!(!covers(at("[::1]:80"), true, at("127.0.0.1:80")));
}

proptest::proptest! {
    #[test]
    fn what_is_read_is_shown_as_it_can_be_read_again(text in "(unix:|udp:|@|[a-z]=)?(\\[?[0-9a-f:.]{0,12}\\]?:?[0-9]{0,6}|\\PC{0,12})") {
        if let Ok(listen) = text.parse::<Listen>() {
            let mut shown = listen.address.to_string();
            if matches!(listen.address, Address::Path(_)) {
                shown.insert_str(0, "unix:");
            }
            let again: Result<Listen, _> = shown.parse();
            proptest::prop_assert_eq!(again.map(|again| again.address).ok(), Some(listen.address));
        }
    }
}
