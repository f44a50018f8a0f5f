//! What follows from what happened: a pure function, time is an input.
//!
//! Every input is first written into the [`State`]; then each profile is *reconciled*: what should be is compared with
//! what is and what is on its way, and the difference becomes [`Effect`]s. News that come late are told from those of now by
//! the [`Turn`] of what asked for them.

mod apply;
mod cleanup;
mod leftovers;
mod others;
mod routes;
mod services;
mod tunnel;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use minitunnel_model::{
    BrokenProfile, CleanupItem, Command, Conflict, HelperStatus, MinikubeTunnel, ProfileName,
    Route, TargetState, Timestamp,
};
use minitunnel_routing::Table;

use crate::{
    cluster::{AssignError, ClusterEvent, PodSource, Service},
    minikube::{Credentials, Profiles},
};
use apply::Consent;
use tunnel::{Touched, Tunnel};

pub use cleanup::clean_up;
pub use services::Request;
pub use view::snapshot;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The minikube home was read.
    Files(Profiles),
    /// The OS routing table was dumped, after the [`Effect::Dump`] with this number.
    Table {
        /// The dump.
        table: Arc<Table>,
        /// The last dump asked for when this one began.
        after: u64,
    },
    /// An API server told something, to the [`Effect::Watch`] of this turn.
    Cluster(ProfileName, Turn, ClusterEvent),
    /// What came of the [`Effect::Lock`] of this turn.
    Lock(ProfileName, Turn, LockNews),
    /// An [`Effect::Apply`] was answered.
    Applied {
        /// Whose.
        profile: ProfileName,
        /// What was asked for.
        routes: Vec<Route>,
        /// The answer.
        result: Result<(), ApplyFailure>,
    },
    /// An [`Effect::Ask`] was answered.
    Answered {
        /// Whose.
        profile: ProfileName,
        /// The service, as it was when this was asked for.
        service: Arc<Service>,
        /// What was asked for.
        request: Request,
        /// The answer.
        result: Result<(), AssignError>,
    },
    /// An [`Effect::Remove`] was answered.
    Removed {
        /// What was to be removed.
        item: CleanupItem,
        /// Why it is still there, in one sentence.
        result: Result<(), String>,
    },
    /// Whoever chose these in a clean-up does not wait any more.
    Abandoned(Vec<CleanupItem>),
    /// The helper is there, or can't be had.
    Helper(HelperStatus),
    /// The helper's process is gone, and with it all that it held for us, as far as we know.
    HelperGone,
    /// The helper ended what a profile held.
    LeaseEnded(ProfileName),
    /// Who may be removing a profile's routes, the likeliest first, after an [`Effect::Suspect`].
    Suspects(ProfileName, Vec<String>),
    /// What is known of other sessions, after the [`Effect::LookForSessions`] of this turn.
    Sessions(Turn, Others),
    /// The machine has slept, or its clock was set: connections may be dead, and times have come.
    Resumed,
    /// A user asks for something.
    Command(Command),
    /// The time of [`next_wake`] has come.
    Tick,
}

/// Tells an effect from those of the same kind before it, whose news may still be on their way.
pub type Turn = u64;

/// What is known of a tunnel lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockNews {
    /// It is ours.
    Acquired,
    /// Someone else has it, this process if that is known; it is waited for.
    Busy(Option<u32>),
    /// It can be neither taken nor waited for, for this reason.
    Failed(String),
}

/// What is known of other sessions that live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Others {
    /// The helper holds these routes for them.
    Leases(BTreeSet<Route>),
    /// No helper can be asked; whether any runs at all.
    Run(bool),
}

/// Something to do; each is answered by the input named.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Watch a cluster until told otherwise: [`Input::Cluster`].
    Watch(ProfileName, Turn, Credentials, PodSource),
    /// Stop watching it.
    Unwatch(ProfileName),
    /// Have its API server asked at once whether it lives.
    Wake(ProfileName),
    /// Look for who may be removing this profile's routes: [`Input::Suspects`].
    Suspect(ProfileName),
    /// Look for other sessions that live, as routes of minitunnel's may be theirs: [`Input::Sessions`].
    LookForSessions(Turn),
    /// Take minikube's tunnel lock, waiting for it: [`Input::Lock`].
    Lock(ProfileName, Turn),
    /// Give it back, or stop waiting for it.
    Unlock(ProfileName),
    /// Make these all of the profile's routes; none releases: [`Input::Applied`].
    Apply {
        /// Whose.
        profile: ProfileName,
        /// The whole set, sorted.
        routes: Vec<Route>,
        /// Whether the user may be asked for consent.
        interactive: bool,
    },
    /// Withdraw the apply that waits for the user's consent: its [`Input::Applied`] comes then.
    Dismiss(ProfileName),
    /// Ask the API server to change a service's status: [`Input::Answered`].
    Ask {
        /// Whose.
        profile: ProfileName,
        /// The service.
        service: Arc<Service>,
        /// What for.
        request: Request,
    },
    /// Remove what a `minikube tunnel` left and the user chose: [`Input::Removed`].
    Remove(CleanupItem),
    /// Call that off, unless it is done: its [`Input::Removed`] comes then.
    Leave(CleanupItem),
    /// Dump the routing table: [`Input::Table`] with this number.
    Dump(u64),
    /// Everything has ended after a [`Command::Quit`].
    Ended,
}

/// Why an apply failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyFailure {
    /// Consent is needed, and was not given, or could not be asked for.
    NotAuthorized(String),
    /// Something is in the way that was not seen before.
    Conflict(Vec<Conflict>),
    /// The helper can't be had.
    Missing(String),
    /// The helper ended before it answered.
    Gone,
    /// The helper or the kernel refused, and everything is as before.
    Refused(String),
    /// It is not known what the helper made of it.
    Unsure(String),
}

/// How much an engine may do, and to which profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Whether it may change anything: routes, addresses, locks.
    pub acts: bool,
    /// The profiles that it watches; `None` stands for all.
    pub only: Option<BTreeSet<ProfileName>>,
}

impl Scope {
    fn covers(&self, profile: &ProfileName) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(profile))
    }
}

/// All that the engine knows.
#[derive(Debug)]
pub struct State {
    home: PathBuf,
    scope: Scope,
    tunnels: BTreeMap<ProfileName, Tunnel>,
    /// Targets of profiles that have no readable files (yet).
    targets: BTreeMap<ProfileName, TargetState>,
    /// Those among them whose user has asked just now, and may be asked for consent.
    asked: BTreeSet<ProfileName>,
    broken: Vec<BrokenProfile>,
    /// What `tunnels.json` says of profiles that are in none of `tunnels`.
    minikube_tunnels: BTreeMap<ProfileName, Vec<MinikubeTunnel>>,
    files_read: bool,
    /// What the kernel has; `None` before the first dump.
    table: Option<Arc<Table>>,
    /// How many dumps were asked for; an older table is no evidence against what we hold.
    dumps: u64,
    helper: HelperStatus,
    /// Whether the helper was ever there: then it comes back with its bus.
    helper_seen: bool,
    consent: Consent,
    /// Routes that our tunnels have made, and that are there still.
    made: BTreeSet<Route>,
    /// Routes that the helper has refused to make, until the dump after that.
    tried: BTreeSet<Route>,
    /// Routes of minitunnel's that none of our tunnels has made.
    strangers: BTreeSet<Route>,
    /// What is known of other sessions; `None` until an answer.
    others: Option<Others>,
    /// The turn of the answer that counts.
    looking_for_others: Turn,
    /// The last turn that an effect was given.
    turns: Turn,
    /// The addresses that dead runs had left, and that were withdrawn since.
    cleaned: Vec<CleanupItem>,
    /// What the user chose in a clean-up that is under way.
    chosen: Vec<leftovers::Chosen>,
    quitting: bool,
    /// The profiles that were wanted when the session was told to end.
    interrupted: Vec<ProfileName>,
}

impl State {
    /// Nothing known yet.
    pub fn new(home: PathBuf, scope: Scope) -> Self {
        Self {
            home,
            scope,
            tunnels: BTreeMap::new(),
            targets: BTreeMap::new(),
            asked: BTreeSet::new(),
            broken: Vec::new(),
            minikube_tunnels: BTreeMap::new(),
            files_read: false,
            table: None,
            dumps: 0,
            helper: HelperStatus::Unasked,
            helper_seen: false,
            consent: Consent::Unknown,
            made: BTreeSet::new(),
            tried: BTreeSet::new(),
            strangers: BTreeSet::new(),
            others: None,
            looking_for_others: 0,
            turns: 0,
            cleaned: Vec::new(),
            chosen: Vec::new(),
            quitting: false,
            interrupted: Vec::new(),
        }
    }

    /// Takes the user's consent as given: for a helper that asks nobody, as whoever started it has consented.
    pub fn grant(&mut self) {
        self.consent = Consent::Granted;
    }
}

/// Takes in what happened, and says what to do.
pub fn reduce(state: &mut State, now: Timestamp, input: Input) -> Vec<Effect> {
    let mut effects = Vec::new();
    match input {
        Input::Files(profiles) => files(state, profiles, &mut effects),
        Input::Table { table, after } => {
            // A dump that began before our last change says nothing about that change.
            if after == state.dumps {
                for (name, tunnel) in &mut state.tunnels {
                    if tunnel.notice_losses(&table, now) {
                        effects.push(Effect::Suspect(name.clone()));
                    }
                }
            }
            let made = others::made(state);
            if after == state.dumps {
                others::notice(state, &table, made.clone(), &mut effects);
            }
            wake_touched(state, &table, &mut effects);
            // What the helper saw before us is in this picture, or is gone.
            if !routes::is_same_beside(state, &table, &made) {
                let tunnels = state.tunnels.values_mut();
                tunnels.for_each(|tunnel| tunnel.hurry(now));
            }
            state.table = Some(table);
            for tunnel in state.tunnels.values_mut() {
                tunnel.looking = tunnel.looking.filter(|number| *number > after);
            }
            routes::plan_all(state);
        }
        Input::Cluster(name, turn, event) => {
            let tunnel = state.tunnels.get_mut(&name);
            if let Some(tunnel) = tunnel.filter(|tunnel| tunnel.watch == Some(turn)) {
                let touched = tunnel.cluster_event(event, now);
                // Only one service changed: the others, and the routes, can't have.
                if let Touched::Service(key) = touched {
                    services::reconcile_one(state, &name, &key, now, &mut effects);
                    settle(state, &name, now, &mut effects);
                    return effects;
                }
                routes::plan(state, &name);
            }
        }
        Input::Lock(name, turn, news) => {
            if let Some(tunnel) = state.tunnels.get_mut(&name)
                && tunnel.lock_news(turn, news, now)
            {
                state.dumps += 1;
                tunnel.looking = Some(state.dumps);
                effects.push(Effect::Dump(state.dumps));
            }
        }
        Input::LeaseEnded(name) => {
            if let Some(tunnel) = state.tunnels.get_mut(&name) {
                tunnel.doubt();
            }
        }
        Input::Applied {
            profile,
            routes,
            result,
        } => {
            apply::applied(state, now, &profile, routes, result, &mut effects);
        }
        Input::Answered {
            profile,
            service,
            request,
            result,
        } => {
            services::answered(
                state,
                &profile,
                &service,
                request,
                result,
                now,
                &mut effects,
            );
            settle(state, &profile, now, &mut effects);
            return effects;
        }
        Input::Removed { item, result } => leftovers::removed(state, &item, result),
        Input::Abandoned(items) => leftovers::abandon(state, &items),
        Input::Helper(status) => {
            state.helper_seen |= matches!(status, HelperStatus::Ready { .. });
            state.helper = status;
        }
        Input::HelperGone => {
            // The next one may remember a consent that was given. One that was not is asked for by the user alone: to ask
            // again would start a helper that has nothing to stay for.
            if state.consent == Consent::Granted {
                state.consent = Consent::Unknown;
            }
            state.tunnels.values_mut().for_each(Tunnel::lose_helper);
        }
        Input::Command(command) => {
            self::command(state, command, &mut effects);
            // What was refused may be tried again.
            routes::plan_all(state);
        }
        Input::Suspects(name, suspects) => {
            let tunnel = state.tunnels.get_mut(&name);
            if let Some(tunnel) = tunnel.filter(|tunnel| tunnel.is_fought()) {
                tunnel.suspect(&suspects);
            }
        }
        Input::Sessions(turn, others) => {
            if turn == state.looking_for_others {
                state.others = Some(others);
            }
        }
        Input::Resumed => {
            let watched = state.tunnels.iter();
            let watched = watched.filter(|(_, tunnel)| tunnel.watch.is_some());
            effects.extend(watched.map(|(name, _)| Effect::Wake(name.clone())));
            state
                .tunnels
                .values_mut()
                .for_each(|tunnel| tunnel.wake(now));
        }
        Input::Tick => {
            for tunnel in state.tunnels.values_mut() {
                tunnel.wake(now);
            }
        }
    }
    others::mark(state);
    leftovers::reconcile(state, &mut effects);
    let names: Vec<ProfileName> = state.tunnels.keys().cloned().collect();
    for name in &names {
        tunnel::reconcile(state, name, now, &mut effects);
    }
    end_if_quit(state, &mut effects);
    effects
}

/// When something is due that no input announces: time for an [`Input::Tick`].
pub fn next_wake(state: &State) -> Option<Timestamp> {
    state.tunnels.values().filter_map(Tunnel::next_wake).min()
}

/// Whether all was looked at once.
fn is_complete(state: &State) -> bool {
    state.files_read && state.table.is_some() && state.others.is_some()
}

/// What a single service's change may bring about beside itself: a lock that is needed or free, an end that is reached.
fn settle(state: &mut State, name: &ProfileName, now: Timestamp, effects: &mut Vec<Effect>) {
    tunnel::reconcile_outside_services(state, name, now, effects);
    end_if_quit(state, effects);
}

/// A link that came, went or changed is the first sign of a cluster behind it that did.
fn wake_touched(state: &State, table: &Table, effects: &mut Vec<Effect>) {
    let Some(old) = state
        .table
        .as_deref()
        .filter(|old| old.links != table.links)
    else {
        return;
    };
    let links = old.links.iter().chain(&table.links);
    let changed: BTreeSet<u32> = links
        .filter(|(index, _)| old.links.get(index) != table.links.get(index))
        .map(|(index, _)| *index)
        .collect();
    let entries: Vec<_> = [old, table]
        .into_iter()
        .flat_map(|table| &table.entries)
        .filter(|entry| entry.gateway.is_none() && changed.contains(&entry.link))
        .collect();
    for (name, tunnel) in &state.tunnels {
        let mut nodes = tunnel.profile.nodes.iter().flat_map(|node| &node.ips);
        let behind = |ip| entries.iter().any(|entry| entry.destination.contains(ip));
        if tunnel.watch.is_some() && nodes.any(behind) {
            effects.push(Effect::Wake(name.clone()));
        }
    }
}

fn end_if_quit(state: &State, effects: &mut Vec<Effect>) {
    let ended = |tunnel: &Tunnel| tunnel.is_at_rest() && !services::any_to_withdraw(tunnel);
    if state.quitting && state.tunnels.values().all(ended) {
        effects.push(Effect::Ended);
    }
}

fn files(state: &mut State, profiles: Profiles, effects: &mut Vec<Effect>) {
    state.files_read = true;
    state.broken = profiles.broken;
    state.minikube_tunnels = profiles.minikube_tunnels;
    if profiles.unreadable {
        return;
    }
    for (name, tunnel) in &mut state.tunnels {
        // What can't be read at this moment is not gone: its tunnel goes by what was read last.
        let unreadable = state
            .broken
            .iter()
            .any(|broken| broken.name == name.as_str());
        if !unreadable && !profiles.readable.contains_key(name) {
            tunnel.gone = true;
        }
    }
    for (name, files) in profiles.readable {
        let target = state.targets.get(&name).copied().unwrap_or_default();
        let asked = state.asked.remove(&name);
        let tunnel = state
            .tunnels
            .entry(name.clone())
            .or_insert_with(|| Tunnel::new(files.clone(), target, asked));
        tunnel.gone = false;
        if tunnel.set_files(files) && tunnel.watch.take().is_some() {
            effects.push(Effect::Unwatch(name));
        }
    }
    routes::plan_all(state);
}

fn command(state: &mut State, command: Command, effects: &mut Vec<Effect>) {
    match command {
        // A session that is ending takes on nothing: whoever wants that goes on without it.
        Command::SetTarget {
            profile,
            target: TargetState::Up,
        }
        | Command::Resume { profile }
            if state.quitting =>
        {
            state.interrupted.push(profile);
        }
        Command::SetTarget { profile, target } => {
            // What is brought down while the session ends is not wanted by anybody after it.
            state.interrupted.retain(|name| *name != profile);
            set_target(state, profile, target, target == TargetState::Up);
        }
        // One that is to be up already goes on as it is.
        Command::Resume { profile } => {
            if state.targets.get(&profile) != Some(&TargetState::Up) {
                set_target(state, profile, TargetState::Up, false);
            }
        }
        Command::Quit => {
            state.quitting = true;
            let targets = std::mem::take(&mut state.targets).into_iter();
            let wanted = targets.filter(|(_, target)| *target == TargetState::Up);
            state.interrupted.extend(wanted.map(|(name, _)| name));
            for tunnel in state.tunnels.values_mut() {
                tunnel.target = TargetState::Down;
                tunnel.try_again(false);
            }
        }
        Command::Look => state.scope.only = None,
        // The engine's loop answers them: they are about no tunnel.
        Command::Configure { .. } | Command::OpenWindow => {}
        // The engine's loop answers it: it needs the helper's and the API servers' own words.
        Command::Cleanup { dry_run, chosen } => {
            // What dead sessions left may be in any cluster.
            state.scope.only = None;
            // Sessions may have died without a trace in the table.
            others::ask(state, effects);
            if !dry_run {
                leftovers::choose(state, &chosen);
            }
        }
    }
}

fn set_target(state: &mut State, profile: ProfileName, target: TargetState, asked: bool) {
    state.targets.insert(profile.clone(), target);
    match state.tunnels.get_mut(&profile) {
        Some(tunnel) => {
            tunnel.target = target;
            tunnel.ever_wanted |= target == TargetState::Up;
            tunnel.try_again(asked);
        }
        None if asked => {
            state.asked.insert(profile);
        }
        None => {
            state.asked.remove(&profile);
        }
    }
}

#[cfg(test)]
mod tests;
