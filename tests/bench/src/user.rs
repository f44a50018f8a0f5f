//! A view of the session: one end of its socket.

use anyhow::Context as _;
use minitunnel_e2e::{Result, WAIT};
use minitunnel_model::{Hello, PROTOCOL};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::scene::Scene;

/// A user at the session socket of alice's `up`.
pub(crate) struct User(BufStream<UnixStream>);

impl User {
    pub(crate) async fn at(scene: &Scene) -> Result<Self> {
        let socket = UnixStream::connect(scene.session_socket()).await?;
        let mut user = Self(BufStream::new(socket));
        user.say(&Hello {
            protocol: PROTOCOL,
            version: "0".to_owned(),
            home: scene.minikube_home(),
        })
        .await?;
        let _: Hello = user.hear().await?;
        Ok(user)
    }

    pub(crate) async fn say(&mut self, line: &impl Serialize) -> Result {
        let line = serde_json::to_string(line)? + "\n";
        self.0.write_all(line.as_bytes()).await?;
        Ok(self.0.flush().await?)
    }

    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        Ok(serde_json::from_str(&self.line().await?)?)
    }

    /// The next line as it comes.
    pub(crate) async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        timeout(WAIT, self.0.read_line(&mut line))
            .await
            .context("the session says nothing")??;
        Ok(line)
    }
}
