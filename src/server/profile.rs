//! What known programs need, by their names.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::proc::{self, process, status};

/// What asks this process to finish what it has begun and end: it goes by what the process runs, not by how it was started.
pub fn stop_signal(process: Pid) -> Signal {
    let names = names_of(process);
    let known = names.iter().find_map(|name| known_stop_signal(name));
    // Apache catches it. Another program of that name, as that of busybox, would never end of it.
    let ignores =
        |signal| signal == Signal::SIGWINCH && !status::catches(process, signal).unwrap_or(true);
    known
        .filter(|signal| !ignores(*signal))
        .unwrap_or(Signal::SIGTERM)
}

/// What means something else to node than to most servers: SIGUSR1 opens its debugger.
pub fn is_node(process: Pid) -> bool {
    proc::program(process).is_some_and(|name| name.starts_with("node"))
}

fn known_stop_signal(name: &[u8]) -> Option<Signal> {
    match without_version(name) {
        b"nginx" | b"php-fpm" | b"openresty" | b"unicorn" | b"unicorn_rails" | b"rainbows" => {
            Some(Signal::SIGQUIT)
        }
        b"httpd" | b"apache" => Some(Signal::SIGWINCH),
        b"haproxy" => Some(Signal::SIGUSR1),
        _ => None,
    }
}

/// Debian has an apache2 and a php-fpm8.2, and others an nginx-debug or nginx.debug: nginx-prometheus-exporter is another program.
fn without_version(name: &[u8]) -> &[u8] {
    let mut name = name.strip_suffix(b"debug").unwrap_or(name);
    while let [start @ .., b'0'..=b'9' | b'.' | b'-'] = name {
        name = start;
    }
    name
}

/// What a process may be known by: the file that it runs, what it calls itself, and, of a script, the script.
fn names_of(process: Pid) -> Vec<Vec<u8>> {
    let image = proc::program(process).unwrap_or_default();
    let arguments = process::arguments(process).unwrap_or_default();
    let mut names = vec![image.into_bytes()];
    names.extend(names_in(&arguments));
    names
}

/// `unicorn master -c ...` is a title, and `ruby`, `/usr/bin/unicorn` a script and who runs it.
fn names_in(arguments: &[u8]) -> Vec<Vec<u8>> {
    let words = arguments.split(|byte| *byte == 0).take(2);
    let first = |word: &[u8]| {
        let mut parts = word.split(|byte| *byte == b' ' || *byte == b':');
        base_name(parts.next().unwrap_or_default())
    };
    words.map(first).collect()
}

fn base_name(path: &[u8]) -> Vec<u8> {
    let name = Path::new(OsStr::from_bytes(path)).file_name();
    name.map(|name| name.as_bytes().to_vec())
        .unwrap_or_default()
}

pub fn is_nginx(command: &[OsString]) -> bool {
    name(command).starts_with("nginx")
}

/// Debian appends the version: php-fpm8.2.
pub fn is_php_fpm(command: &[OsString]) -> bool {
    name(command).starts_with("php-fpm")
}

fn name(command: &[OsString]) -> &str {
    let program = command.first().map(Path::new);
    let name = program.and_then(Path::file_name);
    name.and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_title_of_a_process_upsets_it(bytes: Vec<u8>) {
            let _ = names_in(&bytes);
            let _ = known_stop_signal(&bytes);
        }
    }

    #[test]
    fn known_servers_are_stopped_in_their_own_way() {
        for name in [
            "nginx",
            "php-fpm",
            "php-fpm8.2",
            "php-fpm-8.4",
            "nginx1.24",
            "nginx-debug",
            "nginx.debug",
            "unicorn",
            "openresty",
            "rainbows",
        ] {
            assert_eq!(
                known_stop_signal(name.as_bytes()),
                Some(Signal::SIGQUIT),
                "{name}"
            );
        }
        assert_eq!(known_stop_signal(b"apache2"), Some(Signal::SIGWINCH));
        assert_eq!(known_stop_signal(b"httpd"), Some(Signal::SIGWINCH));
        assert_eq!(known_stop_signal(b"haproxy"), Some(Signal::SIGUSR1));
        for name in [
            "uvicorn",
            "nginx-prometheus-exporter",
            "nginx-ingress-controller",
            "php-fpm_exporter",
            "haproxy_exporter",
        ] {
            assert_eq!(known_stop_signal(name.as_bytes()), None, "{name}");
        }
        assert_eq!(stop_signal(Pid::this()), Signal::SIGTERM);
    }

    #[test]
    fn a_server_is_known_by_its_title_and_by_its_script() {
        let title = names_in(b"unicorn master -c config.rb\0\0\0");
        assert!(title.contains(&b"unicorn".to_vec()), "{title:?}");
        let title = names_in(b"nginx: master process /usr/sbin/nginx\0");
        assert!(title.contains(&b"nginx".to_vec()), "{title:?}");
        let script = names_in(b"ruby\0/usr/bin/unicorn\0-c\0config.rb\0");
        assert!(script.contains(&b"unicorn".to_vec()), "{script:?}");
        let shell = names_in(b"sh\0-c\0nginx\0");
        assert!(!shell.contains(&b"nginx".to_vec()), "{shell:?}");
    }
}
