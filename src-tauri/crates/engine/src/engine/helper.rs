//! The privileged helper: connected when it is first needed, and again after it went; an inherited one at once.

use std::{collections::BTreeSet, os::unix::net::UnixStream, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use minitunnel_helper_api::{Client, ConnectError, HelperError, HelperEvent};
use minitunnel_model::{CleanupItem, CleanupReport, HelperStatus, ProfileName, Route};
use minitunnel_routing::Router;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};

use super::{Cleanup, suspects};
use crate::reducer::{ApplyFailure, Input, Others, Turn};

/// What is said where the one helper that there was is gone.
const ENDED: &str = "minitunnel's helper has ended: start minitunnel again";

/// How long the bus has for a subscription.
const SUBSCRIBED: Duration = Duration::from_secs(10);

/// How an engine reaches the helper.
#[derive(Debug)]
pub enum HelperWay {
    /// Over the system bus, which starts it on demand.
    System,
    /// Over a socket that this process was started with.
    Inherited(UnixStream),
    /// Not at all: an engine that only looks.
    Nowhere,
}

pub(super) struct Helper {
    link: Arc<Mutex<Link>>,
    /// Held while the user is asked about a route that is not ours: one dialog after the other.
    asking: Arc<Mutex<()>>,
    /// What is being removed of that, and how to call it off.
    removals: Vec<(CleanupItem, oneshot::Sender<()>)>,
    inputs: mpsc::Sender<Input>,
}

type Events = BoxStream<'static, HelperEvent>;

struct Link {
    way: HelperWay,
    /// Whether it is there for this engine alone.
    is_own: bool,
    client: Option<Client>,
}

impl Helper {
    pub(super) fn new(way: HelperWay, inputs: mpsc::Sender<Input>) -> Self {
        let inherited = matches!(way, HelperWay::Inherited(_));
        let link = Arc::new(Mutex::new(Link {
            way,
            is_own: inherited,
            client: None,
        }));
        if inherited {
            // It is there for this engine alone, and removes what dead owners left when it is called first.
            let (link, inputs) = (link.clone(), inputs.clone());
            // What comes of it is told by the inputs.
            tokio::spawn(async move { client(&link, &inputs).await.map(drop) });
        }
        let asking = Arc::default();
        Self {
            link,
            asking,
            removals: Vec::new(),
            inputs,
        }
    }

    /// Applies the whole set of a profile; the answer comes as an input.
    pub(super) fn apply(&self, profile: ProfileName, routes: Vec<Route>, interactive: bool) {
        let (link, inputs) = (self.link.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let result = match client(&link, &inputs).await {
                Ok(client) => {
                    let answer = client.apply(&profile, &routes, interactive).await;
                    answer.map(|_generation| ()).map_err(failure)
                }
                Err(message) => Err(ApplyFailure::Missing(message)),
            };
            // The engine that asked may have ended.
            let _ = inputs
                .send(Input::Applied {
                    profile,
                    routes,
                    result,
                })
                .await;
        });
    }

    /// Withdraws the apply that waits for consent, which closes the dialog; that apply's answer says so.
    pub(super) fn dismiss(&self, profile: ProfileName) {
        let link = self.link.clone();
        tokio::spawn(async move {
            let client = link.lock().await.client.clone();
            if let Some(client) = client
                && let Err(error) = client.release(&profile).await
            {
                tracing::warn!(%profile, %error, "the dialog could not be closed");
            }
        });
    }

    /// Looks for other sessions that live; the answer comes as an input.
    pub(super) fn look_for_sessions(&self, turn: Turn) {
        let (link, inputs) = (self.link.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let others = others(&link).await;
            // The engine that asked may have ended.
            let _ = inputs.send(Input::Sessions(turn, others)).await;
        });
    }

    /// Removes the route that a `minikube tunnel` left, for which the user is asked; the answer comes as an input.
    pub(super) fn remove_stale(&mut self, item: CleanupItem) {
        let (link, asking, inputs) = (self.link.clone(), self.asking.clone(), self.inputs.clone());
        let (leave, left) = oneshot::channel();
        self.removals.retain(|(_, leave)| !leave.is_closed());
        self.removals.push((item.clone(), leave));
        tokio::spawn(async move {
            let removal = async {
                let _asking = asking.lock().await;
                remove_stale(&link, &item).await
            };
            let result = tokio::select! {
                // What is done is done.
                biased;
                result = removal => result,
                Ok(()) = left => {
                    Err("it was not waited for any more, or was not what was shown: look again with `minitunnel cleanup --dry-run`".into())
                }
            };
            // The engine that asked may have ended.
            let _ = inputs.send(Input::Removed { item, result }).await;
        });
    }

    /// Calls off a [`Self::remove_stale`], whose dialog closes with the connection that it was asked over.
    pub(super) fn leave(&mut self, item: &CleanupItem) {
        let mut removals = self.removals.iter();
        if let Some(at) = removals.position(|(of, _)| of == item) {
            let (_, leave) = self.removals.swap_remove(at);
            // It may be done.
            let _ = leave.send(());
        }
    }

    /// Has the routes with our tag removed that no lease of a living owner has, and hands the clean-up back.
    pub(super) fn clean(&self, mut cleanup: Cleanup, back: mpsc::Sender<Cleanup>) {
        let (link, inputs) = (self.link.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let cleaned = match client(&link, &inputs).await {
                Ok(client) => client.cleanup().await.map_err(|error| error.to_string()),
                Err(message) => Err(message),
            };
            match cleaned {
                Ok(routes) => cleanup.routes = routes,
                Err(message) => cleanup.helper = Some(message),
            }
            // The engine that asked may have ended.
            let _ = back.send(cleanup).await;
        });
    }

    /// Completes a preview with the routes that [`Self::clean`] would remove, and hands it over.
    pub(super) fn look(&self, mut report: CleanupReport, answer: oneshot::Sender<CleanupReport>) {
        let link = self.link.clone();
        tokio::spawn(async move {
            report.helper = look(&link, &mut report).await.err();
            // Whoever asked may not wait any more.
            let _ = answer.send(report);
        });
    }
}

/// Over a connection of its own, if the helper is on the bus: with its end, the helper withdraws what it asks the user.
async fn remove_stale(link: &Mutex<Link>, item: &CleanupItem) -> Result<(), String> {
    let CleanupItem::MinikubeRoute { entry, .. } = item else {
        return Err("it is no route that a `minikube tunnel` left".into());
    };
    let own = {
        let link = link.lock().await;
        link.is_own.then(|| link.client.clone())
    };
    let client = match own {
        Some(client) => client.ok_or(ENDED)?,
        None => Client::system().await.map_err(|error| error.to_string())?,
    };
    let removed = client.remove_stale(entry).await;
    removed.map_err(|error| error.to_string())
}

/// Tells what a clean-up would remove. Starts no helper, as one that starts removes it.
async fn look(link: &Mutex<Link>, report: &mut CleanupReport) -> Result<(), String> {
    let client = match own(link).await {
        Some(client) => Some(client),
        None => match Client::running().await {
            Ok(client) => client,
            // Nobody is on a bus that is not there.
            Err(ConnectError::NoBus(_)) => None,
            Err(error) => return Err(error.to_string()),
        },
    };
    let router = Router::open().map_err(|error| error.to_string())?;
    let table = router.dump().await.map_err(|error| error.to_string())?;
    let Some(client) = client else {
        // What is there was left by a dead helper, or is held by one that only another user can ask: that of sudo.
        report.unclaimed.extend(table.ours());
        return Ok(());
    };
    // Asked after the dump: of a route that came meanwhile nobody speaks.
    let leases = client.list().await.map_err(|error| error.to_string())?;
    let owned: BTreeSet<Route> = leases.into_iter().flat_map(|lease| lease.routes).collect();
    let orphans = table.ours().filter(|route| !owned.contains(route));
    report.removed.extend(orphans.map(CleanupItem::Route));
    Ok(())
}

/// What the helper knows of other sessions; where none is, what their processes tell. Starts no helper.
async fn others(link: &Mutex<Link>) -> Others {
    // One helper works at a time: beside one that is there for us alone, nobody has routes.
    if own(link).await.is_some() {
        return Others::Leases(BTreeSet::new());
    }
    let leases = match Client::running().await {
        Ok(Some(client)) => client.list().await.ok(),
        _ => None,
    };
    let Some(leases) = leases else {
        return Others::Run(suspects::other_sessions());
    };
    let own = std::process::id();
    let others = leases.into_iter().filter(|lease| lease.pid != own);
    Others::Leases(others.flat_map(|lease| lease.routes).collect())
}

/// The client of the helper that is there for this engine alone. Over the bus, a call by our connection would start a helper
/// where none runs any more.
async fn own(link: &Mutex<Link>) -> Option<Client> {
    let link = link.lock().await;
    link.client.clone().filter(|_| link.is_own)
}

/// The client, connected if it is not; an error is one sentence.
async fn client(link: &Arc<Mutex<Link>>, inputs: &mpsc::Sender<Input>) -> Result<Client, String> {
    let mut held = link.lock().await;
    if let Some(client) = &held.client {
        return Ok(client.clone());
    }
    match connect(&mut held.way).await {
        Ok((client, events)) => {
            held.client = Some(client.clone());
            let version = client.version().to_owned();
            tokio::spawn(follow(events, link.clone(), inputs.clone()));
            let _ = inputs
                .send(Input::Helper(HelperStatus::Ready { version }))
                .await;
            Ok(client)
        }
        Err(message) => {
            let status = HelperStatus::Missing {
                message: message.clone(),
            };
            let _ = inputs.send(Input::Helper(status)).await;
            Err(message)
        }
    }
}

async fn connect(way: &mut HelperWay) -> Result<(Client, Events), String> {
    let sentence = |error: ConnectError| error.to_string();
    // A socket serves once.
    let client = match std::mem::replace(way, HelperWay::Nowhere) {
        HelperWay::System => {
            *way = HelperWay::System;
            Client::system().await.map_err(sentence)?
        }
        HelperWay::Inherited(stream) => Client::peer(stream).await.map_err(sentence)?,
        HelperWay::Nowhere => return Err(ENDED.into()),
    };
    // Subscribed before anything is applied, so that no end goes unseen.
    let events = timeout(SUBSCRIBED, client.events()).await;
    let events = events.map_err(|_| "the system bus does not answer: see whether it runs")?;
    let events = events.map_err(|error| error.to_string())?;
    Ok((client, events.boxed()))
}

/// Tells of the helper's end, so that what it held is asked for again.
async fn follow(mut events: Events, link: Arc<Mutex<Link>>, inputs: mpsc::Sender<Input>) {
    while let Some(event) = events.next().await {
        match event {
            HelperEvent::LeaseEnded { profile, reason } => {
                tracing::warn!(%profile, %reason, "the helper ended the routes");
                let _ = inputs.send(Input::LeaseEnded(profile)).await;
            }
            // The connection stays: by it the helper that is started next knows whose routes and consent it found.
            HelperEvent::Gone => {
                let _ = inputs.send(Input::HelperGone).await;
            }
        }
    }
    // The bus is gone, or the socket's other end.
    link.lock().await.client = None;
    let _ = inputs.send(Input::HelperGone).await;
}

fn failure(error: HelperError) -> ApplyFailure {
    let message = error.to_string();
    match error {
        HelperError::NotAuthorized(_) | HelperError::Dismissed(_) => {
            ApplyFailure::NotAuthorized(message)
        }
        HelperError::Conflict { conflicts, .. } => ApplyFailure::Conflict(conflicts),
        HelperError::Gone(_) => ApplyFailure::Gone,
        HelperError::NoAnswer(_) | HelperError::ZBus(_) | HelperError::RollbackIncomplete(_) => {
            ApplyFailure::Unsure(message)
        }
        _ => ApplyFailure::Refused(message),
    }
}
