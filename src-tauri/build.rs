//! Checks that the page is built, and lets the page call these commands and no others.

use std::{path::Path, process::exit};

const PAGE: &str = "../ui/dist";
const COMMANDS: &[&str] = &[
    "watch",
    "command",
    "clean_up",
    "start_session",
    "open_service",
    "open_guide",
];

fn main() {
    println!("cargo::rerun-if-changed={PAGE}");
    if !Path::new(PAGE).join("index.html").exists() {
        println!(
            "cargo::error=the window's page is not built: run `npm ci && npm run build` in ui, then try again"
        );
        exit(1);
    }
    let manifest = tauri_build::AppManifest::new().commands(COMMANDS);
    let attributes = tauri_build::Attributes::new().app_manifest(manifest);
    if let Err(error) = tauri_build::try_build(attributes) {
        println!("cargo::error={error:#}");
        exit(1);
    }
}
