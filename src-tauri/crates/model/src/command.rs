use serde::{Deserialize, Serialize};

use crate::{CleanupItem, ProfileName, Settings, TargetState};

/// All that a view can ask of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Brings a profile's tunnel up or down; a user's click or command, so consent may be asked for.
    ///
    /// For a tunnel that is to be up already it is another try of what failed, was refused or waits for consent.
    SetTarget {
        /// Whose tunnel.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// What the user wants.
        target: TargetState,
    },
    /// Brings a tunnel up that was up in a session that has ended. Nobody asks for it at this moment, so nobody is asked
    /// for consent: where it is needed, the tunnel waits for a [`Self::SetTarget`].
    Resume {
        /// Whose tunnel.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
    },
    /// Has every profile's API server asked from now on, also those that the session was not started for.
    Look,
    /// Removes what dead tunnels left; the answer is a [`crate::CleanupReport`].
    Cleanup {
        /// Only tells what would be removed.
        dry_run: bool,
        /// What is not ours and is removed too, as the user chose it from a preview ([`crate::Snapshot::leftovers`]).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        chosen: Vec<CleanupItem>,
    },
    /// Makes these the user's settings, by their file; declined where it can't be written.
    Configure {
        /// All of them.
        settings: Settings,
    },
    /// Opens the window, by the tray that hosts the session; declined where there is none.
    OpenWindow,
    /// Brings every tunnel down and ends the session.
    Quit,
}
