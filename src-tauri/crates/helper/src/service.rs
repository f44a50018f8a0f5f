use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minitunnel_base::ProfileName;
use minitunnel_contract::Refusal;
use tokio::sync::watch;
use zbus::message::Header;

use crate::{
    bus::{Bus, unknown},
    consent::{Consent, dismissed},
    journal::{Client, Owner},
    registry::Registry,
    stale::Stale,
    store::StateDir,
    transaction::Change,
};

/// Calls of one sender at a time: more than any client of ours makes, and too few to keep others waiting.
const CALLS: usize = 64;

/// All that the calls to one helper share.
#[derive(Debug)]
pub(crate) struct Service {
    registry: Mutex<Registry<StateDir>>,
    way: Way,
    /// One clean-up at a time, whoever asks: each reads all tables, which takes long where they are large.
    pub(crate) cleaning: tokio::sync::Mutex<()>,
    /// The calls in flight. Those that may ask the user are withdrawn by a `Release`, by their owner's death, and by the
    /// helper's end: each of them first withdraws and then takes the registry, so that whoever has the registry and is not
    /// withdrawn will be seen by them.
    pub(crate) calls: watch::Sender<Vec<Arc<InFlight>>>,
}

/// How callers come in.
#[derive(Debug)]
pub(crate) enum Way {
    /// Over a message bus: anybody may call, and polkit decides.
    Bus { bus: Bus, consent: Consent },
    /// Over one inherited socket: who was given it may do everything.
    Peer(Client),
}

/// A call in flight, for everybody.
#[derive(Debug)]
pub(crate) struct InFlight {
    owner: Owner,
    profile: Option<ProfileName>,
    /// Whether the user may be asked; other calls only look, or are done at once.
    asks: bool,
    withdrawn: watch::Sender<bool>,
}

/// A call in flight, for itself: it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    service: &'a Service,
    this: Arc<InFlight>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let is_other = |call: &Arc<InFlight>| !Arc::ptr_eq(call, &self.this);
        self.service
            .calls
            .send_modify(|calls| calls.retain(is_other));
    }
}

impl Call<'_> {
    /// Waits for the user's answer, but not once the call is withdrawn.
    async fn ask(&self, answer: impl Future<Output = Result<(), Refusal>>) -> Result<(), Refusal> {
        let mut withdrawn = self.this.withdrawn.subscribe();
        tokio::select! {
            answer = answer => answer,
            _ = withdrawn.wait_for(|withdrawn| *withdrawn) => Err(dismissed()),
        }
    }

    /// Whether it was not withdrawn.
    fn still(&self) -> Result<(), Refusal> {
        match *self.this.withdrawn.borrow() {
            true => Err(dismissed()),
            false => Ok(()),
        }
    }
}

impl Service {
    pub(crate) fn new(registry: Registry<StateDir>, way: Way) -> Self {
        Self {
            registry: Mutex::new(registry),
            way,
            cleaning: tokio::sync::Mutex::default(),
            calls: watch::Sender::default(),
        }
    }

    /// The registry, for one change at a time; never held while anybody is waited for.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry<StateDir>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call, and finds out whose it is: the sender's as the bus knows it, never what the message says. It lived when
    /// the bus was asked; a later death withdraws what asks the user.
    pub(crate) async fn enter(
        &self,
        header: &Header<'_>,
        asks: bool,
        profile: Option<&ProfileName>,
    ) -> Result<(Call<'_>, Client), Refusal> {
        let owner = match &self.way {
            Way::Peer(client) => client.owner.clone(),
            Way::Bus { bus, .. } => bus.owner(header.sender().ok_or_else(unknown)?),
        };
        let same = |call: &&Arc<InFlight>| call.owner == owner;
        if self.calls.borrow().iter().filter(same).count() >= CALLS {
            return Err(Refusal::LimitExceeded(format!(
                "more than {CALLS} calls at a time: wait for an answer"
            )));
        }
        let this = Arc::new(InFlight {
            owner,
            profile: profile.cloned(),
            asks,
            withdrawn: watch::Sender::new(false),
        });
        self.calls
            .send_modify(|calls| calls.push(Arc::clone(&this)));
        let call = Call {
            service: self,
            this,
        };
        let client = match &self.way {
            Way::Peer(client) => client.clone(),
            Way::Bus { bus, .. } => bus.client(header.sender().ok_or_else(unknown)?).await?,
        };
        Ok((call, client))
    }

    /// `Apply`: waits until the change's client may, which takes as long as polkit does, and makes the change.
    pub(crate) async fn apply(
        &self,
        change: &Change,
        header: &Header<'_>,
        call: &Call<'_>,
    ) -> Result<u64, Refusal> {
        // Nobody is asked for consent to what would be refused.
        self.room(change).await?;
        let owner = &change.client.owner;
        let granted = self.registry().journal.grants.contains(owner);
        if let Way::Bus { consent, .. } = &self.way
            && !granted
        {
            call.ask(consent.apply(owner, header)).await?;
        }
        let mut registry = self.registry();
        // The answer may be for a dialog whose client was killed meanwhile.
        call.still()?;
        if !granted && matches!(self.way, Way::Bus { .. }) {
            registry.grant(owner);
            change.client.log("may change routes until it ends");
        }
        registry.apply(change)
    }

    async fn room(&self, change: &Change) -> Result<(), Refusal> {
        let rivals = self.registry().rivals(change);
        for rival in rivals {
            // A killed client's successor may be faster than the news of its death.
            if let Way::Bus { bus, .. } = &self.way
                && matches!(bus.has_owner(&rival.owner).await, Ok(false))
            {
                self.ended(&rival.owner);
            }
        }
        self.registry().room(change)
    }

    /// Releases what the client holds for one profile, and withdraws what it asks for it.
    pub(crate) fn release(&self, client: Client, profile: ProfileName) -> Result<u64, Refusal> {
        self.withdraw(|asks, asked| *asks == client.owner && asked == Some(&profile));
        self.registry().apply(&Change {
            client,
            profile,
            after: Default::default(),
            trial: None,
        })
    }

    /// `RemoveStale`: has the user asked, every time, and removes the route.
    pub(crate) async fn remove_stale(
        &self,
        stale: &Stale<'_>,
        header: &Header<'_>,
    ) -> Result<(), Refusal> {
        let (call, _) = self.enter(header, true, None).await?;
        // Nobody is asked for what can't be done.
        stale.find()?;
        if let Way::Bus { consent, .. } = &self.way {
            let about = format!(
                "{} via {} on {}",
                stale.destination, stale.gateway, stale.device
            );
            call.ask(consent.remove_stale(&about, header)).await?;
        }
        call.still()?;
        stale.remove()
    }

    /// An owner ended: its calls are withdrawn and its routes go.
    pub(crate) fn ended(&self, owner: &Owner) {
        self.withdraw(|asks, _| asks == owner);
        self.registry().reap(owner);
    }

    /// Whether anybody holds something, or asks for it.
    pub(crate) fn is_needed(&self) -> bool {
        let asks = |call: &Arc<InFlight>| call.asks && !*call.withdrawn.borrow();
        // Whoever has the other end of a socket does as long as it lives.
        matches!(self.way, Way::Peer(_))
            || self.calls.borrow().iter().any(asks)
            || !self.registry().journal.is_idle()
    }

    /// Takes questions to the user back.
    pub(crate) fn withdraw(&self, which: impl Fn(&Owner, Option<&ProfileName>) -> bool) {
        let asked = |call: &&Arc<InFlight>| which(&call.owner, call.profile.as_ref());
        for call in self.calls.borrow().iter().filter(asked) {
            call.withdrawn.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{journal::Journal, testing::client};

    #[test]
    fn a_peers_helper_is_never_idle() {
        let folder = tempfile::tempdir().unwrap();
        let store = StateDir::take(&folder.path().join("state")).unwrap();
        let registry = Registry::recover(store, Journal::default(), &BTreeSet::new());
        let service = Service::new(registry, Way::Peer(client(":1.1", 1000)));
        assert!(service.is_needed());
    }
}
