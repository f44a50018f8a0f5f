//! The desktop's notifications.

use std::collections::BTreeMap;

use minitunnel_model::ProfileName;
use notify_rust::{Notification, NotificationHandle, NotificationResponse};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::AbortHandle,
};

use crate::{
    app::Event,
    menu::Action,
    notices::{Notice, Subject},
};

/// The way to the notifications.
pub(crate) struct Notifier(UnboundedSender<Notice>);

impl Notifier {
    /// Begins to show what it is given, one after the other; clicks come as events.
    pub(crate) fn start(events: UnboundedSender<Event>) -> Self {
        let (give, given) = unbounded_channel();
        tokio::spawn(run(given, events));
        Self(give)
    }

    /// Shows a notice.
    pub(crate) fn show(&self, notice: Notice) {
        let _ = self.0.send(notice);
    }
}

async fn run(mut given: UnboundedReceiver<Notice>, events: UnboundedSender<Event>) {
    // Of each subject the number of the last notice, and who waits for a click on it.
    let mut last: BTreeMap<(Subject, Option<ProfileName>), (u32, AbortHandle)> = BTreeMap::new();
    while let Some(notice) = given.recv().await {
        let handle = match show(&notice, last.get(&notice.about).map(|(id, _)| *id)).await {
            Ok(handle) => handle,
            Err(error) => {
                // What it says stands in the menu and the window too.
                tracing::warn!(%error, "the desktop shows no notifications");
                continue;
            }
        };
        let id = handle.id();
        let waits = tokio::spawn(answered(handle, notice.actions, events.clone()));
        let replaced = last.insert(notice.about, (id, waits.abort_handle()));
        if let Some((_, waited)) = replaced {
            waited.abort();
        }
    }
}

async fn show(
    notice: &Notice,
    replaces: Option<u32>,
) -> Result<NotificationHandle, notify_rust::error::Error> {
    // It blocks, and has a runtime of its own.
    let capabilities = tokio::task::spawn_blocking(notify_rust::get_capabilities).await;
    let capabilities = capabilities.unwrap_or_else(|_| Ok(Vec::new()))?;
    let can = |what: &str| capabilities.iter().any(|known| known == what);
    let body = if can("body-markup") {
        escaped(&notice.body)
    } else {
        notice.body.clone()
    };
    let mut notification = Notification::new();
    notification
        .appname("minitunnel")
        .summary(&notice.title)
        .body(&body)
        .icon("io.github.minitunnel");
    if let Some(id) = replaces {
        notification.id(id);
    }
    if can("actions") {
        for (at, (label, _)) in notice.actions.iter().enumerate() {
            if at == 0 {
                notification.action("default", label);
            }
            notification.action(&at.to_string(), label);
        }
    }
    notification.show_async().await
}

/// Waits for a click on a notice, or for its end.
async fn answered(
    handle: NotificationHandle,
    actions: Vec<(&'static str, Action)>,
    events: UnboundedSender<Event>,
) {
    // A click on one without buttons says nothing, but its end is the end of the connection to its server.
    handle
        .wait_for_action_async(move |response: &NotificationResponse| {
            let at = match response {
                NotificationResponse::Default => Some(0),
                NotificationResponse::Action(id) => id.parse::<usize>().ok(),
                _ => None,
            };
            if let Some((_, action)) = at.and_then(|at| actions.get(at)) {
                let _ = events.send(Event::Act(action.clone()));
            }
        })
        .await;
}

/// A text in which nothing is markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
