use std::sync::Arc;

use minitunnel_model::{CleanupItem, CleanupReport, Command, Snapshot};
use tokio::sync::{mpsc, oneshot, watch};

/// What comes of a command: it was taken, or can't be done for that reason.
pub type Answer = Result<(), String>;

/// Something that a view wants.
#[derive(Debug)]
pub enum Ask {
    /// A command, with whom to tell that the snapshot shows what came of it at once.
    Command {
        /// The command.
        command: Command,
        /// Told then; or why it can't be done.
        taken: oneshot::Sender<Answer>,
    },
    /// A clean-up, with where its report goes.
    Cleanup {
        /// Whether to remove nothing.
        dry_run: bool,
        /// What is removed beside what is ours.
        chosen: Vec<CleanupItem>,
        /// The report.
        answer: oneshot::Sender<CleanupReport>,
    },
}

/// A view's end of an engine, in this process or behind the session socket.
#[derive(Clone, Debug)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
}

/// The engine has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the minitunnel session has ended: run the command again")]
pub struct Ended;

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// There is no engine any more.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// It can't be done, for this reason.
    #[error("{0}")]
    Declined(String),
}

impl Handle {
    /// A view's end of whoever answers what is asked and publishes the snapshots.
    pub fn new(asks: mpsc::Sender<Ask>, snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { asks, snapshots }
    }

    /// Gives a command, and returns when the present snapshot is one after it.
    ///
    /// # Errors
    ///
    /// If it can't be done, or the engine has ended.
    pub async fn command(&self, command: Command) -> Result<(), NotTaken> {
        self.commands([command]).await
    }

    /// Gives commands at once, and returns when the present snapshot is one after them.
    ///
    /// # Errors
    ///
    /// If one can't be done, or the engine has ended.
    pub async fn commands(
        &self,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<(), NotTaken> {
        let mut answers = Vec::new();
        for command in commands {
            answers.push(self.give(command).await?);
        }
        for answer in answers {
            let answer = answer.await.map_err(|_| Ended)?;
            answer.map_err(NotTaken::Declined)?;
        }
        Ok(())
    }

    /// Gives a command; the receiver is told when it has been taken.
    pub(crate) async fn give(&self, command: Command) -> Result<oneshot::Receiver<Answer>, Ended> {
        let (taken, answer) = oneshot::channel();
        let ask = Ask::Command { command, taken };
        self.asks.send(ask).await.map_err(|_| Ended)?;
        Ok(answer)
    }

    /// Cleans up, or tells what a clean-up would remove. What is not ours is removed only if it is among `chosen`, as a
    /// report or snapshot before has shown it.
    ///
    /// # Errors
    ///
    /// If the engine has ended.
    pub async fn cleanup(
        &self,
        dry_run: bool,
        chosen: Vec<CleanupItem>,
    ) -> Result<CleanupReport, Ended> {
        let (answer, report) = oneshot::channel();
        let ask = Ask::Cleanup {
            dry_run,
            chosen,
            answer,
        };
        self.asks.send(ask).await.map_err(|_| Ended)?;
        report.await.map_err(|_| Ended)
    }

    /// What is, now, as if [`Self::changed`] had told it.
    pub fn latest(&mut self) -> Arc<Snapshot> {
        self.snapshots.borrow_and_update().clone()
    }

    /// What is, now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Waits for another snapshot than the one seen last.
    ///
    /// # Errors
    ///
    /// If the engine has ended.
    pub async fn changed(&mut self) -> Result<Arc<Snapshot>, Ended> {
        self.snapshots.changed().await.map_err(|_| Ended)?;
        Ok(self.snapshots.borrow_and_update().clone())
    }

    /// Waits for a snapshot that fulfils the condition, the present one included.
    ///
    /// # Errors
    ///
    /// If the engine ends before.
    pub async fn until(
        &mut self,
        condition: impl Fn(&Snapshot) -> bool,
    ) -> Result<Arc<Snapshot>, Ended> {
        let found = self
            .snapshots
            .wait_for(|snapshot| condition(snapshot))
            .await;
        found.map(|snapshot| snapshot.clone()).map_err(|_| Ended)
    }
}
