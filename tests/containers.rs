//! Containers as docker and podman make them: by runc(8), with their own seccomp profiles and docker's capabilities.
//!
//! The root is this machine's /usr and /etc, so that a case takes seconds. Clients come from outside.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::crowd::Habit;
use crate::common::place::{Place, free_address};
use crate::common::plan::Plan;
use crate::common::{server, skipped};

mod bundle;

use bundle::{Bundle, Engine, SUBORDINATE};

const SWAPS: usize = 5;
/// When docker kills what it has asked to stop.
const DOCKER_STOP: Duration = Duration::from_secs(10);

/// A plan whose hotswap is the first process of such a container; nothing, with a word, where that cannot be had.
fn contained(name: &str, plan: Plan, bundle: &Bundle) -> Option<Plan> {
    if !nix::unistd::geteuid().is_root() {
        skipped(name, "needs root");
        return None;
    }
    let runc = Command::new("runc").arg("--version").output();
    if !runc.is_ok_and(|output| output.status.success()) {
        skipped(name, "runc is not installed");
        return None;
    }
    let Some(profile) = profile_of(bundle.engine) else {
        skipped(name, "no seccomp profile; scripts/check fetches it");
        return None;
    };
    let wrapper = bundle.write(plan.dir(), &profile);
    Some(plan.inside(&wrapper.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// Beside what cargo builds.
fn profile_of(engine: Engine) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let name = match engine {
        Engine::Docker => "docker-seccomp.json",
        Engine::Podman => "podman-seccomp.json",
    };
    Some(target.join("tools").join(name)).filter(|path| path.exists())
}

/// Swaps under new, kept and slow clients, and a stop by the signal that `docker stop` sends.
fn swaps_and_stops(plan: Plan, stop: Signal) {
    let mut site = plan.serving("v1");
    let guests = site.guests().arriving(25, Habit::default());
    let mut clients = guests.and(4, Habit::kept()).come();
    clients.until_answered(20);
    for generation in 1..=SWAPS {
        site.swap();
        site.wait_until_gone(u32::try_from(generation).expect("a number"));
    }
    clients.until_answered(20);
    clients.expect_no_failure();
    site.signal(stop);
    site.expect_status(0).expect_no_process();
}

fn nginx(name: &str, bundle: &Bundle) -> Option<Plan> {
    if !Path::new("/usr/sbin/nginx").exists() {
        skipped(name, "nginx is not installed");
        return None;
    }
    let place = Place::captured();
    let Place::Captured(address) = place else {
        return None;
    };
    let (plan, port) = (Plan::at(place), address.port());
    let dir = plan.dir().display().to_string();
    let configuration = format!(
        "error_log stderr; pid {dir}/nginx.pid; worker_processes 2; events {{ worker_connections 64; }}\n\
         http {{ access_log off; server {{ listen {address} reuseport; listen [::1]:{port} reuseport ipv6only=on;\n\
         location / {{ return 200 hello; }} }} client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;\n\
         fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; }}"
    );
    let file = plan.dir().join("nginx.conf");
    fs::write(&file, configuration).expect("a configuration");
    let arguments = ["-c", &format!("{dir}/nginx.conf"), "-g", "daemon off;"];
    let plan = plan.by_program("/usr/sbin/nginx".into(), &arguments);
    contained(name, plan, bundle)
}

#[test]
fn nginx_with_reuseport_and_both_families() {
    const NAME: &str = "nginx_with_reuseport_and_both_families";
    if let Some(plan) = nginx(NAME, &Bundle::default()) {
        swaps_and_stops(plan, Signal::SIGTERM);
    }
}

#[test]
fn uvicorn_with_workers() {
    const NAME: &str = "uvicorn_with_workers";
    if !Path::new("/usr/bin/uvicorn").exists() {
        return skipped(NAME, "uvicorn is not installed");
    }
    let address = free_address();
    let plan = Plan::at(Place::Captured(address));
    let app = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/servers/real/apps/asgi/app.py"
    );
    fs::copy(app, plan.dir().join("app.py")).expect("the app");
    let (dir, port) = (plan.dir().display().to_string(), address.port().to_string());
    let arguments = [
        "--workers",
        "2",
        "--port",
        &port,
        "--app-dir",
        &dir,
        "app:app",
    ];
    // its keep-alive connections are busy whenever one looks
    let plan = plan.with(&["--quiesce", "1s"]);
    let plan = plan.by_program("/usr/bin/uvicorn".into(), &arguments);
    if let Some(plan) = contained(NAME, plan, &Bundle::default()) {
        swaps_and_stops(plan, Signal::SIGTERM);
    }
}

/// As an image's `STOPSIGNAL SIGQUIT` has it, with which docker stops images of nginx.
#[test]
fn a_stop_signal_of_the_image_is_a_stop() {
    const NAME: &str = "a_stop_signal_of_the_image_is_a_stop";
    if let Some(plan) = contained(NAME, Plan::at(Place::captured()), &Bundle::default()) {
        swaps_and_stops(plan, Signal::SIGQUIT);
    }
}

#[test]
fn a_read_only_root_without_privileges_and_with_limits() {
    const NAME: &str = "a_read_only_root_without_privileges_and_with_limits";
    let bundle = Bundle {
        user: 65534,
        read_only: true,
        processes: Some(24),
        memory: Some(96 << 20),
        ..Bundle::default()
    };
    let plan = Plan::at(Place::captured());
    chown(plan.dir(), Some(65534), Some(65534)).unwrap_or_default();
    if let Some(plan) = contained(NAME, plan, &bundle) {
        swaps_and_stops(plan, Signal::SIGTERM);
    }
}

/// podman allows pidfd_getfd(2), which docker does not.
#[test]
fn in_a_container_of_podman() {
    const NAME: &str = "in_a_container_of_podman";
    let bundle = Bundle {
        engine: Engine::Podman,
        ..Bundle::default()
    };
    if let Some(plan) = contained(NAME, Plan::at(Place::captured()), &bundle) {
        swaps_and_stops(plan, Signal::SIGTERM);
    }
}

/// Its root is an unprivileged user of this machine.
#[test]
fn without_root_outside() {
    const NAME: &str = "without_root_outside";
    for engine in [Engine::Docker, Engine::Podman] {
        let bundle = Bundle {
            engine,
            rootless: true,
            ..Bundle::default()
        };
        let plan = Plan::at(Place::captured());
        chown(plan.dir(), Some(SUBORDINATE), Some(SUBORDINATE)).unwrap_or_default();
        if let Some(plan) = contained(NAME, plan, &bundle) {
            swaps_and_stops(plan, Signal::SIGTERM);
        }
    }
}

/// `docker stop` kills after ten seconds; a request that takes four is answered.
fn a_long_request_outlives_docker_stop(name: &str, plan: Plan) {
    let long = Habit::taking(Duration::from_secs(4));
    let Some(plan) = contained(name, plan, &Bundle::default()) else {
        return;
    };
    let mut site = plan.serving("v1");
    let mut clients = site.guests().and(2, long).come();
    clients.until_asked(2);
    let asked = Instant::now();
    site.signal(Signal::SIGTERM);
    let tally = clients.expect_no_failure();
    tally.expect_seen("v1");
    site.expect_status(0).expect_no_process();
    assert!(asked.elapsed() < DOCKER_STOP);
}

#[test]
fn docker_stop_lets_a_server_without_a_graceful_stop_answer() {
    let name = "docker_stop_lets_a_server_without_a_graceful_stop_answer";
    a_long_request_outlives_docker_stop(name, Plan::at(Place::captured()).by_odd(""));
}

#[test]
fn docker_stop_lets_a_graceful_server_answer() {
    let name = "docker_stop_lets_a_graceful_server_answer";
    a_long_request_outlives_docker_stop(name, Plan::at(Place::captured()));
}

#[test]
fn a_listened_socket_needs_nothing_that_docker_forbids() {
    const NAME: &str = "a_listened_socket_needs_nothing_that_docker_forbids";
    if let Some(plan) = contained(NAME, Plan::at(Place::Dual), &Bundle::default()) {
        swaps_and_stops(plan.by_odd(""), Signal::SIGTERM);
    }
}
