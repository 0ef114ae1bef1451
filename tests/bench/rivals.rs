//! Others that replace a server by a newer one of itself: the same load, what of it fails, and how soon the new one answers.
//!
//! Those that are not on the PATH are left out by name.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::load::{self, Flow, Request};
use crate::report::{Report, Samples, Target};
use crate::servers::on_path;
use crate::subject::{built, free_address, hotswap, monotonic};

mod saves;

pub use saves::RIVALS as AT_SAVES;

/// Fine enough to see when the new one answers.
const RATE: u32 = 1000;
const STARTING: Duration = Duration::from_secs(15);
const STOPPING: Duration = Duration::from_secs(5);

/// In what it is started with, `{port}`, `{dir}`, `{hotswap}`, `{server}` and `{began}` stand for what they are this time;
/// `{server}` stops gracefully, and ADDRESS is to follow. `{pid}` is that of the rival. Files with `{began}` in them are
/// written anew for each swap.
pub struct Rival {
    name: &'static str,
    needs: &'static [&'static str],
    files: &'static [(&'static str, &'static str)],
    start: &'static str,
    swap: &'static str,
}

pub const RIVALS: [Rival; 10] = [
    Rival {
        name: "hotswap, captured",
        needs: &[],
        files: &[],
        start: "{hotswap} --no-watch --name bench -- {server} 127.0.0.1:{port} 0 graceful",
        swap: "{hotswap} swap bench",
    },
    Rival {
        name: "hotswap --listen",
        needs: &[],
        files: &[],
        start: "{hotswap} --no-watch --name bench --listen 127.0.0.1:{port} -- {server} - 0 graceful",
        swap: "{hotswap} swap bench",
    },
    Rival {
        name: "Server::Starter",
        needs: &["start_server"],
        files: &[],
        start: "start_server --port=127.0.0.1:{port} -- \
                sh -c 'exec {server} fd:${SERVER_STARTER_PORT##*=} 0 graceful'",
        swap: "kill -HUP {pid}",
    },
    Rival {
        name: "circus",
        needs: &["circusd", "circusctl"],
        files: &[(
            "circus.ini",
            "[circus]\nendpoint = ipc://{dir}/endpoint\npubsub_endpoint = ipc://{dir}/pubsub\n\
             [watcher:web]\ncmd = {server} fd:$(circus.sockets.web) 0 graceful\nuse_sockets = True\n\
             [socket:web]\nhost = 127.0.0.1\nport = {port}\n",
        )],
        start: "circusd circus.ini",
        swap: "circusctl --endpoint ipc://{dir}/endpoint reload web",
    },
    Rival {
        name: "supervisord",
        needs: &["supervisord", "supervisorctl"],
        files: &[(
            "supervisord.conf",
            "[supervisord]\nnodaemon = true\n[unix_http_server]\nfile = {dir}/control\n\
             [rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisorctl]\nserverurl = unix://{dir}/control\n\
             [program:web]\ncommand = {server} 127.0.0.1:{port} 0 graceful\n",
        )],
        start: "supervisord -c supervisord.conf",
        swap: "supervisorctl -c supervisord.conf restart web",
    },
    Rival {
        name: "watchexec --socket",
        needs: &["watchexec"],
        files: &[("stamp", "{began}")],
        start: "watchexec --quiet --socket 127.0.0.1:{port} --restart --watch stamp -- \
                'exec {server} fd:$LISTEN_FDS_FIRST_FD 0 graceful'",
        swap: "true",
    },
    Rival {
        name: "systemfd and watchexec",
        needs: &["systemfd", "watchexec"],
        files: &[("stamp", "{began}")],
        start: "systemfd --quiet --no-pid --socket http::127.0.0.1:{port} -- \
                watchexec --quiet --restart --watch stamp -- {server} fd:3 0 graceful",
        swap: "true",
    },
    Rival {
        name: "pm2 reload",
        needs: &["pm2"],
        files: &[(
            "web.js",
            "const body = `generation 0 began ${process.hrtime.bigint()} ready 0\\n`;\n\
             const server = require('http').createServer((request, answer) => answer.end(body));\n\
             server.listen({port}, '127.0.0.1');\n\
             process.on('SIGINT', () => server.close(() => process.exit(0)));\n",
        )],
        start: "pm2 start web.js --instances 1 --name web --no-daemon",
        swap: "pm2 reload web",
    },
    Rival {
        name: "nginx -s reload",
        needs: &["nginx"],
        files: &[(
            "nginx.conf",
            "daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_processes 1; events {}\n\
             http { access_log off; server { listen 127.0.0.1:{port}; \
             return 200 \"generation 0 began {began} ready 0\\n\"; } }\n",
        )],
        start: "nginx -c {dir}/nginx.conf",
        swap: "nginx -c {dir}/nginx.conf -s reload",
    },
    Rival {
        name: "gunicorn, HUP",
        needs: &["gunicorn"],
        files: &[(
            "app.py",
            "import time\nbody = b'generation 0 began %d ready 0\\n' % time.monotonic_ns()\n\
             def app(environ, start):\n    \
                 start('200 OK', [('Content-Length', str(len(body)))])\n    return [body]\n",
        )],
        start: "gunicorn --bind 127.0.0.1:{port} app:app",
        swap: "kill -HUP {pid}",
    },
];

/// A rival that runs, and the folder it runs in.
struct Running {
    rival: &'static Rival,
    dir: TempDir,
    port: u16,
    child: Child,
}

impl Running {
    /// Nothing if it does not answer.
    fn start(rival: &'static Rival) -> Option<Running> {
        let dir = tempfile::tempdir().expect("a folder");
        let address = free_address();
        let mut command = shell(&dir, address.port(), &format!("exec {}", rival.start));
        write_files(rival, &dir, address.port(), true);
        let child = command.process_group(0).spawn().expect("a shell");
        let port = address.port();
        let running = Running {
            rival,
            dir,
            port,
            child,
        };
        let until = Instant::now() + STARTING;
        while load::ask(address).is_err() {
            if Instant::now() > until {
                return None;
            }
            sleep(Duration::from_millis(20));
        }
        Some(running)
    }

    fn swap(&self) {
        write_files(self.rival, &self.dir, self.port, false);
        let swap = self
            .rival
            .swap
            .replace("{pid}", &self.child.id().to_string());
        let status = shell(&self.dir, self.port, &swap).status();
        assert!(status.is_ok_and(|status| status.success()), "{swap} failed");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        let until = Instant::now() + STOPPING;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            sleep(Duration::from_millis(20));
        }
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
        // entr leaves its server behind, in a group of its own
        for process in running_in(self.dir.path()) {
            let _ = kill(process, Signal::SIGKILL);
        }
    }
}

/// The processes whose working directory this is.
fn running_in(directory: &Path) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let here = processes.filter(|process| {
        fs::read_link(process.path().join("cwd")).is_ok_and(|found| found == directory)
    });
    here.filter_map(|process| {
        process
            .file_name()
            .to_str()?
            .parse()
            .ok()
            .map(Pid::from_raw)
    })
    .collect()
}

fn filled(text: &str, dir: &TempDir, port: u16) -> String {
    text.replace("{dir}", &dir.path().to_string_lossy())
        .replace("{port}", &port.to_string())
        .replace("{hotswap}", &hotswap().to_string_lossy())
        .replace("{server}", &built("quick").to_string_lossy())
        .replace("{began}", &monotonic().to_string())
}

fn write_files(rival: &Rival, dir: &TempDir, port: u16, all: bool) {
    let files = rival.files.iter();
    for (name, text) in files.filter(|(_, text)| all || text.contains("{began}")) {
        fs::write(dir.path().join(name), filled(text, dir, port)).expect("a file");
    }
}

fn shell(dir: &TempDir, port: u16, line: &str) -> Command {
    let mut command = Command::new("sh");
    let line = filled(line, dir, port);
    command.args(["-c", &line]).current_dir(dir.path());
    command.env("XDG_RUNTIME_DIR", dir.path());
    command.env("PM2_HOME", dir.path().join("pm2"));
    let mut options = fs::File::options();
    let log = options
        .create(true)
        .append(true)
        .open(dir.path().join("log"));
    let log = log.expect("a log");
    let twin = log.try_clone().expect("its twin");
    command.stdin(Stdio::null()).stdout(log).stderr(twin);
    command
}

/// What one of them did to its clients.
struct Outcome {
    requests: Vec<Request>,
    /// From when the swap was asked for to the end of the first request that the new one answered.
    first_answers: Samples,
    /// Requests that were begun after a swap was asked for, and answered by one before it.
    outdated: usize,
}

fn swap_under_load(running: &Running, swaps: u32, rest: Duration) -> Outcome {
    let flow = Flow::begin(([127, 0, 0, 1], running.port).into(), RATE);
    sleep(Duration::from_millis(200));
    let mut asked = Vec::new();
    for _ in 0..swaps {
        asked.push((monotonic(), Instant::now()));
        running.swap();
        sleep(rest);
    }
    let requests = flow.end();
    let first_answer = |(stamp, asked): &(u128, Instant)| {
        let is_new = |request: &&Request| {
            let answer = request.met.as_ref();
            answer.is_ok_and(|answer| answer.began >= *stamp)
        };
        let ends = requests
            .iter()
            .filter(is_new)
            .map(|request| request.at + request.took);
        Some(ends.min()?.saturating_duration_since(*asked))
    };
    let first_answers = asked.iter().filter_map(first_answer).collect();
    let is_outdated = |request: &&Request| {
        let last = asked.iter().rev().find(|(_, asked)| *asked <= request.at);
        let answer = request.met.as_ref();
        answer.is_ok_and(|answer| last.is_some_and(|(stamp, _)| answer.began < *stamp))
    };
    let outdated = requests.iter().filter(is_outdated).count();
    Outcome {
        requests,
        first_answers,
        outdated,
    }
}

pub fn compare(report: &mut Report, rivals: &'static [Rival], swaps: u32, rest: Duration) {
    let mut ours: Option<Samples> = None;
    for rival in rivals {
        let name = rival.name;
        if let Some(missing) = rival.needs.iter().find(|need| on_path(need).is_none()) {
            println!("  left out: {name}, for there is no {missing}");
            continue;
        }
        let Some(running) = Running::start(rival) else {
            println!("  left out: {name}, which does not answer here");
            continue;
        };
        let outcome = swap_under_load(&running, swaps, rest);
        let kinds = load::failures(&outcome.requests);
        for (kind, count) in &kinds {
            println!("  {count} requests {kind}");
        }
        #[allow(clippy::cast_precision_loss)]
        let one = |count: usize| Samples::from_iter([count as f64]);
        let failed = one(kinds.values().sum());
        let count = outcome.requests.len();
        let failures = format!("{name}: {swaps} swaps, {count} requests: failed");
        let first = format!("{name}: asked to first new answer");
        report.figure(format!("{name}: old answers"), "", one(outcome.outdated));
        if name.starts_with("hotswap") {
            report.bounded(failures, "", failed, Target::AtMost(0.0));
            report.figure(first, "ms", outcome.first_answers.clone());
            ours = Some(outcome.first_answers);
        } else {
            report.figure(failures, "", failed);
            let ours = ours.clone().unwrap_or_default();
            report.pair(first, "ms", outcome.first_answers, ("hotswap", ours), None);
        }
    }
}
