//! What a run could leave on the machine, and whether it did.

use std::{
    collections::BTreeSet,
    env, fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::readlink,
    io::Errno,
    process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal},
};

use super::tunnel::parents;
use crate::{Error, ip};

/// The machine's state where a run could leave something.
pub(super) struct Machine {
    routes: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
    pinned: BTreeSet<String>,
}

/// The process inside as the machine sees it.
pub(super) struct Inside {
    /// Its process id.
    pub(super) pid: u32,
    handle: OwnedFd,
    /// Its namespaces that are not those of the machine, as `net:[4026532]`.
    namespaces: BTreeSet<String>,
}

/// The process that `unshare`, with the process id `parent`, has started.
pub(super) fn inside(parent: Option<u32>) -> Result<Inside, Error> {
    let parent = parent.map(u32::cast_signed);
    let living = parents().map_err(Error::Processes)?;
    let child = living.iter().find(|(_, of)| Some(of.parent) == parent);
    let (pid, _) = child.ok_or_else(|| Error::Processes(io::ErrorKind::NotFound.into()))?;
    let handle = Pid::from_raw(*pid).ok_or(Errno::SRCH);
    let handle = handle.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let handle = handle.map_err(|error| Error::Processes(error.into()))?;
    let pid = pid.cast_unsigned();
    let own = namespaces("self");
    let namespaces = &namespaces(&pid.to_string()) - &own;
    Ok(Inside {
        pid,
        handle,
        namespaces,
    })
}

impl Inside {
    /// Asks it to end in good order.
    pub(super) fn terminate(&self) -> Result<(), Error> {
        match pidfd_send_signal(&self.handle, Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::Processes(error.into())),
        }
    }
}

impl Machine {
    pub(super) async fn look() -> Result<Self, Error> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(Error::Processes)?;
        let pinned = mountinfo.lines().filter(|line| line.contains(" - nsfs "));
        Ok(Self {
            routes: ip::routes().await?.into_iter().collect(),
            files: places().iter().flat_map(|place| files(place)).collect(),
            pinned: pinned.map(str::to_owned).collect(),
        })
    }

    /// What is there after a run that was not there before, and what is no longer there: a line each.
    pub(super) fn left(&self, inside: &Inside, after: &Self) -> Result<Vec<String>, Error> {
        let mut left = Vec::new();
        for entry in fs::read_dir("/proc").map_err(Error::Processes)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.bytes().all(|byte| byte.is_ascii_digit())
                && !namespaces(&name).is_disjoint(&inside.namespaces)
            {
                let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                left.push(format!("process {name} ({})", command.trim()));
            }
        }
        let new = after.pinned.difference(&self.pinned);
        left.extend(new.map(|mount| format!("namespace {mount}")));
        left.extend(difference("route", &self.routes, &after.routes));
        let new = after.files.difference(&self.files);
        left.extend(new.map(|path| format!("file {}", path.display())));
        Ok(left)
    }
}

/// What differs between two sets of lines, in words.
pub(super) fn difference(
    what: &str,
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
) -> Vec<String> {
    let new = after
        .difference(before)
        .map(|line| format!("{what} {line}"));
    let gone = before.difference(after);
    new.chain(gone.map(|line| format!("{what} {line} is gone")))
        .collect()
}

/// All files below a folder, and itself; those that can't be read are left out.
pub(super) fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        if metadata.is_dir() {
            open.extend(
                fs::read_dir(&path)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            );
        }
        found.insert(path);
    }
    found
}

/// Where minitunnel and minikube write.
fn places() -> Vec<PathBuf> {
    let mut places = vec![
        PathBuf::from("/run/minitunnel"),
        PathBuf::from(format!("/run/user/{}/minitunnel", geteuid().as_raw())),
    ];
    if let Some(runtime) = env::var_os("XDG_RUNTIME_DIR") {
        places.push(Path::new(&runtime).join("minitunnel"));
    }
    if let Some(home) = env::var_os("HOME") {
        let below = [".config", ".cache", ".local/share", ".local/state"];
        places.extend(below.map(|folder| Path::new(&home).join(folder).join("minitunnel")));
        places.push(Path::new(&home).join(".minikube/profiles/demo"));
    }
    places
}

/// The namespaces of a process, as far as it may be asked.
fn namespaces(process: &str) -> BTreeSet<String> {
    ["net", "mnt", "pid", "user"]
        .iter()
        .filter_map(|kind| readlink(format!("/proc/{process}/ns/{kind}"), Vec::new()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}
