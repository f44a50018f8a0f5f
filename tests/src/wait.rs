//! Waiting for what sends no event.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

use crate::Result;

/// A deadline for what takes well under a second on a quiet machine; only a broken product reaches it.
pub const WAIT: Duration = Duration::from_secs(20);

/// Where there is nothing to subscribe to: short enough to cost a test nothing, long enough to leave the processor alone.
const PAUSE: Duration = Duration::from_millis(20);

/// Repeats `probe` until it gives a value, and fails with its last error after `within`.
///
/// For states that nothing announces, such as a foreign program's port. Prefer [`crate::Process::wait_for_line`] and
/// watches of the API server.
pub async fn eventually<T>(
    within: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut last = None;
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = Some(error),
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= deadline {
            match last {
                Some(error) => return Err(error.context(format!("{what}: not within {within:?}"))),
                None => bail!("{what}: no answer within {within:?}"),
            }
        }
        sleep(PAUSE).await;
    }
}
