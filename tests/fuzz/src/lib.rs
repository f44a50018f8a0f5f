//! What the fuzz targets do with their input: they read it as the product does, and compare with a naive reading of it.
//!
//! `tests/run fuzz` has cargo-fuzz look for input that breaks a target; the test `corpus` runs each over all that was ever
//! worth keeping. A target tells by its answer whether the input was accepted, and what is wrong by a panic.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target says what it has found"
)]

mod minikube;
mod privileged;
mod rules;
mod session;

// The helper is a program and no library; its readers are compiled here once more, from the same files.
#[path = "../../../src-tauri/crates/helper/src/asked.rs"]
mod asked;
#[expect(dead_code, reason = "the helper uses more of it than its reader")]
#[path = "../../../src-tauri/crates/helper/src/journal.rs"]
mod journal;
#[expect(dead_code, reason = "the helper uses more of it than its reader")]
#[path = "../../../src-tauri/crates/helper/src/validate.rs"]
mod validate;

pub use minikube::{config, registry};
pub use privileged::{journal, messages, routes};
pub use session::{answers, requests};

/// A target: whether it accepts an input.
pub type Target = fn(&[u8]) -> bool;

/// Every target by its name, which is also that of its program and of its folder in `corpus`.
pub const TARGETS: [(&str, Target); 7] = [
    ("config", config),
    ("registry", registry),
    ("journal", journal),
    ("requests", requests),
    ("answers", answers),
    ("messages", messages),
    ("routes", routes),
];
