//! What a user excuses one swap from.

use crate::address::AddressPattern;
use crate::control::SwapRequest;

/// What one swap is excused from.
#[derive(Clone, Debug, Default)]
pub(super) struct Waivers {
    /// Addresses that the new version may leave out.
    pub without: Vec<AddressPattern>,
    /// It need not say READY=1, though an earlier version did.
    pub forget_ready: bool,
}

impl Waivers {
    pub fn of(request: &SwapRequest) -> Self {
        let patterns = request.without.iter().map(|text| text.parse());
        Self {
            without: patterns.filter_map(Result::ok).collect(),
            forget_ready: request.forget_ready,
        }
    }

    pub fn add(&mut self, others: Waivers) {
        self.without.extend(others.without);
        self.forget_ready |= others.forget_ready;
    }
}
