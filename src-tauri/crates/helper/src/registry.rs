use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use minitunnel_base::{ProfileName, Route};
use minitunnel_contract::{Refusal, WireLease, to_wire};

use crate::{
    journal::{Client, Journal, Owner, Record},
    system::System,
    transaction::{Change, kernel, sentence},
    validate::{LEASES_PER_USER, ROUTES_PER_USER},
};

/// The registry of leases, with the kernel's table under it. Everything that changes either goes through here, one
/// after the other.
#[derive(Debug)]
pub(crate) struct Registry<S> {
    pub(crate) system: S,
    pub(crate) journal: Journal,
    /// The kernel did not remove what has to go. This process ends, and the next one tries again.
    pub(crate) broken: bool,
}

/// A lease that ended without its owner's asking; why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) owner: Owner,
    pub(crate) profile: ProfileName,
    pub(crate) reason: String,
}

impl<S: System> Registry<S> {
    /// Takes over the journal of the helper before this one: what hangs on anybody who is not in `alive` goes.
    pub(crate) fn recover(system: S, journal: Journal, alive: &BTreeSet<Owner>) -> Self {
        let mut registry = Self {
            system,
            journal,
            broken: false,
        };
        registry
            .journal
            .grants
            .retain(|owner| alive.contains(owner));
        registry.end(|record| !alive.contains(&record.client.owner));
        // Cut short: what was held before is held on, or nothing is.
        let _ = registry.undo(&BTreeSet::new());
        registry.save();
        registry
    }

    /// Checks that the change's client may have as much, and that nobody else of the same user holds that profile.
    pub(crate) fn room(&self, change: &Change) -> Result<(), Refusal> {
        if let Some(rival) = self.rivals(change).first() {
            return Err(Refusal::LeaseHeld(format!(
                "process {} holds the tunnel of {}: end it there first",
                rival.pid, change.profile
            )));
        }
        let (owner, profile) = (&change.client.owner, &change.profile);
        let others = self.journal.records.iter().filter(|record| {
            record.client.uid == change.client.uid && !record.is_of(owner, profile)
        });
        let (mut leases, mut routes) = (1, change.after.len());
        for other in others {
            leases += 1;
            routes += other.routes.len();
        }
        if leases > LEASES_PER_USER {
            return Err(Refusal::LimitExceeded(format!(
                "a user may have {LEASES_PER_USER} tunnels, and this is one more: end another first"
            )));
        }
        if routes > ROUTES_PER_USER {
            return Err(Refusal::LimitExceeded(format!(
                "a user may have {ROUTES_PER_USER} routes, and with these it would be {routes}: end another tunnel first"
            )));
        }
        Ok(())
    }

    /// Who else of the same user holds that profile.
    pub(crate) fn rivals(&self, change: &Change) -> Vec<Client> {
        let holders = self.journal.records.iter().filter(|record| {
            let client = &record.client;
            client.uid == change.client.uid
                && client.owner != change.client.owner
                && record.profile == change.profile
        });
        holders.map(|record| record.client.clone()).collect()
    }

    /// `Confirm`: what waits for it stays.
    pub(crate) fn confirm(
        &mut self,
        owner: &Owner,
        profile: &ProfileName,
        generation: u64,
    ) -> Result<(), Refusal> {
        let mut next = self.journal.clone();
        let mut own = next.records.iter_mut();
        let held = own.find(|held| held.is_of(owner, profile) && held.generation == generation);
        let Some(record) = held else {
            return Err(Refusal::LeaseHeld(format!(
                "these routes of {profile} are not held any more: apply them again"
            )));
        };
        if record.guard.take().is_none() {
            return Ok(());
        }
        self.commit(next)
    }

    /// Ends the guarded sets whose time is over: the one before comes back, and where that can't be, nothing is held.
    pub(crate) fn expire(&mut self, now: SystemTime) -> Vec<Ended> {
        let mut ended = Vec::new();
        for record in self.journal.records.clone() {
            let Some(guard) = record.guard.filter(|guard| guard.until <= now) else {
                continue;
            };
            let change = Change {
                client: record.client,
                profile: record.profile,
                after: guard.before,
                trial: None,
            };
            let restored = self.apply(&change);
            if restored.is_ok() && !change.after.is_empty() {
                continue;
            }
            let (owner, profile) = (change.client.owner, change.profile);
            self.end(|record| record.is_of(&owner, &profile));
            let reason = match &restored {
                Ok(_) => "its routes were not confirmed in time".to_owned(),
                Err(refusal) => format!(
                    "its routes were not confirmed in time, and the ones before could not come back: {}",
                    sentence(refusal)
                ),
            };
            ended.push(Ended {
                owner,
                profile,
                reason,
            });
        }
        ended
    }

    /// `List`, for a caller of that user.
    pub(crate) fn list(&self, uid: u32) -> Vec<WireLease> {
        let lease = |record: &Record| {
            let client = &record.client;
            // Root reads the journal anyway.
            let shown = uid == 0 || uid == client.uid;
            let profile = if shown { record.profile.as_str() } else { "" };
            let state = match record.guard {
                Some(_) => "unconfirmed",
                None => "active",
            };
            let since = record.since.duration_since(UNIX_EPOCH).unwrap_or_default();
            (
                profile.to_owned(),
                client.uid,
                client.pid,
                client.started,
                state.to_owned(),
                u64::try_from(since.as_millis()).unwrap_or_default(),
                to_wire(&record.routes),
            )
        };
        self.journal.records.iter().map(lease).collect()
    }

    /// `Cleanup`: removes every route with our tag that nobody holds. The journal does not know them.
    pub(crate) fn cleanup(&self) -> Result<BTreeSet<Route>, Refusal> {
        let table = self.system.routes().map_err(|error| kernel(&error))?;
        let left = &table.ours() - &self.journal.possible(|_| true);
        self.system.remove(&left).map_err(|error| {
            Refusal::Kernel(format!("stale routes could not be removed: {error}"))
        })?;
        Ok(left)
    }

    /// The owner may apply from now on, until its connection ends.
    pub(crate) fn grant(&mut self, owner: &Owner) {
        self.journal.grants.insert(owner.clone());
        self.save();
    }

    /// The owner is dead: its routes go.
    pub(crate) fn reap(&mut self, owner: &Owner) {
        let holds = |record: &Record| record.client.owner == *owner;
        if self.journal.grants.remove(owner) || self.journal.records.iter().any(holds) {
            self.end(holds);
        }
    }

    /// Ends leases: their routes go, whatever else fails.
    pub(crate) fn end(&mut self, which: impl Fn(&Record) -> bool) {
        match self.system.remove(&self.journal.possible(&which)) {
            Ok(()) => {
                self.journal.applying.take_if(|record| which(record));
                for ended in self.journal.records.extract_if(.., |record| which(record)) {
                    ended.client.log("its routes are removed");
                }
            }
            Err(error) => {
                eprintln!("minitunnel-helper: routes of an ended tunnel stay for now: {error}");
                self.broken = true;
            }
        }
        self.save();
    }

    /// Writes what the journal is to be, and has it be that; where it can't be written nothing changes.
    pub(crate) fn commit(&mut self, next: Journal) -> Result<(), Refusal> {
        self.system.save(&next).map_err(|error| {
            Refusal::JournalFailed(format!(
                "nothing was changed, because the helper's journal can't be written: {error}"
            ))
        })?;
        self.journal = next;
        Ok(())
    }

    /// Writes the journal where an older one does no harm: it tells of what may be in the kernel, and is not.
    pub(crate) fn save(&self) {
        if let Err(error) = self.system.save(&self.journal) {
            eprintln!("minitunnel-helper: the journal can't be written: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
