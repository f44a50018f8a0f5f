//! The LoadBalancer services of a profile: who gets which address, and who must give it back.

use std::{sync::Arc, time::Duration};

use minitunnel_model::{
    CleanupItem, LoadBalancer, Owner, Pending, ProfileName, ServiceKey, TargetState, Timestamp,
};

use super::{
    Effect, State,
    others::Whose,
    routes,
    tunnel::{FIGHT_LOSSES, FIGHT_WINDOW, Health, Lock, Tunnel},
};
use crate::cluster::{AssignError, Service};

/// How long a request that the API server did not answer rests before the second try; each further one takes twice as long.
const RETRY: Duration = Duration::from_secs(1);
/// The owner that is shown of what another session of ours has handed out.
const ANOTHER_SESSION: &str = "another session of minitunnel";
/// How often that is doubled.
const DOUBLINGS: u32 = 6;

/// What is asked of the API server for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To give it its addresses.
    Assign,
    /// To take our addresses away.
    Withdraw,
}

/// What a service's view depends on beside the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Circumstances {
    /// Whether its tunnel hands out addresses.
    pub(super) up: bool,
    /// Whether that waits for the user.
    pub(super) waits: bool,
    /// Whether the addon serves them.
    pub(super) metallb: bool,
    /// Whose ours are.
    pub(super) whose: Whose,
}

/// A service, and what is on its way to it.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) service: Arc<Service>,
    /// [`Service::is_right`] and [`Service::is_minikubes`], which each snapshot asks for.
    is_right: bool,
    pub(super) is_minikubes: bool,
    /// A request that is not answered yet.
    busy: Option<Request>,
    /// It was asked to be given its addresses, and neither an answer nor the watch has said what came of it.
    perhaps: bool,
    /// The last request that was granted, until the watch has told anything new.
    done: Option<Request>,
    /// What the API server made of such a request; until the service changes, it stands.
    verdict: Option<(Request, Pending)>,
    /// No request before this time.
    rest_until: Option<Timestamp>,
    /// How many requests in a row had no answer.
    unanswered: u32,
    /// What came of the last one.
    trouble: Option<String>,
    /// When it was first seen without an address from us.
    waiting_since: Option<Timestamp>,
    assigned_in: Option<Duration>,
    /// When others took our address away, of late.
    losses: Vec<Timestamp>,
    /// What views are shown; made anew only when it changes, so that snapshots share it.
    shown: Option<Arc<LoadBalancer>>,
    /// What that followed from, unless an answer has come since.
    shown_for: Option<Circumstances>,
}

impl Tracked {
    /// The service as it is now, with what is still true of the one before.
    pub(super) fn update(old: Option<Self>, service: Service, now: Timestamp) -> Self {
        let service = Arc::new(service);
        let ours = service.owner == Owner::Us;
        // A service of the same name that was made anew is another one.
        let old = old.filter(|old| old.service.uid == service.uid);
        let old_unanswered = old.as_ref().map_or(0, |old| old.unanswered);
        let old_trouble = old.as_ref().and_then(|old| old.trouble.clone());
        let mut losses = old.as_ref().map_or(Vec::new(), |old| old.losses.clone());
        let lost = service.is_load_balancer && service.owner == Owner::Nobody;
        if lost && old.as_ref().is_some_and(Self::is_kept) {
            losses.retain(|at| *at + FIGHT_WINDOW > now);
            losses.push(now);
        }
        // Whoever empties what others set would be answered at once, and again.
        let fight = losses.len() >= FIGHT_LOSSES && lost;
        let verdict = fight.then_some((Request::Assign, Pending::Emptied));
        let mut waiting_since = old.as_ref().and_then(|old| old.waiting_since);
        let mut assigned_in = old.as_ref().and_then(|old| old.assigned_in);
        if ours {
            if let Some(since) = waiting_since.take() {
                assigned_in = Some(Duration::from_millis(now.0.saturating_sub(since.0)));
            }
        } else {
            assigned_in = None;
            waiting_since = waiting_since.or(Some(now));
        }
        let busy = old.and_then(|old| old.busy);
        Self {
            busy,
            perhaps: busy == Some(Request::Assign),
            is_right: service.is_right(),
            is_minikubes: service.is_minikubes(),
            service,
            done: None,
            verdict,
            rest_until: None,
            unanswered: old_unanswered,
            trouble: old_trouble,
            waiting_since,
            assigned_in,
            losses,
            shown: None,
            shown_for: None,
        }
    }

    /// Whether it has our address, or is about to be told to have it.
    pub(super) fn is_ours(&self) -> bool {
        self.service.owner == Owner::Us || self.done == Some(Request::Assign)
    }

    /// The addresses that it has from us, or may have: what was sent to a server that is gone since, it may have done.
    pub(super) fn given(&self) -> Option<Vec<String>> {
        match self.service.owner {
            Owner::Us => Some(self.service.ingress.clone()),
            _ if self.perhaps || self.done == Some(Request::Assign) => {
                let addresses = self.service.cluster_ips.iter();
                Some(addresses.map(ToString::to_string).collect())
            }
            _ => None,
        }
    }

    /// Whether it has our address, and nobody of us is taking that away.
    fn is_kept(&self) -> bool {
        let withdrawn = Some(Request::Withdraw);
        self.service.owner == Owner::Us && self.busy != withdrawn && self.done != withdrawn
    }

    fn is_refused(&self, request: Request) -> bool {
        matches!(&self.verdict, Some((of, _)) if *of == request)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    fn rest(&mut self, now: Timestamp) {
        let doublings = self.unanswered.min(DOUBLINGS);
        self.rest_for(RETRY * 2_u32.pow(doublings), now);
    }

    fn rest_for(&mut self, rest: Duration, now: Timestamp) {
        self.unanswered += 1;
        self.rest_until = Some(now + rest);
    }

    pub(super) fn forgive(&mut self) {
        self.verdict = None;
        self.rest_until = None;
        self.unanswered = 0;
        self.trouble = None;
        self.losses.clear();
        self.shown_for = None;
    }

    pub(super) fn wake(&mut self, now: Timestamp) {
        self.rest_until = self.rest_until.filter(|at| *at > now);
    }

    pub(super) fn rest_until(&self) -> Option<Timestamp> {
        self.rest_until
    }

    /// What views show of it. Nothing but its own fields is looked at where nothing has happened: there may be a thousand, 30
    /// times a second.
    pub(super) fn show(&mut self, now: Circumstances) -> Arc<LoadBalancer> {
        if let Some(shown) = self.shown.as_ref().filter(|_| self.shown_for == Some(now)) {
            return shown.clone();
        }
        self.shown_for = Some(now);
        let service = &self.service;
        let (owner, pending) = if service.owner == Owner::Us && now.whose == Whose::Anothers {
            let manager = ANOTHER_SESSION.to_owned();
            let pending = Pending::SomeoneElses {
                manager: manager.clone(),
            };
            (Owner::Other(manager), Some(pending))
        } else {
            (service.owner.clone(), self.pending(&now))
        };
        let is_same = |shown: &&Arc<LoadBalancer>| shown.pending == pending && shown.owner == owner;
        if let Some(shown) = self.shown.as_ref().filter(is_same) {
            return shown.clone();
        }
        let shown = Arc::new(LoadBalancer {
            key: service.key.clone(),
            ports: service.ports.clone(),
            cluster_ips: service.cluster_ips.clone(),
            ingress: service.ingress.clone(),
            owner,
            pending,
            assigned_in: self.assigned_in,
        });
        self.shown = Some(shown.clone());
        shown
    }

    fn pending(&self, now: &Circumstances) -> Option<Pending> {
        if self.service.owner == Owner::Us && self.is_right {
            // What a dead run left is kept for the tunnel that is to come, and leads nowhere until then.
            return now.waits.then_some(Pending::TunnelDown);
        }
        if let Some(reason) = ineligible(&self.service, now.metallb) {
            return Some(reason);
        }
        let verdict = || match &self.verdict {
            Some((Request::Assign, pending)) => pending.clone(),
            _ => match &self.trouble {
                // The first may be owed to a moment.
                Some(message) if self.unanswered > 1 => Pending::Unanswered {
                    message: message.clone(),
                },
                _ => Pending::Assigning,
            },
        };
        Some(if now.up {
            verdict()
        } else {
            Pending::TunnelDown
        })
    }
}

/// Why a service gets no address from us, whatever its tunnel does.
fn ineligible(service: &Service, metallb: bool) -> Option<Pending> {
    if let Some(class) = &service.class {
        return Some(Pending::OtherClass {
            class: class.clone(),
        });
    }
    if let Owner::Other(manager) = &service.owner
        && !service.left_by_minikube
    {
        return Some(Pending::SomeoneElses {
            manager: manager.clone(),
        });
    }
    if metallb {
        return Some(Pending::Metallb);
    }
    service
        .cluster_ips
        .is_empty()
        .then_some(Pending::NoClusterIp)
}

/// Whether any address of ours has to go, and can: the API server answers and has not refused, and no `minikube tunnel` runs.
pub(super) fn any_to_withdraw(tunnel: &Tunnel) -> bool {
    let goes = |tracked: &Tracked| {
        must_withdraw(tunnel, tracked) && !tracked.is_refused(Request::Withdraw)
    };
    tunnel.health == Health::Up
        && !matches!(tunnel.lock, Lock::Busy(_))
        && tunnel.services.values().any(goes)
}

/// Whether any request is not answered yet.
pub(super) fn any_on_its_way(tunnel: &Tunnel) -> bool {
    tunnel.services.values().any(Tracked::is_busy)
}

/// Whether any service has our address, to go or to stay: that takes the lock, so that nobody else gives it one.
pub(super) fn any_ours(tunnel: &Tunnel) -> bool {
    let held = |tracked: &Tracked| tracked.is_ours() && !tracked.is_refused(Request::Withdraw);
    let ours = tunnel.health == Health::Up && tunnel.whose == Whose::Ours;
    ours && tunnel.services.values().any(held)
}

fn must_withdraw(tunnel: &Tunnel, tracked: &Tracked) -> bool {
    let goes = !keeps(tunnel) || !tracked.service.is_load_balancer;
    tracked.is_ours() && goes && tunnel.whose == Whose::Ours
}

/// The addresses that a dead run of ours left in a profile, with why they are still there, in one sentence.
pub(super) fn stale(
    name: &ProfileName,
    tunnel: &Tunnel,
) -> impl Iterator<Item = (CleanupItem, String)> {
    let left = tunnel.services.values();
    let left = left.filter(|tracked| must_withdraw(tunnel, tracked));
    left.map(|tracked| {
        let why = match &tracked.verdict {
            Some((Request::Withdraw, verdict)) => verdict.to_string(),
            _ if matches!(tunnel.lock, Lock::Busy(_)) => {
                "`minikube tunnel` is running for the profile: end it and try again".into()
            }
            _ => "the API server did not take it back in time: try again when the cluster answers"
                .into(),
        };
        (item(name, &tracked.service), why)
    })
}

fn item(name: &ProfileName, service: &Service) -> CleanupItem {
    CleanupItem::Address {
        profile: name.clone(),
        service: service.key.clone(),
        // Until the watch has told of an assignment, it is known by what was assigned.
        addresses: match service.owner {
            Owner::Us => service
                .ingress
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            _ => service.cluster_ips.clone(),
        },
    }
}

/// Whether what was handed out stays: also while a route is being put back, but not where that waits for the user, or for
/// whoever is in the way.
fn keeps(tunnel: &Tunnel) -> bool {
    let retried = matches!(tunnel.failure, Some((_, Some(_))));
    let retried = retried && !tunnel.gone && tunnel.files.stopping_until.is_none();
    let wanted = tunnel.is_wanted() || (tunnel.target == TargetState::Up && retried);
    wanted && !routes::are_blocked(tunnel)
}

pub(super) fn reconcile(
    state: &mut State,
    name: &ProfileName,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    let Some(tunnel) = state.tunnels.get(name) else {
        return;
    };
    if tunnel.lock != Lock::Held || tunnel.health != Health::Up {
        return;
    }
    let keys: Vec<ServiceKey> = tunnel.services.keys().cloned().collect();
    for key in &keys {
        reconcile_one(state, name, key, now, effects);
    }
}

pub(super) fn reconcile_one(
    state: &mut State,
    name: &ProfileName,
    key: &ServiceKey,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    let Some(tunnel) = state.tunnels.get_mut(name) else {
        return;
    };
    // Addresses are changed only under the lock: whoever has it is the only tunnel.
    if !state.scope.acts || tunnel.lock != Lock::Held || tunnel.health != Health::Up {
        return;
    }
    let connected = tunnel.is_connected();
    let metallb = tunnel.files.metallb;
    let Some(tracked) = tunnel.services.get(key) else {
        return;
    };
    let resting = tracked.rest_until.is_some_and(|at| at > now);
    if tracked.is_busy() || resting {
        return;
    }
    let service = tracked.service.clone();
    let request = if must_withdraw(tunnel, tracked) {
        Request::Withdraw
    } else if connected
        && service.is_load_balancer
        && ineligible(&service, metallb).is_none()
        && !(service.owner == Owner::Us && tracked.is_right)
    {
        Request::Assign
    } else {
        return;
    };
    if tracked.done == Some(request) || tracked.is_refused(request) {
        return;
    }
    if let Some(tracked) = tunnel.services.get_mut(key) {
        tracked.busy = Some(request);
        tracked.perhaps |= request == Request::Assign;
    }
    effects.push(Effect::Ask {
        profile: name.clone(),
        service,
        request,
    });
}

/// An answer: on success the watch tells what came of it, and may have done so already.
pub(super) fn answered(
    state: &mut State,
    name: &ProfileName,
    asked: &Service,
    request: Request,
    result: Result<(), AssignError>,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    let Some(tunnel) = state.tunnels.get_mut(name) else {
        return;
    };
    // One that was made anew under the name has been asked nothing yet.
    let same = |tracked: &&mut Tracked| tracked.service.uid == asked.uid;
    let Some(tracked) = tunnel.services.get_mut(&asked.key).filter(same) else {
        return;
    };
    tracked.busy = None;
    tracked.shown_for = None;
    tracked.perhaps &= matches!(result, Err(AssignError::Unreachable(_)));
    match result {
        Ok(()) => {
            tracked.done = Some(request);
            tracked.unanswered = 0;
            tracked.trouble = None;
            if request == Request::Withdraw && !tunnel.ever_wanted {
                state.cleaned.push(item(name, asked));
            }
        }
        // The watch tells of the new one or of its end, and may have told of another change before this answer.
        Err(AssignError::Gone) => tracked.rest(now),
        Err(AssignError::Unreachable(message)) => {
            tracked.trouble = Some(message);
            tracked.rest(now);
        }
        Err(AssignError::Later { message, rest }) => {
            tracked.trouble = Some(message);
            tracked.rest_for(rest, now);
        }
        Err(AssignError::Conflict { manager }) => {
            tracked.verdict = Some((request, Pending::SomeoneElses { manager }));
        }
        Err(AssignError::Refused { message }) => {
            tracked.verdict = Some((request, Pending::Refused { message }));
        }
    }
    if let Some(until) = tracked.rest_until {
        tunnel.service_rests(until);
    }
    reconcile_one(state, name, &asked.key, now, effects);
}
