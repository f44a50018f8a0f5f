//! Where the user's session is, joining it, and hosting it: what the command and the tray have in common.

mod patience;

use std::{collections::BTreeSet, ffi::OsString, io, path::PathBuf, time::Duration};

use minitunnel_helper_api::{INHERITED_VARIABLE, STDIN, inherited};
use minitunnel_model::{Command, Hello, PROTOCOL, ProfileName};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    engine::{self, Handle, HelperWay, OpenWindow, Options},
    log,
    minikube::{Environment, Home, NoHome},
    reducer::Scope,
    session::{self, ConnectError, NoRuntimeDir, RuntimeDir, Server},
    settings,
};

pub use patience::{PATIENCE, is_ours, patiently};

/// How long a session that begins or ends at this moment has to be there or gone.
const MOMENT: Duration = Duration::from_secs(10);
/// How often that is looked at meanwhile: nothing tells of it.
const STEP: Duration = Duration::from_millis(20);

/// Where the user's session is, and what it works on.
#[derive(Clone, Debug)]
pub struct Place {
    /// The minikube home.
    pub home: Home,
    /// The session's folder.
    pub runtime: RuntimeDir,
    /// The file of the settings, if the user has a home folder.
    pub settings: Option<PathBuf>,
}

/// Why there is no such place.
#[derive(Debug, thiserror::Error)]
pub enum NoPlace {
    /// No minikube home.
    #[error(transparent)]
    Home(#[from] NoHome),
    /// No folder for the socket.
    #[error(transparent)]
    Runtime(#[from] NoRuntimeDir),
}

/// What a session may do.
#[derive(Debug)]
pub struct Powers {
    /// Whose tunnels, and whether anything is changed at all.
    pub scope: Scope,
    /// How it reaches the helper.
    pub helper: HelperWay,
    /// What opens the window, where the session has a desktop.
    pub window: Option<OpenWindow>,
}

/// Why no session can be hosted.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// No socket.
    #[error("the session socket can't be made: {0}")]
    Socket(#[from] io::Error),
    /// No engine.
    #[error(transparent)]
    Engine(#[from] engine::StartError),
}

/// The environment names a helper that this process was not started with.
#[derive(Debug, thiserror::Error)]
#[error("{INHERITED_VARIABLE} is set to {value:?}, {what}: unset it")]
pub struct WrongHelper {
    value: OsString,
    what: String,
}

/// How an engine of this process reaches the helper: call it once, as the socket is then taken.
///
/// # Errors
///
/// If the environment says that there is a socket and there is none.
pub fn helper() -> Result<HelperWay, WrongHelper> {
    let Some(value) = std::env::var_os(INHERITED_VARIABLE) else {
        return Ok(HelperWay::System);
    };
    if value != STDIN {
        let what = "which means nothing".to_owned();
        return Err(WrongHelper { value, what });
    }
    match inherited() {
        Ok(Some(socket)) => Ok(HelperWay::Inherited(socket)),
        Ok(None) => Ok(HelperWay::System),
        Err(error) => {
            let what = format!("and standard input is not the helper's socket ({error})");
            Err(WrongHelper { value, what })
        }
    }
}

/// Another process has the session's lock, and listens to nobody.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("another minitunnel neither starts nor ends: end its process and try again")]
pub struct Busy;

/// The one session of the user.
pub enum Session {
    /// Another process's.
    Joined(Handle),
    /// This process's.
    Hosted(Hosted),
}

impl Place {
    /// By the user's settings, else the environment, else the defaults.
    ///
    /// # Errors
    ///
    /// If there is no home folder, or none for the socket.
    pub fn find(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, NoPlace> {
        let settings = settings::path(&lookup);
        let read = settings.as_deref().map(settings::read).unwrap_or_default();
        let environment = Environment::from_lookup(&lookup).with(&read.settings);
        let runtime = lookup("XDG_RUNTIME_DIR").map(PathBuf::from);
        Ok(Self {
            home: Home::find(&environment)?,
            runtime: RuntimeDir::open(runtime.as_deref())?,
            settings,
        })
    }

    /// The first line that this program says on a session socket.
    pub fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            home: self.home.path.clone(),
        }
    }

    /// The running session, if there is one; one that ends at this moment is waited for.
    ///
    /// # Errors
    ///
    /// If one runs, and can't be used.
    pub async fn session(&self) -> Result<Option<Handle>, ConnectError> {
        let deadline = Instant::now() + MOMENT;
        loop {
            match session::connect(&self.runtime, &self.hello()).await {
                Err(ConnectError::Silent(error))
                    if error.kind() != io::ErrorKind::TimedOut && Instant::now() < deadline =>
                {
                    tokio::time::sleep(STEP).await;
                }
                found => return found,
            }
        }
    }

    /// An engine in this process.
    ///
    /// # Errors
    ///
    /// If the kernel's routes or files can't be watched.
    pub async fn engine(
        &self,
        powers: Powers,
    ) -> Result<(Handle, JoinHandle<()>), engine::StartError> {
        engine::start(Options {
            home: self.home.clone(),
            scope: powers.scope,
            helper: powers.helper,
            settings: self.settings.clone(),
            window: powers.window,
        })
        .await
    }

    /// Becomes the user's session; `None` if there is one.
    ///
    /// # Errors
    ///
    /// If its socket can't be made, or its engine can't start.
    pub async fn claim<E: From<ClaimError>>(
        &self,
        powers: impl FnOnce() -> Result<Powers, E>,
    ) -> Result<Option<Hosted>, E> {
        let Some(server) = Server::claim(&self.runtime).map_err(ClaimError::Socket)? else {
            return Ok(None);
        };
        let powers = powers()?;
        log::to_file(self.runtime.log());
        let home = self.home.path.display();
        tracing::info!("session {} begins on {home}", env!("CARGO_PKG_VERSION"));
        let (handle, engine) = self.engine(powers).await.map_err(ClaimError::Engine)?;
        let server = tokio::spawn(server.serve(handle.clone(), self.hello()));
        Ok(Some(Hosted {
            handle,
            engine,
            server,
        }))
    }

    /// Joins the session that runs, else hosts one.
    ///
    /// One that begins or ends at this moment is neither to be joined nor replaced, and is waited for.
    ///
    /// # Errors
    ///
    /// If one runs that can't be used, or none can be hosted.
    pub async fn enter<E>(&self, powers: impl Fn() -> Result<Powers, E>) -> Result<Session, E>
    where
        E: From<ConnectError> + From<ClaimError> + From<Busy>,
    {
        let deadline = Instant::now() + MOMENT;
        loop {
            if let Some(handle) = self.session().await? {
                return Ok(Session::Joined(handle));
            }
            if let Some(hosted) = self.claim(&powers).await? {
                return Ok(Session::Hosted(hosted));
            }
            if Instant::now() >= deadline {
                return Err(Busy.into());
            }
            tokio::time::sleep(STEP).await;
        }
    }
}

/// The session that this process hosts.
pub struct Hosted {
    /// A view's end of it.
    pub handle: Handle,
    engine: JoinHandle<()>,
    server: JoinHandle<()>,
}

impl Hosted {
    /// Ends the engine; false if it did not come to rest, and nothing went within the patience. What it holds ends with
    /// this process in any case.
    pub async fn end(mut self, patience: Duration) -> bool {
        let snapshot = self.handle.snapshot();
        let profiles = snapshot.profiles.iter();
        let names: BTreeSet<ProfileName> =
            profiles.map(|status| status.profile.name.clone()).collect();
        let handle = self.handle.clone();
        let engine = async {
            // An engine that has ended already is what is wanted.
            let _ = self.handle.command(Command::Quit).await;
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
