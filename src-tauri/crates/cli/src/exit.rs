//! The exit codes: stable, and documented in the README.

use std::process::ExitCode;

use minitunnel_model::{FailureCause, ProfileStatus, TunnelState};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Something failed, and was said.
    Failed,
    /// The command was called in a way that makes no sense.
    Usage,
    /// There is no such profile, or it is not clear which one is meant.
    NoProfile,
    /// A route conflicts.
    Conflict,
    /// Consent was not given.
    NotAuthorized,
    /// The helper is not to be had.
    NoHelper,
    /// The profile's cluster can't be reached by routes.
    OutOfReach,
    /// Addresses of ours remain on services.
    AddressesRemain,
    /// A service that was waited for did not answer.
    Unanswered,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            // clap's own, too.
            Exit::Usage => Self::from(2),
            Exit::NoProfile => Self::from(3),
            Exit::Conflict => Self::from(4),
            Exit::NotAuthorized => Self::from(5),
            Exit::NoHelper => Self::from(6),
            Exit::OutOfReach => Self::from(7),
            Exit::AddressesRemain => Self::from(8),
            Exit::Unanswered => Self::from(9),
        }
    }
}

/// A sentence with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

/// The exit code of an error.
pub(crate) fn of(error: &anyhow::Error) -> Exit {
    error
        .downcast_ref::<Failure>()
        .map_or(Exit::Failed, |failure| failure.exit)
}

/// How a tunnel that can't come up by itself ends a command; `None` if it can, or is up.
pub(crate) fn hopeless(status: &ProfileStatus) -> Option<Exit> {
    match &status.tunnel {
        TunnelState::Blocked { .. } => Some(Exit::Conflict),
        TunnelState::Failed {
            cause,
            retry_at: None,
        } => Some(of_failure(cause)),
        _ => None,
    }
}

/// How a tunnel that has failed for this reason ends a command.
pub(crate) fn of_failure(cause: &FailureCause) -> Exit {
    match cause {
        FailureCause::NotAuthorized { .. } => Exit::NotAuthorized,
        FailureCause::HelperMissing { .. } => Exit::NoHelper,
        FailureCause::Reach { .. } => Exit::OutOfReach,
        FailureCause::Helper { .. } | FailureCause::Fight { .. } | FailureCause::Profile { .. } => {
            Exit::Failed
        }
    }
}
