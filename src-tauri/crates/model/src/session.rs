use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{CleanupReport, Command, Snapshot};

/// The version of the session socket's protocol: both ends must speak the same.
pub const PROTOCOL: u32 = 1;

/// The first line each way on the session socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The program's version, such as `0.1.0`.
    pub version: String,
    /// The minikube home that it works on; empty for a view that shows whatever the session works on.
    pub home: PathBuf,
}

/// A line from a view to the session, after its `Hello`: newline-delimited JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToSession {
    /// Asks for something.
    Command(Command),
    /// Asks for the snapshot now and after each change.
    Watch,
}

/// A line from the session to a view, after its `Hello`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromSession {
    /// What is.
    Snapshot(Box<Snapshot>),
    /// The answer to any other command: the snapshots from the one before this line on are after it.
    Taken,
    /// The answer in the place of [`Self::Taken`] to a command that can't be done; the connection goes on.
    Declined {
        /// Why, and what the user can do, in one sentence.
        message: String,
    },
    /// The answer to [`Command::Cleanup`].
    Cleanup(CleanupReport),
    /// The line was not understood; the connection ends.
    Refused {
        /// Why, in one sentence.
        message: String,
    },
}
