//! What the page may ask for.

use std::sync::{Mutex, PoisonError};

use minitunnel_model::{CleanupItem, CleanupReport, Command, ProfileName, ServiceKey};
use minitunnel_session::{Ended, Handle, NotTaken};
use serde::{Serialize, Serializer};
use tauri::{State, async_runtime, ipc::Channel};
use tokio::sync::watch;

use crate::{
    link::{Link, View},
    places,
    start::{self, StartError},
};

/// minikube's own words on how to install it and start a cluster.
const GUIDE: &str = "https://minikube.sigs.k8s.io/docs/start/";

/// What the page is a view of.
pub(crate) struct Page {
    view: watch::Receiver<View>,
    link: Link,
    watching: Mutex<Option<async_runtime::JoinHandle<()>>>,
}

impl Page {
    pub(crate) fn new(view: watch::Receiver<View>, link: Link) -> Self {
        let watching = Mutex::default();
        Self {
            view,
            link,
            watching,
        }
    }

    fn session(&self) -> Result<Handle, Refusal> {
        self.link.handle().ok_or(Refusal::Ended(Ended))
    }
}

/// Why the page does not get what it asks for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the minitunnel session has ended: start it again")]
    Ended(#[from] Ended),
    #[error("{0}")]
    Declined(String),
    #[error("a page can't ask for that")]
    NotForPages,
    #[error("the service has no address on that port any more")]
    NoAddress,
    #[error("no program opens web addresses here: copy the address instead")]
    NoBrowser(#[source] std::io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<NotTaken> for Refusal {
    fn from(why: NotTaken) -> Self {
        match why {
            NotTaken::Ended(ended) => Self::Ended(ended),
            NotTaken::Declined(why) => Self::Declined(why),
        }
    }
}

/// Tells the page what is, now and after each change. A page that is loaded anew takes the place of the one before.
#[tauri::command]
pub(crate) fn watch(page: State<'_, Page>, channel: Channel<View>) {
    let mut view = page.view.clone();
    view.mark_changed();
    let watching = async_runtime::spawn(async move {
        while view.changed().await.is_ok() {
            let now = view.borrow_and_update().clone();
            if channel.send(now).is_err() {
                return;
            }
        }
    });
    let mut held = page.watching.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(before) = held.replace(watching) {
        before.abort();
    }
}

/// Gives the session a command, and returns when the snapshot shows what came of it at once.
#[tauri::command]
pub(crate) async fn command(page: State<'_, Page>, command: Command) -> Result<(), Refusal> {
    match command {
        Command::SetTarget { .. } | Command::Configure { .. } | Command::Quit => {
            Ok(page.session()?.command(command).await?)
        }
        // A clean-up has an answer of its own; the others are not the window's to ask.
        Command::Cleanup { .. } | Command::Resume { .. } | Command::OpenWindow | Command::Look => {
            Err(Refusal::NotForPages)
        }
    }
}

/// Cleans up, or tells what a clean-up would remove.
#[tauri::command]
pub(crate) async fn clean_up(
    page: State<'_, Page>,
    dry_run: bool,
    chosen: Vec<CleanupItem>,
) -> Result<CleanupReport, Refusal> {
    Ok(page.session()?.cleanup(dry_run, chosen).await?)
}

/// Starts a session; the page sees it when it is there.
#[tauri::command]
pub(crate) async fn start_session() -> Result<(), Refusal> {
    Ok(start::start().await?)
}

/// Opens the page behind a service's port in the user's browser.
#[tauri::command]
pub(crate) fn open_service(
    page: State<'_, Page>,
    profile: ProfileName,
    service: ServiceKey,
    port: u16,
) -> Result<(), Refusal> {
    let snapshot = page.session()?.snapshot();
    let url = places::url(&snapshot, &profile, &service, port).ok_or(Refusal::NoAddress)?;
    open::that_detached(url).map_err(Refusal::NoBrowser)
}

/// Opens minikube's guide in the user's browser.
#[tauri::command]
pub(crate) fn open_guide() -> Result<(), Refusal> {
    open::that_detached(GUIDE).map_err(Refusal::NoBrowser)
}
