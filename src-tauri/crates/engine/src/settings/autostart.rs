use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::write::save;

/// The entry's file name, also that of the desktop file that the installer places.
const NAME: &str = "io.github.minitunnel.desktop";
/// The entry (Desktop Application Autostart Specification), with the tray's program as it is installed.
const ENTRY: &str = include_str!("../../../../../installers/linux/desktop/autostart.desktop");
/// The program in it.
const PROGRAM: &str = "minitunnel-tray";

/// Has the tray started at login, or not, by an entry in the user's own `autostart` folder. One that is there is left as
/// the desktop's own settings may have made it.
///
/// # Errors
///
/// If the entry can't be written or removed.
pub fn set_autostart(config: &Path, program: Option<&Path>, on: bool) -> io::Result<()> {
    let path = entry(config);
    if on {
        return match fs::symlink_metadata(&path) {
            Ok(_) => Ok(()),
            Err(_) => save(&path, &text(program)),
        };
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn entry(config: &Path) -> PathBuf {
    config.join("autostart").join(NAME)
}

/// The entry for a program at that path, else in the PATH.
fn text(program: Option<&Path>) -> String {
    let Some(program) = program.and_then(Path::to_str) else {
        return ENTRY.to_owned();
    };
    let mut out = String::new();
    for line in ENTRY.lines() {
        let line = match line.split_once('=') {
            Some(("Exec", command)) => format!(
                "Exec={}{}",
                quoted(program),
                command.trim_start_matches(PROGRAM)
            ),
            Some(("TryExec", _)) => format!("TryExec={program}"),
            _ => line.to_owned(),
        };
        out += &line;
        out.push('\n');
    }
    out
}

/// An argument of `Exec`, as the Desktop Entry Specification wants one that is not plain.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@".contains(c);
    if argument.chars().all(plain) {
        return argument.to_owned();
    }
    let mut out = String::from("\"");
    for c in argument.chars() {
        match c {
            // Escaped for the argument, and once more for the value.
            '"' | '`' | '$' | '\\' => {
                out.push_str(if c == '\\' { "\\\\\\" } else { "\\\\" });
                out.push(c);
            }
            '%' => out.push_str("%%"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_starts_the_program_only_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let program = Path::new("/opt/mini tunnel/minitunnel-tray");
        set_autostart(folder.path(), Some(program), true).unwrap();
        let text = fs::read_to_string(entry(folder.path())).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.contains(&"[Desktop Entry]"), "{text}");
        assert!(
            lines.contains(&"TryExec=/opt/mini tunnel/minitunnel-tray"),
            "{text}"
        );
        assert!(
            lines.contains(&"Exec=\"/opt/mini tunnel/minitunnel-tray\" --login"),
            "{text}"
        );
        // A desktop's way to turn it off.
        let off = text + "Hidden=true\n";
        fs::write(entry(folder.path()), &off).unwrap();
        set_autostart(folder.path(), Some(program), true).unwrap();
        assert_eq!(fs::read_to_string(entry(folder.path())).unwrap(), off);
        for _ in 0..2 {
            set_autostart(folder.path(), Some(program), false).unwrap();
            assert!(!entry(folder.path()).exists());
        }
    }

    #[test]
    fn without_a_known_program_the_path_is_searched() {
        let folder = tempfile::tempdir().unwrap();
        set_autostart(folder.path(), None, true).unwrap();
        let text = fs::read_to_string(entry(folder.path())).unwrap();
        assert!(text.contains("\nExec=minitunnel-tray --login\n"), "{text}");
        assert!(text.contains("\nTryExec=minitunnel-tray\n"), "{text}");
    }
}
