//! One loop: snapshots and clicks come in; commands, menus and notices go out.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use minitunnel_engine::{
    engine::{Handle, HelperWay, OpenWindow},
    host::{Busy, ClaimError, Hosted, PATIENCE, Place, Powers, Session},
    reducer::Scope,
    session::ConnectError,
};
use minitunnel_model::{Command, ProfileName, Snapshot, TargetState, TunnelState};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    desktop::{self, Clipboard},
    executable::Executable,
    follow::Follower,
    menu::{About, Action, left_click, menu, mood, tooltip},
    notices::{Notice, Subject, notices, settled},
    notifier::Notifier,
    panel::{Panel, Shown, actions},
    signals::Signals,
};

/// How long the end may take in all; what is held goes with this process in any case.
const LONGEST_END: Duration = Duration::from_millis(4_500);
/// Until the next try where a session can't be hosted: what it lacks (watches of files, room on a disk) tells of nothing.
const AGAIN: Duration = Duration::from_secs(10);
/// What follows within this time is told along with what there is to tell, and what is over by then is not told at all.
const CALM: Duration = Duration::from_secs(1);
/// How long a desktop has to show a panel before the window opens in its place: at login it has much to do.
const PANEL_PATIENCE: Duration = Duration::from_secs(3);
const PANEL_PATIENCE_AT_LOGIN: Duration = Duration::from_secs(30);

/// Something that happened beside a new snapshot.
#[derive(Debug)]
pub(crate) enum Event {
    /// An entry of the menu, by its identity.
    Clicked(String),
    /// The icon, with the first button.
    LeftClick,
    /// A button of a notice.
    Act(Action),
    /// Whether there is a panel.
    Panel(bool),
    /// There is no session bus.
    NoBus,
    /// The session bus is gone, and with it the desktop.
    BusEnded,
    /// The file of this program may be another one.
    ExecutableChanged,
    /// What came of a click, where that is to be told.
    Said(String),
}

/// How the tray was started.
#[derive(Debug, Default)]
pub(crate) struct Start {
    /// By the desktop, at login.
    pub(crate) at_login: bool,
    /// Without a desktop.
    pub(crate) headless: bool,
    /// To bring these tunnels up, as the program before this one had them.
    pub(crate) tunnels: BTreeSet<ProfileName>,
    /// With a helper of its own (`minitunnel-keep`), as in the demo.
    pub(crate) inherited: Option<UnixStream>,
}

/// How it ended.
pub(crate) enum End {
    /// For good.
    Quit,
    /// To be started anew, with these tunnels.
    Restart(BTreeSet<ProfileName>),
}

/// How a session was left.
enum Left {
    Ended,
    For(End),
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum NoSession {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Busy(#[from] Busy),
}

/// Runs the tray until it is ended.
pub(crate) async fn run(place: Place, start: Start, executable: Executable, events: Events) -> End {
    let Events { tell, heard } = events;
    let desktop = !start.headless;
    if desktop {
        tokio::spawn(desktop::watch_panel(tell.clone()));
    }
    let patience = if start.at_login {
        PANEL_PATIENCE_AT_LOGIN
    } else {
        PANEL_PATIENCE
    };
    let mut app = App {
        panel: desktop.then(|| Panel::start(tell.clone())),
        notifier: desktop.then(|| Notifier::start(tell.clone())),
        open_by: desktop.then(|| Instant::now() + patience),
        tell,
        heard,
        executable,
        place,
        clipboard: Clipboard::default(),
        about: About::default(),
        last: Arc::default(),
        told: Snapshot::default(),
        follower: Follower::default(),
        clicks: BTreeMap::new(),
        clicks_before: BTreeMap::new(),
        inherited: start.inherited,
        panel_there: Arc::new(AtomicBool::new(true)),
        tell_by: None,
        mine: start.tunnels.clone(),
        fresh: start.tunnels,
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals can't be caught");
            return End::Quit;
        }
    };
    // Something to see at once.
    app.draw();
    loop {
        let entered = tokio::select! {
            entered = app.place.enter(|| Ok::<_, NoSession>(app.powers())) => entered,
            () = signals.next() => return End::Quit,
        };
        let left = match entered {
            Ok(Session::Hosted(hosted)) => app.host(hosted, &mut signals).await,
            Ok(Session::Joined(handle)) => {
                app.about.joined = true;
                let left = app.follow(handle.clone(), false, &mut signals).await;
                app.about.joined = false;
                if matches!(left, Left::For(_)) {
                    app.leave(handle).await;
                }
                left
            }
            Err(error) => app.wait_without(error, &mut signals).await,
        };
        if let Left::For(end) = left {
            return end;
        }
    }
}

/// Where events come from, and where they go.
pub(crate) struct Events {
    pub(crate) tell: UnboundedSender<Event>,
    heard: UnboundedReceiver<Event>,
}

impl Events {
    pub(crate) fn new() -> Self {
        let (tell, heard) = unbounded_channel();
        Self { tell, heard }
    }
}

struct App {
    place: Place,
    inherited: Option<UnixStream>,
    /// Whether there is a panel, as far as is known.
    panel_there: Arc<AtomicBool>,
    /// When notices are due of what is new.
    tell_by: Option<Instant>,
    executable: Executable,
    tell: UnboundedSender<Event>,
    heard: UnboundedReceiver<Event>,
    panel: Option<Panel>,
    notifier: Option<Notifier>,
    clipboard: Clipboard,
    /// When the window opens if there is no panel.
    open_by: Option<Instant>,
    about: About,
    /// The latest snapshot.
    last: Arc<Snapshot>,
    /// What notices were told of.
    told: Snapshot,
    follower: Follower,
    /// The actions of the menu by their identity.
    clicks: BTreeMap<String, Action>,
    /// Those of the menu before it, as a click may be on its way.
    clicks_before: BTreeMap<String, Action>,
    /// The tunnels that were started here, which go on when a terminal's session ends.
    mine: BTreeSet<ProfileName>,
    /// Those among them that the user's click has asked for, and no session has heard of yet.
    fresh: BTreeSet<ProfileName>,
}

impl App {
    fn powers(&self) -> Powers {
        let desktop = self.panel.is_some();
        let inherited = self.inherited.as_ref();
        let inherited = inherited.and_then(|socket| socket.try_clone().ok());
        let helper = inherited.map_or(HelperWay::System, HelperWay::Inherited);
        Powers {
            scope: Scope {
                acts: true,
                only: None,
            },
            helper,
            window: desktop.then(|| {
                let panel = Arc::clone(&self.panel_there);
                OpenWindow::new(move || desktop::open_window(panel.load(Ordering::Relaxed)))
            }),
        }
    }

    async fn host(&mut self, hosted: Hosted, signals: &mut Signals) -> Left {
        let left = self.follow(hosted.handle.clone(), true, signals).await;
        if let Left::Ended = left {
            hosted.end(Duration::ZERO).await;
            return Left::For(End::Quit);
        }
        let end = tokio::time::timeout(LONGEST_END, hosted.end(PATIENCE));
        tokio::select! {
            ended = end => {
                if !ended.unwrap_or(false) {
                    tracing::warn!("not all is withdrawn: `minitunnel cleanup` does it later");
                }
            }
            // A second signal waits for nothing.
            () = signals.next() => {}
        }
        left
    }

    /// Brings down what was started here in a session that goes on.
    async fn leave(&self, mut handle: Handle) {
        let down = async {
            let commands = self.mine.iter().map(|name| Command::SetTarget {
                profile: name.clone(),
                target: TargetState::Down,
            });
            handle.commands(commands).await.ok()?;
            let is_down = |snapshot: &Snapshot| {
                let at_rest = |name| {
                    let status = snapshot.profile(name);
                    status.is_none_or(|status| status.tunnel == TunnelState::Disconnected)
                };
                self.mine.iter().all(at_rest)
            };
            handle.until(is_down).await.ok()
        };
        // What takes longer is the session's to end.
        let _ = tokio::time::timeout(LONGEST_END, down).await;
    }

    /// Shows a session, and does what is clicked, until it ends or this program is to.
    async fn follow(&mut self, mut handle: Handle, hosted: bool, signals: &mut Signals) -> Left {
        self.about.trouble = None;
        self.told = Snapshot::default();
        self.tell_by = None;
        self.follower = Follower::default();
        let last = self.last.clone();
        let fresh = std::mem::take(&mut self.fresh);
        let wanted = |name: &ProfileName| {
            fresh.contains(name) || last.wants(name) || last.interrupted.contains(name)
        };
        self.mine.retain(wanted);
        let again = self
            .mine
            .iter()
            .map(|name| again(name, fresh.contains(name)));
        let again: Vec<Command> = again.collect();
        tokio::select! {
            taken = handle.commands(again) => if taken.is_err() {
                return Left::Ended;
            },
            () = signals.next() => return Left::For(End::Quit),
        }
        let first = handle.latest();
        self.take(&handle, first, hosted);
        loop {
            tokio::select! {
                snapshot = handle.changed() => match snapshot {
                    Ok(snapshot) => {
                        let ends = hosted && snapshot.ending;
                        self.take(&handle, snapshot, hosted);
                        if ends {
                            // By the Quit of another view: that is bounded as our own.
                            return Left::For(End::Quit);
                        }
                    }
                    Err(_) => return Left::Ended,
                },
                Some(event) = self.heard.recv() => {
                    if let Some(end) = self.hear(Some(&handle), event) {
                        return Left::For(end);
                    }
                }
                () = at(self.open_by) => self.no_panel(),
                () = at(self.tell_by) => self.tell_of_news(),
                () = signals.next() => return Left::For(End::Quit),
            }
        }
    }

    /// Tells of what is new since the last time.
    fn tell_of_news(&mut self) {
        self.tell_by = None;
        let now = self.last.clone();
        if now.settings.notifications {
            for notice in notices(&self.told, &now) {
                self.notify(notice);
            }
        }
        self.told = settled(&self.told, &now);
    }

    /// Shows why there is no session, until the one in the way ends, or where none is, for a while.
    async fn wait_without(&mut self, trouble: NoSession, signals: &mut Signals) -> Left {
        tracing::error!("{trouble}");
        self.about.trouble = Some(trouble.to_string());
        self.last = Arc::default();
        self.draw();
        let runtime = self.place.runtime.clone();
        let mut ended = std::pin::pin!(async {
            match trouble {
                NoSession::Claim(_) => sleep(AGAIN).await,
                NoSession::Connect(_) | NoSession::Busy(_) => runtime.until_ended().await,
            }
        });
        loop {
            tokio::select! {
                () = &mut ended => return Left::Ended,
                Some(event) = self.heard.recv() => {
                    if let Some(end) = self.hear(None, event) {
                        return Left::For(end);
                    }
                }
                () = at(self.open_by) => self.no_panel(),
                () = signals.next() => return Left::For(End::Quit),
            }
        }
    }

    fn take(&mut self, handle: &Handle, snapshot: Arc<Snapshot>, hosted: bool) {
        if snapshot.complete && self.tell_by.is_none() {
            if notices(&self.told, &snapshot).is_empty() {
                self.told = settled(&self.told, &snapshot);
            } else {
                self.tell_by = Some(Instant::now() + CALM);
            }
        }
        if hosted {
            for command in self.follower.follow(&snapshot) {
                self.give(handle, command);
            }
        }
        self.last = snapshot;
        self.draw();
    }

    fn draw(&mut self) {
        let Some(panel) = &self.panel else { return };
        let menu = menu(&self.last, &self.about);
        let now = actions(&menu);
        if now != self.clicks {
            self.clicks_before = std::mem::replace(&mut self.clicks, now);
        }
        panel.show(Shown {
            menu,
            mood: mood(&self.last, &self.about),
            tooltip: tooltip(&self.last, &self.about),
        });
    }

    /// Does what an event asks for; some are the end.
    fn hear(&mut self, handle: Option<&Handle>, event: Event) -> Option<End> {
        match event {
            Event::Clicked(id) => {
                let known = self.clicks.get(&id).or_else(|| self.clicks_before.get(&id));
                let action = known.cloned()?;
                self.act(handle, action)
            }
            Event::LeftClick => {
                let action = left_click(&self.last, &self.about);
                self.act(handle, action)
            }
            Event::Act(action) => self.act(handle, action),
            Event::Panel(there) => {
                self.panel_there.store(there, Ordering::Relaxed);
                if there {
                    self.open_by = None;
                    if let Some(panel) = &self.panel {
                        panel.again();
                    }
                }
                None
            }
            Event::NoBus => {
                self.no_panel();
                None
            }
            Event::BusEnded => {
                tracing::info!("the session bus has ended");
                Some(End::Quit)
            }
            Event::ExecutableChanged => {
                // A helper of its own does not go along to another program.
                self.about.outdated = self.inherited.is_none() && self.executable.is_replaced();
                self.draw();
                None
            }
            Event::Said(sentence) => {
                self.say(sentence);
                None
            }
        }
    }

    fn act(&mut self, handle: Option<&Handle>, action: Action) -> Option<End> {
        tracing::info!(?action, "clicked");
        match action {
            Action::Quit => return Some(End::Quit),
            Action::Restart => {
                let wanted = self.last.wanted().cloned();
                return Some(End::Restart(if self.about.joined {
                    self.mine.clone()
                } else {
                    wanted.collect()
                }));
            }
            Action::OpenWindow => self.open_window(),
            Action::Copy(text) => self.clipboard.set(text, self.tell.clone()),
            Action::Start(profile) => {
                self.mine.insert(profile.clone());
                let target = TargetState::Up;
                self.ask(handle, Command::SetTarget { profile, target });
            }
            Action::Stop(profile) => {
                self.mine.remove(&profile);
                let target = TargetState::Down;
                self.ask(handle, Command::SetTarget { profile, target });
            }
            Action::Configure(settings) => self.ask(handle, Command::Configure { settings }),
            Action::CleanUp => {
                if let Some(handle) = handle {
                    tokio::spawn(clean_up(handle.clone(), self.tell.clone()));
                }
            }
        }
        None
    }

    fn ask(&self, handle: Option<&Handle>, command: Command) {
        if let Some(handle) = handle {
            self.give(handle, command);
        }
    }

    /// Gives a command without waiting for what comes of it: a click must not stop the next one.
    fn give(&self, handle: &Handle, command: Command) {
        let (handle, tell) = (handle.clone(), self.tell.clone());
        tokio::spawn(async move {
            if let Err(error) = handle.command(command).await {
                let _ = tell.send(Event::Said(error.to_string()));
            }
        });
    }

    fn open_window(&self) {
        let panel = self.panel_there.load(Ordering::Relaxed);
        if let Err(problem) = desktop::open_window(panel) {
            self.say(problem);
        }
    }

    /// There is no panel to show an icon in.
    fn no_panel(&mut self) {
        self.open_by = None;
        self.panel_there.store(false, Ordering::Relaxed);
        tracing::warn!(
            "this desktop shows no icons of programs in its panel: the window shows the same"
        );
        if desktop::has_screen() {
            self.say(
                "This desktop shows no icons of programs in its panel: the window does the same, and can be opened at any time."
                    .into(),
            );
            self.open_window();
        }
    }

    fn say(&self, sentence: String) {
        tracing::info!("said: {sentence}");
        self.notify(Notice {
            about: (Subject::Answer, None),
            title: "minitunnel".into(),
            body: sentence,
            actions: Vec::new(),
        });
    }

    fn notify(&self, notice: Notice) {
        if let Some(notifier) = &self.notifier {
            notifier.show(notice);
        }
    }
}

/// How a tunnel is brought up in another session; by the user's click, or because it was up in the last one.
fn again(name: &ProfileName, clicked: bool) -> Command {
    let profile = name.clone();
    if clicked {
        let target = TargetState::Up;
        Command::SetTarget { profile, target }
    } else {
        Command::Resume { profile }
    }
}

/// Removes what is ours and dead, and says what came of it.
async fn clean_up(handle: Handle, tell: UnboundedSender<Event>) {
    let said = match handle.cleanup(false, Vec::new()).await {
        Err(error) => error.to_string(),
        Ok(report) => {
            let failed = report.failed.first();
            let failed = failed.map(|(item, why)| format!("{item} remains: {why}"));
            match (report.removed.len(), failed.or(report.helper)) {
                (_, Some(problem)) => problem,
                (0, None) if !report.unasked.is_empty() => {
                    let unasked: Vec<_> = report.unasked.iter().map(ToString::to_string).collect();
                    format!(
                        "Nothing was found, but {} did not answer: addresses may be left there.",
                        unasked.join(", ")
                    )
                }
                (0, None) => "There was nothing to clean up.".into(),
                (1, None) => format!("Removed: {}.", report.removed[0]),
                (many, None) => format!("Removed {many} things that dead tunnels had left."),
            }
        }
    };
    let _ = tell.send(Event::Said(said));
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
