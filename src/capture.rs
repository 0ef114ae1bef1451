//! The listeners of servers that know nothing of us: what they bind, hotswap makes its own.

pub mod filter;
