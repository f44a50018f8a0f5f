//! A polkit authentication agent that answers without a person.
//!
//! It runs as root, because polkit takes an answer from nobody else (a desktop's agent has a setuid program for it), and
//! so it may register for any user's process. Lines of its input are orders; it prints a line for each thing that happens:
//!
//! | order | effect | printed |
//! | --- | --- | --- |
//! | `register PID` | polkit asks us for this process | `registered PID` |
//! | `answer WORD` | approve, deny, dismiss or hold, also for what is held | `answering WORD` |
//!
//! Also printed: `asked ACTION: MESSAGE`, `cancelled`.

use std::collections::HashMap;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::watch;
use zbus::{DBusError, interface, proxy};
use zbus::{OwnedVariant, Variant};

/// polkit's identity and subject: a kind and its details.
type Details = (String, HashMap<String, OwnedVariant>);

/// What the agent does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Approve,
    Deny,
    Dismiss,
    Hold,
}

impl FromStr for Answer {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        Ok(match word {
            "approve" => Self::Approve,
            "deny" => Self::Deny,
            "dismiss" => Self::Dismiss,
            "hold" => Self::Hold,
            other => bail!("no such answer: {other}"),
        })
    }
}

/// Serves until the input ends.
pub(crate) async fn run(answer: Answer) -> Result<()> {
    let answers = watch::Sender::new(answer);
    let agent = Agent {
        answers: answers.subscribe(),
    };
    let bus = zbus::connection::Builder::system()
        .serve_at(PATH, agent)
        .build()
        .await?;
    let authority = AuthorityProxy::new(&bus).await?;
    println!("answering");
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await? {
        match order.split_once(' ') {
            Some(("register", pid)) => {
                authority
                    .register_authentication_agent(&unix_process(pid)?, "C", PATH)
                    .await?;
                println!("registered {pid}");
            }
            Some(("answer", word)) => {
                answers.send_replace(word.parse()?);
                println!("answering {word}");
            }
            _ => bail!("no such order: {order}"),
        }
    }
    Ok(())
}

const PATH: &str = "/io/github/minitunnel/TestAgent";

struct Agent {
    answers: watch::Receiver<Answer>,
}

/// The errors that polkit tells apart.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.freedesktop.PolicyKit1.Error")]
enum AgentError {
    #[zbus(error)]
    ZBus(zbus::Error),
    Cancelled(String),
}

#[interface(name = "org.freedesktop.PolicyKit1.AuthenticationAgent")]
impl Agent {
    #[expect(clippy::too_many_arguments, reason = "the interface is polkit's")]
    #[zbus(name = "BeginAuthentication")]
    async fn begin(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        action: &str,
        message: &str,
        _icon: &str,
        _details: HashMap<String, String>,
        cookie: &str,
        identities: Vec<Details>,
    ) -> Result<(), AgentError> {
        println!("asked {action}: {message}");
        let mut answers = self.answers.clone();
        let answer = match answers.wait_for(|answer| *answer != Answer::Hold).await {
            Ok(answer) => *answer,
            Err(_) => Answer::Deny, // the agent is ending
        };
        match (answer, identities.first()) {
            (Answer::Approve, Some(identity)) => {
                let authority = AuthorityProxy::new(bus).await?;
                let uid = rustix::process::geteuid().as_raw();
                Ok(authority
                    .authentication_agent_response2(uid, cookie, identity)
                    .await?)
            }
            (Answer::Dismiss, _) => Err(AgentError::Cancelled("dismissed".to_owned())),
            _ => Ok(()),
        }
    }

    #[zbus(name = "CancelAuthentication")]
    async fn cancel(&self, _cookie: &str) {
        println!("cancelled");
    }
}

#[proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn register_authentication_agent(
        &self,
        subject: &Details,
        locale: &str,
        path: &str,
    ) -> zbus::Result<()>;

    fn authentication_agent_response2(
        &self,
        uid: u32,
        cookie: &str,
        identity: &Details,
    ) -> zbus::Result<()>;
}

/// polkit's subject for a process (polkit(8), `unix-process`).
fn unix_process(pid: &str) -> Result<Details> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("no process {pid}"))?;
    // proc_pid_stat(5): the name in parentheses may contain anything; field 22, the start time, is the 20th after it.
    let (_, fields) = stat
        .rsplit_once(')')
        .ok_or_else(|| anyhow!("an odd /proc/{pid}/stat"))?;
    let start = fields
        .split_whitespace()
        .nth(19)
        .ok_or_else(|| anyhow!("a short /proc/{pid}/stat"))?;
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}"))?);
    let details = [
        ("pid", Variant::from(pid.parse::<u32>()?)),
        ("start-time", Variant::from(start.parse::<u64>()?)),
        ("uid", Variant::from(owner.cast_signed())),
    ];
    let details = details
        .into_iter()
        .map(|(name, value)| Ok((name.to_owned(), OwnedVariant::try_from(value)?)))
        .collect::<Result<_>>()?;
    Ok(("unix-process".to_owned(), details))
}
