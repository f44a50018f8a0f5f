use std::{collections::HashMap, fmt};

use minitunnel_contract::{WireLease, WireRoute};
use minitunnel_model::{ProfileName, Route, Timestamp};
use zbus::Variant;

use crate::HelperError;

/// Reads routes from the wire; says nothing about whether they are acceptable.
///
/// # Errors
///
/// [`HelperError::InvalidRoute`], naming the first that is no network with a gateway.
pub fn from_wire<T: AsRef<str>>(routes: &[(T, T)]) -> Result<Vec<Route>, HelperError> {
    let read = |(destination, gateway): &(T, T)| {
        minitunnel_contract::from_wire(destination.as_ref(), gateway.as_ref())
            .map_err(HelperError::InvalidRoute)
    };
    routes.iter().map(read).collect()
}

/// The D-Bus interface; [`crate::Client`] is what to use.
#[zbus::proxy(
    interface = "io.github.minitunnel.Helper1",
    default_service = "io.github.minitunnel.Helper",
    default_path = "/io/github/minitunnel/Helper"
)]
pub trait Helper {
    /// Makes `routes` the whole set that the caller holds for `profile`, all or nothing; none releases it.
    fn apply(
        &self,
        profile: &str,
        routes: &[WireRoute],
        options: HashMap<&str, Variant<'_>>,
    ) -> Result<u64, HelperError>;

    /// Removes the caller's routes for `profile`; its consent stays.
    fn release(&self, profile: &str) -> Result<(), HelperError>;

    /// Keeps a set that was applied with `confirm_within`.
    fn confirm(&self, profile: &str, generation: u64) -> Result<(), HelperError>;

    /// Every lease; the profiles of other users are withheld.
    fn list(&self) -> Result<Vec<WireLease>, HelperError>;

    /// Removes routes of ours that have no living owner, and returns them.
    fn cleanup(&self) -> Result<Vec<WireRoute>, HelperError>;

    /// Removes one foreign route that a dead `minikube tunnel` left, named by all that identifies it: destination,
    /// gateway, device, table, metric, protocol.
    fn remove_stale(&self, route: &(&str, &str, &str, u32, u32, u8)) -> Result<(), HelperError>;

    /// The helper's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;

    /// [`crate::PROTOCOL`] of the helper.
    #[zbus(property(emits_changed_signal = "const"))]
    fn protocol(&self) -> zbus::Result<u32>;

    /// The protocol number on our routes in the kernel's table.
    #[zbus(property(emits_changed_signal = "const"))]
    fn route_protocol(&self) -> zbus::Result<u8>;

    /// The receiver's lease ended without its asking.
    #[zbus(signal)]
    fn lease_ended(&self, profile: &str, reason: &str) -> zbus::Result<()>;
}

/// What one client holds for one profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The profile; `None` if it is another user's.
    pub profile: Option<ProfileName>,
    /// The owner's user.
    pub uid: u32,
    /// The owner's process.
    pub pid: u32,
    /// When that process started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub started: u64,
    /// How far it is.
    pub state: LeaseState,
    /// Since when it has this set.
    pub since: Timestamp,
    /// Its routes.
    pub routes: Vec<Route>,
}

/// How far a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Its routes are held.
    Active,
    /// Its routes are held until a confirmation is overdue.
    Unconfirmed,
}

impl LeaseState {
    const ALL: [Self; 2] = [Self::Active, Self::Unconfirmed];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

impl fmt::Display for LeaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<WireLease> for Lease {
    type Error = HelperError;

    fn try_from(wire: WireLease) -> Result<Self, HelperError> {
        let (profile, uid, pid, started, state, since, routes) = wire;
        let odd = |what: &str| {
            HelperError::Incompatible(format!(
                "minitunnel's helper reports a lease with an unknown {what}: install the same version of both"
            ))
        };
        Ok(Self {
            profile: if profile.is_empty() {
                None
            } else {
                Some(profile.parse().map_err(|_| odd("profile name"))?)
            },
            uid,
            pid,
            started,
            state: LeaseState::ALL
                .into_iter()
                .find(|known| known.as_str() == state)
                .ok_or_else(|| odd("state"))?,
            since: Timestamp(since),
            routes: from_wire(&routes)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use zbus::Type;

    use super::*;

    fn wire(profile: &str, state: &str) -> WireLease {
        let route = ("fd00:10:96::/112".to_owned(), "fd00:49::2".to_owned());
        let (profile, state) = (profile.to_owned(), state.to_owned());
        (profile, 1000, 42, 7, state, 9, vec![route])
    }

    #[test]
    fn a_lease_is_read_from_the_wire() {
        let lease = Lease {
            profile: Some("minikube".parse().unwrap()),
            uid: 1000,
            pid: 42,
            started: 7,
            state: LeaseState::Unconfirmed,
            since: Timestamp(9),
            routes: vec![Route {
                destination: "fd00:10:96::/112".parse().unwrap(),
                gateway: "fd00:49::2".parse().unwrap(),
            }],
        };
        assert_eq!(Lease::try_from(wire("minikube", "unconfirmed")), Ok(lease));
        assert_eq!(WireLease::SIGNATURE.to_string(), "(suutsta(ss))");
    }

    #[test]
    fn a_withheld_profile_is_none() {
        let lease = Lease::try_from(wire("", "active")).unwrap();
        assert_eq!(lease.profile, None);
    }

    #[test]
    fn an_unknown_state_is_another_version() {
        let refused = Lease::try_from(wire("", "odd"));
        assert!(matches!(refused, Err(HelperError::Incompatible(_))));
    }
}
