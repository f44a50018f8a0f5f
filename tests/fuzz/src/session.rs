//! The session's socket, from both its ends: a real one, with the other end's bytes from the input.

use std::{cell::LazyCell, path::Path, sync::Arc, time::Duration};

use minitunnel_engine::{
    engine::{Ask, Handle},
    session::{RuntimeDir, Server, connect},
};
use minitunnel_model::{CleanupReport, Command, FromSession, Hello, PROTOCOL, Snapshot, changes};
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    time::timeout,
};

use crate::rules::{is_name, is_sentence};

/// An exchange takes far less than a millisecond; the session's own deadline for a `Hello` is 3 s.
const HANG: Duration = Duration::from_secs(2);

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: "0.1.0".to_owned(),
        home: "/home/u/.minikube".into(),
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

fn folder() -> (TempDir, RuntimeDir) {
    let root = tempfile::tempdir().expect("a folder for the socket");
    let dir = RuntimeDir::open(Some(root.path())).expect("a folder for the socket");
    (root, dir)
}

thread_local! {
    static SESSION: LazyCell<Session> = LazyCell::new(Session::new);
    static VIEW: LazyCell<View> = LazyCell::new(View::new);
}

/// A session without an engine behind it.
struct Session {
    runtime: Runtime,
    _root: TempDir,
    dir: RuntimeDir,
    /// What has reached the engine.
    taken: std::cell::RefCell<mpsc::UnboundedReceiver<Command>>,
}

impl Session {
    fn new() -> Self {
        let runtime = runtime();
        let (root, dir) = folder();
        let (tell, taken) = mpsc::unbounded_channel();
        let (asks, asked) = mpsc::channel(8);
        // Its sender lives with the engine.
        let (publish, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        runtime.block_on(async {
            let server = Server::claim(&dir)
                .expect("a socket")
                .expect("no other session");
            tokio::spawn(server.serve(Handle::new(asks, snapshots), hello()));
            tokio::spawn(engine(asked, tell, publish));
        });
        Self {
            runtime,
            _root: root,
            dir,
            taken: taken.into(),
        }
    }
}

/// Notes what is asked for, and does nothing.
async fn engine(
    mut asked: mpsc::Receiver<Ask>,
    tell: mpsc::UnboundedSender<Command>,
    _publish: watch::Sender<Arc<Snapshot>>,
) {
    while let Some(ask) = asked.recv().await {
        let command = match ask {
            // One that has gone is not told.
            Ask::Command { command, taken } => {
                let _ = taken.send(Ok(()));
                command
            }
            Ask::Cleanup {
                dry_run,
                chosen,
                answer,
            } => {
                let _ = answer.send(CleanupReport::default());
                Command::Cleanup { dry_run, chosen }
            }
        };
        if tell.send(command).is_err() {
            return;
        }
    }
}

/// What a view sends to the session: lines of JSON.
///
/// The engine hears only the commands before the first line that is none, and after a `Hello` of our protocol alone;
/// the view hears a `Hello`, an answer to each command at most, and at most one refusal, which is the last.
pub fn requests(data: &[u8]) -> bool {
    SESSION.with(|session| {
        let answer = session
            .runtime
            .block_on(exchange(&session.dir.socket(), data));
        let mut lines = answer.split_inclusive(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        assert_eq!(serde_json::from_slice::<Hello>(first).ok(), Some(hello()));
        let answers: Vec<FromSession> = lines
            .map(|line| serde_json::from_slice(line).expect("the session speaks its protocol"))
            .collect();
        for (at, answer) in answers.iter().enumerate() {
            if let FromSession::Refused { message } = answer {
                assert!(is_sentence(message), "{message:?}");
                assert_eq!(at + 1, answers.len(), "a refusal is the end");
            }
        }
        let mut taken = Vec::new();
        while let Ok(command) = session.taken.borrow_mut().try_recv() {
            taken.push(command);
        }
        let asked = commands(data);
        let heard: Vec<Value> = taken.iter().map(json).collect();
        // A clean-up may ask the user, and lets others pass.
        for cleanup in [true, false] {
            let kind = |command: &&Value| (command["command"] == "cleanup") == cleanup;
            let mut asked = asked.iter().filter(kind);
            for heard in heard.iter().filter(kind) {
                let asked = asked.next();
                assert!(is_part(heard, asked), "{heard} of {asked:?}");
            }
        }
        let count =
            |of: fn(&FromSession) -> bool| answers.iter().filter(|answer| of(answer)).count();
        let told = count(|answer| matches!(answer, FromSession::Taken | FromSession::Cleanup(_)));
        assert!(told <= taken.len());
        // An unchanged snapshot is sent once for each line that asks for it, at most.
        let lines = data.iter().filter(|byte| **byte == b'\n').count();
        assert!(count(|answer| matches!(answer, FromSession::Snapshot(_))) <= lines);
        !taken.is_empty()
    })
}

/// Sends all, and reads to the end.
async fn exchange(socket: &Path, data: &[u8]) -> Vec<u8> {
    let talk = async {
        let mut stream = UnixStream::connect(socket)
            .await
            .expect("the session is there");
        let (mut read, mut write) = stream.split();
        let send = async {
            // A refused view is not read any more.
            if write.write_all(data).await.is_ok() {
                let _ = write.shutdown().await;
            }
        };
        let mut answer = Vec::new();
        let (_, end) = tokio::join!(send, read.read_to_end(&mut answer));
        // Where it was closed with something unread, the end is an error.
        drop(end);
        answer
    };
    timeout(HANG, talk)
        .await
        .expect("the session answers or hangs up")
}

/// The commands of an input, read naively.
fn commands(data: &[u8]) -> Vec<Value> {
    let mut lines = data
        .split_inclusive(|byte| *byte == b'\n')
        // In a field that nobody reads the session's reader takes bytes that are no text.
        .map(|line| {
            serde_json::from_str::<Value>(&String::from_utf8_lossy(line)).unwrap_or_default()
        });
    let hello = lines.next().unwrap_or_default();
    // A structure may come as an array too.
    let protocol = hello.get("protocol").or_else(|| hello.get(0));
    if protocol != Some(&PROTOCOL.into()) {
        return Vec::new();
    }
    let watch = |line: &Value| line["type"] == "watch";
    lines
        .filter(|line| !watch(line))
        .take_while(|line| line["type"] == "command")
        .collect()
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("it goes over the socket")
}

/// Whether all that was understood was said.
fn is_part(heard: &Value, said: Option<&Value>) -> bool {
    let (Some(fields), Some(said)) = (heard.as_object(), said) else {
        return false;
    };
    let name = fields.get("profile").and_then(Value::as_str);
    name.is_none_or(is_name)
        && fields.iter().all(|(key, value)| match said.get(key) {
            Some(said) if key == "settings" => is_completed(value, said),
            said => said == Some(value),
        })
}

/// Whether these settings are what was said, and the defaults where nothing was. They may come as an array too.
fn is_completed(heard: &Value, said: &Value) -> bool {
    let Some(said) = said.as_object() else {
        return said.is_array();
    };
    let mut fields = heard.as_object().into_iter().flatten();
    fields.all(|(key, value)| said.get(key).is_none_or(|said| said == value))
}

/// A view, and the place where a session would listen.
struct View {
    runtime: Runtime,
    _root: TempDir,
    dir: RuntimeDir,
    listener: UnixListener,
}

impl View {
    fn new() -> Self {
        let runtime = runtime();
        let (root, dir) = folder();
        let listener = runtime.block_on(async { UnixListener::bind(dir.socket()) });
        Self {
            runtime,
            _root: root,
            dir,
            listener: listener.expect("a socket"),
        }
    }
}

/// What a session sends to a view: lines of JSON.
///
/// However they are, the view connects or says why not, sees the snapshots that were sent, and the connection's end.
pub fn answers(data: &[u8]) -> bool {
    VIEW.with(|view| {
        let hello = hello();
        let (serve, watch) = (serve(&view.listener, data), watch(&view.dir, &hello));
        let both = async { timeout(HANG, async { tokio::join!(serve, watch) }).await };
        let both = view.runtime.block_on(both);
        let ((), seen) = both.expect("the view sees the end of the session");
        let mut before = Snapshot::default();
        for snapshot in &seen {
            let text = serde_json::to_vec(&**snapshot).expect("a snapshot is shown as JSON");
            let back: Snapshot = serde_json::from_slice(&text).expect("a snapshot can be read");
            assert_eq!(back, **snapshot);
            // What is told of it is told of something.
            if before == **snapshot {
                assert!(changes(&before, snapshot).is_empty());
            }
            before = (**snapshot).clone();
        }
        !seen.is_empty()
    })
}

/// The session's end: sends all, and hangs up.
async fn serve(listener: &UnixListener, data: &[u8]) {
    let (mut stream, _) = listener.accept().await.expect("the view connects");
    // A view that was sent rubbish hangs up sooner.
    if stream.write_all(data).await.is_ok() {
        let _ = stream.shutdown().await;
    }
    let mut asked = Vec::new();
    drop(stream.read_to_end(&mut asked).await);
}

/// The view's end: every snapshot that it sees.
async fn watch(dir: &RuntimeDir, hello: &Hello) -> Vec<Arc<Snapshot>> {
    let mut seen = Vec::new();
    match connect(dir, hello).await {
        Ok(Some(mut handle)) => {
            seen.push(handle.latest());
            while let Ok(snapshot) = handle.changed().await {
                seen.push(snapshot);
            }
        }
        Ok(None) => panic!("somebody listens"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    seen
}
