//! minikube's tunnel locks, held and waited for.

use std::{collections::BTreeMap, io};

use minitunnel_model::ProfileName;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    minikube::{Home, TunnelLock, lock_owner},
    reducer::{Input, LockNews, Turn},
};

/// The locks of one engine; dropping it gives all of them back.
pub(super) struct Locks {
    home: Home,
    inputs: mpsc::Sender<Input>,
    held: BTreeMap<ProfileName, (oneshot::Sender<()>, JoinHandle<()>)>,
}

/// Tells what comes of one attempt.
struct Reporter {
    inputs: mpsc::Sender<Input>,
    name: ProfileName,
    turn: Turn,
}

impl Reporter {
    /// `None` if nobody listens any more.
    async fn tell(&self, news: LockNews) -> Option<()> {
        let input = Input::Lock(self.name.clone(), self.turn, news);
        self.inputs.send(input).await.ok()
    }
}

impl Locks {
    pub(super) fn new(home: Home, inputs: mpsc::Sender<Input>) -> Self {
        Self {
            home,
            inputs,
            held: BTreeMap::new(),
        }
    }

    /// Takes the lock, or waits until it is free.
    pub(super) fn acquire(&mut self, name: ProfileName, turn: Turn) {
        let (keep, ended) = oneshot::channel::<()>();
        let home = self.home.clone();
        let reporter = Reporter {
            inputs: self.inputs.clone(),
            name: name.clone(),
            turn,
        };
        let task = tokio::spawn(async move {
            let Some(_lock) = wait_for(&home, &reporter).await else {
                return;
            };
            if reporter.tell(LockNews::Acquired).await.is_some() {
                // Held until the sender is dropped.
                let _ = ended.await;
            }
        });
        self.held.insert(name, (keep, task));
    }

    /// Gives the lock back, or stops waiting for it.
    pub(super) fn release(&mut self, name: &ProfileName) {
        if let Some((_, task)) = self.held.remove(name) {
            task.abort();
        }
    }
}

/// The lock, or nothing if it can't be had, which the inputs are told.
async fn wait_for(home: &Home, reporter: &Reporter) -> Option<TunnelLock> {
    let name = &reporter.name;
    let acquired = match TunnelLock::try_acquire(home, name) {
        Ok(None) => {
            reporter
                .tell(LockNews::Busy(lock_owner(home, name)))
                .await?;
            TunnelLock::acquire(home, name).await
        }
        Ok(Some(lock)) => Ok(lock),
        Err(error) => Err(error),
    };
    match acquired {
        Ok(lock) => Some(lock),
        Err(error) => {
            let way_out = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "make its profile folder and that file yours again"
                }
                _ => "see whether its profile folder is there and can be written to",
            };
            let message =
                format!("minikube's .tunnel_lock of {name} can't be taken ({error}): {way_out}");
            reporter.tell(LockNews::Failed(message)).await;
            None
        }
    }
}
