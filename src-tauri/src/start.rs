//! Starting a session where none runs: the tray, else a session in the background.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::process::Command;

use crate::places::program;

/// A tray that lives so long has started; one that has ended by then says by its status whether another one runs.
const STARTED: Duration = Duration::from_secs(2);

/// Why no session was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(
        "neither minitunnel-tray nor minitunnel is beside this program or on the PATH: install minitunnel with installers/linux/install"
    )]
    NotInstalled,
    #[error("{} can't be started: is it whole, and yours to run?", .0.display())]
    NotStarted(PathBuf, #[source] std::io::Error),
    #[error("{} ended at once: {said}; run it in a terminal to see more", .program.display())]
    Failed { program: PathBuf, said: String },
}

/// Starts a session.
pub(crate) async fn start() -> Result<(), StartError> {
    if let Some(tray) = program("minitunnel-tray") {
        return start_tray(&tray).await;
    }
    let minitunnel = program("minitunnel").ok_or(StartError::NotInstalled)?;
    up_detached(&minitunnel).await
}

async fn start_tray(tray: &Path) -> Result<(), StartError> {
    let mut child = detached(tray)
        // It outlives this window, whose end of a pipe would then be gone.
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| StartError::NotStarted(tray.into(), error))?;
    match tokio::time::timeout(STARTED, child.wait()).await {
        Ok(Ok(status)) => judge(tray, status, b""),
        Ok(Err(error)) => Err(StartError::NotStarted(tray.into(), error)),
        Err(_) => Ok(()),
    }
}

/// The profile that is meant without a `-p` comes up; if it is not clear which one, that is said.
async fn up_detached(minitunnel: &Path) -> Result<(), StartError> {
    let output = detached(minitunnel)
        .args(["up", "--detach"])
        .stderr(Stdio::piped())
        .output()
        .await
        .map_err(|error| StartError::NotStarted(minitunnel.into(), error))?;
    judge(minitunnel, output.status, &output.stderr)
}

/// A program that this window's end does not end.
fn detached(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    command
}

fn judge(program: &Path, status: ExitStatus, said: &[u8]) -> Result<(), StartError> {
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(StartError::Failed {
        program: program.into(),
        said: last.map_or_else(|| status.to_string(), str::to_owned),
    })
}
