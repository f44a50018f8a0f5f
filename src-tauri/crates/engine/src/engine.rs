//! The loop: inputs come in, [`reduce`] says what follows, effects go out, snapshots are published.

mod helper;
mod kernel;
mod locks;
mod preferences;
mod resume;
mod suspects;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use minitunnel_model::{
    Activity, CleanupItem, CleanupReport, Command, ProfileName, Route, Snapshot, Timestamp, changes,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    cluster::{self, AssignError},
    minikube::{self, Home},
    reducer::{Effect, Input, Request, Scope, State, clean_up, next_wake, reduce, snapshot},
    settings,
};

pub use helper::HelperWay;
pub use minitunnel_session::{Answer, Ask, Ended, Handle, NotTaken};
use preferences::Preferences;

/// At most 30 snapshots a second (`DESIGN.md`, "one loop"): eyes see no more, and pages draw no more.
const SNAPSHOT_GAP: Duration = Duration::from_millis(33);
/// How many of the latest changes a snapshot carries.
const ACTIVITY: usize = 100;
/// How long a clean-up waits for API servers.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(5);
/// Inputs that wait to be reduced: a burst of 1,000 services fits, and a flood slows its source instead of eating memory.
const QUEUE: usize = 1024;

/// What an engine works on.
#[derive(Debug)]
pub struct Options {
    /// The minikube home.
    pub home: Home,
    /// What it may do, and for whom.
    pub scope: Scope,
    /// How it reaches the helper.
    pub helper: HelperWay,
    /// The file of the user's settings; without it, they are the defaults.
    pub settings: Option<PathBuf>,
    /// What opens the window, where there is a desktop.
    pub window: Option<OpenWindow>,
}

/// Opens the window, or says in a sentence why it can't.
#[derive(Clone)]
pub struct OpenWindow(Arc<dyn Fn() -> Answer + Send + Sync>);

impl OpenWindow {
    /// By that function, which is not to wait for the window's end.
    pub fn new(open: impl Fn() -> Answer + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }
}

impl fmt::Debug for OpenWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenWindow")
    }
}

/// Starts an engine on this thread's runtime; it ends after [`Command::Quit`], or when its task is aborted.
///
/// # Errors
///
/// If the kernel's routing table or the file system can't be watched.
pub async fn start(options: Options) -> Result<(Handle, tokio::task::JoinHandle<()>), StartError> {
    let (inputs, queue) = mpsc::channel(QUEUE);
    let (asks, asked) = mpsc::channel(QUEUE);
    let (cleaned, back) = mpsc::channel(QUEUE);
    let kernel = kernel::watch(inputs.clone()).await?;
    resume::watch(inputs.clone());
    minikube::forward(options.home.clone(), inputs.clone(), Input::Files)?;
    let mut state = State::new(options.home.path.clone(), options.scope.clone());
    if matches!(options.helper, HelperWay::Inherited(_)) {
        state.grant();
    }
    let (preferences, settled) = Preferences::new(options.settings, options.window)?;
    let mut first = snapshot(&mut state);
    preferences.show(&mut first);
    let (publish, snapshots) = watch::channel(Arc::new(first));
    let engine = Engine {
        clock: Clock::new(),
        state,
        preferences,
        helper: helper::Helper::new(options.helper, inputs.clone()),
        locks: locks::Locks::new(options.home, inputs.clone()),
        clusters: BTreeMap::new(),
        kernel,
        inputs,
        publish,
        activity: VecDeque::new(),
        cleanups: Vec::new(),
        cleaned,
        ended: false,
    };
    Ok((
        Handle::new(asks, snapshots),
        tokio::spawn(engine.run(queue, asked, back, settled)),
    ))
}

/// Why an engine can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No netlink.
    #[error(transparent)]
    Kernel(#[from] minitunnel_routing::Error),
    /// No file events.
    #[error(transparent)]
    Files(#[from] minikube::WatchError),
}

/// The time of the reducer: it begins with the machine's wall clock, and no step of that moves what is due.
struct Clock {
    began: Timestamp,
    up: Duration,
}

impl Clock {
    fn new() -> Self {
        Self {
            began: Timestamp::now(),
            up: uptime(),
        }
    }

    fn now(&self) -> Timestamp {
        self.began + uptime().saturating_sub(self.up)
    }
}

/// The time since the machine was started, asleep or not.
#[cfg(target_os = "linux")]
fn uptime() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    // It never fails for this clock, nor is it ever negative.
    clock_gettime(ClockId::Boottime)
        .try_into()
        .unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn uptime() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

struct Engine {
    clock: Clock,
    state: State,
    preferences: Preferences,
    helper: helper::Helper,
    locks: locks::Locks,
    clusters: BTreeMap<ProfileName, cluster::Handle>,
    kernel: kernel::Kernel,
    inputs: mpsc::Sender<Input>,
    publish: watch::Sender<Arc<Snapshot>>,
    activity: VecDeque<Arc<Activity>>,
    cleanups: Vec<Cleanup>,
    /// Where clean-ups come back from the helper.
    cleaned: mpsc::Sender<Cleanup>,
    ended: bool,
}

/// A clean-up that waits for the API servers.
struct Cleanup {
    dry_run: bool,
    chosen: Vec<CleanupItem>,
    /// What the helper removed before all else: the addresses of sessions whose routes those were are nobody's now.
    routes: Vec<Route>,
    /// Why it could not.
    helper: Option<String>,
    /// The end of its patience; after that it waits for the user's consent alone.
    until: Option<Instant>,
    answer: oneshot::Sender<CleanupReport>,
}

impl Engine {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<Input>,
        mut asked: mpsc::Receiver<Ask>,
        mut cleaned: mpsc::Receiver<Cleanup>,
        mut settled: mpsc::Receiver<settings::Read>,
    ) {
        let mut published = Instant::now();
        let mut dirty = false;
        while !self.ended {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                () = sleep_until(published + SNAPSHOT_GAP), if dirty => {
                    self.publish_snapshot();
                    published = Instant::now();
                    dirty = false;
                    continue;
                }
                Some(input) = queue.recv() => {
                    self.take(input);
                    // What has come meanwhile is one change to a view; the first of a calm time is shown at once.
                    while let Ok(input) = queue.try_recv() {
                        self.take(input);
                    }
                }
                Some(ask) = asked.recv() => self.ask(ask),
                Some(cleanup) = cleaned.recv() => self.clean_addresses(cleanup),
                Some(read) = settled.recv() => self.preferences.take(read),
                () = abandoned(&mut self.cleanups) => {}
                () = sleep_until(wake.unwrap_or(published)), if wake.is_some() => {
                    self.take(Input::Tick);
                }
            }
            self.finish_cleanups();
            dirty = true;
            if published.elapsed() >= SNAPSHOT_GAP {
                self.publish_snapshot();
                published = Instant::now();
                dirty = false;
            }
        }
        self.publish_snapshot();
    }

    fn next_wake(&self) -> Option<Instant> {
        let due = next_wake(&self.state).map(|at| {
            let wait = at.0.saturating_sub(self.clock.now().0);
            Instant::now() + Duration::from_millis(wait)
        });
        due.into_iter()
            .chain(self.cleanups.iter().filter_map(|cleanup| cleanup.until))
            .min()
    }

    fn take(&mut self, mut input: Input) {
        if let Input::Files(profiles) = &mut input {
            profiles.retime(Timestamp::now(), self.clock.now());
        }
        for effect in reduce(&mut self.state, self.clock.now(), input) {
            self.act(effect);
        }
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Command { command, taken } => {
                tracing::info!(?command, "asked");
                let answer = match command {
                    Command::Configure { settings } => self.preferences.configure(settings),
                    Command::OpenWindow => self.preferences.open_window(),
                    command => {
                        self.take(Input::Command(command));
                        Ok(())
                    }
                };
                self.publish_snapshot();
                // Whoever asked may not wait any more.
                let _ = taken.send(answer);
            }
            Ask::Cleanup {
                dry_run,
                chosen,
                answer,
            } => {
                let cleanup = Cleanup {
                    dry_run,
                    chosen,
                    routes: Vec::new(),
                    helper: None,
                    until: None,
                    answer,
                };
                if dry_run {
                    self.clean_addresses(cleanup);
                } else {
                    self.helper.clean(cleanup, self.cleaned.clone());
                }
            }
        }
    }

    fn clean_addresses(&mut self, mut cleanup: Cleanup) {
        let (dry_run, chosen) = (cleanup.dry_run, cleanup.chosen.clone());
        self.take(Input::Command(Command::Cleanup { dry_run, chosen }));
        cleanup.until = Some(Instant::now() + CLEANUP_PATIENCE);
        self.cleanups.push(cleanup);
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Watch(name, turn, credentials, pods) => {
                let of = name.clone();
                let wrap = move |event| Input::Cluster(of.clone(), turn, event);
                let inputs = self.inputs.clone();
                let handle = cluster::watch(name.clone(), &credentials, pods, inputs, wrap);
                self.clusters.insert(name, handle);
            }
            Effect::Unwatch(name) => {
                self.clusters.remove(&name);
            }
            Effect::Wake(name) => {
                if let Some(cluster) = self.clusters.get(&name) {
                    cluster.wake();
                }
            }
            // At once, so that no view is told of a fight before it is told of the suspects.
            Effect::Suspect(name) => self.take(Input::Suspects(name, suspects::suspects())),
            Effect::LookForSessions(turn) => self.helper.look_for_sessions(turn),
            Effect::Lock(name, turn) => self.locks.acquire(name, turn),
            Effect::Unlock(name) => self.locks.release(&name),
            Effect::Apply {
                profile,
                routes,
                interactive,
            } => {
                self.helper.apply(profile, routes, interactive);
            }
            Effect::Ask {
                profile,
                service,
                request,
            } => self.change(profile, service, request),
            Effect::Remove(item) => self.remove(item),
            Effect::Leave(item) => self.helper.leave(&item),
            Effect::Dismiss(profile) => self.helper.dismiss(profile),
            Effect::Dump(number) => self.kernel.dump(number),
            Effect::Ended => self.ended = true,
        }
    }

    fn change(&self, profile: ProfileName, service: Arc<cluster::Service>, request: Request) {
        let cluster = self.clusters.get(&profile);
        let change = cluster.map(|cluster| match request {
            Request::Assign => cluster.assign(&service),
            Request::Withdraw => cluster.withdraw(&service),
        });
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let result = match change {
                Some(change) => change.await,
                None => Err(AssignError::Unreachable("it is not watched".into())),
            };
            let answer = Input::Answered {
                profile,
                service,
                request,
                result,
            };
            // The engine that asked may have ended.
            let _ = inputs.send(answer).await;
        });
    }

    fn remove(&mut self, item: CleanupItem) {
        let profile = item.profile();
        let cluster = profile.and_then(|profile| self.clusters.get(profile));
        let change = match &item {
            CleanupItem::MinikubeAddress {
                service,
                uid,
                addresses,
                ..
            } => cluster.map(|cluster| cluster.remove_left_by_minikube(service, uid, addresses)),
            _ => return self.helper.remove_stale(item),
        };
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let result = match change {
                Some(change) => change.await,
                None => Err(AssignError::Unreachable("it is not watched".into())),
            };
            let result = match result {
                // It has no address any more, or is no more.
                Ok(()) | Err(AssignError::Gone) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            // The engine that asked may have ended.
            let _ = inputs.send(Input::Removed { item, result }).await;
        });
    }

    fn publish_snapshot(&mut self) {
        let mut new = snapshot(&mut self.state);
        self.preferences.show(&mut new);
        let old = self.publish.borrow().clone();
        let at = self.clock.now();
        for change in changes(&old, &new) {
            tracing::info!("{}: {change}", change.profile());
            self.activity.push_back(Arc::new(Activity { at, change }));
        }
        self.activity
            .drain(..self.activity.len().saturating_sub(ACTIVITY));
        new.activity = self.activity.iter().cloned().collect();
        self.publish.send_if_modified(|current| {
            let modified = **current != new;
            if modified {
                *current = Arc::new(new);
            }
            modified
        });
    }

    fn finish_cleanups(&mut self) {
        for mut cleanup in std::mem::take(&mut self.cleanups) {
            if cleanup.answer.is_closed() {
                if !cleanup.dry_run {
                    self.take(Input::Abandoned(cleanup.chosen));
                }
                continue;
            }
            cleanup.until = cleanup.until.filter(|until| Instant::now() < *until);
            let patient = cleanup.until.is_some();
            let report = clean_up(&mut self.state, cleanup.dry_run, &cleanup.chosen, patient);
            match report {
                Some(mut report) => {
                    let routes = cleanup.routes.into_iter().map(CleanupItem::Route);
                    report.removed.extend(routes);
                    report.helper = cleanup.helper;
                    if cleanup.dry_run {
                        self.helper.look(report, cleanup.answer);
                    } else {
                        // Whoever asked may not wait any more.
                        let _ = cleanup.answer.send(report);
                    }
                    // The locks that it took are free again.
                    self.take(Input::Tick);
                }
                None => self.cleanups.push(cleanup),
            }
        }
    }
}

/// Returns when whoever asked for one of these clean-ups waits no more.
async fn abandoned(cleanups: &mut [Cleanup]) {
    let mut closed: FuturesUnordered<_> = cleanups
        .iter_mut()
        .map(|cleanup| cleanup.answer.closed())
        .collect();
    if closed.next().await.is_none() {
        std::future::pending().await
    }
}
