//! What else of the desktop is used: whether there is a panel, the clipboard, the window's program.

use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use minitunnel_engine::engine::Answer;
use tokio::sync::mpsc::UnboundedSender;
use zbus::{Connection, fdo::DBusProxy, names::BusName};

use crate::app::Event;

/// The name that a panel with a place for icons has on the session's bus (StatusNotifierItem specification).
const WATCHER: &str = "org.kde.StatusNotifierWatcher";
const WINDOW: &str = "minitunnel-window";

/// Tells whether there is a panel, now and whenever that changes, and of the end of the session's bus.
pub(crate) async fn watch_panel(events: UnboundedSender<Event>) {
    if let Err(error) = watch(&events).await {
        tracing::warn!(%error, "there is no session bus, and so no panel");
        let _ = events.send(Event::NoBus);
    }
}

async fn watch(events: &UnboundedSender<Event>) -> zbus::Result<()> {
    let bus = Connection::session().await?;
    let names = DBusProxy::new(&bus).await?;
    let mut changes = names
        .receive_name_owner_changed_with_args(&[(0, WATCHER)])
        .await?;
    let name = BusName::try_from(WATCHER)?;
    let _ = events.send(Event::Panel(names.name_has_owner(name).await?));
    loop {
        tokio::select! {
            change = next(&mut changes) => {
                let Some(there) = change else { break };
                let _ = events.send(Event::Panel(there));
            }
            () = bus.closed() => break,
        }
    }
    let _ = events.send(Event::BusEnded);
    Ok(())
}

/// Whether the next change leaves an owner of the name.
async fn next(changes: &mut zbus::fdo::NameOwnerChangedStream) -> Option<bool> {
    use std::pin::Pin;

    use futures::Stream;

    let change = std::future::poll_fn(|context| Pin::new(&mut *changes).poll_next(context)).await?;
    let arguments = change.args().ok()?;
    Some(arguments.new_owner().is_some())
}

/// Puts a text into the clipboard, and keeps it there as long as the value lives.
#[derive(Default)]
pub(crate) struct Clipboard(Option<arboard::Clipboard>);

impl Clipboard {
    /// Puts the text there, or says in a sentence why that can't be.
    pub(crate) fn set(&mut self, text: &str) -> Answer {
        let connected = match self.0.take() {
            Some(clipboard) => Ok(clipboard),
            None => arboard::Clipboard::new(),
        };
        let set = connected.and_then(|mut clipboard| {
            clipboard.set_text(text)?;
            Ok(clipboard)
        });
        match set {
            Ok(clipboard) => {
                self.0 = Some(clipboard);
                Ok(())
            }
            Err(error) => Err(format!(
                "{text} can't be copied ({error}): open the window and copy it there"
            )),
        }
    }
}

/// Whether there is a screen to open a window on.
pub(crate) fn has_screen() -> bool {
    ["WAYLAND_DISPLAY", "DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Starts the window, which shows itself if it runs already.
pub(crate) fn open_window() -> Answer {
    let this = std::env::current_exe().ok();
    let beside = this.map(|this| this.with_file_name(WINDOW));
    let beside = beside.filter(|beside| beside.is_file());
    let program = beside.unwrap_or_else(|| PathBuf::from(WINDOW));
    let started = Command::new(&program)
        .stdin(Stdio::null())
        // Not ended by a terminal's Ctrl-C for the tray.
        .process_group(0)
        .spawn();
    match started {
        Ok(mut child) => {
            // It is waited for, as a process that has ended stays in the table until somebody does.
            std::thread::spawn(move || child.wait());
            Ok(())
        }
        Err(error) => Err(format!(
            "the window ({}) can't be started: {error}; `minitunnel status` shows the same in a terminal",
            program.display()
        )),
    }
}
