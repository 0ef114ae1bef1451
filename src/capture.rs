//! The listeners of servers that know nothing of us: what they bind, hotswap makes its own.

mod caller;
pub mod filter;
mod notification;
mod place;
