//! The session on a desktop: its engine, the icon in the panel, notifications.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod app;
mod desktop;
mod executable;
mod follow;
mod icon;
mod menu;
mod notices;
mod notifier;
mod panel;
mod signals;
#[cfg(test)]
mod testing;

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, anyhow};
use clap::Parser;
use minitunnel_engine::{
    engine::HelperWay,
    host::{Place, helper},
    log,
    session::connect,
    shown::printable,
};
use minitunnel_model::{Command as Ask, Hello, ProfileName};

use app::{End, Events, Start};
use executable::Executable;

/// Shows minikube's clusters in the panel, and makes their services reachable by a click.
#[derive(Debug, Parser)]
#[command(name = "minitunnel-tray", version)]
struct Arguments {
    /// Says more: each event; then what happens inside (-vv, -vvv).
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Waits longer for the desktop's panel, and opens no second window: for the start at login.
    #[arg(long)]
    login: bool,
    /// Shows nothing: for a machine without a desktop.
    #[arg(long)]
    headless: bool,
    /// Brings this profile's tunnel up, as often as you like; consent is asked for.
    #[arg(long, value_name = "PROFILE")]
    start: Vec<ProfileName>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(what) = log::start(arguments.verbose) {
        complain(&what);
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn complain(text: &str) {
    let line = format!("minitunnel-tray: {}\n", printable(text));
    // There may be nobody to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    // One thread: a tunnel waits for events nearly all of its life.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let events = Events::new();
    let executable = Executable::watched(events.tell.clone())?;
    let path = executable.path().to_owned();
    let inherited = match helper()? {
        HelperWay::Inherited(socket) => Some(socket),
        _ => None,
    };
    let restart = runtime.block_on(async {
        let place = Place::find(|name| std::env::var_os(name))?;
        let only = place.runtime.be_the_only("tray");
        let Some(only) = only.context("the tray's lock can't be made")? else {
            if !arguments.login {
                show_the_first(&place).await?;
            }
            return Ok::<_, anyhow::Error>(None);
        };
        let start = Start {
            at_login: arguments.login,
            headless: arguments.headless,
            tunnels: arguments.start.iter().cloned().collect(),
            inherited,
        };
        Ok(match app::run(place, start, executable, events).await {
            End::Quit => None,
            End::Restart(tunnels) => Some((tunnels, only)),
        })
    })?;
    let Some((tunnels, only)) = restart else {
        // What still waits for a dialog or a panel ends with this process.
        runtime.shutdown_background();
        return Ok(());
    };
    runtime.shutdown_background();
    let mut command = Command::new(&path);
    command.args((0..arguments.verbose).map(|_| "-v"));
    command.args(arguments.headless.then_some("--headless"));
    for tunnel in tunnels {
        command.args(["--start", tunnel.as_str()]);
    }
    // The lock goes with this program.
    drop(only);
    let error = command.exec();
    Err(anyhow!("{} can't be started: {error}", path.display()))
}

/// Has the tray that runs open its window.
async fn show_the_first(place: &Place) -> anyhow::Result<()> {
    // Whatever minikube home it works on.
    let hello = Hello {
        home: PathBuf::new(),
        ..place.hello()
    };
    if let Ok(Some(session)) = connect(&place.runtime, &hello).await
        && session.command(Ask::OpenWindow).await.is_ok()
    {
        return Ok(());
    }
    // It has just begun, or is a terminal's, which has no window to open.
    desktop::open_window(true).map_err(|problem| anyhow!(problem))
}
