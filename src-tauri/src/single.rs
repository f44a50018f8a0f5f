//! One window a user: a second one brings the first to the front, and ends.

use std::{
    fs::{self, File},
    io,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
};

use minitunnel_session::RuntimeDir;

/// Being the user's window, as long as it lives.
pub(crate) struct Single {
    listener: UnixListener,
    /// Held, so that what a killed window left is known to be left.
    _lock: File,
}

/// Becomes the user's window; `None` if there is one, which has come to the front.
pub(crate) fn claim() -> io::Result<Option<Single>> {
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let dir = RuntimeDir::open(xdg.as_deref()).map_err(io::Error::other)?;
    claim_in(&dir)
}

fn claim_in(dir: &RuntimeDir) -> io::Result<Option<Single>> {
    let socket = dir.socket().with_file_name("window.sock");
    let Some(lock) = dir.be_the_only("window")? else {
        // To connect is to ask. One that begins or ends at this moment has nothing to show yet, or any more.
        let _ = UnixStream::connect(socket);
        return Ok(None);
    };
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    Ok(Some(Single {
        listener,
        _lock: lock,
    }))
}

impl Single {
    /// Calls this whenever another window was asked for.
    pub(crate) async fn serve(self, show: impl Fn() + Send) {
        let Ok(listener) = tokio::net::UnixListener::from_std(self.listener) else {
            return;
        };
        while listener.accept().await.is_ok() {
            show();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_second_window_shows_the_first_and_a_dead_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::open(Some(folder.path())).unwrap();
        let first = claim_in(&dir).unwrap().unwrap();
        let (told, mut shown) = mpsc::unbounded_channel();
        let serving = tokio::spawn(first.serve(move || told.send(()).unwrap()));
        for _ in 0..2 {
            assert!(claim_in(&dir).unwrap().is_none());
            shown.recv().await.unwrap();
        }
        serving.abort();
        let _ = serving.await;
        assert!(claim_in(&dir).unwrap().is_some());
    }
}
