//! What the tray shows, as plain data: a pure function of the snapshot.

mod text;

use minitunnel_model::{
    CleanupItem, GroupState, HelperStatus, LoadBalancer, ProfileName, ProfileStatus, Settings,
    Snapshot, TargetState, TunnelState, WaitingFor,
};

use text::{cut, list};
pub(crate) use text::{state, tooltip};

/// Services of a profile that a menu lists, those of longer lists being the window's to show.
const MOST_SERVICES: usize = 15;

/// The menu of the tray.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Menu(pub(crate) Vec<Item>);

/// An entry of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// Something to read.
    Text(String),
    /// Something to click.
    Click(String, Action),
    /// Something to click that is on or off.
    Check {
        label: String,
        on: bool,
        action: Action,
    },
    /// More entries.
    Submenu {
        label: String,
        mood: Mood,
        items: Vec<Item>,
    },
    Separator,
}

/// What follows from a click.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Brings a tunnel up, or tries it again; consent may be asked for.
    Start(ProfileName),
    /// Brings a tunnel down.
    Stop(ProfileName),
    /// Puts a text into the clipboard.
    Copy(String),
    /// Removes what dead tunnels of ours left.
    CleanUp,
    /// Opens the window.
    OpenWindow,
    /// Makes these the settings.
    Configure(Settings),
    /// Starts the program that has taken this one's place.
    Restart,
    /// Ends all tunnels and the session.
    Quit,
}

/// What the icon and the dots tell at a glance, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mood {
    /// Nothing is up.
    #[default]
    Idle,
    /// All that is wanted is up.
    Connected,
    /// Something is on its way, or waits for an answer.
    Connecting,
    /// Something is in the way.
    Conflict,
    /// Something failed.
    Error,
}

/// What is known beside the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// Why there is no session, in one sentence.
    pub(crate) trouble: Option<String>,
    /// Another program is where this one was started from.
    pub(crate) outdated: bool,
    /// The session is a terminal's, and ends with it.
    pub(crate) joined: bool,
}

/// The menu for what is.
pub(crate) fn menu(snapshot: &Snapshot, about: &About) -> Menu {
    let mut items = Vec::new();
    if let Some(trouble) = &about.trouble {
        items.push(Item::Text(cut(trouble)));
    } else {
        items.extend(profiles(snapshot));
        items.extend(remarks(snapshot, about));
    }
    items.push(Item::Separator);
    let settings = &snapshot.settings;
    if about.trouble.is_none() {
        items.push(Item::Click("Clean up".into(), clean_up(snapshot)));
    }
    items.push(Item::Click("Open window".into(), Action::OpenWindow));
    if about.trouble.is_none() {
        items.push(Item::Separator);
        let turned = Settings {
            start_with_cluster: !settings.start_with_cluster,
            ..settings.clone()
        };
        items.push(Item::Check {
            label: "Start tunnels with their cluster".into(),
            on: settings.start_with_cluster,
            action: Action::Configure(turned),
        });
        let turned = Settings {
            start_at_login: !settings.start_at_login,
            ..settings.clone()
        };
        items.push(Item::Check {
            label: "Start at login".into(),
            on: settings.start_at_login,
            action: Action::Configure(turned),
        });
    }
    items.push(Item::Separator);
    if about.outdated {
        let label = "Restart to finish the update";
        items.push(Item::Click(label.into(), Action::Restart));
    }
    items.push(Item::Click("Quit".into(), Action::Quit));
    Menu(items)
}

/// What a left click does: with one profile it turns the tunnel on or off.
pub(crate) fn left_click(snapshot: &Snapshot, about: &About) -> Action {
    match snapshot.profiles.as_slice() {
        [only] if about.trouble.is_none() && snapshot.broken.is_empty() => {
            let name = only.profile.name.clone();
            if only.target == TargetState::Up && !waits_for_a_click(&only.tunnel) {
                Action::Stop(name)
            } else {
                Action::Start(name)
            }
        }
        _ => Action::OpenWindow,
    }
}

/// What the icon tells.
pub(crate) fn mood(snapshot: &Snapshot, about: &About) -> Mood {
    if about.trouble.is_some() {
        return Mood::Error;
    }
    let moods = snapshot.profiles.iter().map(mood_of);
    moods.max().unwrap_or_default()
}

fn mood_of(status: &ProfileStatus) -> Mood {
    match &status.tunnel {
        TunnelState::Connected { .. } => {
            let mut held = status.groups.iter().filter(|group| group.is_held());
            if held.any(|group| !group.conflicts().is_empty()) {
                Mood::Conflict
            } else {
                Mood::Connected
            }
        }
        TunnelState::Disconnected
        | TunnelState::Waiting {
            on: WaitingFor::Cluster { .. } | WaitingFor::Lock { .. },
        } => Mood::Idle,
        TunnelState::Connecting | TunnelState::Disconnecting | TunnelState::Waiting { .. } => {
            Mood::Connecting
        }
        TunnelState::Blocked { .. } => Mood::Conflict,
        TunnelState::Failed { .. } => Mood::Error,
    }
}

/// Whether a click brings it up that is to be up already.
fn waits_for_a_click(tunnel: &TunnelState) -> bool {
    matches!(
        tunnel,
        TunnelState::Failed { .. }
            | TunnelState::Blocked { .. }
            | TunnelState::Waiting {
                on: WaitingFor::Consent
            }
    )
}

fn profiles(snapshot: &Snapshot) -> Vec<Item> {
    let here = snapshot.profiles.iter().map(|status| Item::Submenu {
        label: format!("{} – {}", status.profile.name, state(status)),
        mood: mood_of(status),
        items: profile(status),
    });
    let awaited = snapshot.awaited.iter();
    let awaited =
        awaited.map(|name| Item::Text(format!("{name} – waiting for its cluster to be made")));
    let broken = snapshot.broken.iter();
    let broken =
        broken.map(|broken| Item::Text(cut(&format!("{} – {}", broken.name, broken.problem))));
    let items: Vec<Item> = here.chain(awaited).chain(broken).collect();
    if !items.is_empty() {
        return items;
    }
    let text = if snapshot.complete {
        "No minikube cluster yet: `minikube start` makes one"
    } else {
        "Looking for minikube clusters…"
    };
    vec![Item::Text(text.into())]
}

/// What is to be read beside the profiles.
fn remarks(snapshot: &Snapshot, about: &About) -> Vec<Item> {
    let mut items = Vec::new();
    if let HelperStatus::Missing { message } = &snapshot.helper {
        items.push(Item::Click(cut(message), Action::OpenWindow));
    }
    if let [first, ..] = snapshot.settings_problems.as_slice() {
        items.push(Item::Click(cut(first), Action::OpenWindow));
    }
    if about.joined {
        items.push(Item::Text("The tunnels are those of a terminal".into()));
    }
    if !items.is_empty() {
        items.insert(0, Item::Separator);
    }
    items
}

fn profile(status: &ProfileStatus) -> Vec<Item> {
    let mut items = vec![Item::Text(text::sentence(status))];
    let name = &status.profile.name;
    if status.target == TargetState::Down || waits_for_a_click(&status.tunnel) {
        let label = match (&status.tunnel, status.target) {
            (_, TargetState::Down) => "Start",
            (TunnelState::Waiting { .. }, _) => "Ask for consent…",
            _ => "Try again",
        };
        items.push(Item::Click(label.into(), Action::Start(name.clone())));
    }
    if status.target == TargetState::Up {
        items.push(Item::Click("Stop".into(), Action::Stop(name.clone())));
    }
    section(&mut items, routes(status));
    section(&mut items, conflicts(status));
    section(&mut items, services(status));
    items
}

fn section(items: &mut Vec<Item>, more: Vec<Item>) {
    if !more.is_empty() {
        items.push(Item::Separator);
        items.extend(more);
    }
}

fn routes(status: &ProfileStatus) -> Vec<Item> {
    let mut items = Vec::new();
    for group in &status.groups {
        let destinations = || {
            let routes = group.routes.iter();
            list(routes.map(|route| route.destination))
        };
        items.push(match &group.state {
            GroupState::Held { .. } => {
                let gateways = group.routes.iter().map(|route| route.gateway);
                let text = format!("{} via {} ({})", destinations(), list(gateways), group.kind);
                Item::Text(cut(&text))
            }
            GroupState::LeftOut { reason } => {
                Item::Text(cut(&format!("No route for {}: {reason}", group.kind)))
            }
            // Shown with its conflicts.
            GroupState::Conflicting { .. } => continue,
            GroupState::Free => continue,
        });
    }
    items
}

fn conflicts(status: &ProfileStatus) -> Vec<Item> {
    let of_groups = status.conflicts().map(|(_, conflict)| conflict);
    let of_tunnel = match &status.tunnel {
        TunnelState::Blocked { conflicts } => conflicts.as_slice(),
        _ => &[],
    };
    let mut items: Vec<Item> = Vec::new();
    for conflict in of_groups.chain(of_tunnel) {
        let text = format!(
            "Conflict: {} with {}…",
            conflict.ours.destination, conflict.owner
        );
        let item = Item::Click(cut(&text), Action::OpenWindow);
        if !items.contains(&item) {
            items.push(item);
        }
    }
    items
}

fn services(status: &ProfileStatus) -> Vec<Item> {
    let services = &status.load_balancers;
    let shown = services.iter().take(MOST_SERVICES);
    let mut items: Vec<Item> = shown.flat_map(|service| of_service(service)).collect();
    if services.len() > MOST_SERVICES {
        let more = services.len() - MOST_SERVICES;
        items.push(Item::Click(format!("{more} more…"), Action::OpenWindow));
    }
    items
}

/// An entry for each of its addresses with a port.
fn of_service(service: &LoadBalancer) -> Vec<Item> {
    if service.ingress.is_empty() {
        let reason = service.pending.as_ref().map(ToString::to_string);
        let reason = reason.unwrap_or_else(|| "it has no address".into());
        return vec![Item::Text(cut(&format!("{}: {reason}", service.key)))];
    }
    let mut items = Vec::new();
    for address in &service.ingress {
        // An IPv6 address needs its brackets before a port.
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.clone()
        };
        if service.ports.is_empty() {
            let label = cut(&format!("{}  {host}", service.key));
            items.push(Item::Click(label, Action::Copy(address.clone())));
        }
        for port in &service.ports {
            let label = cut(&format!("{}  {host}:{port}", service.key));
            items.push(Item::Click(
                label,
                Action::Copy(format!("{host}:{}", port.port)),
            ));
        }
    }
    items
}

/// What is not ours is shown, and chosen, in the window.
fn clean_up(snapshot: &Snapshot) -> Action {
    let foreign: &[CleanupItem] = &snapshot.leftovers;
    if foreign.is_empty() {
        Action::CleanUp
    } else {
        Action::OpenWindow
    }
}

#[cfg(test)]
mod tests;
