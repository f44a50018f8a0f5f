use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use minitunnel_contract::OBJECT_PATH;
use rustix::net::RecvFlags;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, unbounded_channel},
    },
    time::{Instant, sleep, sleep_until, timeout},
};
use zbus::{
    Connection, Guid,
    conn::{AuthMechanism, Builder},
    object_server::SignalEmitter,
};

use crate::{
    bus::{self, Bus, started},
    consent::Consent,
    error::ServeError,
    interface::Interface,
    journal::{Client, Journal, Owner},
    registry::{Ended, Registry},
    service::{Service, Way},
    store::StateDir,
    system::System,
};

/// How long the helper stays without anybody to stay for. Short, as the next one waits for it (`store::PATIENCE`); not
/// shorter, as systemd gives up on a service that starts five times within ten seconds.
const IDLE: Duration = Duration::from_secs(5);
/// For the calls in flight when the helper ends.
const ENDING: Duration = Duration::from_secs(2);

/// Serves the system bus until nobody needs the helper, or it is told to end.
pub(crate) async fn bus(state: &Path) -> Result<(), ServeError> {
    let told = told()?;
    let store = StateDir::take(state)?;
    let bus = Bus::connect().await?;
    // Before anything is looked at, so that no death falls between: one rule for every name that vanishes.
    let vanished = bus.vanished().await?;
    let registry = recovered(store, Some(bus.clone())).await?;
    let connection = bus.connection.clone();
    let consent = bus::answer(Consent::new(&connection)).await?;
    let own = bus.clone();
    let service = Arc::new(Service::new(registry, Way::Bus { bus: own, consent }));
    let interface = Interface(Arc::clone(&service));
    bus::answer(connection.object_server().at(OBJECT_PATH, interface)).await?;
    let mut life = Life {
        service,
        connection,
        told,
        vanished,
    };
    loop {
        bus.take_name().await?;
        let end = life.until().await?;
        if end != End::Closed {
            // Who calls from now on is served by the next one.
            bus.leave_name().await?;
        }
        if end == End::Told {
            life.service.withdraw(|_, _| true);
        }
        life.calls_end().await;
        match end {
            // The bus is gone, and with it every owner.
            End::Closed => return life.end(),
            End::Idle if life.service.is_needed() => {}
            // A failure, so that systemd starts the next one whatever signal this was: it takes over who lives.
            End::Told if !life.service.registry().journal.is_idle() => {
                return Err(ServeError::HandedOver);
            }
            End::Idle | End::Told => return Ok(()),
        }
    }
}

/// Serves whoever has the other end of standard input, until it ends.
pub(crate) async fn peer(state: &Path) -> Result<(), ServeError> {
    let told = told()?;
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(ServeError::NoSocket)?;
    let other = rustix::net::sockopt::socket_peercred(&socket)
        .map_err(|error| ServeError::NoSocket(error.into()))?;
    let pid = other.pid.as_raw_nonzero().get().unsigned_abs();
    let client = Client {
        owner: Owner::Peer,
        uid: other.uid.as_raw(),
        pid,
        started: started(pid),
    };
    // A command that is a client of somebody else's session, or only looks, needs no helper, and must not keep another
    // one from its work.
    let called = tokio::select! {
        called = called(socket.into()) => called.map_err(ServeError::NoSocket)?,
        () = told.notified() => None,
    };
    let Some(socket) = called else {
        return Ok(());
    };
    let registry = recovered(StateDir::take(state)?, None).await?;
    if let Some(record) = registry.journal.records.first() {
        return Err(ServeError::HeldOverBus(record.client.pid));
    }
    let service = Arc::new(Service::new(registry, Way::Peer(client)));
    let shaking = Builder::unix_stream(socket)
        .server(Guid::generate())
        .p2p()
        // Whoever holds the other end was given it, and is another user than the one who made the pair.
        .auth_mechanism(AuthMechanism::Anonymous)
        .serve_at(OBJECT_PATH, Interface(Arc::clone(&service)));
    let connection = bus::answer(shaking.build()).await?;
    let mut life = Life {
        service,
        connection,
        told,
        // Whoever has the other end lives as long as the connection.
        vanished: unbounded_channel().1,
    };
    life.until().await?;
    life.end()
}

/// Removes what dead owners left.
pub(crate) async fn recover(state: &Path) -> Result<(), ServeError> {
    recovered(StateDir::take(state)?, None).await.map(drop)
}

/// Takes the journal over: what hangs on the life of somebody who is dead goes. Whoever serves no bus asks one only if
/// somebody may live there.
async fn recovered(
    store: StateDir,
    mut bus: Option<Bus>,
) -> Result<Registry<StateDir>, ServeError> {
    let journal = match store.load() {
        Ok(journal) => journal,
        // What it held goes first: if this process is killed meanwhile, the next one can't read it either.
        Err(problem) => {
            let all = store.routes().map(|table| table.ours());
            let removed = all.and_then(|all| store.remove(&all));
            removed.map_err(|_| ServeError::Left)?;
            store.put_aside(&problem);
            Journal::default()
        }
    };
    let holders = journal.records.iter().map(|record| &record.client.owner);
    let owners: BTreeSet<Owner> = holders.chain(&journal.grants).cloned().collect();
    if bus.is_none() && owners.iter().any(|owner| *owner != Owner::Peer) {
        bus = match Bus::connect().await {
            // No bus: nobody on it.
            Err(ServeError::Bus(zbus::Error::Connection(error, _)))
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                None
            }
            connected => Some(connected?),
        };
    }
    let mut alive = BTreeSet::new();
    if let Some(bus) = bus {
        for owner in owners {
            if bus.has_owner(&owner).await? {
                alive.insert(owner);
            }
        }
    }
    let registry = Registry::recover(store, journal, &alive);
    if registry.broken {
        return Err(ServeError::Left);
    }
    Ok(registry)
}

/// Told by the signals that ask for an orderly end.
fn told() -> Result<Arc<Notify>, ServeError> {
    let told = Arc::new(Notify::new());
    let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
    for kind in [terminate, interrupt, SignalKind::hangup()] {
        let mut signals = signal(kind).map_err(ServeError::Runtime)?;
        let told = Arc::clone(&told);
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                told.notify_one();
            }
        });
    }
    Ok(told)
}

/// Waits for the first word of whoever has the other end; `None` if it ended without one.
async fn called(socket: UnixStream) -> io::Result<Option<UnixStream>> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixStream::from_std(socket)?;
    socket.readable().await?;
    let peeked = rustix::net::recv(&socket, &mut [0u8], RecvFlags::PEEK);
    let ended = matches!(peeked, Ok((_, 0)));
    (!ended).then(|| socket.into_std()).transpose()
}

/// A helper that serves.
struct Life {
    service: Arc<Service>,
    connection: Connection,
    told: Arc<Notify>,
    /// Whose deaths it hears of.
    vanished: UnboundedReceiver<Owner>,
}

/// Why it stops to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The bus or the peer is gone.
    Closed,
    /// By a signal.
    Told,
    /// Nobody has needed it for a while.
    Idle,
}

impl Life {
    /// Serves, and sees to deaths and to guarded sets whose time is over.
    async fn until(&mut self) -> Result<End, ServeError> {
        let mut calls = self.service.calls.subscribe();
        let mut idle = None;
        loop {
            calls.borrow_and_update();
            let (broken, next) = {
                let registry = self.service.registry();
                (registry.broken, registry.journal.next_end())
            };
            if broken {
                // Its caller still hears of it.
                self.calls_end().await;
                return Err(ServeError::Left);
            }
            // Whoever only looks at the helper does not keep it.
            idle = match self.service.is_needed() {
                true => None,
                false => idle.or_else(|| Some(Instant::now() + IDLE)),
            };
            let over = next.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
            tokio::select! {
                Some(owner) = self.vanished.recv() => self.service.ended(&owner),
                () = self.connection.closed() => return Ok(End::Closed),
                () = self.told.notified() => return Ok(End::Told),
                () = sleep_until(idle.unwrap_or_else(Instant::now)), if idle.is_some() => return Ok(End::Idle),
                () = sleep(over.unwrap_or_default()), if over.is_some() => {
                    let ended = self.service.registry().expire(SystemTime::now());
                    for lease in &ended {
                        self.tell(lease).await;
                    }
                }
                _ = calls.changed() => {}
            }
        }
    }

    /// Tells the owner of a lease of its end, and nobody else: profile names are their users' business.
    async fn tell(&self, lease: &Ended) {
        let told = async {
            let mut to = SignalEmitter::new(&self.connection, OBJECT_PATH)?;
            if let Owner::Bus { name, .. } = &lease.owner {
                to = to.set_destination(name.as_str().try_into()?);
            }
            Interface::lease_ended(&to, lease.profile.as_str(), &lease.reason).await
        };
        if let Err(error) = told.await {
            eprintln!("minitunnel-helper: a client can't be told of its routes: {error}");
        }
    }

    /// Waits for the calls in flight, but not for ever.
    async fn calls_end(&self) {
        let mut calls = self.service.calls.subscribe();
        let _ = timeout(ENDING, calls.wait_for(|calls| calls.is_empty())).await;
    }

    /// Removes everything, and lets no change in any more.
    fn end(&self) -> Result<(), ServeError> {
        self.service.withdraw(|_, _| true);
        let mut registry = self.service.registry();
        registry.end(|_| true);
        match registry.broken {
            true => Err(ServeError::Left),
            false => Ok(()),
        }
    }
}
