//! What the helper and its callers agree on: the names on the bus, the errors, and the shapes of arguments and answers.
//!
//! `minitunnel-helper-api` has the client; this crate is all of it that the privileged process needs.

use minitunnel_base::{ProfileName, Route};
use minitunnel_kernel::Entry;
use serde::{Deserialize, Serialize};
use zbus::DBusError;

/// The version of the interface: a client and a helper of different ones do not talk.
pub const PROTOCOL: u32 = 1;
/// The well-known name on the system bus.
pub const BUS_NAME: &str = "io.github.minitunnel.Helper";
/// The one object.
pub const OBJECT_PATH: &str = "/io/github/minitunnel/Helper";
/// The polkit action that allows `Apply`, once for a connection.
pub const ACTION_APPLY: &str = "io.github.minitunnel.apply";
/// The polkit action that allows `RemoveStale`, asked every time.
pub const ACTION_REMOVE_STALE: &str = "io.github.minitunnel.remove-stale";
/// The most routes of one lease: a narrow one for each of a large cluster's LoadBalancer services.
pub const ROUTES_PER_LEASE: usize = 1_024;
/// `Apply`'s option: seconds (`u`) within which `Confirm` must arrive.
pub const OPTION_CONFIRM_WITHIN: &str = "confirm_within";

/// What the helper answers instead of what was asked; each begins with a sentence for the user.
#[derive(Clone, Debug, DBusError)]
#[zbus(prefix = "io.github.minitunnel.Helper1.Error")]
pub enum Refusal {
    /// The user or the machine's policy did not allow it, or nobody could be asked.
    NotAuthorized(String),
    /// The user closed the dialog, or the call was withdrawn while it was open.
    Dismissed(String),
    /// A profile name, route or option that is never accepted.
    InvalidRoute(String),
    /// Routes that were asked for overlap existing ones; nothing was changed. With every [`Overlap`], as JSON.
    Conflict(String, String),
    /// A gateway is not on a network of this machine, or is this machine.
    GatewayUnreachable(String),
    /// Another client holds the profile's lease, or there is none of the caller's.
    LeaseHeld(String),
    /// More routes, leases or calls than one may have.
    LimitExceeded(String),
    /// A step failed and everything is as before.
    RolledBack(String),
    /// A step failed, and so did undoing it: the lease has ended.
    RollbackIncomplete(String),
    /// The journal can't be written, so nothing was changed.
    JournalFailed(String),
    /// The kernel refused.
    Kernel(String),
    /// The caller speaks another version of the interface.
    Incompatible(String),
}

/// An overlap of a wanted route with what is there: the facts, which the client explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The route that was wanted.
    pub ours: Route,
    /// What is in the way.
    pub other: Entry,
    /// What it is.
    pub obstacle: Obstacle,
}

/// What is in the way of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// An entry of a table.
    Entry,
    /// The route of another profile of the same user's.
    Profile(ProfileName),
    /// The route of another user.
    OtherUser,
    /// What the kernel would do with a packet, whatever its tables say.
    Detour,
}

/// A route on the wire: destination and gateway.
pub type WireRoute = (String, String);

/// A lease on the wire: profile (empty if withheld), uid, pid, its start time (clock ticks since boot), state, since when
/// (milliseconds since 1970), routes.
pub type WireLease = (String, u32, u32, u64, String, u64, Vec<WireRoute>);

/// Spells routes for the wire.
pub fn to_wire<'a>(routes: impl IntoIterator<Item = &'a Route>) -> Vec<WireRoute> {
    let spell = |route: &Route| (route.destination.to_string(), route.gateway.to_string());
    routes.into_iter().map(spell).collect()
}

/// Reads a route from the wire; says nothing about whether it is acceptable.
///
/// # Errors
///
/// A sentence, for what is no network with a gateway.
pub fn from_wire(destination: &str, gateway: &str) -> Result<Route, String> {
    let (Ok(network), Ok(address)) = (destination.parse(), gateway.parse()) else {
        return Err(format!(
            "\"{}\" via \"{}\" is not a route: give a network such as 10.96.0.0/12 and the IP of a node",
            shown(destination),
            shown(gateway)
        ));
    };
    Ok(Route {
        destination: network,
        gateway: address,
    })
}

/// A hostile text, short and without control characters.
pub fn shown(text: &str) -> String {
    // Longer than any address with a prefix length (43), short enough for a log line.
    text.chars().take(50).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_route_is_named_escaped_and_short() {
        let error = from_wire(&"\x1b[2J".repeat(10_000), "x").unwrap_err();
        assert!(error.len() < 600 && !error.contains('\x1b'), "{error}");
    }
}
