use std::sync::Arc;

use minitunnel_model::{
    CleanupReport, Command, FromSession, Hello, PROTOCOL, Snapshot, TargetState,
};
use tokio::{
    io::{AsyncReadExt, BufReader},
    net::UnixStream,
    sync::{mpsc, watch},
};

use super::*;

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: "0.1.0".into(),
        home: "/home/u/.minikube".into(),
    }
}

/// A session whose engine is the test.
struct Session {
    dir: RuntimeDir,
    asked: mpsc::Receiver<Ask>,
    publish: watch::Sender<Arc<Snapshot>>,
    _folder: tempfile::TempDir,
}

fn session() -> Session {
    let folder = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::open(Some(folder.path())).unwrap();
    let (asks, asked) = mpsc::channel(8);
    let (publish, snapshots) = watch::channel(Arc::default());
    let server = Server::claim(&dir).unwrap().unwrap();
    tokio::spawn(server.serve(Handle::new(asks, snapshots), hello()));
    Session {
        dir,
        asked,
        publish,
        _folder: folder,
    }
}

fn snapshot(home: &str) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        home: home.into(),
        ..Snapshot::default()
    })
}

#[tokio::test]
async fn a_view_sees_snapshots_and_what_came_of_its_commands() {
    let mut session = session();
    let mut view = connect(&session.dir, &hello()).await.unwrap().unwrap();
    session.publish.send_replace(snapshot("/new"));
    let seen = view.until(|seen| seen.home.ends_with("new")).await.unwrap();
    assert_eq!(seen, snapshot("/new"));

    let command = Command::SetTarget {
        profile: "p".parse().unwrap(),
        target: TargetState::Up,
    };
    let engine = async {
        let Some(Ask::Command { command, taken }) = session.asked.recv().await else {
            panic!("no command")
        };
        session.publish.send_replace(snapshot("/after"));
        taken.send(Ok(())).unwrap();
        command
    };
    let (given, arrived) = tokio::join!(view.command(command.clone()), engine);
    assert_eq!((given, arrived), (Ok(()), command));
    assert_eq!(view.snapshot(), snapshot("/after"));
}

#[tokio::test]
async fn a_command_that_cant_be_done_is_declined_by_a_sentence_and_the_next_one_is_taken() {
    let mut session = session();
    let view = connect(&session.dir, &hello()).await.unwrap().unwrap();
    let engine = async {
        for answer in [Err("there is no desktop".to_owned()), Ok(())] {
            let Some(Ask::Command { taken, .. }) = session.asked.recv().await else {
                panic!("no command")
            };
            taken.send(answer).unwrap();
        }
    };
    let view = async {
        let first = view.command(Command::OpenWindow).await;
        (first, view.command(Command::OpenWindow).await)
    };
    let (answers, ()) = tokio::join!(view, engine);
    let declined = NotTaken::Declined("there is no desktop".into());
    assert_eq!(answers, (Err(declined), Ok(())));
}

#[tokio::test]
async fn a_clean_up_is_answered_to_the_view_that_asked() {
    let mut session = session();
    let view = connect(&session.dir, &hello()).await.unwrap().unwrap();
    let report = CleanupReport {
        dry_run: true,
        ..CleanupReport::default()
    };
    let answer = report.clone();
    tokio::spawn(async move {
        let Some(Ask::Cleanup {
            dry_run: true,
            chosen,
            answer: to,
        }) = session.asked.recv().await
        else {
            panic!("no clean-up")
        };
        assert_eq!(chosen, []);
        to.send(answer).unwrap();
        // The session lives until the view has read it.
        session.asked.recv().await;
    });
    assert_eq!(view.cleanup(true, Vec::new()).await, Ok(report));
}

#[tokio::test]
async fn there_is_one_session_and_a_dead_ones_socket_is_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::open(Some(folder.path())).unwrap();
    assert!(connect(&dir, &hello()).await.unwrap().is_none());

    let first = Server::claim(&dir).unwrap().unwrap();
    assert!(Server::claim(&dir).unwrap().is_none());
    drop(first);

    // What a SIGKILL leaves: a socket that nobody listens on, and no lock.
    drop(std::os::unix::net::UnixListener::bind(dir.socket()).unwrap());
    assert!(connect(&dir, &hello()).await.unwrap().is_none());
    assert!(Server::claim(&dir).unwrap().is_some());
}

#[tokio::test]
async fn another_home_and_another_protocol_are_refused_with_a_sentence() {
    let session = session();
    let other = Hello {
        home: "/elsewhere".into(),
        ..hello()
    };
    let error = connect(&session.dir, &other).await.unwrap_err();
    assert!(matches!(error, ConnectError::OtherHome { .. }), "{error}");

    assert!(
        error.to_string().ends_with(&this_process()),
        "{error} names no process"
    );
    let any = Hello {
        home: PathBuf::new(),
        ..hello()
    };
    assert!(connect(&session.dir, &any).await.unwrap().is_some());

    let mut stream = BufReader::new(UnixStream::connect(session.dir.socket()).await.unwrap());
    let future = Hello {
        protocol: PROTOCOL + 1,
        version: "9.9.9".into(),
        ..hello()
    };
    write_line(&mut stream, &future).await.unwrap();
    assert_eq!(
        read_line::<Hello>(&mut stream, 4096).await.unwrap(),
        Some(hello())
    );
    let answer = read_line::<FromSession>(&mut stream, 4096).await.unwrap();
    let Some(FromSession::Refused { message }) = answer else {
        panic!("{answer:?}")
    };
    assert!(
        message.contains("9.9.9") && message.contains("0.1.0"),
        "{message}"
    );
}

/// The way out of a session of this process.
fn this_process() -> String {
    format!("(`kill {}`)", std::process::id())
}

#[tokio::test]
async fn the_process_of_a_session_that_speaks_otherwise_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::open(Some(folder.path())).unwrap();
    let listener = tokio::net::UnixListener::bind(dir.socket()).unwrap();
    let future = Hello {
        protocol: PROTOCOL + 1,
        ..hello()
    };
    let session = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        write_line(&mut stream, &future).await.unwrap();
        stream
    };
    let mine = hello();
    let (connected, _stream) = tokio::join!(connect(&dir, &mine), session);
    let error = connected.unwrap_err();
    let way = format!("end it {} and run this command again", this_process());
    assert!(error.to_string().ends_with(&way), "{error}");
}

#[tokio::test]
async fn a_session_that_begins_is_told_when_it_can_be_joined() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::open(Some(folder.path())).unwrap();
    let beginnings = dir.beginnings().unwrap();
    for _ in 0..2 {
        let server = Server::claim(&dir).unwrap().unwrap();
        beginnings.next().await;
        assert!(UnixStream::connect(dir.socket()).await.is_ok());
        drop(server);
    }
}

#[tokio::test]
async fn rubbish_and_endless_lines_end_their_own_connection_only() {
    let session = session();
    for rubbish in [b"{\"command\":\n".to_vec(), vec![b'x'; 3 * 1024 * 1024]] {
        let mut stream = UnixStream::connect(session.dir.socket()).await.unwrap();
        write_line(&mut stream, &hello()).await.unwrap();
        // The other end may close before all of it is written.
        let _ = stream.write_all(&rubbish).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    assert!(connect(&session.dir, &hello()).await.unwrap().is_some());
}

#[test]
fn a_folder_that_others_can_write_to_holds_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("minitunnel");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(RuntimeDir::open(Some(folder.path())).is_err());
    std::fs::remove_dir(&dir).unwrap();
    std::os::unix::fs::symlink("/tmp", &dir).unwrap();
    assert!(RuntimeDir::open(Some(folder.path())).is_err());
}
