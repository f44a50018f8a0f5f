//! The desktop's notifications.

use std::collections::BTreeMap;

use minitunnel_model::ProfileName;
use notify_rust::{Notification, NotificationHandle, NotificationResponse};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

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
    let mut last: BTreeMap<(Subject, Option<ProfileName>), u32> = BTreeMap::new();
    while let Some(notice) = given.recv().await {
        let handle = match show(&notice, last.get(&notice.about).copied()).await {
            Ok(handle) => handle,
            Err(error) => {
                // What it says stands in the menu and the window too.
                tracing::warn!(%error, "the desktop shows no notifications");
                continue;
            }
        };
        last.insert(notice.about, handle.id());
        if !notice.actions.is_empty() {
            tokio::spawn(answered(handle, notice.actions, events.clone()));
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
