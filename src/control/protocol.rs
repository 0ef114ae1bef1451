//! The protocol of the control socket: one JSON object per line, each way.
//!
//! A client sends one request: `{"do":"swap","drained":true}`, or `rollback`, `status`, `history`, `stop`, `events`,
//! `upgrade`. hotswap greets each client with `{"hotswap":VERSION,"name":NAME,"pid":PID}`, sends `{"event":{..}}` to those
//! that follow or wait, `{"progress":TEXT}` to those that wait for a generation to be gone, and ends with one of
//! `{"verdict":{..}}`, `{"status":{..}}`, `{"done":true}`, `{"refused":WHY}`, `{"usage":WHY}` and `{"error":WHY}`. Unknown
//! keys are ignored.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum RequestKind {
    Swap(SwapRequest),
    Rollback,
    History,
    Status,
    Stop,
    Events,
    Upgrade,
}

/// A swap, and what is special about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SwapRequest {
    /// The answer waits until the old generation is gone.
    pub drained: bool,
    /// The candidate is discarded once it is ready.
    pub check: bool,
    /// Addresses that the new version may leave out.
    pub without: Vec<String>,
    /// It need not say READY=1, though an earlier version did.
    pub forget_ready: bool,
}

impl RequestKind {
    /// # Errors
    /// If the line is not a request.
    pub fn read(line: &[u8]) -> Result<Self, &'static str> {
        let request: Value = serde_json::from_slice(line).map_err(|_| "not a line of JSON")?;
        if !request["do"].is_string() {
            return Err("an object without \"do\"");
        }
        serde_json::from_value(request).map_err(|_| "an unknown request")
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwapResult {
    Serving,
    #[default]
    Aborted,
    RolledBack,
    /// It was ready, and nobody wanted more.
    Checked,
    /// The program has changed, but cannot be run: nothing was started.
    Unfit,
}

/// The verdict on a swap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SwapVerdict {
    pub time: String,
    pub generation: u32,
    pub result: SwapResult,
    /// `signal`, `request`, `file`, `rollback`, `restart` or `first`.
    pub cause: String,
    /// Of the client that asked.
    pub uid: Option<u32>,
    /// What it runs: path, size, modified, hash, differs.
    pub program: Option<Value>,
    pub reason: Option<String>,
    /// The sentence without what became of the others.
    pub outcome: String,
    /// The new generation serves, and has proven itself.
    pub serving: bool,
    /// The sentence, as in the log.
    #[serde(rename = "message")]
    pub text: String,
    /// What a failed candidate wrote last to its stderr.
    #[serde(rename = "stderr")]
    pub last_lines: Vec<String>,
}

impl SwapVerdict {
    /// What was asked for has come about.
    pub fn is_good(&self) -> bool {
        self.serving || self.result == SwapResult::Checked
    }
}

/// What hotswap says to a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Event(Value),
    Progress(String),
    Verdict(SwapVerdict),
    Status(Value),
    /// It is always true.
    Done(bool),
    Refused(String),
    /// It makes no sense for this instance.
    Usage(String),
    Error(String),
    #[serde(untagged)]
    Greeting {
        #[serde(rename = "hotswap")]
        version: String,
        name: String,
        pid: u32,
    },
}

/// A request or a message as it is sent.
pub fn line_of(said: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(said).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_survives_the_wire() {
        let all = [
            RequestKind::Swap(SwapRequest::default()),
            RequestKind::Swap(SwapRequest {
                drained: true,
                check: true,
                without: vec!["127.0.0.1:9090".into()],
                forget_ready: true,
            }),
            RequestKind::Status,
            RequestKind::Stop,
            RequestKind::Events,
            RequestKind::Upgrade,
        ];
        for what in all {
            assert_eq!(RequestKind::read(&line_of(&what)), Ok(what));
        }
    }

    #[test]
    fn a_message_survives_the_wire() {
        let verdict = SwapVerdict {
            serving: false,
            text: "generation 3 aborted: exited with status 1 after 12ms".into(),
            last_lines: vec!["panicked at \"x\"".into(), String::new()],
            ..SwapVerdict::default()
        };
        let greeting = Reply::Greeting {
            version: "0.1.0".into(),
            name: "api".into(),
            pid: 7,
        };
        let all = [
            greeting,
            Reply::Event(json!({"event": "serving", "message": "generation 2 is serving"})),
            Reply::Progress("generation 1 is draining, 3 connections".into()),
            Reply::Verdict(verdict),
            Reply::Status(json!({"name": "api"})),
            Reply::Done(true),
            Reply::Refused("it does not run".into()),
            Reply::Error("too many clients".into()),
        ];
        for message in all {
            let line = line_of(&message);
            assert_eq!(serde_json::from_slice::<Reply>(&line).unwrap(), message);
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_reason() {
        let refusal = |line: &str| RequestKind::read(line.as_bytes()).unwrap_err();
        assert_eq!(refusal("swap"), "not a line of JSON");
        assert_eq!(refusal("[]"), "an object without \"do\"");
        assert_eq!(refusal(r#"{"do":"explode"}"#), "an unknown request");
        assert_eq!(refusal(&"[".repeat(4000)), "not a line of JSON");
    }

    proptest! {
        #[test]
        fn no_bytes_upset_either_end(bytes: Vec<u8>) {
            let _ = RequestKind::read(&bytes);
            let _ = serde_json::from_slice::<Reply>(&bytes);
        }

        #[test]
        fn no_json_upsets_either_end(key in "do|drained|verdict|event|hotswap|done|[a-z]{0,3}", value in "[0-9]{1,20}|\"[a-z]{0,8}\"|\\[\\]|\\{\\}|null|true") {
            let line = format!("{{\"{key}\":{value}}}");
            let _ = RequestKind::read(line.as_bytes());
            let _ = serde_json::from_str::<Reply>(&line);
        }
    }
}
