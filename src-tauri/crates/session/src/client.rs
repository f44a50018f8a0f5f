use std::{collections::VecDeque, fmt, io, path::PathBuf, sync::Arc};

use minitunnel_model::{CleanupReport, Command, FromSession, Hello, PROTOCOL, Snapshot, ToSession};
use tokio::{
    io::BufReader,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{Answer, Ask, HELLO_DEADLINE, Handle, RuntimeDir, read_line, write_line};

/// The longest line that a session may send: 10,000 services stay below it.
const LONGEST_LINE: u64 = 64 * 1024 * 1024;

/// Why a session that runs can't be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It speaks otherwise.
    #[error(
        "the session that runs is minitunnel {theirs}, and this is {ours}: end it ({end}) and run this command again"
    )]
    Incompatible {
        /// Its version.
        theirs: String,
        /// Our version.
        ours: String,
        /// How to end it.
        end: WayOut,
    },
    /// It works on another minikube home.
    #[error(
        "the session that runs works on {theirs}, not on {ours}: set MINIKUBE_HOME to the same folder, or end that session first ({end})"
    )]
    OtherHome {
        /// Its home.
        theirs: PathBuf,
        /// Our home.
        ours: PathBuf,
        /// How to end it.
        end: WayOut,
    },
    /// It does not answer.
    #[error("the session that runs does not answer: end it and try again")]
    Silent(#[source] io::Error),
}

/// How to end a session that understands no command: by its process, where that is known.
#[derive(Debug)]
pub struct WayOut(Option<i32>);

impl fmt::Display for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "`kill {pid}`"),
            None => f.write_str("Ctrl-C where `minitunnel up` runs"),
        }
    }
}

/// Connects to the user's session; `None` if none runs. An empty home in the `Hello` is content with any.
///
/// # Errors
///
/// If one runs, and can't be used.
pub async fn connect(dir: &RuntimeDir, hello: &Hello) -> Result<Option<Handle>, ConnectError> {
    let stream = match UnixStream::connect(dir.socket()).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(ConnectError::Silent(error)),
    };
    // A process of another namespace has number 0.
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let end = WayOut(pid.filter(|pid| *pid > 0));
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let greeting = async {
        write_line(&mut write, hello).await?;
        let theirs = read_line::<Hello>(&mut read, LONGEST_LINE).await?;
        theirs.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    let theirs = match timeout(HELLO_DEADLINE, greeting).await {
        Ok(theirs) => theirs.map_err(ConnectError::Silent)?,
        Err(late) => return Err(ConnectError::Silent(late.into())),
    };
    if theirs.protocol != PROTOCOL {
        let (theirs, ours) = (theirs.version, hello.version.clone());
        return Err(ConnectError::Incompatible { theirs, ours, end });
    }
    if !hello.home.as_os_str().is_empty() && theirs.home != hello.home {
        let (theirs, ours) = (theirs.home, hello.home.clone());
        return Err(ConnectError::OtherHome { theirs, ours, end });
    }
    write_line(&mut write, &ToSession::Watch)
        .await
        .map_err(ConnectError::Silent)?;
    let first = timeout(HELLO_DEADLINE, read_line(&mut read, LONGEST_LINE)).await;
    let first = match first.map_err(io::Error::from).and_then(|line| line) {
        Ok(Some(FromSession::Snapshot(snapshot))) => snapshot,
        Ok(_) => {
            let odd = io::Error::new(io::ErrorKind::InvalidData, "it sent no snapshot");
            return Err(ConnectError::Silent(odd));
        }
        Err(error) => return Err(ConnectError::Silent(error)),
    };
    let (publish, snapshots) = watch::channel(Arc::new(*first));
    let (asks, asked) = mpsc::channel(8);
    tokio::spawn(relay(read, write, asked, publish));
    Ok(Some(Handle::new(asks, snapshots)))
}

/// Carries what views ask to the session and what it sends to them, until either end is gone.
async fn relay(
    mut read: BufReader<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
    mut asked: mpsc::Receiver<Ask>,
    publish: watch::Sender<Arc<Snapshot>>,
) {
    let (lines, mut messages) = mpsc::channel(1);
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        while let Ok(Some(message)) = read_line::<FromSession>(&mut read, LONGEST_LINE).await {
            if lines.send(message).await.is_err() {
                return;
            }
        }
    });
    // Answers come in the order of the commands of their kind.
    let mut commands: VecDeque<oneshot::Sender<Answer>> = VecDeque::new();
    let mut reports: VecDeque<oneshot::Sender<CleanupReport>> = VecDeque::new();
    loop {
        tokio::select! {
            ask = asked.recv() => {
                let command = match ask {
                    None => return,
                    Some(Ask::Command { command, taken }) => {
                        commands.push_back(taken);
                        command
                    }
                    Some(Ask::Cleanup { dry_run, chosen, answer }) => {
                        reports.push_back(answer);
                        Command::Cleanup { dry_run, chosen }
                    }
                };
                if write_line(&mut write, &ToSession::Command(command)).await.is_err() {
                    return;
                }
            }
            message = messages.recv() => match message {
                Some(FromSession::Snapshot(snapshot)) => {
                    publish.send_replace(Arc::new(*snapshot));
                }
                Some(FromSession::Taken) => answer(&mut commands, Ok(())),
                Some(FromSession::Declined { message }) => answer(&mut commands, Err(message)),
                Some(FromSession::Cleanup(report)) => {
                    if let Some(answer) = reports.pop_front() {
                        // Whoever asked may not wait any more.
                        let _ = answer.send(report);
                    }
                }
                Some(FromSession::Refused { message }) => {
                    tracing::error!("the session refused: {message}");
                    return;
                }
                None => return,
            },
        }
    }
}

/// Tells what came of the first command that waits for that.
fn answer(commands: &mut VecDeque<oneshot::Sender<Answer>>, answer: Answer) {
    if let Some(taken) = commands.pop_front() {
        // Whoever asked may not wait any more.
        let _ = taken.send(answer);
    }
}
