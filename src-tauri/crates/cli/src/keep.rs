//! `sudo minitunnel …`: the helper's keeper takes over, and runs this program again as the calling user.

use std::{os::unix::process::CommandExt, path::Path, process::Command};

use minitunnel_helper_api::{INHERITED_VARIABLE, find_keeper};

use crate::exit::{Exit, Failure};

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Replaces this process by the helper's keeper, where it takes root to reach the helper and there is no bus, and where
/// root stands in for the user who called sudo: it is that user's home and session that are meant.
///
/// Returns where this program goes on by itself.
pub(crate) fn run_beside_helper(needs_helper: bool) -> anyhow::Result<()> {
    let beside = std::env::var_os(INHERITED_VARIABLE).is_some();
    let bus = Path::new(SYSTEM_BUS).exists();
    if beside || !is_root() || !(by_sudo() || needs_helper && !bus) {
        return Ok(());
    }
    let this = std::env::current_exe()?;
    let keeper = match find_keeper(&this) {
        Ok(keeper) => keeper,
        // What only looks can do so as root, too.
        Err(_) if !needs_helper => return Ok(()),
        Err(missing) => return Err(no_helper(missing.to_string()).into()),
    };
    let error = Command::new(&keeper)
        .arg("--")
        .arg(&this)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(no_helper(format!("{} can't be run: {error}", keeper.display())).into())
}

fn no_helper(message: String) -> Failure {
    Failure {
        exit: Exit::NoHelper,
        message,
    }
}

/// Refuses `--detach` where the helper would have to be this command's own, which ends with it.
pub(crate) fn refuse_detached() -> Result<(), Failure> {
    let bus = Path::new(SYSTEM_BUS).exists();
    let message = if !is_root() || (bus && !by_sudo()) {
        return Ok(());
    } else if bus {
        "sudo goes with neither --detach nor --wait: install the helper (installers/linux/install) and run `minitunnel up \
         --detach` without sudo, or leave `sudo minitunnel up` in a terminal of its own, such as tmux"
    } else {
        "without a system bus there is neither --detach nor --wait: leave `sudo minitunnel up` in a terminal of its own, such as tmux"
    };
    Err(Failure {
        exit: Exit::Usage,
        message: message.into(),
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn by_sudo() -> bool {
    std::env::var_os("SUDO_UID").is_some()
}
