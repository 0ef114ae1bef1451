//! How the address of a captured listener is written.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde_json::{Value, json};

use super::bytes;
use crate::listener::unix_dir::file_of;
use crate::listener::{CapturedAddress, PathEntry};

impl CapturedAddress {
    pub fn written(&self) -> Value {
        match self {
            Self::Tcp {
                at,
                only_v6,
                device,
            } => json!({ "tcp": at.to_string(), "only_v6": only_v6, "device": device }),
            Self::Udp(at) => json!({ "udp": at.to_string() }),
            Self::Path(entry) => json!({
                "directory": entry.directory,
                "name": entry.name.as_bytes(),
                "path": entry.path.as_os_str().as_bytes(),
            }),
            Self::Abstract(name) => json!({ "abstract": name }),
        }
    }

    pub fn of_written(written: &Value) -> Option<Self> {
        let inet = |name: &str| -> Option<SocketAddr> { written[name].as_str()?.parse().ok() };
        let os = |name: &str| bytes(&written[name]).map(OsString::from_vec);
        if let Some(at) = inet("tcp") {
            return Some(Self::Tcp {
                at,
                only_v6: written["only_v6"].as_bool()?,
                device: u32::try_from(written["device"].as_u64()?).ok()?,
            });
        }
        if let Some(at) = inet("udp") {
            return Some(Self::Udp(at));
        }
        if let Some(name) = bytes(&written["abstract"]) {
            return Some(Self::Abstract(name));
        }
        Some(Self::Path(PathEntry {
            directory: file_of(&written["directory"])?,
            name: os("name")?,
            path: os("path")?.into(),
        }))
    }
}
