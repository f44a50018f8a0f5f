//! Where a command runs: the minikube home, the session's folder, the profiles that are meant.

use std::{collections::BTreeSet, io, path::PathBuf, time::Duration};

use minitunnel_engine::{
    engine::{self, Handle, HelperWay, Options},
    minikube::{Environment, Home, active_profile, read_profiles},
    reducer::Scope,
    session::{self, ConnectError, RuntimeDir},
};
use minitunnel_helper_api::{INHERITED_VARIABLE, STDIN};
use minitunnel_model::{ClusterState, Command, Hello, PROTOCOL, ProfileName, Snapshot};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    exit::{Exit, Failure},
    select::select,
};

/// How long a command that only looks waits for API servers.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a session that closes its socket has to be gone, and how often that is looked at: nothing tells of it.
const ENDING: Duration = Duration::from_secs(10);
const ENDING_STEP: Duration = Duration::from_millis(20);

/// What is, as seen by a session or by an engine of this process that only looks.
pub(crate) struct Look {
    pub(crate) handle: Handle,
    /// The engine, where there is no session.
    engine: Option<JoinHandle<()>>,
}

impl Look {
    /// Whether it is a session that looks.
    pub(crate) fn is_session(&self) -> bool {
        self.engine.is_none()
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if let Some(engine) = &self.engine {
            engine.abort();
        }
    }
}

/// What every command needs.
pub(crate) struct Context {
    pub(crate) home: Home,
    pub(crate) runtime: RuntimeDir,
}

impl Context {
    /// From the environment.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let environment = Environment::from_lookup(|name| std::env::var_os(name));
        let home = Home::find(&environment)?;
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        Ok(Self {
            home,
            runtime: RuntimeDir::open(runtime.as_deref())?,
        })
    }

    /// The first line that this program says on a session socket.
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            home: self.home.path.clone(),
        }
    }

    /// The running session, if there is one; one that ends at this moment is waited for.
    pub(crate) async fn session(&self) -> Result<Option<Handle>, ConnectError> {
        let deadline = Instant::now() + ENDING;
        loop {
            match session::connect(&self.runtime, &self.hello()).await {
                Err(ConnectError::Silent(error))
                    if error.kind() != io::ErrorKind::TimedOut && Instant::now() < deadline =>
                {
                    tokio::time::sleep(ENDING_STEP).await;
                }
                found => return found,
            }
        }
    }

    /// An engine in this process, for these profiles or for all.
    pub(crate) async fn host(
        &self,
        acts: bool,
        only: Option<BTreeSet<ProfileName>>,
    ) -> anyhow::Result<(Handle, JoinHandle<()>)> {
        // One that only looks starts no helper, as that one would clean up.
        let helper = if acts { helper()? } else { HelperWay::Nowhere };
        let scope = Scope { acts, only };
        Ok(engine::start(Options {
            home: self.home.clone(),
            scope,
            helper,
        })
        .await?)
    }

    /// What is: by the session, else by an engine that has looked around once.
    pub(crate) async fn look(&self, only: Option<BTreeSet<ProfileName>>) -> anyhow::Result<Look> {
        let (handle, engine) = match self.session().await? {
            Some(handle) => {
                // It may have been started for other profiles; one that ends just now has shown what it knew.
                let _ = handle.command(Command::Look).await;
                (handle, None)
            }
            None => {
                let (handle, engine) = self.host(false, only).await?;
                (handle, Some(engine))
            }
        };
        let mut look = Look { handle, engine };
        let settled = |snapshot: &Snapshot| {
            let asking = |cluster: &ClusterState| *cluster == ClusterState::Asking;
            snapshot.complete
                && !snapshot
                    .profiles
                    .iter()
                    .any(|status| asking(&status.cluster))
        };
        // A server that stays silent is shown as it is: not answering.
        let _ = tokio::time::timeout(PATIENCE, look.handle.until(settled)).await;
        Ok(look)
    }

    /// The profiles that are meant: those named, else the only one, else minikube's active one.
    pub(crate) fn select(&self, named: &[ProfileName]) -> Result<Vec<ProfileName>, Failure> {
        let active = active_profile(&self.home);
        select(
            named,
            &read_profiles(&self.home),
            active.as_ref(),
            &self.home.path,
        )
    }
}

/// How an engine of this process reaches the helper.
fn helper() -> Result<HelperWay, Failure> {
    let Some(value) = std::env::var_os(INHERITED_VARIABLE) else {
        return Ok(HelperWay::System);
    };
    let wrong = |what: String| Failure {
        exit: Exit::Usage,
        message: format!("{INHERITED_VARIABLE} is set to {value:?}, {what}: unset it"),
    };
    if value != STDIN {
        return Err(wrong("which means nothing".into()));
    }
    match minitunnel_helper_api::inherited() {
        Ok(Some(socket)) => Ok(HelperWay::Inherited(socket)),
        Ok(None) => Ok(HelperWay::System),
        Err(error) => Err(wrong(format!(
            "and standard input is not the helper's socket ({error})"
        ))),
    }
}
