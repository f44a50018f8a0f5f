//! What the page is built on is written by these tests, and has to be what the model is now.
//!
//! `MINITUNNEL_WRITE=1 cargo test -p minitunnel-window --features ts types` writes it.

#![expect(
    clippy::unwrap_used,
    reason = "it is how a test fails, in its helpers too"
)]

use std::{env, fs, path::Path};

use minitunnel_model::{CleanupReport, Command, examples};
use serde_json::json;
use ts_rs::{Config, TS};

use crate::link::View;

/// Compares a file of the page's with what it should be, or writes it.
fn keep(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../ui")
        .join(file);
    if env::var_os("MINITUNNEL_WRITE").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == text,
        "ui/{file} is not as the model is: run `MINITUNNEL_WRITE=1 cargo test -p minitunnel-window --features ts types`"
    );
}

#[test]
fn the_pages_types_are_the_models() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new().with_out_dir(folder.path());
    View::export_all(&config).unwrap();
    Command::export_all(&config).unwrap();
    CleanupReport::export_all(&config).unwrap();
    keep(
        "src/model.ts",
        &fs::read_to_string(folder.path().join("model.ts")).unwrap(),
    );
}

#[test]
fn the_examples_of_the_pages_tests_are_the_models() {
    let examples = json!({
        "now": examples::NOW,
        "desk": examples::desk(examples::NOW),
        "trouble": examples::trouble(examples::NOW),
        "empty": examples::empty(),
        "cleanup": examples::cleanup(),
    });
    let text = serde_json::to_string_pretty(&examples).unwrap() + "\n";
    keep("tests/examples.json", &text);
}
