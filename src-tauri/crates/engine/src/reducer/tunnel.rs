//! One profile's tunnel: what is known of it, and what brings it to where it should be.

use std::{collections::BTreeMap, time::Duration};

use minitunnel_model::{
    Conflict, FailureCause, Node, Profile, ProfileName, Reach, Route, RouteGroup, ServiceKey,
    TargetState, Timestamp,
};
use minitunnel_routing::Table;

use super::{
    Effect, LockNews, State, Turn, apply, leftovers, others::Whose, routes, services,
    services::Tracked,
};
use crate::{
    cluster::{ClusterEvent, Service, ServiceChange},
    minikube::{Credentials, ProfileFiles},
};

/// How long a refused apply, or one that the helper did not live to answer, rests before the next try; each further refusal
/// rests twice as long, up to a minute.
pub(super) const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
pub(super) const SHORT_RETRY: Duration = Duration::from_millis(200);

/// This many losses of our routes, or of an address, within this time are no accident but a fight (`DESIGN.md`, "Repair").
pub(super) const FIGHT_LOSSES: usize = 3;
pub(super) const FIGHT_WINDOW: Duration = Duration::from_secs(10);

/// minikube's own mutual exclusion for a profile's tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    Free,
    Asked,
    Held,
    Busy(Option<u32>),
}

/// What the API server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Unknown,
    Up,
    Down(String),
}

/// What an event touched.
pub(super) enum Touched {
    Service(ServiceKey),
    Cluster,
}

#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) files: ProfileFiles,
    /// The files' facts, completed by the API server's.
    pub(super) profile: Profile,
    pub(super) target: TargetState,
    /// A click or command that the user made asks for it: consent may be asked for, once.
    pub(super) asked: bool,
    /// Whether the user has wanted it since the session began: what it handed out then is no dead run's.
    pub(super) ever_wanted: bool,
    /// Its files are gone: it ends, and is forgotten.
    pub(super) gone: bool,
    /// Whose the addresses are that have our field manager's name in its cluster.
    pub(super) whose: Whose,
    /// The turn of the watch that follows its API server, if one does.
    pub(super) watch: Option<Turn>,
    pub(super) health: Health,
    pub(super) services: BTreeMap<ServiceKey, Tracked>,
    /// No service's rest ends before this.
    services_rest: Option<Timestamp>,
    /// The services that had our addresses when the API server was lost, or may have had them, and keep them until it is back.
    pub(super) left: BTreeMap<ServiceKey, Vec<String>>,
    pub(super) lock: Lock,
    lock_turn: Turn,
    /// The dump that shows what the one left that had the lock before us: until then, its route may be in an old one.
    pub(super) looking: Option<u64>,
    pub(super) groups: Vec<RouteGroup>,
    /// What is in the kernel, says the helper; sorted.
    pub(super) held: Vec<Route>,
    /// Whether the helper that runs now has said so; if not, it is asked again.
    pub(super) confirmed: bool,
    /// The apply that is on its way.
    pub(super) applying: Option<Vec<Route>>,
    /// Whether that apply is being withdrawn.
    pub(super) dismissing: bool,
    /// Conflicts that the helper saw and our own table did not show.
    pub(super) refused: Vec<Conflict>,
    pub(super) failure: Option<(FailureCause, Option<Timestamp>)>,
    /// No apply before this time.
    pub(super) rest_until: Option<Timestamp>,
    /// How many applies in a row the helper has refused.
    refusals: u32,
    pub(super) since: Option<Timestamp>,
    losses: Vec<Timestamp>,
}

impl Tunnel {
    pub(super) fn new(files: ProfileFiles, target: TargetState, asked: bool) -> Self {
        Self {
            profile: files.profile.clone(),
            files,
            target,
            asked,
            ever_wanted: target == TargetState::Up,
            gone: false,
            whose: Whose::Unknown,
            watch: None,
            health: Health::Unknown,
            services: BTreeMap::new(),
            services_rest: None,
            left: BTreeMap::new(),
            lock: Lock::Free,
            lock_turn: 0,
            looking: None,
            groups: Vec::new(),
            held: Vec::new(),
            confirmed: true,
            applying: None,
            dismissing: false,
            refused: Vec::new(),
            failure: None,
            rest_until: None,
            refusals: 0,
            since: None,
            losses: Vec::new(),
        }
    }

    /// Takes in the files; what only the API server knows stays, unless they name another server. Whether it is to be asked
    /// in another way now.
    pub(super) fn set_files(&mut self, mut files: ProfileFiles) -> bool {
        if files.momentary {
            files.credentials.clone_from(&self.files.credentials);
            let (new, old) = (&mut files.profile, &self.files.profile);
            new.endpoint.clone_from(&old.endpoint);
            new.reach.clone_from(&old.reach);
        }
        // Without credentials, the watch that has the old ones takes back what was given before it ends.
        let renewed = files.credentials.is_some()
            && (files.credentials != self.files.credentials
                || files.cni.pod_source() != self.files.cni.pod_source());
        let is_of =
            |credentials: &Credentials| (credentials.server.clone(), credentials.ca.clone());
        let server = files.credentials.as_ref().map(is_of);
        if server.is_some() && server != self.files.credentials.as_ref().map(is_of) {
            self.lose_cluster(Health::Unknown);
        }
        let known = self.health == Health::Up;
        let old = std::mem::replace(&mut self.profile, files.profile.clone());
        if known {
            self.profile.service_cidrs = old.service_cidrs;
            self.profile.nodes = old.nodes;
        }
        self.files = files;
        renewed
    }

    /// The API server can't be asked any more.
    pub(super) fn lose_cluster(&mut self, health: Health) {
        self.health = health;
        self.services_rest = None;
        let services = std::mem::take(&mut self.services);
        let given = services.into_iter();
        self.left
            .extend(given.filter_map(|(key, tracked)| Some((key, tracked.given()?))));
    }

    /// Takes in the news; whether somebody else's lock has become ours.
    pub(super) fn lock_news(&mut self, turn: Turn, news: LockNews, now: Timestamp) -> bool {
        if self.lock == Lock::Free || self.lock_turn != turn {
            return false;
        }
        let followed = news == LockNews::Acquired && matches!(self.lock, Lock::Busy(_));
        match news {
            LockNews::Acquired => self.lock = Lock::Held,
            LockNews::Busy(pid) => self.lock = Lock::Busy(pid),
            LockNews::Failed(message) => {
                self.lock = Lock::Free;
                let until = now + self.next_pause();
                self.fail(FailureCause::Profile { message }, Some(until));
                self.rest(until);
            }
        }
        followed
    }

    pub(super) fn cluster_event(&mut self, event: ClusterEvent, now: Timestamp) -> Touched {
        match event {
            ClusterEvent::Up {
                service_cidrs,
                nodes,
                services,
            } => {
                self.health = Health::Up;
                if !service_cidrs.is_empty() {
                    self.profile.service_cidrs = service_cidrs;
                }
                self.set_nodes(nodes);
                self.set_services(services, now);
                self.left.clear();
            }
            // A server that names none is no reason to believe that there are none.
            ClusterEvent::ServiceCidrs(cidrs) if cidrs.is_empty() => {}
            ClusterEvent::ServiceCidrs(cidrs) => self.profile.service_cidrs = cidrs,
            ClusterEvent::Nodes(nodes) => self.set_nodes(nodes),
            ClusterEvent::Down { reason } => self.lose_cluster(Health::Down(reason)),
            ClusterEvent::Services(ServiceChange::Reset(list)) => self.set_services(list, now),
            ClusterEvent::Services(ServiceChange::Applied(service)) => {
                let key = service.key.clone();
                let tracked = Tracked::update(self.services.remove(&key), service, now);
                self.services.insert(key.clone(), tracked);
                return Touched::Service(key);
            }
            ClusterEvent::Services(ServiceChange::Deleted(key)) => {
                self.services.remove(&key);
                return Touched::Service(key);
            }
        }
        Touched::Cluster
    }

    fn set_services(&mut self, list: Vec<Service>, now: Timestamp) {
        let mut old = std::mem::take(&mut self.services);
        for service in list {
            let key = service.key.clone();
            let tracked = Tracked::update(old.remove(&key), service, now);
            self.services.insert(key, tracked);
        }
    }

    fn set_nodes(&mut self, nodes: Vec<Node>) {
        // A server that knows no node yet (it is starting) knows less than the files.
        if !nodes.is_empty() {
            self.profile.nodes = nodes;
        }
    }

    /// The user, or the time, asks for another try.
    pub(super) fn try_again(&mut self, asked: bool) {
        self.asked = asked;
        self.failure = None;
        self.rest_until = None;
        self.refusals = 0;
        self.refused.clear();
        self.losses.clear();
        self.services.values_mut().for_each(Tracked::forgive);
        self.services_rest = None;
    }

    /// Time has passed.
    pub(super) fn wake(&mut self, now: Timestamp) {
        let due = |at: &Option<Timestamp>| at.is_some_and(|at| at <= now);
        if self.failure.as_ref().is_some_and(|(_, at)| due(at)) {
            self.failure = None;
        }
        if due(&self.rest_until) {
            self.rest_until = None;
        }
        if due(&self.files.stopping_until) {
            self.files.stopping_until = None;
        }
        self.services
            .values_mut()
            .for_each(|tracked| tracked.wake(now));
        let rests = self.services.values().filter_map(Tracked::rest_until);
        self.services_rest = rests.min();
    }

    /// A service is left alone until then.
    pub(super) fn service_rests(&mut self, until: Timestamp) {
        let before = self.services_rest.unwrap_or(until);
        self.services_rest = Some(before.min(until));
    }

    /// It can't be, until a time or until the user asks again.
    pub(super) fn fail(&mut self, cause: FailureCause, retry_at: Option<Timestamp>) {
        self.failure = Some((cause, retry_at));
        // What is tried again by itself is still what the user asked for.
        self.asked &= retry_at.is_some();
    }

    /// Asks for nothing of the helper before that time.
    pub(super) fn rest(&mut self, until: Timestamp) {
        self.rest_until = Some(until);
    }

    /// The helper has answered.
    pub(super) fn answered(&mut self) {
        self.applying = None;
        self.dismissing = false;
    }

    /// How long a refused apply rests: the first refusal may be owed to a moment, as when somebody deleted a route in the
    /// middle of the change.
    pub(super) fn next_pause(&mut self) -> Duration {
        self.refusals += 1;
        match self.refusals {
            1 => SHORT_RETRY,
            more => (RETRY * 2_u32.pow((more - 2).min(8))).min(LONGEST_RETRY),
        }
    }

    /// The ground has changed: what was refused may be taken now, and is tried soon.
    pub(super) fn hurry(&mut self, now: Timestamp) {
        self.refused.clear();
        self.refusals = self.refusals.min(1);
        let soon = now + RETRY;
        self.rest_until = self.rest_until.map(|at| at.min(soon));
        if let Some((_, Some(at))) = &mut self.failure {
            *at = soon.min(*at);
        }
    }

    /// A change was refused: what is held goes on serving; a tunnel that has nothing fails, and tries again.
    pub(super) fn refused_by_helper(&mut self, message: String, now: Timestamp) {
        let wait = self.next_pause();
        self.rest(now + wait);
        if !routes::services_held(self) {
            self.fail(FailureCause::Helper { message }, Some(now + wait));
        }
    }

    /// What the helper holds for us is not known any more; the routes may be in the kernel still.
    pub(super) fn doubt(&mut self) {
        self.confirmed = false;
    }

    /// The helper that held our routes is gone.
    pub(super) fn lose_helper(&mut self) {
        if !self.held.is_empty() || self.applying.is_some() {
            self.doubt();
        }
    }

    pub(super) fn hold(&mut self, routes: Vec<Route>) {
        self.refusals = 0;
        self.held = routes;
        self.confirmed = true;
    }

    /// Remembers since when services are reachable.
    fn note_connection(&mut self, now: Timestamp) {
        let connected = self.is_connected();
        self.since = connected.then(|| self.since.unwrap_or(now));
    }

    /// Compares what we hold with what is: whatever is missing was removed by someone. Whether that is a fight by now.
    pub(super) fn notice_losses(&mut self, table: &Table, now: Timestamp) -> bool {
        if self.applying.is_some() || self.held.is_empty() {
            return false;
        }
        let before = self.held.len();
        self.held.retain(|route| table.holds(route));
        // A new helper may have rolled back what the old one held, and a link that goes takes its routes with it: that is
        // nobody's fight.
        let node_is_on_link =
            |node: &Node| node.ips.iter().any(|ip| routes::is_on_link(table, *ip));
        let linked = self.profile.nodes.iter().any(node_is_on_link);
        if self.held.len() == before || !self.confirmed || !linked {
            return false;
        }
        self.losses.retain(|at| *at + FIGHT_WINDOW > now);
        self.losses.push(now);
        let fight = self.losses.len() >= FIGHT_LOSSES;
        if fight {
            self.suspect(&[]);
        }
        fight
    }

    /// Whether it was stopped as somebody keeps removing its routes.
    pub(super) fn is_fought(&self) -> bool {
        matches!(self.failure, Some((FailureCause::Fight { .. }, _)))
    }

    /// Stops, as somebody keeps removing the routes, and says who may be that.
    pub(super) fn suspect(&mut self, suspects: &[String]) {
        let (name, window) = (&self.profile.name, FIGHT_WINDOW.as_secs());
        let whom = match suspects {
            [] => "no program is known to be at work that manages routes: end whatever does (a VPN, a script)".to_owned(),
            suspects => format!(
                "suspected, as it manages routes here: {}; end it, or have it leave the routes with protocol {} alone",
                suspects.join(", "),
                minitunnel_routing::PROTOCOL
            ),
        };
        let message = format!(
            "something removed the routes of {name} {FIGHT_LOSSES} times within {window} s; {whom}, then start the tunnel again"
        );
        self.fail(FailureCause::Fight { message }, None);
    }

    /// Whether the tunnel should be, as far as the user and the cluster are concerned.
    pub(super) fn is_wanted(&self) -> bool {
        self.target == TargetState::Up
            && !self.gone
            && self.files.credentials.is_some()
            && self.files.stopping_until.is_none()
            && self.health == Health::Up
            && self.failure.is_none()
            && matches!(self.profile.reach, Reach::Routed | Reach::Local)
    }

    /// Whether services are reachable: what addresses may be handed out for.
    pub(super) fn is_connected(&self) -> bool {
        self.is_wanted()
            && self.lock == Lock::Held
            && (self.profile.reach == Reach::Local || routes::services_held(self))
    }

    /// Whether nothing is held and nothing is on its way.
    pub(super) fn is_at_rest(&self) -> bool {
        self.held.is_empty()
            && self.confirmed
            && self.applying.is_none()
            && !services::any_on_its_way(self)
    }

    /// When its next try is due.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        let failure = self.failure.as_ref().and_then(|(_, at)| *at);
        let all = [
            self.services_rest,
            failure,
            self.rest_until,
            self.files.stopping_until,
        ];
        all.into_iter().flatten().min()
    }
}

/// Brings one tunnel nearer to where it should be.
pub(super) fn reconcile(
    state: &mut State,
    name: &ProfileName,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    watch(state, name, effects);
    services::reconcile(state, name, now, effects);
    reconcile_outside_services(state, name, now, effects);
}

/// The part of [`reconcile`] that looks at no single service.
pub(super) fn reconcile_outside_services(
    state: &mut State,
    name: &ProfileName,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    if state.tunnels.get(name).is_some_and(|tunnel| tunnel.gone) {
        // All that is to be withdrawn may have been, by now.
        watch(state, name, effects);
    }
    lock(state, name, now, effects);
    apply::apply(state, name, now, effects);
    let Some(tunnel) = state.tunnels.get_mut(name) else {
        return;
    };
    tunnel.note_connection(now);
    if tunnel.gone && tunnel.is_at_rest() && tunnel.watch.is_none() {
        state.tunnels.remove(name);
    }
}

fn watch(state: &mut State, name: &ProfileName, effects: &mut Vec<Effect>) {
    let covered = state.scope.covers(name);
    let Some(tunnel) = state.tunnels.get_mut(name) else {
        return;
    };
    let reachable = matches!(tunnel.profile.reach, Reach::Routed | Reach::Local);
    // A session that was started for other profiles takes on what a user asks of it, and sees it through.
    let covered = covered || tunnel.target == TargetState::Up || tunnel.watch.is_some();
    // A server that answers still is asked to take back what it was given, under the lock that is held still.
    let ending = tunnel.lock == Lock::Held && services::any_ours(tunnel);
    let ending = ending && tunnel.watch.is_some();
    let watch = covered && reachable && (!tunnel.gone || ending);
    match (&tunnel.files.credentials, watch) {
        (Some(credentials), true) if tunnel.watch.is_none() => {
            state.turns += 1;
            tunnel.watch = Some(state.turns);
            // A server that is asked in another way (its certificates were renewed) goes on as it was known until the new
            // watch tells otherwise.
            if tunnel.health != Health::Up {
                tunnel.health = Health::Unknown;
            }
            let pods = tunnel.files.cni.pod_source();
            let watch = Effect::Watch(name.clone(), state.turns, credentials.clone(), pods);
            effects.push(watch);
        }
        (Some(_), true) => {}
        (None, true) if ending => {}
        _ => {
            tunnel.lose_cluster(Health::Unknown);
            if tunnel.watch.take().is_some() {
                effects.push(Effect::Unwatch(name.clone()));
            }
        }
    }
}

fn lock(state: &mut State, name: &ProfileName, now: Timestamp, effects: &mut Vec<Effect>) {
    let acts = state.scope.acts;
    let chosen = leftovers::need_lock(state, name);
    let Some(tunnel) = state.tunnels.get_mut(name) else {
        return;
    };
    // A tunnel that can't have its routes leaves the lock to one that perhaps can, but waits for the `minikube tunnel` that
    // has them.
    let carried = tunnel.profile.reach == Reach::Local
        || !routes::usable(tunnel).is_empty()
        || leftovers::is_all_in_the_way(tunnel)
        || matches!(tunnel.lock, Lock::Busy(_))
        || tunnel.looking.is_some();
    let wanted = tunnel.is_wanted() && carried;
    let needed = acts && (wanted || chosen || !tunnel.is_at_rest() || services::any_ours(tunnel));
    let resting = tunnel.rest_until.is_some_and(|at| at > now);
    if needed && tunnel.lock == Lock::Free && !resting {
        state.turns += 1;
        tunnel.lock = Lock::Asked;
        tunnel.lock_turn = state.turns;
        effects.push(Effect::Lock(name.clone(), state.turns));
    } else if !needed && tunnel.lock != Lock::Free {
        tunnel.lock = Lock::Free;
        effects.push(Effect::Unlock(name.clone()));
    }
}
