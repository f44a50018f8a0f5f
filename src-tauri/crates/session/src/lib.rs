//! The session socket: newline-delimited JSON of the model's types, one session a user. Views link this and the model alone.
//!
//! [`Handle`] is a view's end of an engine, in the same process or behind the socket.
//!
//! Being the one session is a held file lock, never a PID file: it ends with its process, however that ends.

mod beginnings;
mod client;
mod handle;
mod server;

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::oneshot,
};

pub use beginnings::{Beginnings, UnwatchedError};
pub use client::{ConnectError, WayOut, connect};
pub use handle::{Answer, Ask, Ended, Handle, NotTaken};
pub use server::Server;

/// How long either end waits for the other's `Hello`.
const HELLO_DEADLINE: Duration = Duration::from_secs(3);

/// The lock of the one session.
const SESSION: &str = "session";

/// The user's own folder for what lives as long as the session does, and the paths in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeDir(PathBuf);

/// Why there is no folder for the socket.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} can't hold minitunnel's socket ({reason}): set XDG_RUNTIME_DIR to a folder that only you can write to"
)]
pub struct NoRuntimeDir {
    path: PathBuf,
    reason: String,
}

impl RuntimeDir {
    /// `$XDG_RUNTIME_DIR/minitunnel`, else a folder of the user's below `/tmp`; made if it is not there, and refused if
    /// anyone else could look into it.
    ///
    /// # Errors
    ///
    /// If it can't be made, or is someone else's.
    pub fn open(xdg_runtime_dir: Option<&Path>) -> Result<Self, NoRuntimeDir> {
        let uid = rustix::process::geteuid().as_raw();
        let path = match xdg_runtime_dir.filter(|dir| dir.is_absolute()) {
            Some(dir) => dir.join("minitunnel"),
            None => PathBuf::from(format!("/tmp/minitunnel-{uid}")),
        };
        let refuse = |reason: String| NoRuntimeDir {
            path: path.clone(),
            reason,
        };
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(refuse(error.to_string()));
            }
            _ => {}
        }
        let meta = fs::symlink_metadata(&path).map_err(|error| refuse(error.to_string()))?;
        if !meta.is_dir() {
            return Err(refuse("it is no folder".into()));
        }
        if meta.uid() != uid || meta.permissions().mode() & 0o077 != 0 {
            return Err(refuse("others can use it".into()));
        }
        Ok(Self(path))
    }

    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.0.join("session.sock")
    }

    /// The path of the session's log.
    pub fn log(&self) -> PathBuf {
        self.0.join("session.log")
    }

    /// Becomes the one session; `None` if there is one.
    ///
    /// The file stays: were it removed, one who had it open could lock a file without a name while the next session locks
    /// another.
    fn lock(&self) -> io::Result<Option<File>> {
        self.be_the_only(SESSION)
    }

    /// Becomes the user's only one of a kind, for as long as the file lives; `None` if there is one.
    ///
    /// # Errors
    ///
    /// If the file can't be opened or locked.
    pub fn be_the_only(&self, kind: &str) -> io::Result<Option<File>> {
        let file = self.lock_file(kind)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the end of the session that runs, whatever it speaks and however it ends.
    pub async fn until_ended(&self) {
        let (ended, end) = oneshot::channel();
        let file = self.lock_file(SESSION);
        // A task of the runtime would keep its end waiting.
        thread::spawn(move || {
            // Where it can't be waited for, it is taken for ended, and looked at.
            let _ = file.map(|file| flock(&file, FlockOperation::LockExclusive));
            let _ = ended.send(());
        });
        let _ = end.await;
    }

    fn lock_file(&self, kind: &str) -> io::Result<File> {
        let path = self.0.join(format!("{kind}.lock"));
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
    }
}

/// Reads one line of JSON of at most `limit` bytes; `None` at the end of the stream.
async fn read_line<T: DeserializeOwned>(
    stream: &mut (impl AsyncBufRead + Unpin),
    limit: u64,
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    stream.take(limit).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        let what = "a line that is cut off or too long";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(io::Error::from)
}

async fn write_line<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

#[cfg(test)]
mod tests;
