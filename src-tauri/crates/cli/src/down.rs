//! `down`, and every other end of tunnels.

use std::collections::BTreeSet;

use clap_complete::ArgValueCandidates;
use minitunnel_engine::{
    engine::Ended,
    host::{PATIENCE, is_ours, patiently},
};
use minitunnel_model::{Command, ProfileName, Snapshot, TargetState, TunnelState};

use crate::{
    context::Context,
    exit::Exit,
    manual,
    out::{complain, say},
    printer::Printer,
};

/// What `down` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A minikube profile, as often as you like; without it: every one whose tunnel is up.
    #[arg(short, long, value_name = "PROFILE", add = ArgValueCandidates::new(manual::profiles))]
    profile: Vec<ProfileName>,
}

/// Brings tunnels of the running session down.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let named = arguments.profile;
    let context = Context::new()?;
    let Some(handle) = context.session().await? else {
        // A name that means nothing is wrong in any case.
        if !named.is_empty() {
            context.select(&named)?;
        }
        say!("no tunnel is up");
        return Ok(Exit::Done);
    };
    let snapshot = handle.snapshot();
    let names: BTreeSet<ProfileName> = if named.is_empty() {
        snapshot.wanted().cloned().collect()
    } else {
        // What the session has can be brought down, whatever became of its files.
        let known = |name: &ProfileName| snapshot.profile(name).is_some() || snapshot.wants(name);
        let unknown: Vec<_> = named.iter().filter(|name| !known(name)).cloned().collect();
        if !unknown.is_empty() {
            context.select(&unknown)?;
        }
        named.into_iter().collect()
    };
    if names.is_empty() {
        say!("no tunnel is up");
        return Ok(Exit::Done);
    }
    Ok(end(&mut Printer::new(handle, &names), &names).await)
}

/// Brings tunnels down, and names the addresses that can't be withdrawn.
pub(crate) async fn end(printer: &mut Printer, names: &BTreeSet<ProfileName>) -> Exit {
    let handle = printer.handle.clone();
    let bring_down = async {
        let commands = names.iter().map(|name| Command::SetTarget {
            profile: name.clone(),
            target: TargetState::Down,
        });
        printer.handle.commands(commands).await.map_err(|_| Ended)?;
        printer.catch_up();
        while !are_down(&printer.seen, names) {
            printer.next().await?;
        }
        Ok::<(), Ended>(())
    };
    // Late is said below, with what remains.
    if let Some(Err(Ended)) = patiently(handle, names, PATIENCE, bring_down).await {
        // Its host brought them down, and tells what remains.
        return Exit::Done;
    }
    if tell_what_remains(&printer.seen, names, "its API server does not answer") {
        return Exit::AddressesRemain;
    }
    if !are_down(&printer.seen, names) {
        complain!(
            "the tunnel is not down, and nothing of it went for {} s: `minitunnel status` tells why, and its routes go \
             when its session ends",
            PATIENCE.as_secs()
        );
        return Exit::Failed;
    }
    Exit::Done
}

/// Names each service that keeps an address of ours, and why; whether there is one.
pub(crate) fn tell_what_remains(
    snapshot: &Snapshot,
    names: &BTreeSet<ProfileName>,
    why: &str,
) -> bool {
    let lines = remaining(snapshot, names, why);
    lines.iter().for_each(|line| complain!("{line}"));
    !lines.is_empty()
}

fn are_down(snapshot: &Snapshot, names: &BTreeSet<ProfileName>) -> bool {
    let at_rest = |name| {
        let status = snapshot.profile(name);
        status.is_none_or(|status| status.tunnel == TunnelState::Disconnected)
    };
    names
        .iter()
        .all(|name| !snapshot.wants(name) && at_rest(name))
}

/// A line for each service that keeps an address of ours.
fn remaining(snapshot: &Snapshot, names: &BTreeSet<ProfileName>, why: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for status in names.iter().filter_map(|name| snapshot.profile(name)) {
        let shown = status.load_balancers.iter().filter(is_ours);
        let shown = shown.map(|lb| (&lb.key, &lb.ingress));
        // A cluster that stopped without a word shows no services, and keeps what it has.
        let left = status.left.iter();
        let left = left.map(|left| (&left.service, &left.addresses));
        for (service, addresses) in shown.chain(left) {
            let (name, addresses) = (&status.profile.name, addresses.join(", "));
            lines.push(format!(
                "{name}: service {service} keeps {addresses}: {why}; `minitunnel cleanup` withdraws it later"
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests;
