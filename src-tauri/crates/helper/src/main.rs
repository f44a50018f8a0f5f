//! minitunnel's privileged process: it applies routes for those who may, and removes them when their owner dies.
//!
//! It holds CAP_NET_ADMIN and nothing else, trusts nobody, and links no TLS, HTTP, Kubernetes or GUI code.

mod asked;
mod bus;
mod consent;
mod error;
mod interface;
mod journal;
mod overlap;
mod privileges;
mod registry;
mod serve;
mod service;
mod stale;
mod store;
mod system;
#[cfg(test)]
mod testing;
mod transaction;
mod validate;

use std::{ffi::OsString, path::Path, process::ExitCode, time::Duration};

use rustix::thread::CapabilitySet;

use crate::error::ServeError;

const USAGE: &str = "\
minitunnel-helper: changes routes for minitunnel. You need not run it yourself.

  minitunnel-helper serve [--state-dir DIR]         serve the system bus (started by it on demand)
  minitunnel-helper serve --peer [--state-dir DIR]  serve the socket that is standard input
  minitunnel-helper recover [--state-dir DIR]       remove the routes that dead owners left
  minitunnel-helper --version
";

/// Another helper is at work (`EX_TEMPFAIL` of `sysexits.h`): to start again at once is of no use.
const BUSY: u8 = 75;

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Bus,
    Peer,
    Recover,
}

/// Until another one tries to remove what the kernel has just refused to: systemd gives up on 50 starts within 10 s.
const AGAIN: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).map(OsString::into_string);
    let words: Vec<String> = words.collect::<Result<_, _>>().unwrap_or_default();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words == ["--version"] {
        println!("minitunnel-helper {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let Some((task, state)) = parse(&words) else {
        eprint!("{USAGE}");
        // As the shells have it for wrong usage.
        return ExitCode::from(2);
    };
    let Err(error) = run(task, state) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("minitunnel-helper: {error}");
    match error {
        ServeError::Busy { .. } => ExitCode::from(BUSY),
        ServeError::Left => {
            std::thread::sleep(AGAIN);
            ExitCode::FAILURE
        }
        _ => ExitCode::FAILURE,
    }
}

/// Reads the command line; `None` for one that makes no sense.
fn parse<'a>(words: &[&'a str]) -> Option<(Task, &'a Path)> {
    let (task, state) = match words {
        [task @ .., "--state-dir", state] => (task, *state),
        task => (task, store::STATE_DIR),
    };
    let task = match task {
        ["serve"] => Task::Bus,
        ["serve", "--peer"] => Task::Peer,
        ["recover"] => Task::Recover,
        _ => return None,
    };
    Some((task, Path::new(state)))
}

fn run(task: Task, state: &Path) -> Result<(), ServeError> {
    privileges::keep_only(CapabilitySet::NET_ADMIN)?;
    // One thread is enough, and is all that holds the privileges.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // A death or a signal is looked for after each call, of which some take long.
        .event_interval(1)
        .global_queue_interval(1)
        .build()
        .map_err(ServeError::Runtime)?;
    runtime.block_on(async {
        match task {
            Task::Bus => serve::bus(state).await,
            Task::Peer => serve::peer(state).await,
            Task::Recover => serve::recover(state).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<(Task, String)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        parse(&words).map(|(task, state)| (task, state.display().to_string()))
    }

    #[test]
    fn each_way_to_start_is_read() {
        let state = || "/run/minitunnel".to_owned();
        assert_eq!(read("serve"), Some((Task::Bus, state())));
        let elsewhere = Some((Task::Peer, "/x".to_owned()));
        assert_eq!(read("serve --peer --state-dir /x"), elsewhere);
        assert_eq!(read("recover"), Some((Task::Recover, state())));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "up",
            "serve now",
            "serve -- ls",
            "recover --peer",
            "serve --state-dir",
        ] {
            assert_eq!(read(line), None, "{line:?}");
        }
    }
}
