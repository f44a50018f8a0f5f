use std::{collections::VecDeque, fs::File, io, path::PathBuf, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesOrdered};
use minitunnel_model::{Command, FromSession, Hello, PROTOCOL, Snapshot, ToSession, shown};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader},
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{Answer, HELLO_DEADLINE, Handle, RuntimeDir, read_line, write_line};

/// The longest line that a view may send: a clean-up names all that it removes, 10,000 addresses of 200 bytes at most.
const LONGEST_LINE: u64 = 2 * 1024 * 1024;
/// Views at one time: a tray, a window, some terminals.
const MOST_VIEWS: usize = 32;
/// A view that reads nothing for so long is dropped.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a failed accept rests.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The session's end of the socket: being the one session, before anything else is started.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Held as long as this is the session.
    _lock: File,
}

impl Server {
    /// Becomes the user's session; `None` if there is one.
    ///
    /// # Errors
    ///
    /// If the socket can't be made.
    pub fn claim(dir: &RuntimeDir) -> io::Result<Option<Self>> {
        let Some(lock) = dir.lock()? else {
            return Ok(None);
        };
        let path = dir.socket();
        // Seen only when somebody listens. What is at either path was left by a session that was killed: the lock says that
        // nobody listens there. Its folder is ours alone.
        let new = path.with_extension("new");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::rename(&new, &path)?;
        Ok(Some(Self {
            listener,
            path,
            _lock: lock,
        }))
    }

    /// Serves views until it is dropped.
    pub async fn serve(self, handle: Handle, hello: Hello) {
        let mut views = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if views.len() < MOST_VIEWS => {
                        let (read, write) = stream.into_split();
                        views.spawn(serve_view(read, write, handle.clone(), hello.clone()));
                    }
                    // One too many: closed by the drop.
                    Ok(_) => tracing::warn!("a view was turned away: {MOST_VIEWS} are connected"),
                    Err(error) => {
                        tracing::warn!(%error, "a view could not connect");
                        // Out of open files: until some are closed, every call fails at once.
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = views.join_next() => {}
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If it fails, the next session removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve_view(
    read: impl AsyncRead + Unpin + Send + 'static,
    mut write: impl AsyncWrite + Unpin,
    handle: Handle,
    hello: Hello,
) {
    let mut read = BufReader::new(read);
    let greeted = timeout(HELLO_DEADLINE, async {
        write_line(&mut write, &hello).await?;
        read_line::<Hello>(&mut read, LONGEST_LINE).await
    })
    .await;
    let refusal = match greeted {
        Ok(Ok(Some(theirs))) if theirs.protocol == PROTOCOL => None,
        Ok(Ok(Some(theirs))) => Some(format!(
            "the session is minitunnel {} and this program is {}: quit the session and start it again",
            hello.version, theirs.version
        )),
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => Some(format!("the first line is no Hello: {}", shown(&error))),
    };
    if let Some(message) = refusal {
        // The view may be gone; there is nobody else to tell.
        let _ = send(&mut write, &FromSession::Refused { message }).await;
        return;
    }
    if let Err(error) = talk(read, write, handle).await {
        tracing::debug!(%error, "a view's connection ended");
    }
}

async fn talk(
    read: impl AsyncRead + Unpin + Send + 'static,
    mut write: impl AsyncWrite + Unpin,
    handle: Handle,
) -> io::Result<()> {
    let (lines, mut requests) = mpsc::channel(8);
    // Reading a line can't be cancelled half-way, so it has a task of its own.
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        let mut read = BufReader::new(read);
        loop {
            let line = read_line::<ToSession>(&mut read, LONGEST_LINE)
                .await
                .transpose();
            let Some(line) = line else { return };
            let broken = line.is_err();
            if lines.send(line).await.is_err() || broken {
                return;
            }
        }
    });
    // Commands that follow each other are given to the engine so: one of them may lead to the session's end.
    let mut given: VecDeque<oneshot::Receiver<Answer>> = VecDeque::new();
    // The user may be asked for consent meanwhile, which takes minutes.
    let mut cleaning = FuturesOrdered::new();
    let mut watching: Option<watch::Receiver<Arc<Snapshot>>> = None;
    loop {
        tokio::select! {
            request = requests.recv() => match request {
                None => return Ok(()),
                Some(Ok(ToSession::Watch)) => {
                    let mut snapshots = handle.snapshots.clone();
                    snapshots.mark_changed();
                    watching = Some(snapshots);
                }
                Some(Ok(ToSession::Command(Command::Cleanup { dry_run, chosen }))) => {
                    let handle = handle.clone();
                    cleaning.push_back(async move { handle.cleanup(dry_run, chosen).await });
                }
                Some(Ok(ToSession::Command(command))) => {
                    given.push_back(handle.give(command).await.map_err(io::Error::other)?);
                }
                Some(Err(error)) => {
                    let message = format!("the line is no command: {}", shown(&error));
                    return send(&mut write, &FromSession::Refused { message }).await;
                }
            },
            Some(report) = cleaning.next() => {
                let report = report.map_err(io::Error::other)?;
                send(&mut write, &FromSession::Cleanup(report)).await?;
            }
            taken = first_taken(&mut given) => {
                let taken = taken.map_err(io::Error::other)?;
                given.pop_front();
                if let Some(snapshot) = unseen(&mut watching) {
                    send_snapshot(&mut write, &snapshot).await?;
                }
                let answer = match taken {
                    Ok(()) => FromSession::Taken,
                    Err(message) => FromSession::Declined { message },
                };
                send(&mut write, &answer).await?;
            }
            snapshot = next(&mut watching) => {
                let Some(snapshot) = snapshot else { return Ok(()) };
                send_snapshot(&mut write, &snapshot).await?;
            }
        }
    }
}

async fn first_taken(
    given: &mut VecDeque<oneshot::Receiver<Answer>>,
) -> Result<Answer, oneshot::error::RecvError> {
    match given.front_mut() {
        Some(first) => first.await,
        None => std::future::pending().await,
    }
}

async fn next(watching: &mut Option<watch::Receiver<Arc<Snapshot>>>) -> Option<Arc<Snapshot>> {
    let Some(snapshots) = watching else {
        return std::future::pending().await;
    };
    snapshots.changed().await.ok()?;
    Some(snapshots.borrow_and_update().clone())
}

/// The present snapshot, if the view has not been sent it.
fn unseen(watching: &mut Option<watch::Receiver<Arc<Snapshot>>>) -> Option<Arc<Snapshot>> {
    let snapshots = watching.as_mut()?;
    let changed = snapshots.has_changed().unwrap_or(false);
    changed.then(|| snapshots.borrow_and_update().clone())
}

async fn send_snapshot(
    write: &mut (impl AsyncWrite + Unpin),
    snapshot: &Arc<Snapshot>,
) -> io::Result<()> {
    let message = FromSession::Snapshot(Box::new((**snapshot).clone()));
    send(write, &message).await
}

async fn send(write: &mut (impl AsyncWrite + Unpin), message: &FromSession) -> io::Result<()> {
    timeout(WRITE_DEADLINE, write_line(write, message)).await?
}
