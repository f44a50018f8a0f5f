use std::{collections::BTreeSet, io, net::IpAddr};

use minitunnel_base::Route;
use minitunnel_kernel::{self as kernel, Entry, Error, Routes};

use crate::{journal::Journal, store::StateDir};

/// All that a transaction does to the world outside.
///
/// A trait, so that the tests can put a table and a disk in memory in its place, and let any step fail.
pub(crate) trait System: Send {
    /// Reads every routing table.
    fn routes(&self) -> Result<Routes, Error>;
    /// Asks the way of a user's packet (`minitunnel_kernel::lookup`).
    fn lookup(&self, to: IpAddr, uid: u32) -> Result<Entry, Error>;
    /// Adds a route of ours, where there is none to its destination.
    fn add(&self, route: &Route) -> Result<(), Error>;
    /// Removes exactly these routes of ours, as far as they are there.
    fn remove(&self, routes: &BTreeSet<Route>) -> Result<(), Error>;
    /// Replaces the journal, all or nothing.
    fn save(&self, journal: &Journal) -> io::Result<()>;
}

impl System for StateDir {
    fn routes(&self) -> Result<Routes, Error> {
        kernel::routes()
    }

    fn lookup(&self, to: IpAddr, uid: u32) -> Result<Entry, Error> {
        kernel::lookup(to, uid)
    }

    fn add(&self, route: &Route) -> Result<(), Error> {
        kernel::add(route)
    }

    fn remove(&self, routes: &BTreeSet<Route>) -> Result<(), Error> {
        let ours = |entry: &Entry| {
            entry
                .our_route()
                .is_some_and(|route| routes.contains(&route))
        };
        if routes.is_empty() {
            Ok(())
        } else {
            kernel::remove(ours)
        }
    }

    fn save(&self, journal: &Journal) -> io::Result<()> {
        self.write(journal)
    }
}
