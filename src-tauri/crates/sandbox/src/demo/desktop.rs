//! The desktop that the demo was started on: its session bus and screen, as programs inside of the demo reach them.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, open},
    mount::mount_bind_recursive,
};

use super::tunnel::Command;
use crate::{Error, node::PROFILE};

/// Where the user's own runtime folder is inside, with the sockets of the bus and the screen.
const RUNTIME: &str = "/run/desktop";
const TRAY: &str = "minitunnel-tray";
/// What a program of a desktop finds it by, and how it is to look there.
const NAMES: [&str; 8] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_CURRENT_DESKTOP",
    "XDG_DATA_DIRS",
    "XDG_SESSION_TYPE",
    "GTK_THEME",
];

/// The user's desktop.
pub(super) struct Desktop {
    /// The user's runtime folder, as it was found and held.
    runtime: Option<(PathBuf, OwnedFd)>,
    environment: Vec<(&'static str, OsString)>,
}

impl Desktop {
    /// The one of this process's environment.
    pub(super) fn find() -> Result<Self, Error> {
        let mut environment: Vec<_> = NAMES
            .iter()
            .filter_map(|name| Some((*name, env::var_os(name)?)))
            .collect();
        if !environment.iter().any(|(name, _)| *name == NAMES[0]) {
            return Err(Error::NoDesktop);
        }
        // The default is below HOME, which is another one inside.
        if env::var_os("XAUTHORITY").is_none()
            && let Some(home) = env::home_dir()
        {
            environment.push(("XAUTHORITY", home.join(".Xauthority").into()));
        }
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let runtime = runtime.map(|path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match open(&path, flags, Mode::empty()) {
                Ok(folder) => Ok((path, folder)),
                Err(error) => Err(Error::File {
                    path,
                    source: error.into(),
                }),
            }
        });
        Ok(Self {
            runtime: runtime.transpose()?,
            environment,
        })
    }

    /// The tray on that desktop, beside `program`, with the tunnel up.
    pub(super) fn command(self, program: &Path) -> Result<Command, Error> {
        let tray = program.with_file_name(TRAY);
        if !tray.is_file() {
            return Err(Error::NoTray(tray));
        }
        let mut environment = self.environment;
        if let Some((path, folder)) = &self.runtime {
            let file = |source: io::Error| Error::File {
                path: RUNTIME.into(),
                source,
            };
            fs::create_dir(RUNTIME).map_err(file)?;
            let held = format!("/proc/self/fd/{}", folder.as_raw_fd());
            mount_bind_recursive(held, RUNTIME).map_err(|error| file(error.into()))?;
            for (name, value) in &mut environment {
                *value = moved(name, value, path);
            }
        }
        let mut words: Vec<OsString> = as_the_user()?;
        words.push(tray.into());
        words.extend(["-v", "--start", PROFILE].map(Into::into));
        Ok(Command {
            words,
            environment,
            shown: format!("{TRAY} --start {PROFILE}"),
        })
    }
}

/// A value in which what lies in the runtime folder is where that is inside.
fn moved(name: &str, value: &OsStr, from: &Path) -> OsString {
    if name == "WAYLAND_DISPLAY" && !Path::new(value).is_absolute() {
        return Path::new(RUNTIME).join(value).into();
    }
    let (text, from) = (value.as_bytes(), from.as_os_str().as_bytes());
    let at = text.windows(from.len()).position(|part| part == from);
    let Some(at) = at.filter(|_| !from.is_empty()) else {
        return value.to_owned();
    };
    let parts = [&text[..at], RUNTIME.as_bytes(), &text[at + from.len()..]];
    OsStr::from_bytes(&parts.concat()).to_owned()
}

/// What runs a command as the user who started the demo, and who is root inside: the session bus lets in who says who it is.
fn as_the_user() -> Result<Vec<OsString>, Error> {
    let mapped = |file: &str| {
        let map = fs::read_to_string(file).map_err(Error::Processes)?;
        // user_namespaces(7): inside, outside, how many.
        let mut fields = map.split_whitespace();
        match (fields.next(), fields.next()) {
            (Some("0"), Some(outside)) => Ok(outside.to_owned()),
            _ => Err(Error::Processes(io::ErrorKind::InvalidData.into())),
        }
    };
    let (uid, gid) = (mapped("/proc/self/uid_map")?, mapped("/proc/self/gid_map")?);
    if uid == "0" {
        return Ok(Vec::new());
    }
    let words = [
        "unshare".to_owned(),
        "--user".to_owned(),
        format!("--map-user={uid}"),
        format!("--map-group={gid}"),
        "--".to_owned(),
    ];
    Ok(words.map(Into::into).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, value: &str) -> OsString {
        moved(name, value.as_ref(), Path::new("/run/user/1000"))
    }

    #[test]
    fn what_lies_in_the_runtime_folder_is_found_inside() {
        let bus = seen(
            "DBUS_SESSION_BUS_ADDRESS",
            "unix:path=/run/user/1000/bus,guid=7",
        );
        assert_eq!(bus, "unix:path=/run/desktop/bus,guid=7");
        assert_eq!(
            seen("WAYLAND_DISPLAY", "wayland-0"),
            "/run/desktop/wayland-0"
        );
        assert_eq!(
            seen("XAUTHORITY", "/run/user/1000/gdm/X"),
            "/run/desktop/gdm/X"
        );
        assert_eq!(
            seen("XAUTHORITY", "/home/u/.Xauthority"),
            "/home/u/.Xauthority"
        );
        assert_eq!(seen("DISPLAY", ":0"), ":0");
    }
}
