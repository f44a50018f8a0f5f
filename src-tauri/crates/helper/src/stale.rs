//! The one foreign route that is ever removed: what a dead `minikube tunnel` left, after the user was asked for it.

use minitunnel_contract::Refusal;
use minitunnel_kernel::{self as kernel, Entry};
use serde::Deserialize;
use zbus::Type;

use crate::{transaction, validate};

/// `RTPROT_BOOT`: how `ip route add` marks a route. An administrator's (`RTPROT_STATIC`) or another program's is never
/// removed here.
const BOOT: u8 = 3;

/// A route as the caller names it.
#[derive(Clone, Copy, Debug, Deserialize, Type)]
pub(crate) struct Stale<'a> {
    pub(crate) destination: &'a str,
    pub(crate) gateway: &'a str,
    pub(crate) device: &'a str,
    pub(crate) table: u32,
    pub(crate) metric: u32,
    pub(crate) protocol: u8,
}

impl Stale<'_> {
    /// The entry of that name, but for its device, if it is of the form in which `minikube tunnel` makes routes.
    fn read(&self) -> Result<Entry, Refusal> {
        let routes = validate::routes(&[(self.destination, self.gateway)])?;
        let named = (self.table, self.metric, self.protocol);
        let usual = routes.first().map(Entry::ours);
        match usual.filter(|usual| (usual.table, usual.metric, BOOT) == named) {
            Some(usual) => Ok(Entry {
                protocol: BOOT,
                ..usual
            }),
            None => Err(Refusal::InvalidRoute(
                "this is no route as `minikube tunnel` makes it: remove it where it was set"
                    .to_owned(),
            )),
        }
    }

    /// Exactly that route, if it is there.
    pub(crate) fn find(&self) -> Result<Entry, Refusal> {
        let mut entry = self.read()?;
        entry.link = kernel::link_index(self.device).unwrap_or_default();
        let table = kernel::routes().map_err(|error| transaction::kernel(&error))?;
        if entry.link == 0 || !table.entries.contains(&entry) {
            return Err(Refusal::InvalidRoute(format!(
                "the route to {} is not there, or is not as it was named: look again",
                entry.destination
            )));
        }
        Ok(entry)
    }

    /// Removes it.
    pub(crate) fn remove(&self) -> Result<(), Refusal> {
        let entry = self.find()?;
        kernel::remove(|other| *other == entry).map_err(|error| transaction::kernel(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_read(destination: &str, gateway: &str, table: u32, metric: u32, protocol: u8) -> bool {
        let stale = Stale {
            destination,
            gateway,
            device: "eth0",
            table,
            metric,
            protocol,
        };
        stale.read().is_ok()
    }

    #[test]
    fn only_routes_as_ip_route_add_makes_them_are_taken() {
        let taken = |table, metric, protocol| {
            is_read("10.96.0.0/12", "192.168.49.2", table, metric, protocol)
        };
        assert!(taken(254, 0, 3));
        for protocol in [0, 2, 4, 9, 11, 16, 109, 186] {
            assert!(!taken(254, 0, protocol));
        }
        assert!(!taken(255, 0, 3));
        assert!(!taken(254, 7, 3));
        assert!(is_read("fd00:10:96::/112", "fd00:49::2", 254, 1024, 3));
        assert!(!is_read("fd00:10:96::/112", "fd00:49::2", 254, 0, 3));
        assert!(!is_read("10.96.0.0/12", "", 254, 0, 3));
        for destination in ["0.0.0.0/0", "8.8.8.0/24", "10.96.0.1/12", "127.0.0.0/8"] {
            assert!(
                !is_read(destination, "192.168.49.2", 254, 0, 3),
                "{destination}"
            );
        }
    }
}
