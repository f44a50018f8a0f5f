use std::{path::Path, sync::Arc};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::RuntimeDir;

/// The user's sessions to come.
#[derive(Debug)]
pub struct Beginnings {
    begun: Arc<Notify>,
    /// Watches for as long as this lives.
    _watcher: RecommendedWatcher,
}

/// The folder of the session's socket can't be watched.
#[derive(Debug, thiserror::Error)]
#[error(
    "the beginning of a session can't be watched for; if the system's inotify limits are reached, raise fs.inotify.max_user_instances"
)]
pub struct UnwatchedError(#[from] notify::Error);

impl RuntimeDir {
    /// Watches for sessions from now on.
    ///
    /// # Errors
    ///
    /// If the system does not watch the folder.
    pub fn beginnings(&self) -> Result<Beginnings, UnwatchedError> {
        let begun = Arc::new(Notify::new());
        let (socket, tell) = (self.socket(), begun.clone());
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.map_or(true, |event| concerns(&socket, &event)) {
                    tell.notify_one();
                }
            })?;
        watcher.watch(&self.0, RecursiveMode::NonRecursive)?;
        Ok(Beginnings {
            begun,
            _watcher: watcher,
        })
    }
}

impl Beginnings {
    /// Waits until a session may have begun since the last call, or since the watch did.
    pub async fn next(&self) {
        self.begun.notified().await;
    }
}

/// Whether the socket may have come.
fn concerns(socket: &Path, event: &notify::Event) -> bool {
    let comes = matches!(event.kind, EventKind::Create(_) | EventKind::Modify(_));
    // An overrun names no path.
    event.paths.is_empty() || comes && event.paths.iter().any(|path| path == socket)
}
