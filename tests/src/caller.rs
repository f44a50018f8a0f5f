//! A caller of the helper's D-Bus interface, which knows no more of the helper than what its contract says.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use anyhow::Context as _;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::process::Child;
use zbus::conn::{AuthMechanism, Builder};
use zbus::{Connection, DynamicType, Message, Variant};

use crate::process::find_program;
use crate::{Place, Result, WAIT};

const NAME: &str = "io.github.minitunnel.Helper";
const PATH: &str = "/io/github/minitunnel/Helper";
const INTERFACE: &str = "io.github.minitunnel.Helper1";

/// What the helper answers.
pub type Answer<T> = std::result::Result<T, Refusal>;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error's D-Bus name, without what all of the helper's own begin with: `InvalidRoute`; empty where the
    /// connection ended instead of an answer.
    pub name: String,
    /// Its sentence.
    pub message: String,
}

/// A connection to the helper.
#[derive(Debug)]
pub struct Caller {
    connection: Connection,
    bus: bool,
    /// On a bus: the process that the bus sees.
    bridge: Option<Child>,
}

impl Caller {
    /// The other end of a helper's inherited socket.
    pub async fn peer(socket: UnixStream) -> Result<Self> {
        let connection = Builder::unix_stream(socket)
            .p2p()
            .auth_mechanism(AuthMechanism::Anonymous);
        Ok(Self {
            connection: within(connection.build()).await?,
            bus: false,
            bridge: None,
        })
    }

    /// A process on the lab's system bus, of that place's user. It dies with this value.
    pub async fn bus(place: &Place) -> Result<Self> {
        let (socket, bridge) = bridge(place)?;
        let connection = Builder::unix_stream(socket)
            .auth_mechanism(AuthMechanism::External)
            .user_id(place.uid());
        Ok(Self {
            connection: within(connection.build()).await?,
            bus: true,
            bridge: Some(bridge),
        })
    }

    /// Ends the connection, as the caller's death does.
    pub async fn end(self) -> Result {
        Ok(self.connection.close().await?)
    }

    /// Kills the process that the bus sees, and waits for its end.
    pub async fn kill(mut self) -> Result {
        let bridge = self.bridge.as_mut().context("it has no process")?;
        let program = find_program(bridge, true).await?;
        let program = program.context("its process has ended")?;
        pidfd_send_signal(&program.fd, Signal::KILL)?;
        bridge.wait().await?;
        Ok(())
    }

    /// The connection itself.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Calls a method with any arguments.
    pub async fn call<B>(&self, method: &str, arguments: &B) -> Answer<Message>
    where
        B: serde::Serialize + DynamicType,
    {
        let to = self.bus.then_some(NAME);
        let call = self
            .connection
            .call_method(to, PATH, Some(INTERFACE), method, arguments);
        match tokio::time::timeout(WAIT, call).await {
            Ok(answer) => answer.map_err(Refusal::from),
            Err(_) => Err(Refusal {
                name: "no answer".to_owned(),
                message: format!("{method} was not answered within {WAIT:?}"),
            }),
        }
    }

    /// `Apply`: routes are destinations and gateways; with `confirm_within` in seconds.
    pub async fn apply(
        &self,
        profile: &str,
        routes: &[(&str, &str)],
        confirm_within: Option<u32>,
    ) -> Answer<u64> {
        let options: HashMap<&str, Variant<'_>> = confirm_within
            .map(|seconds| ("confirm_within", Variant::from(seconds)))
            .into_iter()
            .collect();
        let answer = self.call("Apply", &(profile, routes, options)).await?;
        Ok(answer.body().deserialize()?)
    }

    /// `Confirm`.
    pub async fn confirm(&self, profile: &str, generation: u64) -> Answer<()> {
        self.call("Confirm", &(profile, generation)).await.map(drop)
    }

    /// `Release`.
    pub async fn release(&self, profile: &str) -> Answer<()> {
        self.call("Release", &(profile,)).await.map(drop)
    }

    /// `Cleanup`: the destinations and gateways that were removed.
    pub async fn cleanup(&self) -> Answer<Vec<(String, String)>> {
        let answer = self.call("Cleanup", &()).await?;
        Ok(answer.body().deserialize()?)
    }

    /// `List`: of each lease the profile (empty if withheld), the state and the routes.
    pub async fn list(&self) -> Answer<Vec<(String, String, Vec<(String, String)>)>> {
        type Lease = (String, u32, u32, u64, String, u64, Vec<(String, String)>);
        let answer = self.call("List", &()).await?;
        let leases: Vec<Lease> = answer.body().deserialize()?;
        Ok(leases
            .into_iter()
            .map(|(profile, _, _, _, state, _, routes)| (profile, state, routes))
            .collect())
    }
}

impl From<zbus::Error> for Refusal {
    fn from(error: zbus::Error) -> Self {
        let message = error.to_string();
        let name = match &error {
            zbus::Error::MethodError(name, _, _) => name
                .strip_prefix(&format!("{INTERFACE}.Error."))
                .unwrap_or(name)
                .to_owned(),
            zbus::Error::FDO(error) => zbus::DBusError::name(error.as_ref()).to_string(),
            _ => String::new(),
        };
        Self { name, message }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}

impl std::error::Error for Refusal {}

/// A process of that place's user with a connection to the bus, and the test's end of it.
pub(crate) fn bridge(place: &Place) -> Result<(UnixStream, Child)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = place.command("minitunnel-lab");
    let bridge = command.arg("bridge").stdin(OwnedFd::from(theirs)).spawn()?;
    Ok((ours, bridge))
}

async fn within(
    connecting: impl Future<Output = zbus::Result<Connection>> + Send,
) -> Result<Connection> {
    tokio::time::timeout(WAIT, connecting)
        .await
        .context("no handshake in time")?
        .context("the other end does not shake hands")
}
