//! What runc(8) is told: an OCI bundle, made of docker's defaults.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use serde_json::{Value, json};

use super::server;
use crate::common::{hotswap_program, processes};

/// Those that docker leaves a container; its profile allows calls by them.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Who makes the container.
#[derive(Clone, Copy, Default)]
pub enum Engine {
    #[default]
    Docker,
    Podman,
}

/// The user outside who is root in a rootless container.
pub const SUBORDINATE: u32 = 100_000;

/// The options of `docker run`.
#[derive(Default)]
pub struct Bundle {
    pub engine: Engine,
    pub rootless: bool,
    pub user: u32,
    pub read_only: bool,
    pub processes: Option<u32>,
    pub memory: Option<u64>,
}

impl Bundle {
    /// Writes it into the directory of a site, and returns the words that run a program in it.
    pub fn write(&self, dir: &Path, profile: &Path) -> [String; 4] {
        let bundle = dir.join("bundle");
        let root = bundle.join("root");
        fs::create_dir_all(&root).expect("a root");
        for name in ["bin", "sbin", "lib", "lib64"] {
            if fs::read_link(Path::new("/").join(name)).is_ok() {
                symlink(format!("usr/{name}"), root.join(name)).expect("a link");
            }
        }
        if self.rootless {
            for place in [&bundle, &root] {
                chown(place, Some(SUBORDINATE), Some(SUBORDINATE)).expect("another owner");
            }
        }
        let configuration = self.configuration(dir, profile).to_string();
        fs::write(bundle.join("config.json"), configuration).expect("a configuration");
        let (dir, name) = (dir.display(), dir.file_name().expect("a name").display());
        // runc gets the words that it runs by a file
        let script = format!(
            "printf '%s\\n' \"$@\" > {dir}/bundle/words\n\
             exec runc --root {dir}/bundle/state run --bundle {dir}/bundle {name}"
        );
        ["sh", "-c", &script, "sh"].map(str::to_owned)
    }

    fn configuration(&self, dir: &Path, profile: &Path) -> Value {
        let own = CAPABILITIES.map(Value::from).to_vec();
        let own = if self.user == 0 { own } else { Vec::new() };
        let words = format!(
            "IFS='\n'; set -f; exec $(cat {}/bundle/words)",
            dir.display()
        );
        let environment = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            format!("{}={}", processes::MARK, dir.display()),
            format!("XDG_RUNTIME_DIR={}/run", dir.display()),
        ];
        let mut namespaces = vec!["pid", "mount", "ipc", "uts"];
        let mut mappings = json!([]);
        if self.rootless {
            namespaces.push("user");
            mappings = json!([{ "containerID": 0, "hostID": SUBORDINATE, "size": 65_536 }]);
        }
        let namespaces = namespaces.iter().map(|kind| json!({ "type": kind }));
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": self.user, "gid": self.user },
                "args": ["/bin/sh", "-c", words],
                "env": environment,
                "cwd": dir,
                "capabilities": { "bounding": CAPABILITIES, "effective": own, "permitted": own },
            },
            "root": { "path": "root", "readonly": self.read_only },
            "mounts": mounts(dir, self.rootless),
            "linux": {
                "namespaces": namespaces.collect::<Vec<_>>(),
                "uidMappings": mappings,
                "gidMappings": mappings,
                "cgroupsPath": format!("/hotswap-test/{}", dir.file_name().expect("a name").display()),
                "resources": self.limits(),
                "seccomp": seccomp(profile),
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        })
    }

    fn limits(&self) -> Value {
        let mut limits = json!({});
        if let Some(processes) = self.processes {
            limits["pids"] = json!({ "limit": processes });
        }
        if let Some(memory) = self.memory {
            limits["memory"] = json!({ "limit": memory, "swap": memory });
        }
        limits
    }
}

fn mounts(dir: &Path, rootless: bool) -> Vec<Value> {
    let new = |place: &str, kind: &str, options: &[&str]| json!({ "destination": place, "type": kind, "source": kind, "options": options });
    let same = |path: &Path, options: &[&str]| json!({ "destination": path, "type": "bind", "source": path, "options": options });
    let (read, write) = (["bind", "ro"], ["bind", "rw"]);
    let program = hotswap_program().canonicalize().expect("hotswap");
    let servers = server("odd").canonicalize().expect("a server");
    let mut mounts = vec![
        new("/proc", "proc", &[]),
        new("/dev", "tmpfs", &["nosuid", "mode=755"]),
        new("/dev/shm", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
        new("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
        same(Path::new("/usr"), &read),
        same(Path::new("/etc"), &read),
        same(program.parent().expect("a directory"), &read),
        same(servers.parent().expect("a directory"), &read),
        same(dir, &write),
    ];
    // of another network's namespace: nobody but its owner may mount that
    if !rootless {
        mounts.push(new("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]));
    }
    mounts
}

/// A profile in the words of OCI: the rules that hold for these capabilities on this machine.
fn seccomp(profile: &Path) -> Value {
    let text = fs::read_to_string(profile).expect("a profile");
    let profile: Value = serde_json::from_str(&text).expect("JSON");
    let has = |rule: &Value, part: &str, key: &str, own: &[&str]| {
        let names = rule[part][key].as_array().cloned().unwrap_or_default();
        let mut names = names.iter().filter_map(Value::as_str);
        (
            names.clone().next().is_some(),
            names.any(|name| own.contains(&name)),
        )
    };
    let arches: &[&str] = if cfg!(target_arch = "aarch64") {
        &["arm64"]
    } else {
        &["amd64"]
    };
    let applies = |rule: &&Value| {
        let keys: [(&str, &[&str]); 2] = [("caps", &CAPABILITIES), ("arches", arches)];
        keys.iter().all(|(key, own)| {
            let (asks, met) = has(rule, "includes", key, own);
            (!asks || met) && !has(rule, "excludes", key, own).1
        })
    };
    let rules = profile["syscalls"].as_array().expect("rules");
    let rules = rules.iter().filter(applies).map(|rule| {
        let mut oci = json!({ "names": rule["names"], "action": rule["action"] });
        if rule["args"].as_array().is_some_and(|args| !args.is_empty()) {
            oci["args"] = rule["args"].clone();
        }
        if !rule["errnoRet"].is_null() {
            oci["errnoRet"] = rule["errnoRet"].clone();
        }
        oci
    });
    let refused = profile["defaultErrnoRet"].as_u64().unwrap_or(1);
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": refused, "syscalls": rules.collect::<Vec<_>>() })
}
