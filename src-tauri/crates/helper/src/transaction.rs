//! All or nothing: a set of routes, and the journal with it, change together or not at all.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use minitunnel_base::{ProfileName, Route};
use minitunnel_contract::Refusal;
use minitunnel_kernel::{Error, Kind, Routes};

use crate::{
    journal::{Client, Guard, Journal, Record},
    overlap,
    registry::Registry,
    system::System,
};

/// What is wanted: the whole set of one client for one profile.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) client: Client,
    pub(crate) profile: ProfileName,
    /// None releases the lease.
    pub(crate) after: BTreeSet<Route>,
    /// How long it may wait for a confirmation before the set before comes back.
    pub(crate) trial: Option<Duration>,
}

impl<S: System> Registry<S> {
    /// `Apply`, after the caller was found to be allowed; an empty set releases. Makes the change, or says why not, and then
    /// everything is as it was; where that can't be, the lease ends.
    ///
    /// The order: dump, overlaps, journal, add, dump and look up again, delete, journal.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<u64, Refusal> {
        let held = self.journal.record(&change.client.owner, &change.profile);
        if held.is_none() && change.after.is_empty() {
            return Ok(self.journal.generation);
        }
        let (before, guard) = held.map_or_else(Default::default, |held| {
            (held.routes.clone(), held.guard.clone())
        });
        self.room(change)?;
        let table = self.system.routes().map_err(|error| kernel(&error))?;
        let new = &change.after - &(&before & &table.ours());
        overlap::refuse(&table, change, &new, &self.journal)?;
        self.check_gateways(change)?;

        let mut record = Record {
            client: change.client.clone(),
            profile: change.profile.clone(),
            generation: self.journal.generation + 1,
            since: SystemTime::now(),
            routes: change.after.clone(),
            guard: None,
        };
        self.commit(Journal {
            applying: Some(record.clone()),
            ..self.journal.clone()
        })?;
        let done = self.forward(change, &before, &table).and_then(|()| {
            // It returns to the last set that was not itself on trial.
            record.guard = change.trial.map(|trial| Guard {
                before: guard.map_or_else(|| before.clone(), |guard| guard.before),
                until: SystemTime::now() + trial,
            });
            let mut next = self.journal.clone();
            next.generation = record.generation;
            next.applying = None;
            next.put(record);
            self.commit(next)
        });
        let Err(refusal) = done else {
            let held = change.after.len();
            change.client.log(&format!("{held} routes held"));
            return Ok(self.journal.generation);
        };
        // What another program had removed before does not come back.
        if let Err(error) = self.undo(&(&before - &table.ours())) {
            let now = match self.broken {
                true => "stay until the next helper, which tries again to remove them",
                false => "are removed: start it again",
            };
            return Err(Refusal::RollbackIncomplete(format!(
                "{}; undoing that failed, too ({}), so all routes of {} {now}",
                sentence(&refusal),
                sentence(&error),
                change.profile
            )));
        }
        // Where that can't be written, the file says that the change is under way, and what was before.
        self.save();
        Err(refusal)
    }

    /// Takes back the change that is under way or was cut short: the set before is held on, but for what is `lost`, or,
    /// where that can't be, nothing is.
    pub(crate) fn undo(&mut self, lost: &BTreeSet<Route>) -> Result<(), Refusal> {
        let Some(applying) = self.journal.applying.take() else {
            return Ok(());
        };
        let is_same = |record: &Record| record.is_of(&applying.client.owner, &applying.profile);
        let back = Change {
            client: applying.client.clone(),
            profile: applying.profile.clone(),
            after: &self.journal.possible(is_same) - lost,
            trial: None,
        };
        let undone = self.restore(&applying.routes, &back);
        if undone.is_err() {
            self.journal.applying = Some(applying.clone());
            self.end(is_same);
        }
        undone
    }

    /// Makes the kernel have a set of before instead of the one that was `tried`; what is missing comes back only where
    /// nothing has come in its way.
    fn restore(&self, tried: &BTreeSet<Route>, back: &Change) -> Result<(), Refusal> {
        let failed = |error: Error| Refusal::Kernel(error.to_string());
        self.system.remove(&(tried - &back.after)).map_err(failed)?;
        let table = self.system.routes().map_err(failed)?;
        let missing = &back.after - &table.ours();
        if !missing.is_empty() {
            overlap::refuse(&table, back, &missing, &self.journal)?;
        }
        for route in missing {
            self.system.add(&route).map_err(failed)?;
        }
        Ok(())
    }

    /// Adds, looks whether that is what the kernel now does, and deletes.
    fn forward(
        &self,
        change: &Change,
        before: &BTreeSet<Route>,
        table: &Routes,
    ) -> Result<(), Refusal> {
        let failed = |error: Error| match error {
            Error::GatewayUnreachable(route) => unreachable(route.gateway),
            error => Refusal::RolledBack(format!("{error}, and everything is as it was before")),
        };
        let add = &change.after - &table.ours();
        // A gateway moves by delete and add, as the kernel has one route to a destination, and a narrower one would win
        // over the new one. Everything else goes by add and delete.
        let moves = |old: &Route| {
            add.iter()
                .any(|new| new.gateway != old.gateway && new.destination.contains(&old.destination))
        };
        let gone = (before - &change.after).into_iter();
        let (moved, gone): (BTreeSet<Route>, BTreeSet<Route>) = gone.partition(moves);
        self.system.remove(&moved).map_err(failed)?;
        let added = add.iter().try_for_each(|route| self.system.add(route));
        // Whoever was faster with a route there is told by the table.
        if let Err(error) = added
            && !matches!(error, Error::Exists(_))
        {
            return Err(failed(error));
        }
        if !add.is_empty() {
            let table = self.system.routes().map_err(failed)?;
            overlap::refuse(&table, change, &add, &self.journal)?;
            if let Some(route) = (&change.after - &table.ours()).first() {
                return Err(Refusal::RolledBack(format!(
                    "another program changed the routes to {}, and everything is as it was before",
                    route.destination
                )));
            }
        }
        for route in &add {
            // Not the first address, which is a network's own name.
            let inside = route.destination.hosts().next();
            let inside = inside.unwrap_or_else(|| route.destination.addr());
            let way = self
                .system
                .lookup(inside, change.client.uid)
                .map_err(failed)?;
            if !way.takes(route) {
                return overlap::refuse_detour(route, &way);
            }
        }
        self.system.remove(&gone).map_err(failed)
    }

    /// Asks the kernel for the way to each gateway: it must be on the link, and no address of this machine.
    fn check_gateways(&self, change: &Change) -> Result<(), Refusal> {
        let gateways: BTreeSet<IpAddr> = change.after.iter().map(|route| route.gateway).collect();
        for gateway in gateways {
            match self.system.lookup(gateway, change.client.uid) {
                Ok(way) if way.kind == Kind::Local => {
                    return Err(Refusal::GatewayUnreachable(format!(
                        "the gateway {gateway} is this machine's own address"
                    )));
                }
                Ok(way) if way.kind == Kind::Unicast && way.gateway.is_none() => {}
                Ok(_) | Err(Error::NoRoute(_)) => return Err(unreachable(gateway)),
                Err(error) => return Err(kernel(&error)),
            }
        }
        Ok(())
    }
}

/// The words of a refusal, without its name on the bus.
pub(crate) fn sentence(refusal: &Refusal) -> &str {
    zbus::DBusError::description(refusal).unwrap_or_default()
}

/// Nothing was changed, because the kernel can't be asked.
pub(crate) fn kernel(error: &Error) -> Refusal {
    Refusal::Kernel(format!("nothing was changed: {error}"))
}

fn unreachable(gateway: IpAddr) -> Refusal {
    Refusal::GatewayUnreachable(format!(
        "{gateway} is on no network of this machine: start the cluster, and see whether its network is up"
    ))
}

#[cfg(test)]
mod tests;
