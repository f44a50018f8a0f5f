use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ProfileName, Route, TableEntry};

/// An overlap of a route that we want with one that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct Conflict {
    /// How they overlap.
    pub kind: ConflictKind,
    /// The route that was wanted.
    #[cfg_attr(feature = "ts", ts(as = "crate::ts::Route"))]
    pub ours: Route,
    /// What is in the way.
    #[cfg_attr(feature = "ts", ts(as = "crate::ts::TableEntry"))]
    pub other: TableEntry,
    /// Who likely owns it, such as `Docker (docker0)`.
    pub owner: String,
    /// The minikube profile that owns it, if one does.
    #[cfg_attr(feature = "ts", ts(as = "Option<String>"))]
    pub profile: Option<ProfileName>,
    /// What would happen, in one sentence that names both routes.
    pub effect: String,
    /// What the user can do.
    pub ways_out: Vec<WayOut>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.effect)
    }
}

/// What the user can do about a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct WayOut {
    /// In a sentence.
    pub advice: String,
    /// What to type for that, where a command does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "ts", ts(optional))]
    pub command: Option<String>,
}

impl WayOut {
    /// One that no command does.
    pub fn advice(advice: impl Into<String>) -> Self {
        Self {
            advice: advice.into(),
            command: None,
        }
    }

    /// One that a command does.
    pub fn command(advice: impl Into<String>, command: impl Into<String>) -> Self {
        Self {
            advice: advice.into(),
            command: Some(command.into()),
        }
    }
}

impl fmt::Display for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.advice)?;
        match &self.command {
            Some(command) => write!(f, ": {command}"),
            None => Ok(()),
        }
    }
}

/// How a wanted route and an existing one overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(rename_all = "snake_case")]
pub enum ConflictKind {
    /// The same prefix, whatever its gateway or device.
    SameDestination,
    /// A narrower foreign route lies inside ours: those addresses would go elsewhere.
    Covers,
    /// A broader foreign route, such as a VPN's 10.0.0.0/8: ours would take its traffic.
    CoveredBy,
    /// One of this machine's own networks or addresses.
    LocalNetwork,
    /// Another table or rule wins over ours.
    Policy,
    /// Another minikube profile holds it.
    OtherProfile,
    /// A peer that this machine talks to lies inside ours.
    LiveTraffic,
}
