//! A session that says one thing: behind the real socket, in the place of an engine.

use std::sync::Arc;

use minitunnel_e2e::{Lab, Result};
use minitunnel_model::{CleanupReport, Hello, PROTOCOL, Snapshot};
use minitunnel_session::{Ask, Handle, RuntimeDir, Server};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Serves root's socket of the lab as long as it lives.
pub(crate) fn start(lab: &Lab, snapshot: Snapshot, report: CleanupReport) -> Result<JoinSet<()>> {
    let dir = RuntimeDir::open(Some(lab.outside_path("/run/user/0").as_path()))?;
    let server = Server::claim(&dir)?.ok_or_else(|| anyhow::anyhow!("a session runs already"))?;
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").into(),
        home: snapshot.home.clone(),
    };
    let (asks, mut asked) = mpsc::channel(8);
    let (publish, snapshots) = watch::channel(Arc::new(snapshot));
    let mut tasks = JoinSet::new();
    tasks.spawn(server.serve(Handle::new(asks, snapshots), hello));
    tasks.spawn(async move {
        while let Some(ask) = asked.recv().await {
            // Whoever asked may be gone.
            match ask {
                Ask::Command { taken, .. } => drop(taken.send(Ok(()))),
                Ask::Cleanup { answer, .. } => drop(answer.send(report.clone())),
            }
        }
        drop(publish);
    });
    Ok(tasks)
}
