use std::fmt;

use minitunnel_base::Route;
use serde::{Deserialize, Serialize};

use crate::Conflict;

/// Routes that stand or fall together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct RouteGroup {
    /// What is reached through them.
    pub kind: GroupKind,
    /// The routes, sorted.
    #[cfg_attr(feature = "ts", ts(as = "Vec<crate::ts::Route>"))]
    pub routes: Vec<Route>,
    /// What became of them.
    pub state: GroupState,
}

/// What a group of routes makes reachable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GroupKind {
    /// The cluster IPs; LoadBalancer addresses equal them.
    Services,
    /// The pods of one node.
    Pods {
        /// The node's name.
        node: String,
    },
    /// A pool of LoadBalancer addresses.
    LoadBalancers,
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Services => f.write_str("services"),
            Self::Pods { node } => write!(f, "pods of {node}"),
            Self::LoadBalancers => f.write_str("LoadBalancer addresses"),
        }
    }
}

/// What became of a group of routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum GroupState {
    /// Not in the kernel, and nothing stands in the way.
    Free,
    /// In the kernel, says the helper.
    Held {
        /// What came to overlap it since.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        conflicts: Vec<Conflict>,
    },
    /// Overlaps what is already there.
    Conflicting {
        /// Each overlap.
        conflicts: Vec<Conflict>,
    },
    /// Not asked for.
    LeftOut {
        /// Why, in one sentence.
        reason: String,
    },
}

impl RouteGroup {
    /// Whether its routes are in the kernel.
    pub fn is_held(&self) -> bool {
        matches!(self.state, GroupState::Held { .. })
    }

    /// What overlaps it.
    pub fn conflicts(&self) -> &[Conflict] {
        match &self.state {
            GroupState::Held { conflicts } | GroupState::Conflicting { conflicts } => conflicts,
            GroupState::Free | GroupState::LeftOut { .. } => &[],
        }
    }
}
