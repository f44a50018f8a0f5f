use std::{collections::HashMap, future::Future, os::unix::net::UnixStream, time::Duration};

use futures::{Stream, StreamExt, future, stream};
use minitunnel_model::{ProfileName, Route, TableEntry};
use tokio::time::timeout;
use zbus::{
    Connection, Message, MessageStream, Variant,
    connection::{self, Builder},
    fdo::{self, DBusProxy},
    message::Type,
    names::BusName,
    proxy::{self, CacheProperties, MethodFlags},
};

use crate::{
    BUS_NAME, HelperError, HelperProxy, INTERFACE, Lease, OPTION_CONFIRM_WITHIN, PROTOCOL,
    from_wire, to_wire,
};

/// A call that asks nobody: the helper answers in milliseconds, its activation takes a fraction of a second.
const DEADLINE: Duration = Duration::from_secs(10);
/// A call that may ask the user: polkit's own dialogs stay open as long.
const CONSENT_DEADLINE: Duration = Duration::from_secs(5 * 60);

/// A connection to the helper, over the system bus or an inherited socket. What it applied ends with it.
#[derive(Clone, Debug)]
pub struct Client {
    proxy: HelperProxy<'static>,
    version: String,
}

/// What the helper reports by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelperEvent {
    /// A lease of ours ended without our asking.
    LeaseEnded {
        /// The lease.
        profile: ProfileName,
        /// Why, in one sentence.
        reason: String,
    },
    /// The helper's process ended, or the connection to it. On the bus the next call starts it again, and that one
    /// removes or takes over what this one held: whoever holds a lease calls [`Client::list`] now.
    Gone,
}

/// Why the helper can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no system bus.
    #[error("no D-Bus system bus answers: start it, or run minitunnel with sudo")]
    NoBus(#[source] zbus::Error),
    /// The bus does not know the helper.
    #[error(
        "minitunnel's helper is not installed: run installers/linux/install, or run minitunnel with sudo"
    )]
    NotInstalled(#[source] zbus::Error),
    /// The bus could not start the helper, or it ended at once.
    #[error("minitunnel's helper does not start: look for minitunnel-helper in the system's log")]
    DoesNotStart(#[source] zbus::Error),
    /// Nothing came from it in time.
    #[error(
        "minitunnel's helper did not answer within {0} s: look for minitunnel-helper in the system's log"
    )]
    NoAnswer(u64),
    /// It is of another version.
    #[error(
        "minitunnel's helper {version} speaks protocol {protocol}, and this program {PROTOCOL}: install the same version of both, and end the old helper"
    )]
    Incompatible {
        /// Its version.
        version: String,
        /// Its protocol.
        protocol: u32,
    },
    /// The inherited socket does not work.
    #[error("minitunnel's helper ended before it answered: its own words, just above, tell why")]
    Socket(#[source] zbus::Error),
}

impl Client {
    /// Connects over the system bus, which starts the helper if it does not run.
    ///
    /// # Errors
    ///
    /// Each says what to install or to do.
    pub async fn system() -> Result<Self, ConnectError> {
        deadline(async {
            let connection = Connection::system().await.map_err(ConnectError::NoBus)?;
            Self::new(&connection, activation_error).await
        })
        .await
    }

    /// Connects over the system bus to the helper that runs now, and starts none; `None` if none runs.
    ///
    /// # Errors
    ///
    /// If there is no bus, or the helper does not answer.
    pub async fn running() -> Result<Option<Self>, ConnectError> {
        deadline(async {
            let connection = Connection::system().await.map_err(ConnectError::NoBus)?;
            let bus = DBusProxy::builder(&connection)
                .cache_properties(CacheProperties::No)
                .build()
                .await
                .map_err(ConnectError::NoBus)?;
            let name = BusName::from_static_str(BUS_NAME).map_err(activation_error)?;
            let owner = bus.get_name_owner(name).await;
            let owner = match owner {
                Ok(owner) => owner,
                Err(fdo::Error::NameHasNoOwner(_)) => return Ok(None),
                Err(error) => return Err(activation_error(error.into())),
            };
            // A call by its well-known name would start another one, if it ends meanwhile.
            let proxy = HelperProxy::builder(&connection).destination(owner);
            Self::with(proxy, activation_error).await.map(Some)
        })
        .await
    }

    /// Connects over a socket whose other end is the helper's.
    ///
    /// # Errors
    ///
    /// If nobody answers there, or a helper of another version.
    pub async fn peer(stream: UnixStream) -> Result<Self, ConnectError> {
        deadline(async {
            let connection = Builder::unix_stream(stream)
                .p2p()
                // Whoever holds the other end was given it: there is nothing to prove, and the credentials of a
                // socket pair are those of the keeper that made it.
                .auth_mechanism(connection::AuthMechanism::Anonymous)
                .build()
                .await
                .map_err(ConnectError::Socket)?;
            Self::new(&connection, ConnectError::Socket).await
        })
        .await
    }

    /// The helper's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Makes `routes` the whole set of `profile`, all or nothing; an empty set releases. Returns its generation.
    ///
    /// With `interactive` the helper may have the user asked for consent, and the answer may take five minutes;
    /// dropping the future does not close the dialog, [`Client::release`] does.
    ///
    /// # Errors
    ///
    /// [`HelperError`]; after any of them the routes are the ones before, but for `RollbackIncomplete`.
    pub async fn apply(
        &self,
        profile: &ProfileName,
        routes: &[Route],
        interactive: bool,
    ) -> Result<u64, HelperError> {
        self.apply_with(profile, routes, interactive, HashMap::new())
            .await
    }

    /// Like [`Client::apply`], and the set before comes back unless [`Client::confirm`] follows within `confirm_within`
    /// (whole seconds).
    ///
    /// # Errors
    ///
    /// As [`Client::apply`].
    pub async fn apply_guarded(
        &self,
        profile: &ProfileName,
        routes: &[Route],
        interactive: bool,
        confirm_within: Duration,
    ) -> Result<u64, HelperError> {
        let seconds = u32::try_from(confirm_within.as_secs()).unwrap_or(u32::MAX);
        let options = HashMap::from([(OPTION_CONFIRM_WITHIN, Variant::from(seconds))]);
        self.apply_with(profile, routes, interactive, options).await
    }

    /// Keeps what [`Client::apply_guarded`] applied.
    ///
    /// # Errors
    ///
    /// [`HelperError::LeaseHeld`] if that generation is no longer there.
    pub async fn confirm(&self, profile: &ProfileName, generation: u64) -> Result<(), HelperError> {
        answer(DEADLINE, self.proxy.confirm(profile.as_str(), generation)).await
    }

    /// Removes the routes of `profile`, and withdraws an [`Client::apply`] for it that waits for consent.
    ///
    /// # Errors
    ///
    /// [`HelperError::JournalFailed`] and [`HelperError::RolledBack`] mean that the routes are still there.
    pub async fn release(&self, profile: &ProfileName) -> Result<(), HelperError> {
        answer(DEADLINE, self.proxy.release(profile.as_str())).await
    }

    /// Every lease that the helper knows.
    ///
    /// # Errors
    ///
    /// If the helper does not answer.
    pub async fn list(&self) -> Result<Vec<Lease>, HelperError> {
        let leases = answer(DEADLINE, self.proxy.list()).await?;
        leases.into_iter().map(Lease::try_from).collect()
    }

    /// Removes routes of ours without a living owner, and returns them.
    ///
    /// # Errors
    ///
    /// [`HelperError::Kernel`] names what could not be removed.
    pub async fn cleanup(&self) -> Result<Vec<Route>, HelperError> {
        from_wire(&answer(DEADLINE, self.proxy.cleanup()).await?)
    }

    /// Removes one foreign route that a dead `minikube tunnel` left. The user is asked every time.
    ///
    /// # Errors
    ///
    /// [`HelperError::InvalidRoute`] if it is not there, or not of the form in which `minikube tunnel` makes routes.
    pub async fn remove_stale(&self, entry: &TableEntry) -> Result<(), HelperError> {
        let protocol = match entry.origin {
            minitunnel_model::Origin::Foreign(protocol) => protocol,
            // `RTPROT_KERNEL` and ours are never stale; the helper refuses both.
            minitunnel_model::Origin::Kernel | minitunnel_model::Origin::Ours => 0,
        };
        let arguments = (
            entry.destination.to_string(),
            entry
                .gateway
                .map(|gateway| gateway.to_string())
                .unwrap_or_default(),
            entry.device.as_deref().unwrap_or_default(),
            entry.table,
            entry.metric,
            protocol,
        );
        self.call_interactive("RemoveStale", &(arguments,)).await
    }

    /// What the helper reports, from now on. It ends after the [`HelperEvent::Gone`] of a closed connection.
    ///
    /// # Errors
    ///
    /// If the bus refuses the subscription.
    pub async fn events(
        &self,
    ) -> Result<impl Stream<Item = HelperEvent> + Send + Unpin + use<>, HelperError> {
        let connection = self.proxy.inner().connection();
        let events: stream::BoxStream<'static, HelperEvent> = if connection.is_bus() {
            // The proxy's stream checks the sender: any process may send a signal of this name.
            let signals = self.proxy.inner().receive_all_signals().await?;
            let owners = fdo::DBusProxy::new(connection)
                .await?
                .receive_name_owner_changed_with_args(&[(0, BUS_NAME)])
                .await?;
            let gone = owners.filter_map(|change| {
                future::ready(match change.args() {
                    Ok(change) if change.new_owner().is_none() => Some(HelperEvent::Gone),
                    _ => None,
                })
            });
            let reported = signals.filter_map(|message| future::ready(event(&message)));
            stream::select(reported, gone).boxed()
        } else {
            MessageStream::from(connection)
                .filter_map(|message| future::ready(message.ok().as_ref().and_then(event)))
                .boxed()
        };
        Ok(events.chain(stream::iter([HelperEvent::Gone])))
    }

    async fn new(
        connection: &Connection,
        failed: impl Fn(zbus::Error) -> ConnectError,
    ) -> Result<Self, ConnectError> {
        Self::with(HelperProxy::builder(connection), failed).await
    }

    async fn with(
        proxy: proxy::Builder<'static, HelperProxy<'static>>,
        failed: impl Fn(zbus::Error) -> ConnectError,
    ) -> Result<Self, ConnectError> {
        let proxy = proxy
            // Two properties, read once: a cache would cost a subscription.
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(&failed)?;
        let protocol = proxy.protocol().await.map_err(&failed)?;
        let version = proxy.version().await.map_err(&failed)?;
        if protocol != PROTOCOL {
            return Err(ConnectError::Incompatible { version, protocol });
        }
        Ok(Self { proxy, version })
    }

    async fn apply_with(
        &self,
        profile: &ProfileName,
        routes: &[Route],
        interactive: bool,
        options: HashMap<&str, Variant<'_>>,
    ) -> Result<u64, HelperError> {
        let routes = to_wire(routes);
        if interactive {
            let arguments = (profile.as_str(), routes, options);
            self.call_interactive("Apply", &arguments).await
        } else {
            answer(
                DEADLINE,
                self.proxy.apply(profile.as_str(), &routes, options),
            )
            .await
        }
    }

    /// Calls a method with the flag that allows the helper to have the user asked.
    async fn call_interactive<B, R>(&self, method: &str, arguments: &B) -> Result<R, HelperError>
    where
        B: serde::Serialize + zbus::DynamicType,
        R: for<'d> zbus::wire::DynamicDeserialize<'d>,
    {
        let call = self.proxy.inner().call_with_flags(
            method,
            MethodFlags::ALLOW_INTERACTIVE_AUTH,
            arguments,
        );
        let reply: Option<R> = answer(CONSENT_DEADLINE, call).await?;
        // Only a call that expects no reply has none.
        reply.ok_or(HelperError::ZBus(zbus::Error::InvalidReply))
    }
}

/// The event in one of the helper's signals.
fn event(message: &Message) -> Option<HelperEvent> {
    let header = message.header();
    if header.message_type() != Type::Signal || header.interface()?.as_str() != INTERFACE {
        return None;
    }
    let body = message.body();
    match header.member()?.as_str() {
        "LeaseEnded" => {
            let (profile, reason): (String, String) = body.deserialize().ok()?;
            Some(HelperEvent::LeaseEnded {
                profile: profile.parse().ok()?,
                reason,
            })
        }
        _ => None,
    }
}

async fn deadline<T>(
    connecting: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    timeout(DEADLINE, connecting)
        .await
        .unwrap_or(Err(ConnectError::NoAnswer(DEADLINE.as_secs())))
}

async fn answer<T, E: Into<HelperError>>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, HelperError> {
    match timeout(limit, call).await {
        Ok(answered) => answered.map_err(Into::into),
        Err(_) => Err(HelperError::NoAnswer(limit.as_secs())),
    }
}

fn activation_error(error: zbus::Error) -> ConnectError {
    match &error {
        zbus::Error::FDO(fdo) if matches!(**fdo, fdo::Error::ServiceUnknown(_)) => {
            ConnectError::NotInstalled(error)
        }
        _ => ConnectError::DoesNotStart(error),
    }
}
