use minitunnel_session::{Ask, Server};
use tokio::sync::mpsc;

use super::*;

/// A session whose engine is the test.
struct Session {
    server: tokio::task::JoinHandle<()>,
    publish: watch::Sender<Arc<Snapshot>>,
    _asked: mpsc::Receiver<Ask>,
}

fn session(dir: &RuntimeDir, home: &str) -> Session {
    let (asks, asked) = mpsc::channel(8);
    let (publish, snapshots) = watch::channel(of(home));
    let hello = Hello {
        protocol: PROTOCOL,
        version: "0.1.0".into(),
        home: home.into(),
    };
    let server = Server::claim(dir).unwrap().unwrap();
    Session {
        server: tokio::spawn(server.serve(Handle::new(asks, snapshots), hello)),
        publish,
        _asked: asked,
    }
}

fn of(home: &str) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        home: home.into(),
        ..Snapshot::default()
    })
}

async fn until(view: &mut watch::Receiver<View>, session: SessionState, home: Option<&str>) {
    let is = |view: &View| view.session == session && view.snapshot == home.map(of);
    let seen = tokio::time::timeout(Duration::from_secs(20), view.wait_for(is));
    let seen = seen.await.map(|seen| seen.unwrap().clone());
    assert!(seen.is_ok(), "{:?}", *view.borrow());
}

#[tokio::test]
async fn a_session_is_joined_when_it_comes_and_again_when_it_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::open(Some(folder.path())).unwrap();
    let (mut view, link) = begin(false);
    let kept = link.clone();
    let in_dir = dir.clone();
    tokio::spawn(async move { kept.keep_in(&in_dir).await });
    until(&mut view, SessionState::Absent, None).await;
    assert!(link.handle().is_none());

    for home in ["/first", "/second"] {
        let session = session(&dir, home);
        until(&mut view, SessionState::Joined, Some(home)).await;
        assert!(link.handle().is_some());
        session.publish.send_replace(of("/changed"));
        until(&mut view, SessionState::Joined, Some("/changed")).await;

        session.server.abort();
        let _ = session.server.await;
        until(&mut view, SessionState::Absent, None).await;
        assert!(link.handle().is_none());
    }
}
