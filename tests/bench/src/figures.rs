//! The figures, in families that share what they need.

mod assign;
mod back;
mod changes;
mod conflicts;
mod death;
mod idle;
mod memory;
mod moves;
mod profiles;
mod repair;
mod start;
mod thousand;
mod tray;
mod window;

use std::fmt;

use clap::ValueEnum;
use minitunnel_e2e::Result;

use crate::report::Figure;

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    /// One service after another: created until its address is seen.
    Assign,
    /// 1,000 services: created by four clients, and Ctrl-C with all of them assigned.
    Thousand,
    /// `minitunnel up` until the routes and the first address are there.
    Start,
    /// A route that someone deletes comes back.
    Repair,
    /// The routes of a killed client go.
    Death,
    /// The conflict check on a machine with 100,000 routes.
    Conflicts,
    /// Memory of `minitunnel up` and of the helper.
    Memory,
    /// A minute in which nothing happens.
    Idle,
    /// Memory with ten profiles up.
    Profiles,
    /// 1,000 services that change at once.
    Changes,
    /// A node that gets another address.
    Moves,
    /// A cluster that comes back.
    Back,
    /// The tray: start, click, memory, idle.
    Tray,
    /// The window: first content, 500 services that change, memory.
    Window,
}

impl Family {
    pub(crate) async fn measure(self, runs: usize) -> Result<Vec<Figure>> {
        match self {
            Self::Assign => assign::measure(runs).await,
            Self::Thousand => thousand::measure(runs).await,
            Self::Start => start::measure(runs).await,
            Self::Repair => repair::measure(runs).await,
            Self::Death => death::measure(runs).await,
            Self::Conflicts => conflicts::measure(runs).await,
            Self::Memory => memory::measure(runs).await,
            Self::Idle => idle::measure(runs).await,
            Self::Profiles => profiles::measure(runs).await,
            Self::Changes => changes::measure(runs).await,
            Self::Moves => moves::measure(runs).await,
            Self::Back => back::measure(runs).await,
            Self::Tray => tray::measure(runs).await,
            Self::Window => window::measure(runs).await,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}
