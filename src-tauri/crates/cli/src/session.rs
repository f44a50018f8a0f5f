//! A session in a process of its own, without a view.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use minitunnel_engine::{
    engine::Handle,
    host::{Hosted, PATIENCE},
};
use minitunnel_model::{ProfileStatus, Snapshot, TunnelState};

use crate::{context::Context, exit::Exit, signals::Signals};

/// A session that nobody has asked for anything ends after this time.
const UNUSED: Duration = Duration::from_secs(30);
/// How long a session that was started has to open its socket.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How often the socket is looked at meanwhile: there is nothing to wait on before it is there.
const START_STEP: Duration = Duration::from_millis(20);

/// Hosts the session until its last tunnel is down, or a signal ends it.
pub(crate) async fn host_until_idle() -> anyhow::Result<Exit> {
    let context = Context::new()?;
    let hosted: Option<Hosted> = context
        .claim(|| Context::powers(None).map_err(anyhow::Error::from))
        .await?;
    let Some(hosted) = hosted else {
        bail!("a session runs already: `minitunnel status` shows it");
    };
    let mut signals = Signals::new()?;
    let mut handle = hosted.handle.clone();
    let idle = async {
        // By the Quit of a view: how long an end may take is for the end to say.
        let ending = |snapshot: &Snapshot| snapshot.ending;
        let used = |snapshot: &Snapshot| ending(snapshot) || snapshot.wanted().next().is_some();
        if tokio::time::timeout(UNUSED, handle.until(used))
            .await
            .is_ok()
        {
            let over = |snapshot: &Snapshot| {
                let at_rest = |status: &ProfileStatus| status.tunnel == TunnelState::Disconnected;
                let none_wanted = snapshot.wanted().next().is_none();
                ending(snapshot) || none_wanted && snapshot.profiles.iter().all(at_rest)
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
