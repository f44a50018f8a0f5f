//! Where a command runs: the minikube home, the session's folder, the profiles that are meant.

use std::{collections::BTreeSet, ops::Deref, time::Duration};

use minitunnel_engine::{
    engine::{Handle, HelperWay},
    host::{Place, Powers, helper},
    minikube::{active_profile, read_profiles},
    reducer::Scope,
};
use minitunnel_model::{ClusterState, Command, ProfileName, Snapshot};
use tokio::task::JoinHandle;

use crate::{
    exit::{Exit, Failure},
    select::select,
};

/// How long a command that only looks waits for API servers.
const PATIENCE: Duration = Duration::from_secs(3);

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
pub(crate) struct Context(Place);

impl Deref for Context {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.0
    }
}

impl Context {
    /// From the user's settings and the environment.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Place::find(|name| std::env::var_os(name))?))
    }

    /// What a session of this process may do, for these profiles or for all.
    pub(crate) fn powers(only: Option<BTreeSet<ProfileName>>) -> Result<Powers, Failure> {
        Ok(Powers {
            scope: Scope { acts: true, only },
            helper: helper().map_err(|wrong| Failure {
                exit: Exit::Usage,
                message: wrong.to_string(),
            })?,
            window: None,
        })
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
                // One that only looks starts no helper, as that one would clean up.
                let looks = Powers {
                    scope: Scope { acts: false, only },
                    helper: HelperWay::Nowhere,
                    window: None,
                };
                let (handle, engine) = self.engine(looks).await?;
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
