//! What else of the desktop is used: whether there is a panel, the clipboard, the window's program.

use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
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

/// The clipboard, which has a text as long as the value lives.
#[derive(Clone, Default)]
pub(crate) struct Clipboard(Arc<Mutex<Option<arboard::Clipboard>>>);

impl Clipboard {
    /// Puts the text there, or says why that can't be. It is no work for the engine's thread: a screen may hang.
    pub(crate) fn set(&self, text: String, events: UnboundedSender<Event>) {
        let this = self.clone();
        std::thread::spawn(move || {
            if let Err(error) = this.put(&text) {
                let _ = events.send(Event::Said(format!(
                    "{text} can't be copied ({error}): open the window and copy it there"
                )));
            }
        });
    }

    fn put(&self, text: &str) -> Result<(), arboard::Error> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut clipboard = match held.take() {
            Some(clipboard) => clipboard,
            None => arboard::Clipboard::new()?,
        };
        // One that fails, as the screen is another one, is not kept.
        clipboard.set_text(text)?;
        *held = Some(clipboard);
        Ok(())
    }
}

/// Whether there is a screen to open a window on.
pub(crate) fn has_screen() -> bool {
    ["WAYLAND_DISPLAY", "DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Starts the window, which shows itself if it runs already, and says that there is no panel where that is so.
pub(crate) fn open_window(panel: bool) -> Answer {
    let this = std::env::current_exe().ok();
    let beside = this.map(|this| this.with_file_name(WINDOW));
    let beside = beside.filter(|beside| beside.is_file());
    let program = beside.unwrap_or_else(|| PathBuf::from(WINDOW));
    let started = Command::new(&program)
        .args((!panel).then_some("--no-panel"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
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
