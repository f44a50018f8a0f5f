//! `up`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use minitunnel_engine::{
    engine::Handle,
    host::{Hosted, PATIENCE, Session},
};
use minitunnel_model::{
    Command, Conflict, ProfileName, ProfileStatus, ServiceKey, Snapshot, TargetState, Timestamp,
    TunnelState, WaitingFor,
};
use tokio::time::{Instant, sleep_until};

use crate::{
    context::Context,
    down::{end, tell_what_remains},
    exit::{Exit, hopeless, of_failure},
    out::complain,
    printer::Printer,
    screen::Screen,
    session,
    signals::Signals,
    wait::{Wait, Waited, parse_service},
};

/// What `up` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    selection: crate::Selection,
    /// Returns when the tunnels are up, and leaves them to a session in the background.
    #[arg(short, long)]
    detach: bool,
    /// Returns when this service answers at its address, as often as you like; implies --detach.
    #[arg(short, long, value_name = "NAMESPACE/SERVICE", value_parser = parse_service)]
    wait: Vec<ServiceKey>,
    /// How long --wait waits for all of it; then what this command brought up is brought down.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, requires = "wait",
          value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

impl Arguments {
    /// Whether the tunnels outlive the command.
    pub(crate) fn detaches(&self) -> bool {
        self.detach || !self.wait.is_empty()
    }
}

/// What one `up` wants.
struct Wish {
    names: BTreeSet<ProfileName>,
    /// Those among them that this command has set up, and sets down at its end.
    mine: BTreeSet<ProfileName>,
    /// Not to stay.
    detach: bool,
    /// Its user has asked just now, and may be asked for consent. Another process's end is no such moment.
    fresh: bool,
    /// What is to answer before it is done.
    wait: Option<Wait>,
    /// Whether the session is this command's own, and so is its end.
    hosts: bool,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let context = Context::new()?;
    let named = context.select(&arguments.selection.profile)?;
    let detach = arguments.detaches();
    let limit = Duration::from_secs(arguments.timeout.into());
    let mut wish = Wish {
        wait: Wait::new(&named, arguments.wait, limit)?,
        names: named.into_iter().collect(),
        mine: BTreeSet::new(),
        detach,
        fresh: true,
        hosts: false,
    };
    let mut signals = Signals::new()?;
    loop {
        let session = tokio::select! {
            session = session(&context, &wish) => session?,
            () = signals.next() => return Ok(unheard(&wish)),
        };
        let followed = match session {
            Session::Joined(handle) => follow(handle, &mut wish, &mut signals).await,
            // The session that was in the way has ended: one in the background can begin.
            Session::Hosted(hosted) if wish.detach => {
                hosted.end(Duration::ZERO).await;
                continue;
            }
            Session::Hosted(hosted) => return host(hosted, &mut wish, &mut signals).await,
        };
        wish.names = match followed {
            Followed::Over(exit) => return Ok(exit),
            Followed::Interrupted(names) if names.is_empty() => return Ok(Exit::Done),
            Followed::Interrupted(names) => names,
        };
        for name in &wish.names {
            complain!(
                "{name}: the session that this tunnel was part of has ended: going on without it"
            );
        }
    }
}

/// The session that is to have the tunnels.
async fn session(context: &Context, wish: &Wish) -> anyhow::Result<Session> {
    match context.session().await {
        Ok(None) if wish.detach => Ok(Session::Joined(session::spawn(context).await?)),
        _ => {
            let powers = || Ok(Context::powers(Some(wish.names.clone()))?);
            context.enter(powers).await
        }
    }
}

/// The end by a signal before any session was asked.
fn unheard(wish: &Wish) -> Exit {
    match &wish.wait {
        Some(wait) => {
            let end = "before this command was ended";
            complain!("{}", wait.in_vain(&Snapshot::default(), end));
            Exit::Unanswered
        }
        None => Exit::Done,
    }
}

/// Hosts the session as long as its own tunnels are wanted. Whoever wants others goes on without it.
async fn host(hosted: Hosted, wish: &mut Wish, signals: &mut Signals) -> anyhow::Result<Exit> {
    wish.hosts = true;
    let exit = match follow(hosted.handle.clone(), wish, signals).await {
        Followed::Over(exit) => exit,
        // By the Quit of another view.
        Followed::Interrupted(_) => Exit::Done,
    };
    let others = hosted.handle.snapshot().wanted().next().is_some();
    let patience = match exit {
        // An API server has used up the patience: it gets none for a second time.
        Exit::AddressesRemain if !others => Duration::ZERO,
        _ => PATIENCE,
    };
    let handle = hosted.handle.clone();
    let ended = tokio::select! {
        ended = hosted.end(patience) => Some(ended),
        // A second Ctrl-C waits for nothing; what this process holds ends with it.
        () = signals.next() => None,
    };
    let why = match ended {
        Some(true) => return Ok(exit),
        Some(false) => "its API server does not answer",
        None => "it was not waited for",
    };
    // Also what other views had brought up here.
    let snapshot = handle.snapshot();
    let profiles = snapshot.profiles.iter();
    let names = profiles.map(|status| status.profile.name.clone()).collect();
    Ok(match exit {
        Exit::Done if tell_what_remains(&snapshot, &names, why) => Exit::AddressesRemain,
        exit => exit,
    })
}

/// How following a session ended.
#[derive(Debug, PartialEq, Eq)]
enum Followed {
    /// There is no more to do.
    Over(Exit),
    /// The session ended before these tunnels were over.
    Interrupted(BTreeSet<ProfileName>),
}

/// Brings tunnels up and tells what happens, until they are up (detached), can't be, a signal comes, or the session ends.
async fn follow(handle: Handle, wish: &mut Wish, signals: &mut Signals) -> Followed {
    let before = handle.snapshot();
    let unwanted = wish.names.iter().filter(|name| !before.wants(name));
    let unwanted: Vec<ProfileName> = unwanted.cloned().collect();
    // Also what it had set up in a session before this one.
    wish.mine.extend(unwanted);
    let mine = &wish.mine & &wish.names;
    // What does not stay is over before there is much to see.
    let screen = if wish.detach { None } else { Screen::open() };
    if let Some(screen) = &screen {
        signals.guard(screen);
    }
    let mut printer = Printer::new(handle, &wish.names).on(screen);
    let deadline = wish.wait.as_ref().map(|wait| wait.deadline);
    let verdict = tokio::select! {
        verdict = answered(&mut printer, wish) => verdict,
        () = signals.next() => in_vain(&printer, wish, None),
        () = until(deadline) => in_vain(&printer, wish, wish.wait.as_ref().map(Wait::too_late)),
    };
    printer.end_view();
    let exit = match verdict {
        Verdict::Leave(exit) => return Followed::Over(exit),
        Verdict::Interrupted => {
            return Followed::Interrupted(still_wanted(&printer.seen, &wish.names));
        }
        Verdict::Unheard => return Followed::Interrupted(wish.names.clone()),
        Verdict::End(exit) => exit,
    };
    let ended = tokio::select! {
        ended = end(&mut printer, &mine) => ended,
        // A second one.
        () = signals.next() => {
            printer.catch_up();
            if tell_what_remains(&printer.seen, &mine, "it was not waited for") {
                Exit::AddressesRemain
            } else {
                Exit::Done
            }
        }
    };
    Followed::Over(match ended {
        Exit::Done => exit,
        worse => worse,
    })
}

/// What follows from what tunnels are.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// They stay as they are.
    Leave(Exit),
    /// Those that this command brought up are to end.
    End(Exit),
    /// Their session ended.
    Interrupted,
    /// Their session ended before it took them on.
    Unheard,
}

/// Attends to the tunnels, and then waits for services to answer.
async fn answered(printer: &mut Printer, wish: &mut Wish) -> Verdict {
    match (attend(printer, wish).await, &mut wish.wait) {
        (Verdict::Leave(Exit::Done), Some(wait)) => match wait.until_answered(printer).await {
            Ok(Waited::Answered) => Verdict::Leave(Exit::Done),
            Ok(Waited::Down) => Verdict::Leave(Exit::Unanswered),
            Ok(Waited::Lost(exit)) => Verdict::End(exit),
            Err(_) => Verdict::Interrupted,
        },
        (verdict, _) => verdict,
    }
}

/// The end by a signal or a deadline. Who has waited for an answer must not go on as if it had come.
fn in_vain(printer: &Printer, wish: &Wish, late: Option<String>) -> Verdict {
    let Some(wait) = &wish.wait else {
        return Verdict::End(Exit::Done);
    };
    let end = late.unwrap_or_else(|| "before this command was ended".into());
    complain!("{}", wait.in_vain(&printer.seen, &end));
    Verdict::End(Exit::Unanswered)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn attend(printer: &mut Printer, wish: &mut Wish) -> Verdict {
    let command = |profile: ProfileName| {
        if wish.fresh {
            let target = TargetState::Up;
            Command::SetTarget { profile, target }
        } else {
            Command::Resume { profile }
        }
    };
    let commands = wish.names.iter().cloned().map(command);
    if printer.handle.commands(commands).await.is_err() {
        return Verdict::Unheard;
    }
    printer.catch_up_with_all();
    // One that was ending has not taken it on.
    wish.fresh &= !wish.names.iter().any(|name| printer.seen.wants(name));
    let mut past = Past::default();
    loop {
        if let Some(verdict) = judge(&printer.seen, wish, &mut past) {
            return verdict;
        }
        if printer.next().await.is_err() {
            return Verdict::Interrupted;
        }
    }
}

/// What tunnels were before.
#[derive(Default)]
struct Past {
    /// Those that were up once.
    connected: BTreeSet<ProfileName>,
    /// When those that failed were to be tried again.
    retries: BTreeMap<ProfileName, BTreeSet<Timestamp>>,
}

impl Past {
    /// The end of a command that does not stay, for a tunnel whose second try has failed, too.
    fn failed_again(&mut self, status: &ProfileStatus) -> Option<Exit> {
        let TunnelState::Failed {
            cause,
            retry_at: Some(at),
        } = &status.tunnel
        else {
            return None;
        };
        let name = status.profile.name.clone();
        let retries = self.retries.entry(name).or_default();
        retries.insert(*at);
        (retries.len() > 1).then(|| of_failure(cause))
    }
}

/// What to do beside waiting.
fn judge(snapshot: &Snapshot, wish: &Wish, past: &mut Past) -> Option<Verdict> {
    // The end of another's session is waited for. Our own takes as long as we say.
    if wish
        .names
        .iter()
        .any(|name| snapshot.interrupted.contains(name))
    {
        return wish.hosts.then_some(Verdict::Interrupted);
    }
    let wanted: Vec<_> = wish
        .names
        .iter()
        .filter(|name| snapshot.wants(name))
        .collect();
    if wanted.is_empty() {
        // Another view has brought all of them down, while the dialog was open maybe.
        return Some(Verdict::Leave(Exit::Done));
    }
    let mut lost = Vec::new();
    for status in wanted.iter().filter_map(|name| snapshot.profile(name)) {
        let name = &status.profile.name;
        if matches!(status.tunnel, TunnelState::Connected { .. }) {
            past.connected.insert(name.clone());
        }
        // What was up once, and is not at the moment, comes back by itself.
        if !past.connected.contains(name) && !gives_way(snapshot, wish, status) {
            let passing = past.failed_again(status).or_else(|| unasked(status));
            lost.extend(hopeless(status).or(passing.filter(|_| wish.detach)));
        }
    }
    let up = wanted
        .iter()
        .filter(|name| past.connected.contains(**name))
        .count();
    if lost.len() == wanted.len() {
        return lost.first().copied().map(Verdict::End);
    }
    let settled = lost.len() + up == wanted.len();
    (wish.detach && settled).then(|| Verdict::Leave(lost.first().copied().unwrap_or(Exit::Done)))
}

/// Whether what blocks a tunnel is another one of this command's that somebody has brought down: its range is free at once.
fn gives_way(snapshot: &Snapshot, wish: &Wish, status: &ProfileStatus) -> bool {
    let TunnelState::Blocked { conflicts } = &status.tunnel else {
        return false;
    };
    let ending = |name: &ProfileName| wish.names.contains(name) && !snapshot.wants(name);
    let of = |conflict: &Conflict| conflict.profile.as_ref().is_some_and(ending);
    !conflicts.is_empty() && conflicts.iter().all(of)
}

/// The consent that somebody could ask for still, but not a command that does not stay.
fn unasked(status: &ProfileStatus) -> Option<Exit> {
    let on = WaitingFor::Consent;
    (status.tunnel == TunnelState::Waiting { on }).then_some(Exit::NotAuthorized)
}

/// The tunnels that somebody wanted when their session ended, in order or not.
fn still_wanted(last: &Snapshot, names: &BTreeSet<ProfileName>) -> BTreeSet<ProfileName> {
    let wanted = |name: &&ProfileName| last.interrupted.contains(name) || last.wants(name);
    names.iter().filter(wanted).cloned().collect()
}

#[cfg(test)]
mod tests;
