//! A snapshot as text: a pure function.

use std::fmt::Write as _;

use minitunnel_model::{
    ClusterState, GroupState, LoadBalancer, Owner, ProfileStatus, Reach, RouteGroup, Snapshot,
    TargetState,
};

/// The lines that `status` prints.
pub(crate) fn render(snapshot: &Snapshot) -> Vec<String> {
    let mut out = Vec::new();
    if snapshot.profiles.is_empty() && snapshot.broken.is_empty() {
        let home = snapshot.home.display();
        out.push(format!(
                "no minikube profile in {home}: `minikube start` makes one, `minitunnel demo` needs none"
            ));
    }
    for (index, status) in snapshot.profiles.iter().enumerate() {
        if index > 0 {
            out.push(String::new());
        }
        profile(&mut out, status);
    }
    for name in &snapshot.awaited {
        out.push(format!(
            "{name}  is gone: its tunnel comes up again when it is back"
        ));
    }
    for broken in &snapshot.broken {
        out.push(format!(
            "{}  can't be read: {}; mend it, or have `minikube delete` remove it",
            broken.name, broken.problem
        ));
    }
    for item in &snapshot.leftovers {
        out.push(format!(
            "leftover  {item}: `minitunnel cleanup` removes it, if you want"
        ));
    }
    out
}

fn profile(out: &mut Vec<String>, status: &ProfileStatus) {
    let mut state = status.tunnel.to_string();
    if status.target == TargetState::Down {
        match (&status.profile.reach, &status.cluster) {
            (Reach::Forwarded { reason } | Reach::Unsupported { reason }, _) => {
                let _ = write!(state, ": {reason}");
            }
            (_, ClusterState::Stopped { reason }) => {
                let _ = write!(state, ", cluster stopped: {reason}");
            }
            _ => {}
        }
    }
    out.push(format!(
        "{} ({})  {state}",
        status.profile.name, status.profile.driver
    ));
    for group in &status.groups {
        out.push(format!("  {}", route_line(group)));
        for conflict in group.conflicts() {
            out.push(format!("      {conflict}"));
        }
    }
    let stale: Vec<_> = status.stale().map(|lb| &lb.key).collect();
    let names = status
        .load_balancers
        .iter()
        .map(|lb| lb.key.to_string().chars().count());
    let width = names.max().unwrap_or(0);
    for lb in &status.load_balancers {
        out.push(format!(
            "  {:<9} {}",
            "service",
            service_line(lb, width, stale.contains(&&lb.key))
        ));
    }
    for left in &status.left {
        let addresses = left.addresses.join(", ");
        let text = format!(
            "  {:<9} {}  {addresses}  stays in the cluster until its API server can be asked again",
            "service", left.service
        );
        out.push(text);
    }
    for tunnel in &status.minikube_tunnels {
        out.push(format!("  {:<9} {tunnel}", "minikube"));
    }
}

fn route_line(group: &RouteGroup) -> String {
    let routes: Vec<String> = group.routes.iter().map(ToString::to_string).collect();
    let routes = routes.join(", ");
    match &group.state {
        GroupState::Held { .. } => format!("{:<9} {routes} ({})", "route", group.kind),
        GroupState::Free => format!("{:<9} {routes} ({})", "free", group.kind),
        GroupState::Conflicting { .. } => format!("{:<9} {routes} ({})", "conflict", group.kind),
        GroupState::LeftOut { reason } => format!("{:<9} {}: {reason}", "no route", group.kind),
    }
}

fn service_line(lb: &LoadBalancer, width: usize, stale: bool) -> String {
    let ports: Vec<String> = lb.ports.iter().map(ToString::to_string).collect();
    let address = if lb.ingress.is_empty() {
        "-".into()
    } else {
        lb.ingress.join(", ")
    };
    let mut text = format!(
        "{:<width$}  {address}  {}",
        lb.key.to_string(),
        ports.join(", ")
    );
    if stale {
        text.push_str("  stale: a run that died left it; `minitunnel cleanup` withdraws it");
    } else if let Some(pending) = &lb.pending {
        let _ = write!(text, "  {pending}");
    } else if let (Owner::Us, Some(time)) = (&lb.owner, lb.took()) {
        let _ = write!(text, "  ({time})");
    }
    text
}

#[cfg(test)]
mod tests;
