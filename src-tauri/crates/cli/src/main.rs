//! The `minitunnel` command: a client of the running session, or its host where none runs.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cleanup;
mod context;
mod down;
mod exit;
mod keep;
mod manual;
mod out;
mod printer;
mod render;
mod report;
mod screen;
mod select;
mod session;
mod signals;
mod status;
#[cfg(test)]
mod testing;
mod up;
mod view;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clap_complete::ArgValueCandidates;
use minitunnel_engine::log;
use minitunnel_model::ProfileName;

use exit::Exit;
use out::complain;

const EXIT_CODES: &str = "\
Exit codes:
  0  done                         5  consent was not given
  1  failed, and said why         6  the helper is not to be had
  2  wrong usage                  7  the cluster can't be reached by routes
  3  no such profile, or which?   8  ended, but addresses remain on services
  4  a route conflicts            9  a service waited for did not answer";

/// Makes the services of minikube clusters reachable from this machine.
#[derive(Debug, Parser)]
#[command(name = "minitunnel", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Arguments {
    /// Says more: the chain of causes and each event; then what happens inside (-vv, -vvv).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Brings tunnels up, and down again at Ctrl-C.
    Up(up::Arguments),
    /// Brings tunnels of the running session down.
    Down(down::Arguments),
    /// Shows each profile's tunnel, routes and LoadBalancer services.
    Status(status::Arguments),
    /// Removes what dead tunnels left: routes, and addresses of services.
    Cleanup(cleanup::Arguments),
    /// Tells whether the routes of a profile would conflict, without creating any.
    Check(Selection),
    /// Shows the whole product on a small cluster of its own, without minikube.
    Demo(minitunnel_sandbox::Demo),
    /// Writes what a bug report needs to a file: versions, state, routes and log, without secrets, public
    /// addresses, and the names of you, your home and your host.
    Report(report::Arguments),
    /// Prints what makes a shell complete this program's command lines.
    Completions(manual::Completions),
    /// Writes the manual pages (the installer does).
    #[command(hide = true)]
    Man(manual::Manual),
    /// Hosts the session until its last tunnel is down (`up --detach` starts it).
    #[command(hide = true)]
    Session,
}

/// Which profiles a command is for.
#[derive(Debug, clap::Args)]
struct Selection {
    /// A minikube profile, as often as you like; without it: the only one, else minikube's active one.
    #[arg(short, long, value_name = "PROFILE", add = ArgValueCandidates::new(manual::profiles))]
    profile: Vec<ProfileName>,
}

fn main() -> ExitCode {
    manual::answer_shell();
    let arguments = Arguments::parse();
    if let Err(what) = log::start(arguments.verbose) {
        complain!("minitunnel: {what}");
    }
    if let Subcommands::Demo(options) = &arguments.command {
        return minitunnel_sandbox::demo(options);
    }
    match run(arguments.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            complain!("minitunnel: {error}");
            if arguments.verbose > 0 {
                error
                    .chain()
                    .skip(1)
                    .for_each(|cause| complain!("  because: {cause}"));
            }
            exit::of(&error).into()
        }
    }
}

fn run(command: Subcommands) -> anyhow::Result<Exit> {
    match &command {
        // About nobody's home: the installer's root writes them itself.
        Subcommands::Completions(arguments) => return manual::completions(arguments),
        Subcommands::Man(arguments) => return manual::manual(arguments),
        Subcommands::Up(arguments) if arguments.detaches() => keep::refuse_detached()?,
        Subcommands::Up(_) => keep::run_beside_helper(true)?,
        Subcommands::Cleanup(arguments) => keep::run_beside_helper(!arguments.dry_run)?,
        _ => keep::run_beside_helper(false)?,
    }
    // One thread: a tunnel waits for events nearly all of its life.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            Subcommands::Up(arguments) => up::run(arguments).await,
            Subcommands::Down(arguments) => down::run(arguments).await,
            Subcommands::Status(arguments) => status::run(arguments).await,
            Subcommands::Cleanup(arguments) => cleanup::run(arguments).await,
            Subcommands::Check(selection) => status::check(&selection.profile).await,
            Subcommands::Report(arguments) => report::run(arguments).await,
            Subcommands::Session => session::host_until_idle().await,
            Subcommands::Demo(_) | Subcommands::Completions(_) | Subcommands::Man(_) => {
                Ok(Exit::Done)
            }
        }
    })
}
