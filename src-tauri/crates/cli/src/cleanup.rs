//! `cleanup`.

use std::io::{BufRead as _, IsTerminal as _};

use minitunnel_engine::{
    engine::{Ended, Handle},
    host::{PATIENCE, Session},
};
use minitunnel_model::{CleanupItem, CleanupReport};

use crate::{
    context::Context,
    exit::Exit,
    out::{complain, say},
};

/// What `cleanup` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only tells what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Removes also what a `minikube tunnel` left that died, without asking.
    #[arg(short, long, conflicts_with = "dry_run")]
    yes: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let context = Context::new()?;
    let report = if arguments.dry_run {
        let look = context.look(None).await?;
        look.handle.cleanup(true, Vec::new()).await?
    } else {
        let powers = || Ok::<_, anyhow::Error>(Context::powers(None)?);
        match context.enter(powers).await? {
            Session::Joined(session) => clean(&session, arguments.yes).await?,
            Session::Hosted(hosted) => {
                let report = clean(&hosted.handle, arguments.yes).await;
                hosted.end(PATIENCE).await;
                report?
            }
        }
    };
    print(&report);
    let left = !report.failed.is_empty() || report.helper.is_some();
    Ok(if left { Exit::Failed } else { Exit::Done })
}

/// Cleans up what is ours, and of what is not that which the user has seen and agreed to.
async fn clean(session: &Handle, yes: bool) -> Result<CleanupReport, Ended> {
    let preview = session.cleanup(true, Vec::new()).await?.leftovers;
    let chosen = if preview.is_empty() || yes || agreed(&preview).await {
        preview
    } else {
        Vec::new()
    };
    session.cleanup(false, chosen).await
}

/// Whether the user agrees to remove these; nobody to ask is no.
async fn agreed(items: &[CleanupItem]) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    complain!("these are not minitunnel's:");
    for item in items {
        complain!("  {item}");
    }
    complain!("remove them too? [y/N]");
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        // What can't be read is no answer.
        let _ = std::io::stdin().lock().read_line(&mut line);
        line
    });
    answer.await.is_ok_and(|line| is_yes(&line))
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
}

fn print(report: &CleanupReport) {
    let verb = if report.dry_run {
        "would remove"
    } else {
        "removed"
    };
    for item in &report.removed {
        say!("{verb} {item}");
    }
    for item in &report.leftovers {
        if report.dry_run {
            say!("would ask whether to remove {item}");
        } else {
            say!("not removed: {item}; `minitunnel cleanup --yes` removes it");
        }
    }
    for route in &report.unclaimed {
        say!(
            "route {route} has minitunnel's tag, and no helper runs that tells whose it is: a clean-up removes it if no \
             living tunnel has it"
        );
    }
    let found = [&report.removed, &report.leftovers]
        .into_iter()
        .any(|items| !items.is_empty())
        || !report.unclaimed.is_empty()
        || !report.failed.is_empty();
    // What could not be looked at is told below.
    if !found && report.unasked.is_empty() && report.helper.is_none() {
        say!("nothing is left over");
    }
    for (item, reason) in &report.failed {
        complain!("left {item}: {reason}");
    }
    for profile in &report.unasked {
        complain!(
            "{profile}: its API server does not answer, so addresses that a dead run left there stay until it does"
        );
    }
    if let Some(message) = &report.helper {
        complain!("routes were not looked at: {message}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_yes_is_one() {
        for yes in ["y\n", "Y\n", " yes \n", "YES"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "yess\n", "j\n", "y y\n"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
