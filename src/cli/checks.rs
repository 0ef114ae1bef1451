//! Which options can be meant together, as far as the line alone tells.

use super::options::{CaptureMode, RunArgs};
use crate::address::Address;
use crate::ready::ReadyMode;

impl RunArgs {
    /// Each refusal says what to write instead.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_listen()?;
        if self.hold && !self.dev {
            return Err(
                "cannot hold connections without --dev: it is for local development\ntry: --dev --hold"
                    .into(),
            );
        }
        if self.ready.needs_steered_listener() && self.share {
            return Err(
                "cannot probe a shared socket: the old generation might answer\ntry: --ready notify"
                    .into(),
            );
        }
        if self.ready.needs_steered_listener()
            && self.listen.is_empty()
            && self.capture == CaptureMode::Never
        {
            return Err(
                "cannot probe a server without a listener\ntry: --listen 127.0.0.1:8080".into(),
            );
        }
        if let ReadyMode::After(age) = self.ready
            && age >= self.ready_timeout
        {
            return Err(format!(
                "cannot be ready after {}: --ready-timeout is {}\ntry: --ready-timeout {}",
                humantime::format_duration(age),
                humantime::format_duration(self.ready_timeout),
                humantime::format_duration(age.saturating_mul(2)),
            ));
        }
        Ok(())
    }

    /// Each address once, but for a port that the kernel chooses.
    fn check_listen(&self) -> Result<(), String> {
        for (at, one) in self.listen.iter().enumerate() {
            let is_chosen = matches!(
                &one.address,
                Address::Tcp(endpoint) | Address::Udp(endpoint) if endpoint.port() == 0
            );
            let mut before = self.listen.iter().take(at);
            if !is_chosen && before.any(|other| other.address == one.address) {
                let given = &one.as_given;
                return Err(format!(
                    "cannot listen on {given} twice\ntry: --listen {given}, once"
                ));
            }
        }
        Ok(())
    }
}
