//! What the process that runs as root is made of.

#![expect(
    clippy::unwrap_used,
    reason = "it is how a test fails, in its helpers too"
)]

use std::{fs, path::Path, process::Command};

use serde_json::Value;

/// The most lines of ours that the privileged program may be made of: it only ever becomes less.
const LINES: usize = 2_476;

/// Parts of names of crates that have no business there.
const FORBIDDEN: [&str; 24] = [
    "async-io",
    "curl",
    "gtk",
    "h2",
    "http",
    "hyper",
    "k8s",
    "ksni",
    "kube",
    "native-tls",
    "openssl",
    "quinn",
    "reqwest",
    "ring",
    "rustls",
    "schannel",
    "smol",
    "tao",
    "tauri",
    "tower",
    "tray-icon",
    "webkit",
    "webpki",
    "wry",
];

#[test]
fn links_no_tls_http_kube_gui() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "minitunnel-helper"])
        .args([
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    // The command really listed dependencies.
    for known in ["zbus", "zbus_polkit", "minitunnel-kernel", "rustix"] {
        assert!(names.contains(&known), "{known} is missing in:\n{tree}");
    }
    for name in names {
        let part = FORBIDDEN.iter().find(|part| {
            name == **part
                || name.starts_with(&format!("{part}-"))
                || name.starts_with(&format!("{part}_"))
        });
        assert!(part.is_none(), "the helper links {name}");
    }
}

#[test]
fn is_small() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = |name: &str| {
        let packages = metadata["packages"].as_array().unwrap();
        packages.iter().find(|package| package["name"] == name)
    };
    // What it links of ours: the packages of this repository that are reached without those for tests.
    let mut ours = vec!["minitunnel-helper"];
    let mut at = 0;
    while let Some(name) = ours.get(at) {
        at += 1;
        let dependencies = package(name).unwrap()["dependencies"].as_array().unwrap();
        for dependency in dependencies {
            let name = dependency["name"].as_str().unwrap();
            let linked = dependency["kind"].is_null() && dependency["path"].is_string();
            if linked && !ours.contains(&name) {
                ours.push(name);
            }
        }
    }
    assert!(ours.len() > 1, "{ours:?}");
    let mut all = 0;
    for name in ours {
        let manifest = Path::new(package(name).unwrap()["manifest_path"].as_str().unwrap());
        let lines = lines(&manifest.with_file_name("src"));
        println!("{name}: {lines} lines");
        all += lines;
    }
    println!("the privileged program: {all} lines of Rust, of {LINES} that it may have");
    assert!(all <= LINES, "{all} lines");
}

/// The lines of code in a folder, without tests, comments and blanks.
fn lines(folder: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            count += lines(&path);
        } else if !matches!(name, "tests.rs" | "testing.rs") {
            count += code(&fs::read_to_string(&path).unwrap());
        }
    }
    count
}

fn code(text: &str) -> usize {
    let mut lines = text.lines().map(str::trim_end);
    let mut count = 0;
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            // A module for tests: a line, or up to its brace.
            if lines.next().is_some_and(|module| module.ends_with('{')) {
                lines.by_ref().find(|line| *line == "}");
            }
            continue;
        }
        let code = line.trim_start();
        count += usize::from(!code.is_empty() && !code.starts_with("//"));
    }
    count
}
