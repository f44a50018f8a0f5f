use std::fmt::Display;

use minitunnel_model::{Owner, ProfileStatus, Snapshot, TunnelState, WaitingFor};

use super::About;

/// The longest line of a menu, in characters: what fits on a small screen.
const LONGEST: usize = 90;
/// Profiles that the tooltip names.
const MOST_PROFILES: usize = 6;

/// One line of a menu: what is longer stands in the window.
pub(super) fn cut(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect();
    if text.chars().count() > LONGEST {
        line.pop();
        let end = line.trim_end().len();
        line.truncate(end);
        line.push('…');
    }
    line
}

pub(super) fn list<T: Display + PartialEq>(items: impl Iterator<Item = T>) -> String {
    let mut all: Vec<T> = Vec::new();
    for item in items {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    let all: Vec<String> = all.iter().map(T::to_string).collect();
    all.join(", ")
}

/// A profile's state in a word or two.
pub(crate) fn state(status: &ProfileStatus) -> &'static str {
    match &status.tunnel {
        TunnelState::Disconnected => "off",
        TunnelState::Waiting { on } => match on {
            WaitingFor::Cluster { .. } => "cluster not running",
            WaitingFor::Consent => "needs your consent",
            WaitingFor::Dialog => "asking for consent",
            WaitingFor::Lock { .. } => "minikube tunnel is running",
        },
        TunnelState::Blocked { .. } => "conflict",
        TunnelState::Connecting => "connecting",
        TunnelState::Connected { .. } => "connected",
        TunnelState::Disconnecting => "disconnecting",
        TunnelState::Failed { .. } => "failed",
    }
}

/// A profile's state in a line.
pub(super) fn sentence(status: &ProfileStatus) -> String {
    let text = match &status.tunnel {
        TunnelState::Disconnected => "Not connected".into(),
        TunnelState::Blocked { .. } => "Blocked by a conflict".into(),
        TunnelState::Connected { .. } => {
            let ours = status.load_balancers.iter();
            let ours = ours.filter(|service| service.owner == Owner::Us).count();
            match ours {
                0 => "Connected".into(),
                1 => "Connected, with one LoadBalancer service".into(),
                many => format!("Connected, with {many} LoadBalancer services"),
            }
        }
        other => {
            let text = other.to_string();
            let mut chars = text.chars();
            let first = chars.next().map(|first| first.to_uppercase().to_string());
            first.unwrap_or_default() + chars.as_str()
        }
    };
    cut(&text)
}

/// What the pointer over the icon is told.
pub(crate) fn tooltip(snapshot: &Snapshot, about: &About) -> String {
    if let Some(trouble) = &about.trouble {
        return cut(trouble);
    }
    let mut lines: Vec<String> = snapshot
        .profiles
        .iter()
        .take(MOST_PROFILES)
        .map(|status| format!("{}: {}", status.profile.name, state(status)))
        .collect();
    if snapshot.profiles.len() > MOST_PROFILES {
        let more = snapshot.profiles.len() - MOST_PROFILES;
        lines.push(format!("and {more} more"));
    }
    if lines.is_empty() {
        lines.push("no minikube cluster".into());
    }
    lines.join("\n")
}
