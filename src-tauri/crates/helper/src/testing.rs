//! A routing table and a disk in memory, of which any operation can fail: for the tests of transactions.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use minitunnel_base::{ProfileName, Route};
use minitunnel_kernel::{Entry, Error, Kind, LOCAL_TABLE, MAIN_TABLE, Routes, Rule};

use crate::{
    journal::{Client, Journal, Owner},
    registry::Registry,
    system::System,
    transaction::Change,
};

/// What goes wrong, by the number of the operation on kernel and disk together, counted from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// These fail without effect.
    pub(crate) refused: BTreeSet<usize>,
    /// These take effect, and the answer is lost.
    pub(crate) answer_lost: BTreeSet<usize>,
}

enum Fault {
    None,
    Refused,
    AnswerLost,
}

/// The world of a test; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct World(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    faults: Faults,
    operations: usize,
    entries: Vec<Entry>,
    /// Appears as soon as the next route is added, as another program's would.
    intruder: Option<Entry>,
    disk: Option<Journal>,
}

/// The device of the cluster's network, 192.168.49.0/24, in which this machine is .1.
const CLUSTER_LINK: u32 = 2;

impl World {
    /// A machine with a default route, and a cluster's network.
    pub(crate) fn new() -> Self {
        let world = Self::default();
        for (net, gateway, protocol) in [
            ("0.0.0.0/0", Some("192.168.1.1"), 16),
            ("192.168.1.0/24", None, 2),
            ("192.168.49.0/24", None, 2),
        ] {
            world.inner().entries.push(Entry {
                gateway: gateway.map(|gateway| gateway.parse().unwrap()),
                protocol,
                link: if net.contains("49") { CLUSTER_LINK } else { 1 },
                ..entry(net)
            });
        }
        world.inner().entries.push(Entry {
            table: LOCAL_TABLE,
            kind: Kind::Local,
            link: CLUSTER_LINK,
            protocol: 2,
            ..entry("192.168.49.1/32")
        });
        world
    }

    /// A helper that has begun to serve, of whose owners `:1.1` lives.
    pub(crate) fn registry(&self) -> Registry<World> {
        self.recovered(&[owner(":1.1")])
    }

    /// A helper that has begun to serve.
    pub(crate) fn recovered(&self, alive: &[Owner]) -> Registry<World> {
        let journal = self.disk().unwrap_or_default();
        Registry::recover(self.clone(), journal, &alive.iter().cloned().collect())
    }

    /// From the next operation on, these faults.
    pub(crate) fn fail(&self, faults: Faults) {
        let mut inner = self.inner();
        inner.faults = faults;
        inner.operations = 0;
    }

    /// The number of operations since [`World::fail`].
    pub(crate) fn operations(&self) -> usize {
        self.inner().operations
    }

    pub(crate) fn disk(&self) -> Option<Journal> {
        self.inner().disk.clone()
    }

    pub(crate) fn ours(&self) -> BTreeSet<Route> {
        self.inner()
            .entries
            .iter()
            .filter_map(Entry::our_route)
            .collect()
    }

    pub(crate) fn foreign(&self) -> Vec<Entry> {
        let inner = self.inner();
        let foreign = inner
            .entries
            .iter()
            .filter(|entry| entry.our_route().is_none());
        foreign.copied().collect()
    }

    pub(crate) fn insert(&self, entry: Entry) {
        self.inner().entries.push(entry);
    }

    pub(crate) fn intrude(&self, entry: Entry) {
        self.inner().intruder = Some(entry);
    }

    /// Another program deletes a route of ours.
    pub(crate) fn lose(&self, route: &Route) {
        self.inner()
            .entries
            .retain(|entry| entry.our_route() != Some(*route));
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    /// The fault of the next operation.
    fn fault(&mut self) -> Fault {
        let number = self.operations;
        self.operations += 1;
        if self.faults.refused.contains(&number) {
            Fault::Refused
        } else if self.faults.answer_lost.contains(&number) {
            Fault::AnswerLost
        } else {
            Fault::None
        }
    }

    fn lookup(&self, to: IpAddr) -> Entry {
        let best = self
            .entries
            .iter()
            .filter(|entry| entry.destination.contains(&to))
            // The table of this machine's own addresses is asked first.
            .max_by_key(|entry| (entry.table == LOCAL_TABLE, entry.destination.prefix_len()))
            .unwrap();
        Entry {
            destination: to.into(),
            ..*best
        }
    }

    fn add(&mut self, route: &Route) -> Result<(), Error> {
        self.entries.extend(self.intruder.take());
        let taken = |entry: &Entry| entry.destination == route.destination && entry.metric == 0;
        if self.entries.iter().any(taken) {
            return Err(Error::Exists(*route));
        }
        self.entries.push(Entry {
            link: CLUSTER_LINK,
            ..Entry::ours(route)
        });
        Ok(())
    }

    /// Does it, unless this operation's fault is that it fails.
    fn or_fail<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        match self.fault() {
            Fault::None => act(self),
            Fault::Refused => Err(lost()),
            Fault::AnswerLost => act(self).and(Err(lost())),
        }
    }
}

fn lost() -> Error {
    Error::Open(io::ErrorKind::TimedOut.into())
}

impl System for World {
    fn routes(&self) -> Result<Routes, Error> {
        self.inner().or_fail(|inner| {
            let mut entries = inner.entries.clone();
            entries.sort_unstable();
            let rule = |table| Rule {
                ipv6: false,
                table: Some(table),
                part: None,
                whole: true,
            };
            Ok(Routes {
                entries,
                rules: [LOCAL_TABLE, MAIN_TABLE, 253].map(rule).into(),
            })
        })
    }

    fn lookup(&self, to: IpAddr, _uid: u32) -> Result<Entry, Error> {
        self.inner().or_fail(|inner| Ok(inner.lookup(to)))
    }

    fn add(&self, route: &Route) -> Result<(), Error> {
        self.inner().or_fail(|inner| inner.add(route))
    }

    /// Each route is an operation of its own.
    fn remove(&self, routes: &BTreeSet<Route>) -> Result<(), Error> {
        let gone = |entry: &Entry, route| entry.our_route() == Some(route);
        routes.iter().try_for_each(|route| {
            self.inner().or_fail(|inner| {
                inner.entries.retain(|entry| !gone(entry, *route));
                Ok(())
            })
        })
    }

    fn save(&self, journal: &Journal) -> io::Result<()> {
        let mut inner = self.inner();
        match inner.fault() {
            // A rename either happened or did not: there is no answer to lose.
            Fault::Refused | Fault::AnswerLost => Err(io::Error::other("the disk is full")),
            Fault::None => {
                inner.disk = Some(journal.clone());
                Ok(())
            }
        }
    }
}

/// A unicast entry of the main table without a gateway.
pub(crate) fn entry(destination: &str) -> Entry {
    Entry {
        destination: destination.parse().unwrap(),
        table: MAIN_TABLE,
        metric: 0,
        hop: 0,
        special: false,
        kind: Kind::Unicast,
        protocol: 4,
        gateway: None,
        link: 1,
    }
}

/// A route through the cluster's node 192.168.49.2, or through the one whose last byte follows an `@`.
pub(crate) fn route(text: &str) -> Route {
    let (destination, node) = text.split_once('@').unwrap_or((text, "2"));
    Route {
        destination: destination.parse().unwrap(),
        gateway: format!("192.168.49.{node}").parse().unwrap(),
    }
}

pub(crate) fn routes(destinations: &[&str]) -> BTreeSet<Route> {
    destinations.iter().map(|net| route(net)).collect()
}

pub(crate) fn owner(name: &str) -> Owner {
    Owner::Bus {
        bus: "bus".to_owned(),
        name: name.to_owned(),
    }
}

pub(crate) fn client(name: &str, uid: u32) -> Client {
    Client {
        owner: owner(name),
        uid,
        pid: 42,
        started: 7,
    }
}

pub(crate) fn profile(name: &str) -> ProfileName {
    name.parse().unwrap()
}

/// The change that makes `destinations` the set of user 1000's client `:1.1` for the profile `minikube`.
pub(crate) fn change(destinations: &[&str]) -> Change {
    Change {
        client: client(":1.1", 1000),
        profile: profile("minikube"),
        after: routes(destinations),
        trial: None,
    }
}
