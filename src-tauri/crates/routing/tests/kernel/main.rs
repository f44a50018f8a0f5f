//! The kernel's own answers. Every test runs in a network namespace of its own and never touches the machine's network.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it is wrong"
)]

mod conflicts;
mod dump;
mod events;
mod lab;
mod routes;
