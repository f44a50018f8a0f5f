//! The system bus: what the helper asks it, and nothing without a deadline.

use std::time::Duration;

use futures::StreamExt;
use minitunnel_contract::{BUS_NAME, OBJECT_PATH, Refusal};
use tokio::{sync::mpsc, time::timeout};
use zbus::{
    Connection,
    fdo::{DBusProxy, RequestNameFlags},
    names::{BusName, UniqueName},
    proxy::CacheProperties,
};

use crate::{
    error::ServeError,
    journal::{Client, Owner},
};

/// A question to the bus itself.
const DEADLINE: Duration = Duration::from_secs(5);

/// A connection to the system bus.
#[derive(Clone, Debug)]
pub(crate) struct Bus {
    pub(crate) connection: Connection,
    proxy: DBusProxy<'static>,
    id: String,
}

impl Bus {
    pub(crate) async fn connect() -> Result<Self, ServeError> {
        let connection = answer(Connection::system()).await?;
        let proxy = DBusProxy::builder(&connection).cache_properties(CacheProperties::No);
        let proxy = answer(proxy.build()).await?;
        let id = answer(proxy.get_id()).await?.to_string();
        Ok(Self {
            connection,
            proxy,
            id,
        })
    }

    /// Every unique name that vanishes from now on; it ends with the connection.
    pub(crate) async fn vanished(&self) -> Result<mpsc::UnboundedReceiver<Owner>, ServeError> {
        let changes = self.proxy.receive_name_owner_changed_with_args(&[(2, "")]);
        let mut changes = answer(changes).await?;
        let (hear, owners) = mpsc::unbounded_channel();
        let bus = self.clone();
        // In a task of its own: zbus reads no answer either while a queue of its is full, and anybody can fill this one.
        tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                if let Ok(change) = change.args()
                    && let BusName::Unique(name) = change.name()
                    && hear.send(bus.owner(name)).is_err()
                {
                    return;
                }
            }
        });
        Ok(owners)
    }

    /// The owner of that unique name.
    pub(crate) fn owner(&self, name: &str) -> Owner {
        Owner::Bus {
            bus: self.id.clone(),
            name: name.to_owned(),
        }
    }

    /// Whether that owner is on this bus. Only an answer tells that one is dead.
    pub(crate) async fn has_owner(&self, owner: &Owner) -> Result<bool, ServeError> {
        match owner {
            Owner::Bus { bus, name } if *bus == self.id => {
                match UniqueName::try_from(name.as_str()) {
                    Ok(name) => answer(self.proxy.name_has_owner(name.into())).await,
                    Err(_) => Ok(false),
                }
            }
            _ => Ok(false),
        }
    }

    /// Who is behind a unique name, and lived when the bus was asked.
    pub(crate) async fn client(&self, name: &UniqueName<'_>) -> Result<Client, Refusal> {
        let asked = self
            .proxy
            .get_connection_credentials(BusName::Unique(name.clone()));
        let known = answer(asked).await.ok();
        let uid = known.as_ref().and_then(|known| known.unix_user_id());
        let pid = known
            .and_then(|known| known.process_id())
            .unwrap_or_default();
        Ok(Client {
            owner: self.owner(name),
            uid: uid.ok_or_else(unknown)?,
            pid,
            started: started(pid),
        })
    }

    /// Takes the helper's name. An instance that ends has given it away; two that serve are impossible with the lock.
    pub(crate) async fn take_name(&self) -> Result<(), ServeError> {
        let flags = RequestNameFlags::DO_NOT_QUEUE;
        let taken = self.connection.request_name_with_flags(BUS_NAME, flags);
        answer(taken).await.map(drop)
    }

    /// Gives the helper's name away: whoever calls from now on starts the next instance. Returns when every call to this
    /// one is in flight.
    pub(crate) async fn leave_name(&self) -> Result<(), ServeError> {
        answer(self.connection.release_name(BUS_NAME)).await?;
        // A message to ourselves comes behind every call that was on its way. A bus that does not let it through says so
        // behind them, too.
        let own = self
            .connection
            .unique_name()
            .map(|name| name.inner().clone());
        let peer = Some("org.freedesktop.DBus.Peer");
        let last = self
            .connection
            .call_method(own, OBJECT_PATH, peer, "Ping", &());
        let _ = answer(last).await;
        Ok(())
    }
}

/// Waits for an answer of the bus, but not for ever.
pub(crate) async fn answer<T, E: Into<zbus::Error>>(
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, ServeError> {
    match timeout(DEADLINE, call).await {
        Ok(answer) => answer.map_err(|error| ServeError::Bus(error.into())),
        Err(_) => Err(ServeError::Silent),
    }
}

/// When a process started, in clock ticks since boot: the 22nd field of /proc/PID/stat, the 20th behind the name, which
/// may itself contain blanks and brackets. 0 where it can't be read.
pub(crate) fn started(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let field = after_name.split(' ').nth(19);
    field
        .and_then(|field| field.parse().ok())
        .unwrap_or_default()
}

pub(crate) fn unknown() -> Refusal {
    Refusal::NotAuthorized("the message bus does not know who is calling".to_owned())
}
