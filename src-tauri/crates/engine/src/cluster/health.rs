//! What a failed call says of the cluster, and when to ask again.

use std::{error::Error, io, time::Duration};

use minitunnel_model::ProfileName;
use rustls::CertificateError;
use tokio::time::Instant;

use super::api::CallError;

/// The pauses between tries, doubling: short enough for a cluster that restarts, long enough to cost nothing.
#[derive(Debug)]
pub(super) struct Backoff {
    pause: Duration,
    eager_until: Option<Instant>,
}

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(5);
/// The longest pause while a server is expected: a tunnel is to be back within a second of it.
const EAGER: Duration = Duration::from_millis(400);
/// `minikube start` needs less from a node's link to its API server.
const EXPECTED: Duration = Duration::from_secs(60);

impl Backoff {
    pub(super) fn new() -> Self {
        Self {
            pause: FIRST,
            eager_until: None,
        }
    }

    /// As after many tries.
    pub(super) fn spent() -> Self {
        Self {
            pause: LAST,
            eager_until: None,
        }
    }

    /// For a server that may be there in a moment: something of its node has changed.
    pub(super) fn eager() -> Self {
        Self {
            pause: FIRST,
            eager_until: Some(Instant::now() + EXPECTED),
        }
    }

    /// The pause before the next try.
    pub(super) fn next(&mut self) -> Duration {
        let eager = self.eager_until.is_some_and(|end| Instant::now() < end);
        let pause = self.pause;
        self.pause = (pause * 2).min(if eager { EAGER } else { LAST });
        pause
    }
}

/// Why the cluster can't be used, in one sentence with the way out.
pub(super) fn explain(profile: &ProfileName, server: &str, error: &CallError) -> String {
    let start = format!("`minikube start -p {profile}`");
    match error {
        CallError::Status(status) if matches!(status.code, 401 | 403) => format!(
            "the API server of {profile} refuses the profile's certificate ({}): {start} renews it",
            status.message
        ),
        CallError::Status(status) => {
            format!(
                "the API server of {profile} answers: {}; if it stays so, {start} restarts it",
                status.message
            )
        }
        CallError::Deadline => format!(
            "the API server of {profile} at {server} does not answer: if the cluster is paused, `minikube unpause -p {profile}` \
             wakes it, else {start} restarts it"
        ),
        CallError::Malformed(_) => format!(
            "what answers at {server} is not the API server of {profile}: {start} restarts it"
        ),
        CallError::Watch(source) => format!(
            "the API server of {profile} at {server} ends each watch at once ({}): {start} restarts it",
            last(source)
        ),
        CallError::Transport(source) => match cause(source.as_ref()) {
            Cause::Refused => {
                format!("the API server of {profile} is not running at {server}: {start} starts it")
            }
            Cause::Unreachable => {
                format!("the node of {profile} is not reachable at {server}: {start} starts it")
            }
            Cause::Tls(error) => format!(
                "{server} and the certificates of {profile} don't fit together ({error}): {start} renews them"
            ),
            Cause::Other(error) => format!(
                "the connection to the API server of {profile} at {server} failed ({error}): {start} restarts it"
            ),
        },
    }
}

/// The last word of a chain of errors.
fn last(mut error: &dyn Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What is said while the server answers, but is not ready.
pub(super) fn starting(profile: &ProfileName) -> String {
    format!("the API server of {profile} is starting")
}

enum Cause {
    Refused,
    Unreachable,
    Tls(String),
    Other(String),
}

/// Finds the operating system's or the TLS library's word in the chain of errors.
fn cause(error: &(dyn Error + 'static)) -> Cause {
    let mut last = error;
    let mut next = Some(error);
    while let Some(error) = next {
        last = error;
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Cause::Tls(match error {
                // The library counts the seconds since then, and so would say something new each time.
                rustls::Error::InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. },
                ) => "the server's certificate has expired".to_owned(),
                error => error.to_string(),
            });
        }
        let io = error.downcast_ref::<io::Error>();
        match io.map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => return Cause::Refused,
            Some(
                io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::TimedOut,
            ) => return Cause::Unreachable,
            _ => {}
        }
        // An io::Error that wraps another error gives that one's source as its own, and so hides it.
        next = match io.and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    Cause::Other(last.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses of so many tries, in milliseconds.
    async fn pauses(backoff: &mut Backoff, tries: usize) -> Vec<u128> {
        let mut pauses = Vec::new();
        for _ in 0..tries {
            let pause = backoff.next();
            tokio::time::sleep(pause).await;
            pauses.push(pause.as_millis());
        }
        pauses
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_is_asked_ever_more_seldom() {
        assert_eq!(
            pauses(&mut Backoff::new(), 7).await,
            [200, 400, 800, 1600, 3200, 5000, 5000]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_expected_is_asked_often_for_a_minute() {
        let mut backoff = Backoff::eager();
        assert_eq!(pauses(&mut backoff, 3).await, [200, 400, 400]);
        // What is left of the minute.
        assert!(
            pauses(&mut backoff, 148)
                .await
                .iter()
                .all(|pause| *pause == 400)
        );
        assert_eq!(
            pauses(&mut backoff, 6).await,
            [400, 800, 1600, 3200, 5000, 5000]
        );
    }
}
