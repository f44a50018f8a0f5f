use std::{collections::BTreeSet, io, net::IpAddr};

use minitunnel_base::Route;
use minitunnel_kernel::{self as kernel, Entry, Error, Routes};

use crate::journal::Journal;

/// All that a transaction does to the world outside: to the kernel, unless somebody says otherwise, and to a disk.
///
/// A trait, so that the tests can put a table and a disk in memory in its place, and let any step fail.
pub(crate) trait System: Send {
    /// Replaces the journal, all or nothing.
    fn save(&self, journal: &Journal) -> io::Result<()>;

    /// Reads every routing table.
    fn routes(&self) -> Result<Routes, Error> {
        kernel::routes()
    }

    /// Asks the way of a user's packet.
    fn lookup(&self, to: IpAddr, uid: u32) -> Result<Entry, Error> {
        kernel::lookup(to, uid)
    }

    /// Adds a route of ours, where there is none to its destination.
    fn add(&self, route: &Route) -> Result<(), Error> {
        kernel::add(route)
    }

    /// Removes exactly these routes of ours, as far as they are there.
    fn remove(&self, routes: &BTreeSet<Route>) -> Result<(), Error> {
        if routes.is_empty() {
            return Ok(());
        }
        kernel::remove(|entry| entry.our_route().is_some_and(|ours| routes.contains(&ours)))
    }
}
