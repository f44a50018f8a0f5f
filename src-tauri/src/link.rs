//! The connection to the session: made when there is one, and made again when it comes back.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use minitunnel_model::{Hello, PROTOCOL, Snapshot};
use minitunnel_session::{Beginnings, ConnectError, Handle, RuntimeDir, connect};
use serde::Serialize;
use tokio::{sync::watch, time::sleep};

/// How soon a session is asked again that was silent, as it begins or ends, or could not be watched for.
const AGAIN: Duration = Duration::from_millis(500);

/// After so many silent answers in a row it hangs.
const HANGS: u32 = 6;

/// All that the page shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub(crate) struct View {
    /// What became of the session.
    pub(crate) session: SessionState,
    /// What it says; `None` without one.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// Whether the tray has found no panel for its icon.
    pub(crate) no_panel: bool,
    /// Whether a `minikube` is on the `PATH`.
    pub(crate) minikube: bool,
    /// This program's version.
    pub(crate) version: &'static str,
}

/// What became of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "session", rename_all = "snake_case")]
pub(crate) enum SessionState {
    /// Not known yet.
    #[default]
    Looking,
    /// None runs.
    Absent,
    /// One runs, and can't be used.
    Refused {
        /// Why, and the way out, in one sentence.
        message: String,
    },
    /// This is its view.
    Joined,
}

/// The connection, for those who ask something of it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    publish: watch::Sender<View>,
    handle: Arc<Mutex<Option<Handle>>>,
}

/// A link that looks for a session as soon as it is [kept](Link::keep), and what it shows.
pub(crate) fn begin(no_panel: bool) -> (watch::Receiver<View>, Link) {
    let (publish, view) = watch::channel(View {
        no_panel,
        minikube: crate::places::on_path("minikube").is_some(),
        version: env!("CARGO_PKG_VERSION"),
        ..View::default()
    });
    let link = Link {
        publish,
        handle: Arc::default(),
    };
    (view, link)
}

impl Link {
    /// The session, if it is joined.
    pub(crate) fn handle(&self) -> Option<Handle> {
        self.held().clone()
    }

    /// Joins the user's session whenever there is one.
    pub(crate) async fn keep(self) {
        let dir = loop {
            let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
            match RuntimeDir::open(xdg.as_deref()) {
                Ok(dir) => break dir,
                Err(error) => self.refused(error.to_string()),
            }
            sleep(AGAIN).await;
        };
        self.keep_in(&dir).await;
    }

    /// Joins the session of that folder whenever there is one.
    pub(crate) async fn keep_in(&self, dir: &RuntimeDir) {
        // Whatever home it works on is the one to show.
        let hello = Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            home: PathBuf::new(),
        };
        // Watched before it is looked for, so that none begins unseen.
        let beginnings = dir.beginnings().ok();
        let mut silences = 0;
        loop {
            match connect(dir, &hello).await {
                Ok(Some(handle)) => self.follow(handle).await,
                Ok(None) => {
                    self.show(SessionState::Absent, None);
                    next(beginnings.as_ref()).await;
                }
                // It begins or ends, or hangs.
                Err(error @ ConnectError::Silent(_)) => {
                    silences += 1;
                    if silences >= HANGS {
                        self.refused(error.to_string());
                    }
                    sleep(AGAIN).await;
                    continue;
                }
                Err(error) => {
                    self.refused(error.to_string());
                    tokio::select! {
                        () = next(beginnings.as_ref()) => {}
                        () = dir.until_ended() => {}
                    }
                }
            }
            silences = 0;
        }
    }

    /// Shows what a session says, until it ends.
    async fn follow(&self, mut handle: Handle) {
        *self.held() = Some(handle.clone());
        self.show(SessionState::Joined, Some(handle.latest()));
        while let Ok(snapshot) = handle.changed().await {
            self.show(SessionState::Joined, Some(snapshot));
        }
        *self.held() = None;
        // What it said last is no more.
        self.show(SessionState::Looking, None);
    }

    fn refused(&self, message: String) {
        self.show(SessionState::Refused { message }, None);
    }

    fn show(&self, session: SessionState, snapshot: Option<Arc<Snapshot>>) {
        self.publish.send_modify(|view| {
            view.session = session;
            view.snapshot = snapshot;
        });
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Handle>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until a session may have begun.
async fn next(beginnings: Option<&Beginnings>) {
    match beginnings {
        Some(beginnings) => beginnings.next().await,
        None => sleep(AGAIN).await,
    }
}

#[cfg(test)]
mod tests;
