//! This program's file, which an upgrade replaces while it runs.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::UnboundedSender;

use crate::app::Event;

/// Where this program was started from, and which file that was.
pub(crate) struct Executable {
    path: PathBuf,
    identity: (u64, u64),
    /// Watches for as long as this lives.
    _watcher: Option<RecommendedWatcher>,
}

impl Executable {
    /// Watches the folder of the file from now on: every change there is an event.
    pub(crate) fn watched(events: UnboundedSender<Event>) -> io::Result<Self> {
        let path = std::env::current_exe()?;
        let of = path.clone();
        let tell = move |event: notify::Result<notify::Event>| {
            let concerns = |event: notify::Event| {
                !event.kind.is_access() && (event.paths.is_empty() || event.paths.contains(&of))
            };
            if event.map_or(true, concerns) {
                let _ = events.send(Event::ExecutableChanged);
            }
        };
        let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
            let folder = path.parent().unwrap_or(Path::new("/"));
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "an upgrade of the tray will not be noticed");
                None
            }
        };
        Ok(Self {
            identity: identity(&path)?,
            path,
            _watcher: watcher,
        })
    }

    /// The path that it was started by.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another program is there now.
    pub(crate) fn is_replaced(&self) -> bool {
        identity(&self.path).is_ok_and(|now| now != self.identity)
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
