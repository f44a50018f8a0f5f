//! Hosting the session: the engine and its socket, in this process or in one of their own.

use std::{
    collections::BTreeSet,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use minitunnel_engine::{engine::Handle, session::Server};
use minitunnel_model::{Command as Ask, ProfileName, ProfileStatus, Snapshot, TunnelState};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    context::Context,
    down::{PATIENCE, patiently},
    exit::Exit,
    log,
    signals::Signals,
};

/// A session that nobody has asked for anything ends after this time.
const UNUSED: Duration = Duration::from_secs(30);
/// How long a session that was started has to open its socket.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How often the socket and the lock are looked at meanwhile: there is nothing to wait on before they are there.
const START_STEP: Duration = Duration::from_millis(20);

/// The one session of the user.
pub(crate) enum Session {
    /// Another process's.
    Joined(Handle),
    /// This process's.
    Hosted(Hosted),
}

/// Joins the session that runs, else hosts one, for these profiles or for all.
///
/// One that begins or ends at this moment is neither to be joined nor replaced, and is waited for.
pub(crate) async fn enter(
    context: &Context,
    only: Option<&BTreeSet<ProfileName>>,
) -> anyhow::Result<Session> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        let busy = match context.session().await {
            Ok(Some(handle)) => return Ok(Session::Joined(handle)),
            Ok(None) => match Hosted::claim(context, only.cloned()).await? {
                Some(hosted) => return Ok(Session::Hosted(hosted)),
                None => anyhow!(
                    "another minitunnel neither starts nor ends: end its process and try again"
                ),
            },
            Err(error) => return Err(error.into()),
        };
        if Instant::now() >= deadline {
            return Err(busy);
        }
        tokio::time::sleep(START_STEP).await;
    }
}

/// The session that this process hosts.
pub(crate) struct Hosted {
    pub(crate) handle: Handle,
    engine: JoinHandle<()>,
    server: JoinHandle<()>,
}

impl Hosted {
    /// Becomes the user's session, for these profiles or for all; `None` if there is one.
    pub(crate) async fn claim(
        context: &Context,
        only: Option<BTreeSet<ProfileName>>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(server) =
            Server::claim(&context.runtime).context("the session socket can't be made")?
        else {
            return Ok(None);
        };
        log::to_file(context.runtime.log());
        let home = context.home.path.display();
        tracing::info!("session {} begins on {home}", env!("CARGO_PKG_VERSION"));
        let (handle, engine) = context.host(true, only).await?;
        let server = tokio::spawn(server.serve(handle.clone(), context.hello()));
        Ok(Some(Self {
            handle,
            engine,
            server,
        }))
    }

    /// Ends the engine; false if it did not come to rest, and nothing went within the patience. What it holds ends with
    /// this process in any case.
    pub(crate) async fn end(mut self, patience: Duration) -> bool {
        let snapshot = self.handle.snapshot();
        let profiles = snapshot.profiles.iter();
        let names = profiles.map(|status| status.profile.name.clone()).collect();
        let handle = self.handle.clone();
        let engine = async {
            // An engine that has ended already is what is wanted.
            let _ = self.handle.command(Ask::Quit).await;
            let _ = (&mut self.engine).await;
        };
        let ended = patiently(handle, &names, patience, engine).await.is_some();
        tracing::info!("session ends");
        self.engine.abort();
        // The socket goes when its task has been dropped.
        self.server.abort();
        let _ = self.server.await;
        ended
    }
}

/// Hosts the session until its last tunnel is down, or a signal ends it.
pub(crate) async fn host_until_idle() -> anyhow::Result<Exit> {
    let context = Context::new()?;
    let Some(hosted) = Hosted::claim(&context, None).await? else {
        bail!("a session runs already: `minitunnel status` shows it");
    };
    let mut signals = Signals::new()?;
    let mut handle = hosted.handle.clone();
    let idle = async {
        let used = |snapshot: &Snapshot| snapshot.wanted().next().is_some();
        if tokio::time::timeout(UNUSED, handle.until(used))
            .await
            .is_ok()
        {
            let over = |snapshot: &Snapshot| {
                let at_rest = |status: &ProfileStatus| status.tunnel == TunnelState::Disconnected;
                snapshot.wanted().next().is_none() && snapshot.profiles.iter().all(at_rest)
            };
            // An engine that has ended is idle too.
            let _ = handle.until(over).await;
        }
    };
    tokio::select! {
        () = idle => {}
        () = signals.next() => {}
    }
    let ended = hosted.end(PATIENCE).await;
    Ok(if ended {
        Exit::Done
    } else {
        Exit::AddressesRemain
    })
}

/// Starts a session in a process of its own, and connects to it.
pub(crate) async fn spawn(context: &Context) -> anyhow::Result<Handle> {
    let this = std::env::current_exe()?;
    Command::new(&this)
        .arg("session")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Not ended by this terminal's Ctrl-C.
        .process_group(0)
        .spawn()
        .with_context(|| format!("{} can't be started as a session", this.display()))?;
    let connected = async {
        loop {
            match context.session().await {
                Ok(None) => tokio::time::sleep(START_STEP).await,
                found => return found.map_err(anyhow::Error::from),
            }
        }
    };
    let found = tokio::time::timeout(START_DEADLINE, connected).await;
    found
        .context("the session did not start: run `minitunnel session` to see why")??
        .context("the session ended at once: run `minitunnel session` to see why")
}
