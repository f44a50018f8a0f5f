//! The kernel's routing table as a stream of inputs.

use std::{sync::Arc, time::Duration};

use minitunnel_routing::{Error, Events, Router};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use crate::reducer::Input;

/// How many times as long as a dump took the next one waits.
const REST: u32 = 4;
/// How long it takes to ask again for what the kernel refused: only memory or descriptors can be short.
const AGAIN: Duration = Duration::from_secs(1);

/// The end of the watch; dropping it ends the task.
pub(super) struct Kernel(watch::Sender<u64>);

impl Kernel {
    /// Asks for a dump beyond those that events bring.
    pub(super) fn dump(&self, number: u64) {
        self.0.send_replace(number);
    }
}

/// Dumps the table now, whenever it changes, and whenever it is asked for.
pub(super) async fn watch(inputs: mpsc::Sender<Input>) -> Result<Kernel, Error> {
    // Events first: what changes while the dump runs is told by them.
    let events = Events::open()?;
    let router = Router::open()?;
    let (wanted, asked) = watch::channel(0);
    let watch = Watch {
        router,
        inputs,
        asked,
    };
    tokio::spawn(watch.run(events));
    Ok(Kernel(wanted))
}

struct Watch {
    router: Router,
    inputs: mpsc::Sender<Input>,
    asked: watch::Receiver<u64>,
}

impl Watch {
    /// Until the engine has ended.
    async fn run(mut self, mut events: Events) {
        loop {
            let began = Instant::now();
            if self.dump().await.is_none() {
                return;
            }
            // However large the table is and however fast it changes, no more than a fifth of the time goes into it; what is
            // told meanwhile waits in the socket.
            sleep(began.elapsed() * REST).await;
            tokio::select! {
                changed = events.changed() => if let Err(error) = changed {
                    tracing::warn!(%error, "the kernel's route events ended: they are subscribed to anew");
                    match reopened(&self.inputs).await {
                        Some(new) => events = new,
                        None => return,
                    }
                },
                changed = self.asked.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Sends the table as it is; `None` if nobody listens any more.
    async fn dump(&mut self) -> Option<()> {
        loop {
            let after = *self.asked.borrow_and_update();
            match self.router.dump().await {
                Ok(table) => {
                    let table = Arc::new(table);
                    return self.inputs.send(Input::Table { table, after }).await.ok();
                }
                Err(error) => tracing::error!(%error, "the routing table can't be read"),
            }
            again(&self.inputs).await?;
        }
    }
}

/// A new subscription, as soon as there can be one; `None` if nobody listens any more.
async fn reopened(inputs: &mpsc::Sender<Input>) -> Option<Events> {
    loop {
        match Events::open() {
            Ok(events) => return Some(events),
            Err(error) => tracing::error!(%error, "the kernel's route events can't be had"),
        }
        again(inputs).await?;
    }
}

/// The time of another try; `None` if nobody listens any more.
async fn again(inputs: &mpsc::Sender<Input>) -> Option<()> {
    tokio::select! {
        () = sleep(AGAIN) => Some(()),
        () = inputs.closed() => None,
    }
}
