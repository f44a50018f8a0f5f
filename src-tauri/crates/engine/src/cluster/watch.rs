//! The task that follows one API server, and the handle to it.

use std::{
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{Fuse, FusedFuture as _},
    stream::{BoxStream, Peekable},
};
use ipnet::IpNet;
use minitunnel_model::{ProfileName, ServiceKey};
use serde::Deserialize;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    AssignError, ClusterEvent, Service, ServiceChange,
    api::{Api, CallError, Object, SHORT_WATCH, Told},
    assign::{self, Change},
    client::Connector,
    health::{Backoff, explain, starting},
    node::{NodeObject, Nodes},
    pods::{PodSource, PodWatch},
    service::ServiceObject,
};
use crate::minikube::Credentials;

/// An API server sends a bookmark about every minute: after this long without one it is asked whether it lives, as a
/// paused cluster keeps its connections.
const SILENCE: Duration = Duration::from_secs(90);
/// A server that was followed for less than this before it was lost is not asked again at once.
const STABLE: Duration = Duration::from_secs(10);
/// A server that can't be watched and wants to be left alone for longer than this is down: nothing is known of it meanwhile.
const SHORT_REST: Duration = Duration::from_secs(1);
/// So many changes of services are on their way at a time, each on a connection of its own: 4, 8 and 16 all keep up with
/// four clients that create services, and HTTP/2 answers a single one 0.2 ms later than HTTP/1.1 (of 6.7 ms, API server
/// 1.37 on the same two cores).
const IN_FLIGHT: usize = 8;

/// Follows an API server on this thread's runtime until the handle is dropped; what it tells goes to `events`.
pub fn watch<T: Send + 'static>(
    profile: ProfileName,
    credentials: &Credentials,
    pods: PodSource,
    events: mpsc::Sender<T>,
    wrap: impl Fn(ClusterEvent) -> T + Send + Sync + 'static,
) -> Handle {
    let shared = Arc::new(Shared {
        api: RwLock::new(None),
        wake: Notify::new(),
        doubt: Notify::new(),
        rest: Mutex::default(),
        in_flight: Semaphore::new(IN_FLIGHT),
    });
    let connector = Connector::new(credentials);
    let server = credentials.server.clone();
    let events = Events { events, wrap };
    let task = {
        let shared = shared.clone();
        tokio::spawn(async move {
            match connector {
                Ok(connector) => {
                    Watch {
                        profile,
                        server,
                        pods,
                        connector,
                        shared,
                        events,
                    }
                    .run()
                    .await
                }
                Err(error) => {
                    let reason = format!(
                        "the API server of {profile} can't be asked, as {error}: `minikube start -p {profile}` writes its files anew"
                    );
                    // Other files mean another watch.
                    let _ = events.send(ClusterEvent::Down { reason }).await;
                }
            }
        })
    };
    Handle {
        shared,
        task: task.abort_handle(),
    }
}

/// A change of a service's address on its way.
pub type Changing = Pin<Box<dyn Future<Output = Result<(), AssignError>> + Send>>;

/// A cluster that is being followed; dropping it ends that.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    /// The client of a server that is up.
    api: RwLock<Option<Api>>,
    /// A link has changed, or the machine woke up: asks for a probe, and for the next try of a server that is down.
    wake: Notify,
    /// A change had no answer: asks for a probe.
    doubt: Notify,
    /// Until then the server wants to be left alone, and no change is sent; with its words.
    rest: Mutex<Option<(Instant, String)>>,
    in_flight: Semaphore,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("up", &self.api().is_some())
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// Has the server asked at once whether it lives: a link came or went, or the machine woke up.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Sets a service's ingress to its cluster IPs. The future stands for itself: it outlives the handle.
    pub fn assign(&self, service: &Service) -> Changing {
        Box::pin(self.shared.clone().change(Change::assign(service)))
    }

    /// Releases the ingress that we set; where somebody else set the same, that stays.
    pub fn withdraw(&self, service: &Service) -> Changing {
        Box::pin(self.shared.clone().change(Change::release(service)))
    }

    /// Removes the addresses that an ended `minikube tunnel` left ([`Service::is_minikubes`]), for a clean-up that the user
    /// asked for. What is not, or no longer, as the user was shown it is left alone.
    pub fn remove_left_by_minikube(
        &self,
        service: &ServiceKey,
        uid: &str,
        shown: &[IpAddr],
    ) -> Changing {
        let shared = self.shared.clone();
        let (key, uid, shown) = (service.clone(), uid.to_owned(), shown.to_vec());
        Box::pin(async move {
            let _permit = shared.in_flight.acquire().await;
            let api = shared.up()?;
            shared.is_rested()?;
            assign::remove_left_by_minikube(&api, &key, &uid, &shown).await
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
        // Changes that wait for their turn are not sent any more.
        self.shared.set_api(None);
    }
}

impl Shared {
    fn api(&self) -> Option<Api> {
        self.api
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_api(&self, api: Option<Api>) {
        *self.api.write().unwrap_or_else(PoisonError::into_inner) = api;
    }

    fn up(&self) -> Result<Api, AssignError> {
        self.api()
            .ok_or_else(|| AssignError::Unreachable("it is not up".to_owned()))
    }

    async fn change(self: Arc<Self>, change: Change) -> Result<(), AssignError> {
        let _permit = self.in_flight.acquire().await;
        // Looked up now: while this waited for its turn, the server may have gone down, or may have had enough.
        let api = self.up()?;
        self.is_rested()?;
        self.answered(change.send(&api).await)
    }

    fn is_rested(&self) -> Result<(), AssignError> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*rest {
            Some((until, message)) if *until > Instant::now() => Err(AssignError::Later {
                message: message.clone(),
                // Whoever counts in whole milliseconds must not come back before the end.
                rest: *until - Instant::now() + Duration::from_millis(1),
            }),
            _ => Ok(()),
        }
    }

    /// What is concluded from the answer to one change for all.
    fn answered(&self, result: Result<(), CallError>) -> Result<(), AssignError> {
        let Err(error) = result else {
            return Ok(());
        };
        let rest = error.rest();
        // What answers lives; but one that knows our certificate no more does so only on the next connection.
        if !matches!(&error, CallError::Status(status) if status.code != 401) {
            self.doubt.notify_one();
        }
        let error = AssignError::from(error);
        if let AssignError::Later { message, .. } = &error {
            let rest = Some((Instant::now() + rest, message.clone()));
            *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = rest;
        }
        Err(error)
    }
}

struct Events<T, W> {
    events: mpsc::Sender<T>,
    wrap: W,
}

impl<T, W: Fn(ClusterEvent) -> T> Events<T, W> {
    /// Fails if nobody listens any more.
    async fn send(&self, event: ClusterEvent) -> Result<(), End> {
        self.events
            .send((self.wrap)(event))
            .await
            .map_err(|_| End::Unheard)
    }
}

/// Why following a server ended.
enum End {
    /// Nobody listens.
    Unheard,
    /// The server can't be asked any more.
    Lost(CallError),
}

impl From<CallError> for End {
    fn from(error: CallError) -> Self {
        Self::Lost(error)
    }
}

struct Watch<T, W> {
    profile: ProfileName,
    server: String,
    pods: PodSource,
    connector: Connector,
    shared: Arc<Shared>,
    events: Events<T, W>,
}

/// All that is known of a server when it is found up, and what watches it from then on.
struct Found {
    api: Api,
    service_cidrs: Vec<IpNet>,
    services: Vec<ServiceObject>,
    service_watch: Watching<ServiceObject>,
    nodes: Vec<NodeObject>,
    node_watch: Watching<NodeObject>,
}

type Watching<K> = Peekable<BoxStream<'static, Result<Told<K>, CallError>>>;

impl<T, W: Fn(ClusterEvent) -> T> Watch<T, W> {
    async fn run(self) {
        let mut backoff = Backoff::new();
        // Kept from one watch to the next: the routes of pods must not go until their networks are read again.
        let mut nodes = Nodes::new(self.pods);
        let mut told = None;
        let mut suspect = false;
        loop {
            let error = match find(self.connector.connect(), suspect).await {
                Ok(found) => {
                    told = None;
                    let since = Instant::now();
                    self.shared.set_api(Some(found.api.clone()));
                    let error = match self.follow(found, &mut nodes).await {
                        Err(End::Lost(error)) => error,
                        Err(End::Unheard) | Ok(()) => return,
                    };
                    tracing::debug!(profile = %self.profile, %error, "the API server was lost");
                    let stable = since.elapsed() >= STABLE;
                    if stable {
                        backoff = Backoff::new();
                    }
                    suspect = error.is_answer();
                    if !matches!(error, CallError::Deadline) && error.rest() <= SHORT_REST {
                        // A connection that broke is nothing yet: only if it can't be made again the server is down.
                        let pause = if stable {
                            Duration::ZERO
                        } else {
                            backoff.next()
                        };
                        self.pause(pause, &error, &mut backoff).await;
                        continue;
                    }
                    error
                }
                Err(error) => {
                    // One that stopped meanwhile is another one when it is back.
                    suspect &= error.is_answer();
                    error
                }
            };
            self.shared.set_api(None);
            let reason = self.reason(&error).await;
            if told.as_ref() != Some(&reason) {
                told = Some(reason.clone());
                if self
                    .events
                    .send(ClusterEvent::Down { reason })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            let pause = backoff.next();
            self.pause(pause, &error, &mut backoff).await;
        }
    }

    /// Waits for the next try. A link that changes makes it at once, and more of them soon after it; but whoever wants to be
    /// left alone is, whatever changes meanwhile.
    async fn pause(&self, pause: Duration, after: &CallError, backoff: &mut Backoff) {
        let rest = after.rest();
        tokio::select! {
            () = sleep(pause.max(rest)) => {}
            () = self.shared.wake.notified(), if rest.is_zero() => *backoff = Backoff::eager(),
        }
    }

    /// Tells all that happens, until the server is lost.
    async fn follow(&self, found: Found, nodes: &mut Nodes) -> Result<(), End> {
        let Found {
            api,
            service_cidrs: mut cidrs,
            services,
            mut service_watch,
            nodes: found_nodes,
            mut node_watch,
        } = found;
        let api = &api;
        nodes.take(Told::Reset(found_nodes));
        // The ranges were read beside the services, and may be older.
        let mut beyond = services.iter().any(|service| is_beyond(service, &cidrs));
        self.events
            .send(ClusterEvent::Up {
                service_cidrs: cidrs.clone(),
                nodes: nodes.list(),
                services: concerning_us(services),
            })
            .await?;

        let mut pod_watch = PodWatch::new(api, self.pods);
        // Beside the watches: what they tell must not wait for a server that thinks about its answer.
        let mut probe = pin!(Fuse::terminated());
        let mut relist = pin!(Fuse::terminated());
        // The services' own word: that of another watch says nothing about this one.
        let mut heard = Instant::now();
        let mut silent_until = heard + SILENCE;
        loop {
            if beyond && relist.is_terminated() {
                beyond = false;
                relist.set(service_cidrs(api).fuse());
            }
            tokio::select! {
                told = service_watch.next() => {
                    heard = Instant::now();
                    silent_until = heard + SILENCE;
                    let told = next(told)?;
                    // Ranges change hardly ever: the first service beyond those that are known says when.
                    beyond |= match &told {
                        Told::Applied { object, .. } => is_beyond(object, &cidrs),
                        Told::Reset(objects) => objects.iter().any(|object| is_beyond(object, &cidrs)),
                        Told::Deleted(_) | Told::Bookmark => false,
                    };
                    self.service(told).await?;
                }
                listed = &mut relist => {
                    let listed = listed?;
                    if listed != cidrs {
                        cidrs.clone_from(&listed);
                        self.events.send(ClusterEvent::ServiceCidrs(listed)).await?;
                    }
                }
                told = node_watch.next() => {
                    let told = next(told)?;
                    if !matches!(told, Told::Bookmark) {
                        pod_watch.look_again();
                    }
                    if nodes.take(told) {
                        self.events.send(ClusterEvent::Nodes(nodes.list())).await?;
                    }
                }
                told = pod_watch.next() => {
                    if nodes.take_ranges(told) {
                        self.events.send(ClusterEvent::Nodes(nodes.list())).await?;
                    }
                }
                alive = &mut probe => {
                    alive?;
                    // A server that lives, and whose watch tells nothing for so long, has lost that watch.
                    if heard.elapsed() >= 2 * SILENCE {
                        let silent = io::Error::from(io::ErrorKind::TimedOut);
                        return Err(CallError::Transport(silent.into()).into());
                    }
                    silent_until = Instant::now() + SILENCE;
                }
                () = self.shared.wake.notified(), if probe.is_terminated() => {
                    probe.set(self.probe().fuse());
                }
                () = self.shared.doubt.notified(), if probe.is_terminated() => {
                    probe.set(self.probe().fuse());
                }
                () = sleep_until(silent_until), if probe.is_terminated() => {
                    probe.set(self.probe().fuse());
                }
                () = self.events.events.closed() => return Err(End::Unheard),
            }
        }
    }

    async fn service(&self, told: Told<ServiceObject>) -> Result<(), End> {
        let change = match told {
            Told::Applied { object, is_new } => {
                let service = Service::from(object);
                match service.concerns_us() {
                    true => ServiceChange::Applied(service),
                    // One that never concerned us, or one that did until now.
                    false if is_new => return Ok(()),
                    false => ServiceChange::Deleted(service.key),
                }
            }
            Told::Deleted(object) => ServiceChange::Deleted(object.into_key()),
            Told::Reset(objects) => ServiceChange::Reset(concerning_us(objects)),
            Told::Bookmark => return Ok(()),
        };
        self.events.send(ClusterEvent::Services(change)).await
    }

    /// Whether the server can still be reached, on a new connection: an old one may hang where the network has changed.
    async fn probe(&self) -> Result<(), CallError> {
        match self.connector.connect().is_ready().await {
            // One that has too much to do lives.
            Err(CallError::Status(status)) if status.code == 429 => Ok(()),
            ready => ready.map(drop),
        }
    }

    async fn reason(&self, error: &CallError) -> String {
        if error.is_answer() && matches!(self.connector.connect().is_ready().await, Ok(false)) {
            return starting(&self.profile);
        }
        explain(&self.profile, &self.server, error)
    }
}

/// Whether a service has an address in none of these networks; never where the server has told none.
fn is_beyond(service: &ServiceObject, cidrs: &[IpNet]) -> bool {
    let known = |ip: IpAddr| cidrs.iter().any(|cidr| cidr.contains(&ip));
    !cidrs.is_empty() && !service.cluster_ips().all(known)
}

fn concerning_us(objects: Vec<ServiceObject>) -> Vec<Service> {
    let services = objects.into_iter().map(Service::from);
    services.filter(Service::concerns_us).collect()
}

/// A watch has no end but an error.
fn next<K>(told: Option<Result<Told<K>, CallError>>) -> Result<Told<K>, CallError> {
    told.unwrap_or(Err(CallError::Deadline))
}

/// Lists all, and begins to watch it: a server of which only one of them works is not up. Where an earlier watch was no good,
/// the new ones are trusted only after a while.
async fn find(api: Api, suspect: bool) -> Result<Found, CallError> {
    let (version, service_cidrs, services, nodes) =
        tokio::try_join!(api.version(), service_cidrs(&api), api.list(), api.list())?;
    let api = api.of_version(&version);
    let (services, services_from) = services;
    let (nodes, nodes_from) = nodes;
    let (service_watch, node_watch) = tokio::try_join!(
        api.begin_watch(services_from, suspect),
        api.begin_watch(nodes_from, suspect)
    )?;
    let (mut service_watch, mut node_watch) = (service_watch.peekable(), node_watch.peekable());
    if suspect {
        tokio::try_join!(prove(&mut service_watch), prove(&mut node_watch))?;
    }
    Ok(Found {
        api,
        service_cidrs,
        services,
        service_watch,
        nodes,
        node_watch,
    })
}

/// Whether a watch tells something, or nothing for a while, instead of ending.
async fn prove<K: Object>(watch: &mut Watching<K>) -> Result<(), CallError> {
    let told = timeout(SHORT_WATCH, Pin::new(&mut *watch).peek()).await;
    if matches!(told, Ok(None | Some(Err(_)))) {
        next(watch.next().await)?;
    }
    Ok(())
}

/// The cluster's `ServiceCIDR` objects; none where the server is too old to have them.
async fn service_cidrs(api: &Api) -> Result<Vec<IpNet>, CallError> {
    #[derive(Deserialize)]
    struct List {
        items: Vec<ServiceCidr>,
    }
    #[derive(Deserialize)]
    struct ServiceCidr {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        cidrs: Vec<IpNet>,
    }
    match api
        .get::<List>("/apis/networking.k8s.io/v1/servicecidrs")
        .await
    {
        Ok(list) => {
            let mut cidrs: Vec<IpNet> = list
                .items
                .into_iter()
                .flat_map(|item| item.spec.cidrs)
                .map(|net| net.trunc())
                .collect();
            cidrs.sort();
            cidrs.dedup();
            Ok(cidrs)
        }
        Err(CallError::Status(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
