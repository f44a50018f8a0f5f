//! Other sessions: of another user, or for another minikube home, on a cluster that we know too.
//!
//! All of them set addresses under the one field manager. As long as another one has routes to a cluster, the addresses
//! there are its own, and no dead run's. A route may be gone for a moment, and that of a dead session may be there for a
//! while: who lives has to be asked, and until the answer nothing is taken from anybody.

use std::{collections::BTreeSet, net::IpAddr};

use minitunnel_model::Route;
use minitunnel_routing::Table;

use super::{Effect, Others, State, tunnel::Tunnel};

/// Whose the addresses are that a cluster's services have under our field manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// It is not known yet.
    Unknown,
    /// Our own, or those of a dead run.
    Ours,
    /// Another session's, which lives.
    Anothers,
}

/// The routes that our tunnels have made, or are about to make.
pub(super) fn made(state: &State) -> BTreeSet<Route> {
    let tunnels = state.tunnels.values();
    let held = tunnels.clone().flat_map(|tunnel| &tunnel.held);
    // One that was there when we asked for it is not ours by that.
    let applying = tunnels
        .flat_map(|tunnel| tunnel.applying.iter().flatten())
        .filter(|route| !state.strangers.contains(*route));
    let made = state.made.iter().chain(&state.tried);
    let made = made.chain(held).chain(applying);
    made.copied().collect()
}

/// Looks for routes with our tag that are not among those that we have `made`.
pub(super) fn notice(
    state: &mut State,
    table: &Table,
    mut made: BTreeSet<Route>,
    effects: &mut Vec<Effect>,
) {
    // What we made stays ours when the helper that held it is dead, until it is gone.
    let tagged: BTreeSet<Route> = table.ours().collect();
    let tried = std::mem::take(&mut state.tried);
    made.retain(|route| tagged.contains(route) && !tried.contains(route));
    let strangers: BTreeSet<Route> = tagged.difference(&made).copied().collect();
    state.made = made;
    let changed = strangers != state.strangers;
    state.strangers = strangers;
    if changed || state.table.is_none() {
        ask(state, effects);
    }
}

/// Asks anew who lives; an answer that is on its way counts no more.
pub(super) fn ask(state: &mut State, effects: &mut Vec<Effect>) {
    state.turns += 1;
    state.others = None;
    state.looking_for_others = state.turns;
    effects.push(Effect::LookForSessions(state.turns));
}

/// Marks the tunnels whose clusters another session serves.
pub(super) fn mark(state: &mut State) {
    let gateways = |routes: &BTreeSet<Route>| -> BTreeSet<IpAddr> {
        routes.iter().map(|route| route.gateway).collect()
    };
    let strangers = gateways(&state.strangers);
    let leased = match &state.others {
        Some(Others::Leases(routes)) => gateways(routes),
        _ => BTreeSet::new(),
    };
    for tunnel in state.tunnels.values_mut() {
        let lead = |to: &BTreeSet<IpAddr>| leads(tunnel, to);
        tunnel.whose = match &state.others {
            _ if !tunnel.held.is_empty() => Whose::Ours,
            Some(Others::Leases(_)) if lead(&leased) => Whose::Anothers,
            None | Some(Others::Run(true)) if lead(&strangers) => Whose::Anothers,
            // Its route may be gone for a moment alone.
            Some(Others::Run(true)) if tunnel.whose == Whose::Anothers => Whose::Anothers,
            None => tunnel.whose,
            Some(Others::Leases(_) | Others::Run(_)) => Whose::Ours,
        };
    }
}

/// Whether one of these gateways is a node of the tunnel's cluster.
fn leads(tunnel: &Tunnel, gateways: &BTreeSet<IpAddr>) -> bool {
    let mut nodes = tunnel.profile.nodes.iter().flat_map(|node| &node.ips);
    nodes.any(|ip| gateways.contains(ip))
}
