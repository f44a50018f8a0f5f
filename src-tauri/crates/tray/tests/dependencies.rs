//! What the session's process is made of.

use std::process::Command;

/// Beginnings of names of crates that bring GTK, a web engine or C libraries of a desktop.
const FORBIDDEN: [&str; 14] = [
    "cairo",
    "gdk",
    "gio",
    "glib",
    "gobject",
    "gtk",
    "libappindicator",
    "libdbus",
    "pango",
    "soup3",
    "tao",
    "tauri",
    "webkit2gtk",
    "wry",
];

#[test]
fn links_neither_gtk_nor_webkit() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "minitunnel-tray"])
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
    for known in ["tray-icon", "ksni", "notify-rust", "minitunnel-engine"] {
        assert!(names.contains(&known), "{known} is missing in:\n{tree}");
    }
    for name in names {
        let part = FORBIDDEN.iter().find(|part| name.starts_with(**part));
        assert!(part.is_none(), "the tray links {name}");
    }
}
