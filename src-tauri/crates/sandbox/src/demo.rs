//! `minitunnel demo`: the whole product in a few seconds, in namespaces of its own.
//!
//! Three processes of the same program: the one that the user started (it makes the namespaces, and looks afterwards
//! whether anything is left of them), the one inside (process 1 there, it plays the scenes) and the node.

mod cluster;
mod desktop;
mod inside;
mod screen;
mod traces;
mod tunnel;

use std::{
    env,
    ffi::OsString,
    io,
    path::Path,
    process::{ExitCode, ExitStatus, Stdio},
};

use minitunnel_helper_api::find_keeper;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use crate::{Error, node};
use screen::Screen;
use traces::Machine;

/// What the process inside prints first: nothing before it means that there are no namespaces.
const INSIDE: &str = "inside";

/// The options of `minitunnel demo`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Demo {
    /// Leave the cluster and the tunnel up until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Open a shell beside the cluster while the tunnel is up.
    #[arg(long, conflicts_with = "keep")]
    pub shell: bool,
    /// Show the cluster in your desktop's panel, and the tunnel with it, until you quit it there.
    #[arg(long, conflicts_with_all = ["keep", "shell"])]
    pub tray: bool,
    /// The process inside the namespaces (the demo starts it by itself).
    #[arg(long, hide = true)]
    inside: bool,
    /// The node (the demo starts it by itself).
    #[arg(long, hide = true)]
    node: bool,
    /// Colours, as the outer process sees the terminal.
    #[arg(long, hide = true)]
    color: bool,
}

/// Runs the demo; the exit code is 0 only if every scene went as it should, and nothing was left.
///
/// To be called outside of any runtime, by the program that has the subcommands `demo` (with [`Demo`]) and `up`.
pub fn demo(options: &Demo) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Error::Runtime(error)),
    };
    let result = runtime.block_on(async {
        if options.node {
            node::run().await.map(|()| true)
        } else if options.inside {
            inside::run(options).await
        } else {
            outside(options).await
        }
    });
    // A read of standard input may be under way on a thread, and would be waited for.
    runtime.shutdown_background();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("minitunnel demo: {error}");
    ExitCode::FAILURE
}

/// The part of the process that the user started.
async fn outside(options: &Demo) -> Result<bool, Error> {
    let program = env::current_exe().map_err(Error::SelfPath)?;
    find_keeper(&program)?;
    let screen = Screen::of_terminal();
    let before = Machine::look().await?;
    let (mut interrupts, mut ends) = (listen(SignalKind::interrupt())?, Ends::listen()?);
    let mut child = unshare(&program, options, &screen)?;
    let Some(stdout) = child.stdout.take() else {
        return Err(Error::Pipe(io::ErrorKind::BrokenPipe.into()));
    };
    let mut lines = BufReader::new(stdout).lines();
    let mut namespaces = None;
    loop {
        tokio::select! {
            line = lines.next_line() => match line.map_err(Error::Pipe)? {
                None => break,
                Some(line) if namespaces.is_none() && line == INSIDE => {
                    let inside = traces::inside(child.id())?;
                    screen.title(options, inside.pid);
                    namespaces = Some(inside);
                }
                Some(line) => screen.print(&line),
            },
            // The process inside hears it too, and decides.
            _ = interrupts.recv() => {}
            () = ends.recv() => match &namespaces {
                Some(inside) => inside.terminate()?,
                // Nothing has begun.
                None => return Err(Error::Interrupted),
            },
        }
    }
    let status = child.wait().await.map_err(Error::Pipe)?;
    let Some(namespaces) = namespaces else {
        return Err(Error::Namespaces {
            root: rustix::process::geteuid().is_root(),
        });
    };
    let left = before.left(&namespaces, &Machine::look().await?)?;
    screen.machine(&left);
    let good = status.success() && left.is_empty();
    screen.end(good, &verdict(status, options));
    Ok(good)
}

fn verdict(status: ExitStatus, options: &Demo) -> String {
    if !status.success() {
        return "the demo failed".to_owned();
    }
    if options.keep || options.shell || options.tray {
        "the tunnel ended, and nothing of it is left".to_owned()
    } else {
        "the tunnel was killed, and nothing of it is left".to_owned()
    }
}

/// Starts this program again in new namespaces; they end with it, and it with this process.
fn unshare(program: &Path, options: &Demo, screen: &Screen) -> Result<Child, Error> {
    let mut arguments: Vec<OsString> = ["--pdeathsig", "KILL", "unshare"].map(Into::into).into();
    if !rustix::process::geteuid().is_root() {
        arguments.extend(["--user", "--map-root-user"].map(Into::into));
    }
    let namespaces = [
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    arguments.extend(namespaces.map(Into::into));
    arguments.extend([program.into(), "demo".into(), "--inside".into()]);
    let flags = [
        (options.keep, "--keep"),
        (options.shell, "--shell"),
        (options.tray, "--tray"),
        (screen.color(), "--color"),
    ];
    arguments.extend(
        flags
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, flag)| flag.into()),
    );
    Command::new("setpriv")
        .args(arguments)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Program {
            program: "setpriv",
            package: "util-linux",
            source,
        })
}

/// The signals that end a program, but Ctrl-C.
struct Ends {
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Ends {
    fn listen() -> Result<Self, Error> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Error> {
    signal(kind).map_err(Error::Runtime)
}
