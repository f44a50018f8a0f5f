//! SIGKILL at every effect of the helper and of its client: afterwards the tables are exactly the ones before, or exactly
//! the ones wanted, and nobody else's route is touched.
//!
//! No clean run is counted first: a test kills at the first point, the second, and so on, until a run ends before its point
//! comes. What the run prints says at how many points it killed.

mod bus;
mod client;
mod journal;
mod peer;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::anyhow;
use minitunnel_e2e::{Effect, Ground, Point, Result};

/// A set of routes: destination and gateway.
type Set = &'static [(&'static str, &'static str)];

const PROFILE: &str = "minikube";
/// The calls that replace a journal: open a new file, write it, have it on the disk, put it in the old one's place.
const WRITE: usize = 4;
/// What is applied first.
const FIRST: Set = &[
    ("10.96.0.0/12", "192.168.49.2"),
    ("10.244.0.0/24", "192.168.49.2"),
    ("fd00:10:96::/112", "fd00:49::2"),
    ("fd00:10:244::/64", "fd00:49::2"),
];
/// What follows it, in both families: a route stays, one goes, one comes, one moves to another gateway.
const SECOND: Set = &[
    ("10.96.0.0/12", "192.168.49.3"),
    ("10.244.1.0/24", "192.168.49.3"),
    ("fd00:10:96::/112", "fd00:49::3"),
    ("fd00:10:244::/64", "fd00:49::2"),
    ("fd00:10:245::/64", "fd00:49::3"),
];

/// The points at which one test killed.
struct Tally {
    what: &'static str,
    points: BTreeMap<Point, usize>,
}

impl Tally {
    fn new(what: &'static str) -> Self {
        let points = BTreeMap::new();
        Self { what, points }
    }

    fn add(&mut self, point: Point) {
        *self.points.entry(point).or_default() += 1;
    }

    fn of(&self, effect: Effect) -> usize {
        let points = self.points.iter();
        points
            .filter(|(point, _)| point.effect == effect)
            .map(|(_, count)| count)
            .sum()
    }

    fn total(&self) -> usize {
        self.points.values().sum()
    }

    /// Says how many there were, which must be as many as the contract alone makes: that many changes of files and requests
    /// by netlink, each with a point before and one after. Not by `println!`, which the test's runner keeps to itself; `tests/run` adds them up.
    fn tell(&self, files: usize, netlink: usize) -> Result {
        assert!(self.of(Effect::File) >= 2 * files, "{:?}", self.points);
        assert!(self.of(Effect::Netlink) >= 2 * netlink, "{:?}", self.points);
        let total = self.total();
        writeln!(
            std::io::stderr(),
            "killed at {total} points: {} ({} of files, {} of netlink, {} of other sockets)",
            self.what,
            self.of(Effect::File),
            self.of(Effect::Netlink),
            self.of(Effect::Message),
        )?;
        Ok(())
    }
}

/// What is killed at each of its points.
struct Case<C> {
    what: &'static str,
    case: C,
    next: AtomicUsize,
    /// The first point that no run comes to.
    end: AtomicUsize,
    tally: Mutex<Tally>,
}

impl<C> Case<C> {
    fn new(what: &'static str, case: C) -> Self {
        Self {
            what,
            case,
            next: AtomicUsize::new(0),
            end: AtomicUsize::new(usize::MAX),
            tally: Mutex::new(Tally::new(what)),
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next point that nobody has tried, while there may be one.
    fn next(&self) -> Option<usize> {
        let nth = self.next.fetch_add(1, Ordering::SeqCst);
        (nth < self.end.load(Ordering::SeqCst)).then_some(nth)
    }
}

/// Kills at the first point, the second, and so on of each case, in so many labs at once: `run` has one kill in a lab of its
/// own, and says where that was, if the run came so far.
fn in_labs<B, C: Sync>(
    labs: usize,
    cases: &[Case<C>],
    lab: impl AsyncFn() -> Result<B> + Sync,
    run: impl AsyncFn(&B, &Case<C>, usize) -> Result<Option<Point>> + Sync,
) -> Result {
    let one = || -> Result {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let bench = lab().await?;
            for case in cases {
                while let Some(nth) = case.next() {
                    match run(&bench, case, nth).await? {
                        Some(point) => case.tally().add(point),
                        None => drop(case.end.fetch_min(nth, Ordering::SeqCst)),
                    }
                }
            }
            Ok(())
        })
    };
    thread::scope(|scope| {
        let labs: Vec<_> = (0..labs).map(|_| scope.spawn(one)).collect();
        for lab in labs {
            lab.join()
                .map_err(|_| anyhow!("a lab's thread panicked"))??;
        }
        Ok(())
    })
}

/// A set as lines of ip(8), each with this verb before and these words behind it.
fn lines<'a>(sets: impl IntoIterator<Item = &'a Set>, verb: &str, words: &str) -> String {
    let routes = sets.into_iter().copied().flatten();
    routes
        .map(|(to, via)| format!("route {verb} {to} via {via} dev cluster {words}\n"))
        .collect()
}

/// Whether a line of a table is a route with our tag.
fn is_ours(line: &str) -> bool {
    line.contains(r#""protocol":"109""#)
}

/// Whether the helper's routes in a table are exactly these.
fn holds(table: &[String], set: Set) -> bool {
    let ours = table.iter().filter(|line| is_ours(line));
    is(&ours.map(|line| route(line)).collect::<Vec<_>>(), set)
}

/// Whether these destinations and gateways are exactly a set's, in any order.
fn is(found: &[(String, String)], set: Set) -> bool {
    let mut found: Vec<(&str, &str)> = found
        .iter()
        .map(|(to, via)| (to.as_str(), via.as_str()))
        .collect();
    let mut wanted = set.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    found == wanted
}

/// Destination and gateway of a table's line.
fn route(line: &str) -> (String, String) {
    let field = |name: &str| {
        let (_, rest) = line
            .split_once(&format!(r#""{name}":""#))
            .unwrap_or_default();
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    (field("dst"), field("gateway"))
}

/// The lines of a table that are not ours.
fn foreign(table: &[String]) -> Vec<&String> {
    table.iter().filter(|line| !is_ours(line)).collect()
}

/// Routes of others that only a careless delete would take for ours, added wherever the kernel lets them be.
struct Twins {
    lines: Vec<String>,
}

impl Twins {
    /// In a table that no rule reaches, so that they are in nobody's way.
    fn aside(ground: &Ground) -> Result {
        ground.ip_each(&lines([&FIRST, &SECOND], "add", "table 500 proto static"))
    }

    /// Beside ours in the main table: with another metric, and, where ours is not there, in its very place.
    fn beside(ground: &Ground, killed: &[String]) -> Result<Self> {
        ground.ip_each(&Self::all("add"))?;
        let now = ground.table()?;
        let lines: Vec<String> = now
            .iter()
            .filter(|line| !killed.contains(line))
            .cloned()
            .collect();
        assert_eq!(
            now.len(),
            killed.len() + lines.len(),
            "a twin took a route's place"
        );
        Ok(Self { lines })
    }

    fn all(verb: &str) -> String {
        let words = ["metric 7777 proto static", "proto static"];
        words
            .map(|words| lines([&FIRST, &SECOND], verb, words))
            .concat()
    }

    /// They are there, and the rest is as before.
    fn untouched(self, ground: &Ground, before: &[String], when: &str) -> Result {
        let mut wanted = before.to_vec();
        wanted.extend(self.lines);
        wanted.sort();
        assert_eq!(ground.table()?, wanted, "{when}");
        ground.ip_each(&Self::all("del"))?;
        assert_eq!(ground.table()?, before, "{when}: the twins are gone again");
        Ok(())
    }
}
