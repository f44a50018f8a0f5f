use std::{collections::BTreeSet, io::Write as _, time::SystemTime};

use minitunnel_base::{ProfileName, Route};
use serde::{Deserialize, Serialize};

/// The version of the journal's format; another one is put aside, and its routes are removed.
pub(crate) const VERSION: u32 = 4;

/// What is held, for whom: the registry of the helper that runs, and all that the next one knows of a dead one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(crate) version: u32,
    /// The last one that was given to a set of routes.
    pub(crate) generation: u64,
    pub(crate) records: Vec<Record>,
    /// What a change that is under way, or was cut short, puts into its predecessor's place: any route of both may be in
    /// the kernel.
    pub(crate) applying: Option<Record>,
    /// Who may apply without being asked again.
    pub(crate) grants: BTreeSet<Owner>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            version: VERSION,
            generation: 0,
            records: Vec::new(),
            applying: None,
            grants: BTreeSet::new(),
        }
    }
}

/// Whose life a lease hangs on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "via", rename_all = "snake_case")]
pub(crate) enum Owner {
    /// A connection to the message bus of that id, by its unique name, which is never used again there.
    Bus { bus: String, name: String },
    /// The other end of the one socket of a helper that serves a peer. It never outlives that helper.
    Peer,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Client {
    pub(crate) owner: Owner,
    pub(crate) uid: u32,
    pub(crate) pid: u32,
    /// Start time of that process in clock ticks since boot; 0 where it can't be read.
    pub(crate) started: u64,
}

impl Client {
    /// Writes a line to the system's log, without a profile: the log's readers may be other users. A peer's standard
    /// error is its user's terminal, where the command tells as much. Unlike `eprintln!`, it does not panic where nobody
    /// reads any more: that must cut no transaction short.
    pub(crate) fn log(&self, text: &str) {
        let (pid, uid) = (self.pid, self.uid);
        let line = format!("minitunnel-helper: process {pid} of user {uid}: {text}\n");
        if self.owner != Owner::Peer {
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

/// What one client holds for one profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) client: Client,
    pub(crate) profile: ProfileName,
    pub(crate) generation: u64,
    pub(crate) since: SystemTime,
    pub(crate) routes: BTreeSet<Route>,
    /// What comes back unless the routes are confirmed.
    pub(crate) guard: Option<Guard>,
}

/// The condition of a set that was applied on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Guard {
    /// The last set that needed no confirmation, or had it.
    pub(crate) before: BTreeSet<Route>,
    /// When it comes back.
    pub(crate) until: SystemTime,
}

impl Record {
    pub(crate) fn is_of(&self, owner: &Owner, profile: &ProfileName) -> bool {
        self.client.owner == *owner && self.profile == *profile
    }
}

impl Journal {
    /// The record of one client for one profile.
    pub(crate) fn record(&self, owner: &Owner, profile: &ProfileName) -> Option<&Record> {
        let mut records = self.records.iter();
        records.find(|record| record.is_of(owner, profile))
    }

    /// Puts a record in its predecessor's place; one without routes is none.
    pub(crate) fn put(&mut self, record: Record) {
        self.records
            .retain(|old| !old.is_of(&record.client.owner, &record.profile));
        if !record.routes.is_empty() {
            self.records.push(record);
        }
    }

    /// Every route of ours that may be in the kernel for whom `which` picks.
    pub(crate) fn possible(&self, which: impl Fn(&Record) -> bool) -> BTreeSet<Route> {
        let records = self.records.iter().chain(&self.applying);
        let picked = records.filter(|record| which(record));
        picked.flat_map(|record| record.routes.clone()).collect()
    }

    /// When the next guarded set ends.
    pub(crate) fn next_end(&self) -> Option<SystemTime> {
        let guards = self
            .records
            .iter()
            .filter_map(|record| record.guard.as_ref());
        guards.map(|guard| guard.until).min()
    }

    /// Whether nobody lives for whom the helper has to stay.
    pub(crate) fn is_idle(&self) -> bool {
        self.records.is_empty() && self.grants.is_empty()
    }
}
