//! `status` and `check`.

use minitunnel_engine::engine::Ended;
use minitunnel_model::{GroupState, ProfileName, ProfileStatus, Reach, Snapshot};

use crate::{
    context::Context,
    exit::Exit,
    out::{raw, say},
    render::render,
    screen::{Screen, disturbed},
    signals::Signals,
    view::{Frame, view},
};

/// What `status` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Prints the snapshot as JSON: what every view is made of.
    #[arg(long)]
    json: bool,
    /// Prints it again after each change, until Ctrl-C.
    #[arg(short, long)]
    watch: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let context = Context::new()?;
    if arguments.watch {
        return watch(&context, arguments.json).await;
    }
    let snapshot = context.look(None).await?.handle.snapshot();
    show(&snapshot, arguments.json)?;
    Ok(if snapshot.profiles.is_empty() {
        Exit::NoProfile
    } else {
        Exit::Done
    })
}

/// Shows what is, and each change, by way of the session whenever there is one.
async fn watch(context: &Context, json: bool) -> anyhow::Result<Exit> {
    let mut screen = if json { None } else { Screen::open() };
    // Only a view has to be ended in order.
    let mut signals = match &screen {
        Some(screen) => {
            let mut signals = Signals::new()?;
            signals.guard(screen);
            Some(signals)
        }
        None => None,
    };
    let mut first = true;
    loop {
        // Watched for before the look: none begins unseen between the two.
        let sessions = context.runtime.beginnings()?;
        let mut look = tokio::select! {
            look = context.look(None) => look?,
            () = interrupted(&mut signals) => return Ok(Exit::Done),
        };
        let mut snapshot = look.handle.latest();
        loop {
            let drawn = screen.as_mut().is_some_and(|screen| {
                screen.show(|frame| {
                    let hint = "Ctrl-C ends this view";
                    view(&snapshot, &Frame { hint, ..frame })
                })
            });
            if !drawn {
                if !first && !json {
                    say!();
                }
                show(&snapshot, json)?;
            }
            first = false;
            let alone = !look.is_session();
            snapshot = tokio::select! {
                changed = look.handle.changed() => match changed {
                    Ok(snapshot) => snapshot,
                    Err(Ended) => break,
                },
                () = sessions.next(), if alone => break,
                () = disturbed(&mut screen) => snapshot,
                () = interrupted(&mut signals) => return Ok(Exit::Done),
            };
        }
    }
}

async fn interrupted(signals: &mut Option<Signals>) {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

fn show(snapshot: &Snapshot, json: bool) -> anyhow::Result<()> {
    if json {
        raw(&(serde_json::to_string(snapshot)? + "\n"));
    } else {
        render(snapshot).iter().for_each(|line| say!("{line}"));
    }
    Ok(())
}

/// Tells what a tunnel would get, and what stands in its way.
pub(crate) async fn check(named: &[ProfileName]) -> anyhow::Result<Exit> {
    let context = Context::new()?;
    let names = context.select(named)?;
    let look = context.look(Some(names.iter().cloned().collect())).await?;
    let snapshot = look.handle.snapshot();
    let mut exit = Exit::Done;
    for status in names.iter().filter_map(|name| snapshot.profile(name)) {
        let name = &status.profile.name;
        for group in &status.groups {
            let routes: Vec<String> = group.routes.iter().map(ToString::to_string).collect();
            let routes = routes.join(", ");
            match &group.state {
                GroupState::Free => say!("{name}: free      {routes} ({})", group.kind),
                GroupState::Held { .. } => say!("{name}: held      {routes} ({})", group.kind),
                GroupState::LeftOut { reason } => {
                    say!("{name}: left out  {}: {reason}", group.kind);
                }
                GroupState::Conflicting { .. } => {
                    say!("{name}: conflict  {routes} ({})", group.kind);
                }
            }
            for conflict in group.conflicts() {
                exit = Exit::Conflict;
                say!("    {conflict}");
                conflict.ways_out.iter().for_each(|way| say!("    - {way}"));
            }
        }
        if status.groups.is_empty() {
            let (reason, possible) = reach(status);
            say!("{name}: {reason}");
            if !possible && exit == Exit::Done {
                exit = Exit::OutOfReach;
            }
        }
    }
    Ok(exit)
}

/// Why a profile has no routes, and whether that is well.
fn reach(status: &ProfileStatus) -> (String, bool) {
    match &status.profile.reach {
        Reach::Routed => ("no route yet: its nodes have no address".into(), true),
        Reach::Local => ("no route is needed: the node is this machine".into(), true),
        Reach::Forwarded { reason } | Reach::Unsupported { reason } => {
            (format!("no route is possible: {reason}"), false)
        }
    }
}
