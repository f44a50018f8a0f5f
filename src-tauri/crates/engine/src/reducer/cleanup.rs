//! A clean-up's report.

use minitunnel_model::{CleanupItem, CleanupReport, Reach};

use super::{
    State, is_complete, leftovers, services,
    tunnel::{Health, Tunnel},
};

/// What there is to clean up but for our routes, or what came of it: the addresses that dead runs left, and what the user
/// chose.
///
/// `None` while an API server has not been heard of, or a withdrawal is on its way, as long as the caller is patient; and
/// while the user is asked for consent.
pub fn clean_up(
    state: &mut State,
    dry_run: bool,
    chosen: &[CleanupItem],
    patient: bool,
) -> Option<CleanupReport> {
    let unsettled = |tunnel: &Tunnel| {
        // A withdrawal that the watch has told is not answered yet.
        let withdrawing = services::any_to_withdraw(tunnel) || services::any_on_its_way(tunnel);
        let asking = tunnel.health == Health::Unknown;
        tunnel.watch.is_some() && (asking || withdrawing && !dry_run)
    };
    let unread = !is_complete(state);
    if patient && (unread || state.tunnels.values().any(unsettled))
        || leftovers::are_on_their_way(state, chosen, patient)
    {
        return None;
    }
    let mut report = CleanupReport {
        dry_run,
        ..CleanupReport::default()
    };
    if !dry_run {
        report.removed = std::mem::take(&mut state.cleaned);
    }
    for (name, tunnel) in &state.tunnels {
        let left = services::stale(name, tunnel);
        if dry_run {
            report.removed.extend(left.map(|(item, _)| item));
        } else {
            report.failed.extend(left);
        }
        let followed = state.scope.covers(name) && tunnel.files.kubernetes;
        let reachable = matches!(tunnel.profile.reach, Reach::Routed | Reach::Local);
        if followed && reachable && tunnel.health != Health::Up {
            report.unasked.push(name.clone());
        }
    }
    for (item, result) in leftovers::settle(state, chosen) {
        match result {
            Ok(()) => report.removed.push(item),
            Err(why) => report.failed.push((item, why)),
        }
    }
    report.leftovers = leftovers::all(state);
    report.leftovers.retain(|item| !chosen.contains(item));
    Some(report)
}
