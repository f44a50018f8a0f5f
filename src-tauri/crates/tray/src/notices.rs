//! What is worth an interruption: a pure function of two snapshots.

use minitunnel_model::{
    ClusterState, Conflict, LoadBalancer, Pending, ProfileName, ProfileStatus, Snapshot,
    TargetState, TunnelState, WaitingFor,
};

use crate::menu::Action;

/// More than this at one time are told as one.
const MOST: usize = 3;
/// Names that one notice lists.
const MOST_NAMES: usize = 3;

/// Something to tell the user, wherever he looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// What it takes the place of: the last one about the same.
    pub(crate) about: (Subject, Option<ProfileName>),
    /// A few words.
    pub(crate) title: String,
    /// One sentence.
    pub(crate) body: String,
    /// Buttons, the first one also for a click on the notice itself.
    pub(crate) actions: Vec<(&'static str, Action)>,
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// Something is in the way of routes.
    Conflict,
    /// Whether a tunnel is there.
    Tunnel,
    /// Services that wait for a tunnel.
    Services,
    /// Several of these at once.
    Several,
    /// What came of a click.
    Answer,
}

/// What came to pass between two snapshots that a user should know who does not look.
///
/// Of a tunnel that is on its way up or down nothing is told: see [`settled`].
pub(crate) fn notices(old: &Snapshot, new: &Snapshot) -> Vec<Notice> {
    let mut notices = Vec::new();
    for now in &new.profiles {
        let before = old.profile(&now.profile.name);
        if is_settled(now) {
            notices.extend(conflict(before, now));
            notices.extend(tunnel(before, now));
        }
        notices.extend(services(before, now));
    }
    if notices.len() <= MOST {
        return notices;
    }
    let titles: Vec<&str> = notices.iter().map(|notice| notice.title.as_str()).collect();
    vec![Notice {
        about: (Subject::Several, None),
        title: format!("minitunnel: {} changes", notices.len()),
        body: names(&titles),
        actions: vec![("Open", Action::OpenWindow)],
    }]
}

/// What the next snapshot is to be compared with: the new one, but for tunnels on their way, which are as they were before.
pub(crate) fn settled(old: &Snapshot, new: &Snapshot) -> Snapshot {
    let mut next = new.clone();
    for now in &mut next.profiles {
        if !is_settled(now)
            && let Some(before) = old.profile(&now.profile.name)
        {
            now.tunnel.clone_from(&before.tunnel);
            now.groups.clone_from(&before.groups);
            if now.target == TargetState::Up {
                now.target = before.target;
            }
        }
    }
    next
}

fn is_settled(status: &ProfileStatus) -> bool {
    !matches!(
        status.tunnel,
        TunnelState::Connecting
            | TunnelState::Disconnecting
            | TunnelState::Waiting {
                on: WaitingFor::Dialog
            }
    )
}

fn conflict(before: Option<&ProfileStatus>, now: &ProfileStatus) -> Option<Notice> {
    let known = before.map(in_the_way).unwrap_or_default();
    let of_now = in_the_way(now);
    let is_known = |conflict: &&&Conflict| {
        let same = |other: &&Conflict| other.ours == conflict.ours && other.other == conflict.other;
        known.iter().any(same)
    };
    let fresh = of_now.iter().find(|conflict| !is_known(conflict))?;
    let name = &now.profile.name;
    let mut actions = vec![("Open", Action::OpenWindow)];
    if matches!(now.tunnel, TunnelState::Blocked { .. }) {
        actions.push(("Try again", Action::Start(name.clone())));
    }
    Some(Notice {
        about: (Subject::Conflict, Some(name.clone())),
        title: format!("{name}: conflict with {}", fresh.owner),
        body: fresh.effect.clone(),
        actions,
    })
}

/// The conflicts that cost a tunnel something that it has, or that it would have.
fn in_the_way(status: &ProfileStatus) -> Vec<&Conflict> {
    let blocked = match &status.tunnel {
        TunnelState::Blocked { conflicts } => conflicts.as_slice(),
        _ => &[],
    };
    let held = status.groups.iter().filter(|group| group.is_held());
    blocked
        .iter()
        .chain(held.flat_map(|group| group.conflicts()))
        .collect()
}

fn tunnel(before: Option<&ProfileStatus>, now: &ProfileStatus) -> Option<Notice> {
    let before = before.filter(|before| before.target == TargetState::Up)?;
    let connected = |status: &ProfileStatus| matches!(status.tunnel, TunnelState::Connected { .. });
    let name = &now.profile.name;
    let about = (Subject::Tunnel, Some(name.clone()));
    match (connected(before), connected(now)) {
        (true, false) if now.target == TargetState::Up => {
            // That is told with what is in the way.
            if matches!(now.tunnel, TunnelState::Blocked { .. }) {
                return None;
            }
            let mut actions = Vec::new();
            if needs_a_click(&now.tunnel) {
                actions.push(("Start", Action::Start(name.clone())));
            }
            actions.push(("Open", Action::OpenWindow));
            Some(Notice {
                about,
                title: format!("{name}: tunnel lost"),
                body: now.tunnel.to_string(),
                actions,
            })
        }
        (false, true) if !is_users_turn(&before.tunnel) => Some(Notice {
            about,
            title: format!("{name}: tunnel is up"),
            body: "Its services are reachable.".into(),
            actions: vec![("Open", Action::OpenWindow)],
        }),
        _ => None,
    }
}

/// Whether a tunnel comes up by the user's click alone.
fn needs_a_click(tunnel: &TunnelState) -> bool {
    matches!(
        tunnel,
        TunnelState::Failed { retry_at: None, .. }
            | TunnelState::Waiting {
                on: WaitingFor::Consent
            }
    )
}

/// Whether its coming up is the answer to what the user did just now.
fn is_users_turn(tunnel: &TunnelState) -> bool {
    *tunnel == TunnelState::Disconnected || needs_a_click(tunnel)
}

fn services(before: Option<&ProfileStatus>, now: &ProfileStatus) -> Option<Notice> {
    let running = |status: &ProfileStatus| status.cluster == ClusterState::Running;
    let before = before.filter(|before| running(before) && running(now))?;
    if now.target == TargetState::Up {
        return None;
    }
    let waits = |service: &LoadBalancer| service.pending == Some(Pending::TunnelDown);
    let is_new = |service: &LoadBalancer| {
        before
            .load_balancers
            .iter()
            .all(|known| known.key != service.key)
    };
    let fresh = now.load_balancers.iter();
    let fresh = fresh.filter(|service| waits(service) && is_new(service));
    let fresh: Vec<String> = fresh.map(|service| service.key.to_string()).collect();
    let title = match fresh.len() {
        0 => return None,
        1 => "a service waits for its tunnel".to_owned(),
        many => format!("{many} services wait for their tunnel"),
    };
    let name = &now.profile.name;
    let fresh: Vec<&str> = fresh.iter().map(String::as_str).collect();
    Some(Notice {
        about: (Subject::Services, Some(name.clone())),
        title: format!("{name}: {title}"),
        body: names(&fresh),
        actions: vec![
            ("Start", Action::Start(name.clone())),
            ("Open", Action::OpenWindow),
        ],
    })
}

fn names(all: &[&str]) -> String {
    let shown = all.iter().take(MOST_NAMES).copied();
    let shown = shown.collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
