//! Asking the helper for routes, and what its answers mean.

use minitunnel_model::{FailureCause, HelperStatus, ProfileName, Route, TargetState, Timestamp};

use super::{ApplyFailure, Effect, State, routes, tunnel};

/// The user's consent to routes, which the helper keeps for our connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Consent {
    /// Unknown: a call that asks nobody finds out whether the helper remembers one.
    Unknown,
    /// Needed, and nobody has asked for it.
    Needed,
    /// The dialog is open, for the apply of this profile.
    Asking(ProfileName),
    /// Given.
    Granted,
}

/// Asks for what a tunnel should hold, if that is not what it holds.
pub(super) fn apply(
    state: &mut State,
    name: &ProfileName,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    let Some(tunnel) = state.tunnels.get_mut(name) else {
        return;
    };
    if !state.scope.acts {
        return;
    }
    let wanted = routes::desired(tunnel);
    if tunnel.applying.is_some() {
        // Nobody should consent to what nobody wants any more.
        let asking = matches!(&state.consent, Consent::Asking(of) if of == name);
        if asking && wanted.is_empty() && !std::mem::replace(&mut tunnel.dismissing, true) {
            effects.push(Effect::Dismiss(name.clone()));
        }
        return;
    }
    if wanted == tunnel.held && tunnel.confirmed {
        // What was asked for is there, or needs no consent: a dialog that comes later would be one that nobody asked for.
        if !wanted.is_empty() || state.consent == Consent::Granted {
            tunnel.asked = false;
        }
        return;
    }
    if tunnel.rest_until.is_some_and(|at| at > now) {
        return;
    }
    let mut interactive = false;
    if !wanted.is_empty() {
        match &state.consent {
            Consent::Granted => {}
            // Somebody's dialog is open: its answer is for all.
            Consent::Asking(_) => return,
            Consent::Unknown | Consent::Needed if tunnel.asked => {
                interactive = true;
                tunnel.asked = false;
                state.consent = Consent::Asking(name.clone());
            }
            // A helper that was restarted remembers; asking it bothers nobody.
            Consent::Unknown => {}
            Consent::Needed => return,
        }
    }
    tunnel.applying = Some(wanted.clone());
    effects.push(Effect::Apply {
        profile: name.clone(),
        routes: wanted,
        interactive,
    });
}

/// The helper has answered.
pub(super) fn applied(
    state: &mut State,
    now: Timestamp,
    name: &ProfileName,
    routes: Vec<Route>,
    result: Result<(), ApplyFailure>,
    effects: &mut Vec<Effect>,
) {
    let asked = matches!(&state.consent, Consent::Asking(of) if of == name);
    if asked {
        state.consent = Consent::Unknown;
    }
    let Some(tunnel) = state.tunnels.get_mut(name) else {
        return;
    };
    let dismissed = tunnel.dismissing;
    tunnel.answered();
    match result {
        Ok(()) => {
            let granted = !routes.is_empty();
            tunnel.hold(routes);
            if granted {
                // One consent is for all: whoever waits for it has it.
                state.consent = Consent::Granted;
                state
                    .tunnels
                    .values_mut()
                    .for_each(|tunnel| tunnel.asked = false);
            }
        }
        // The dialog that we closed ourselves has had no answer.
        Err(ApplyFailure::NotAuthorized(_)) if dismissed => {
            tunnel.asked = asked && tunnel.target == TargetState::Up;
        }
        Err(ApplyFailure::NotAuthorized(message)) => {
            if !matches!(state.consent, Consent::Asking(_)) {
                state.consent = Consent::Needed;
            }
            // One answer for all who asked, as a second dialog would ask what was just answered.
            if asked && tunnel.target == TargetState::Up {
                let cause = FailureCause::NotAuthorized { message };
                tunnel.fail(cause.clone(), None);
                for waiting in state.tunnels.values_mut().filter(|tunnel| tunnel.asked) {
                    waiting.fail(cause.clone(), None);
                }
            }
        }
        Err(ApplyFailure::Conflict(conflicts)) => {
            // Those that are there at the next look are another's; the others were there for the time of the try.
            let tried = routes.into_iter();
            let tried: Vec<_> = tried.filter(|route| !tunnel.held.contains(route)).collect();
            state.made.retain(|route| !tried.contains(route));
            state.tried.extend(tried);
            // It names the first that it meets; the others are still refused when the next try meets another.
            let new = conflicts.into_iter();
            let new: Vec<_> = new
                .filter(|found| !tunnel.refused.contains(found))
                .collect();
            tunnel.refused.extend(new);
            // The groups that are free are asked for next.
            let wait = tunnel.next_pause();
            tunnel.rest(now + wait);
        }
        Err(ApplyFailure::Missing(message)) => {
            // One that was there comes back with its bus; one that never was is for the user to install.
            let retry_at = state.helper_seen.then(|| now + tunnel::RETRY);
            state.helper = HelperStatus::Missing {
                message: message.clone(),
            };
            // What it held ended with our connection to it, or is rolled back when it starts.
            tunnel.hold(Vec::new());
            tunnel.fail(FailureCause::HelperMissing { message }, retry_at);
        }
        Err(ApplyFailure::Gone) => {
            tunnel.doubt();
            tunnel.rest(now + tunnel::SHORT_RETRY);
        }
        Err(ApplyFailure::Refused(message)) => tunnel.refused_by_helper(message, now),
        Err(ApplyFailure::Unsure(message)) => {
            tunnel.doubt();
            tunnel.refused_by_helper(message, now);
        }
    }
    // Whatever the answer, the kernel's own word is newer than our picture.
    state.dumps += 1;
    effects.push(Effect::Dump(state.dumps));
    routes::plan_all(state);
}
