//! What an onlooker sees, and when: the services by the API server's watch, the routes by the kernel.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use kube::Client;
use kube::core::WatchEvent;
use minitunnel_e2e::Result;
use minitunnel_model::Route;
use minitunnel_routing::{Entry, Events, Router};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::api;

/// Beyond any figure: only what is broken takes so long.
const GIVE_UP: Duration = Duration::from_secs(60);

/// A watcher of the services.
pub(crate) struct Services {
    seen: mpsc::UnboundedReceiver<Seen>,
    known: Known,
    task: JoinHandle<Result>,
}

/// The LoadBalancer services, by name.
type Known = BTreeMap<String, State>;

struct State {
    has_address: bool,
    port: Option<u16>,
}

struct Seen {
    at: Instant,
    name: String,
    /// `None` for a service that is gone.
    state: Option<State>,
}

impl From<&api::Service> for State {
    fn from(service: &api::Service) -> Self {
        Self {
            has_address: service.has_address(),
            port: service.spec.ports.first().map(|port| port.port),
        }
    }
}

impl Services {
    /// Watches from now on.
    pub(crate) async fn start(client: &Client) -> Result<Self> {
        let (services, events) = api::list_and_watch(client).await?;
        let known = services
            .into_iter()
            .filter(api::Service::is_load_balancer)
            .map(|service| (service.metadata.name.clone(), State::from(&service)))
            .collect();
        let (tell, seen) = mpsc::unbounded_channel();
        // In a task of its own, so that the time is the event's and not the reader's.
        let task = tokio::spawn(async move {
            let mut events = pin!(events);
            while let Some(event) = events.next().await {
                let (service, exists) = match event? {
                    WatchEvent::Added(service) | WatchEvent::Modified(service) => (service, true),
                    WatchEvent::Deleted(service) => (service, false),
                    WatchEvent::Bookmark(_) => continue,
                    WatchEvent::Error(status) => bail!("the watch broke: {}", status.message),
                };
                if !service.is_load_balancer() {
                    continue;
                }
                let state = exists.then(|| State::from(&service));
                let name = service.metadata.name;
                let at = Instant::now();
                if tell.send(Seen { at, name, state }).is_err() {
                    return Ok(());
                }
            }
            bail!("the watch ended")
        });
        Ok(Self { seen, known, task })
    }

    /// Waits until a service has an address, and tells when that was seen.
    pub(crate) async fn assigned(&mut self, name: &str) -> Result<Instant> {
        self.until(&format!("service {name} to have an address"), |known| {
            known.get(name).is_some_and(|state| state.has_address)
        })
        .await
    }

    /// Waits until there are so many services with an address.
    pub(crate) async fn all_assigned(&mut self, count: usize) -> Result<Instant> {
        self.until(&format!("{count} services to have an address"), |known| {
            known.values().filter(|state| state.has_address).count() == count
        })
        .await
    }

    /// Waits until no service has an address.
    pub(crate) async fn none_assigned(&mut self) -> Result<Instant> {
        self.until("no service to have an address", |known| {
            !known.values().any(|state| state.has_address)
        })
        .await
    }

    /// Waits until so many services have this port.
    pub(crate) async fn all_with_port(&mut self, count: usize, port: u16) -> Result<Instant> {
        let what = format!("{count} services to have port {port}");
        self.until(&what, |known| {
            let has = |state: &&State| state.port == Some(port);
            known.values().filter(has).count() == count
        })
        .await
    }

    /// Waits until there is no service.
    pub(crate) async fn none(&mut self) -> Result<Instant> {
        self.until("no service to be there", Known::is_empty).await
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&Known) -> bool) -> Result<Instant> {
        let mut at = Instant::now();
        let wait = async {
            while !reached(&self.known) {
                let Some(seen) = self.seen.recv().await else {
                    return (&mut self.task).await?;
                };
                at = seen.at;
                match seen.state {
                    Some(state) => self.known.insert(seen.name, state),
                    None => self.known.remove(&seen.name),
                };
            }
            Ok(())
        };
        timeout(GIVE_UP, wait)
            .await
            .with_context(|| format!("waited {GIVE_UP:?} for {what}"))??;
        Ok(at)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A watcher of one route.
pub(crate) struct RouteWatch {
    route: Route,
    router: Router,
    events: Events,
}

impl RouteWatch {
    pub(crate) fn new(route: Route) -> Result<Self> {
        Ok(Self {
            route,
            router: Router::open()?,
            events: Events::open()?,
        })
    }

    /// Waits until the route is in the kernel, or is not, and tells when that was seen.
    pub(crate) async fn until(&mut self, there: bool) -> Result<Instant> {
        let wait = async {
            while self.router.dump().await?.holds(&self.route) != there {
                self.events.changed().await?;
            }
            Result::Ok(Instant::now())
        };
        let what = if there { "come" } else { "go" };
        timeout(GIVE_UP, wait)
            .await
            .with_context(|| format!("waited {GIVE_UP:?} for {} to {what}", self.route))?
    }

    /// Takes the route away, as another program would.
    pub(crate) fn delete(&self) -> Result {
        let same = |entry: &Entry| entry.our_route() == Some(self.route);
        Ok(minitunnel_kernel::remove(same)?)
    }
}
