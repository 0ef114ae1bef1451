//! What known programs need, by their names.

use std::ffi::OsString;
use std::path::Path;

use nix::sys::signal::Signal;

/// The signal that makes this server finish its requests and end.
pub fn stop_signal(command: &[OsString]) -> Signal {
    let name = name(command);
    if is_nginx(command) || is_php_fpm(command) || ["unicorn", "unicorn_rails"].contains(&name) {
        return Signal::SIGQUIT;
    }
    match name {
        "httpd" | "apache2" => Signal::SIGWINCH,
        "haproxy" => Signal::SIGUSR1,
        _ => Signal::SIGTERM,
    }
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

    #[test]
    fn known_servers_are_stopped_in_their_own_way() {
        let signal = |command: &str| stop_signal(&[command.into(), "-x".into()]);
        for command in [
            "nginx",
            "/usr/sbin/nginx",
            "php-fpm",
            "php-fpm8.2",
            "unicorn",
        ] {
            assert_eq!(signal(command), Signal::SIGQUIT, "{command}");
        }
        assert_eq!(signal("/usr/sbin/apache2"), Signal::SIGWINCH);
        assert_eq!(signal("httpd"), Signal::SIGWINCH);
        assert_eq!(signal("haproxy"), Signal::SIGUSR1);
        assert_eq!(signal("./server"), Signal::SIGTERM);
        assert_eq!(signal("uvicorn"), Signal::SIGTERM);
    }
}
