use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, WeakShared},
};
use minitunnel_contract::{ACTION_APPLY, ACTION_REMOVE_STALE, Refusal};
use tokio::time::timeout;
use zbus::{
    Connection,
    message::{Flags, Header},
    proxy::CacheProperties,
};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use crate::journal::Owner;

/// How long a dialog stays open: a little less than the five minutes that a client waits.
const DIALOG: Duration = Duration::from_secs(290);
/// An answer that needs nobody: polkit is started on demand.
const SILENT: Duration = Duration::from_secs(8);

type Answer = Result<(), Refusal>;
/// One that somebody waits for.
type Question = WeakShared<BoxFuture<'static, Answer>>;

/// Asks polkit, on behalf of the sender of a message; whether the user may be asked, the message says.
#[derive(Debug)]
pub(crate) struct Consent {
    authority: AuthorityProxy<'static>,
    /// The questions that are open: whoever asks for the same waits for the same answer.
    open: Mutex<BTreeMap<(Owner, bool), Question>>,
}

impl Consent {
    /// Speaks to polkit over that connection.
    pub(crate) async fn new(connection: &Connection) -> zbus::Result<Self> {
        // None of its properties is read.
        let authority = AuthorityProxy::builder(connection).cache_properties(CacheProperties::No);
        Ok(Self {
            authority: authority.build().await?,
            open: Mutex::default(),
        })
    }

    /// Whether the sender of `call` may apply routes. Dropping the future of everybody who waits closes the dialog.
    pub(crate) async fn apply(&self, owner: &Owner, call: &Header<'_>) -> Answer {
        let answer = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|_, question| {
                let question = question.upgrade();
                question.is_some_and(|question| question.peek().is_none())
            });
            let key = (owner.clone(), interactive(call));
            match open.get(&key).and_then(WeakShared::upgrade) {
                Some(question) => question,
                None => {
                    let question = self.question(ACTION_APPLY, None, call)?.boxed().shared();
                    open.extend(question.downgrade().map(|question| (key, question)));
                    question
                }
            }
        };
        answer.await
    }

    /// Whether the sender of `call` may remove that route of another program's, now and this once.
    pub(crate) async fn remove_stale(&self, route: &str, call: &Header<'_>) -> Answer {
        let question = self.question(ACTION_REMOVE_STALE, Some(route.to_owned()), call);
        question?.await
    }

    /// One question, for an action, and about a route where the action's message names one.
    fn question(
        &self,
        action: &'static str,
        route: Option<String>,
        call: &Header<'_>,
    ) -> Result<impl Future<Output = Answer> + use<>, Refusal> {
        let subject = Subject::new_for_message_header(call)
            .map_err(|error| denied(&format!("the caller can't be told to polkit: {error}")))?;
        let interactive = interactive(call);
        // A bus never has a name twice, and a sender no serial.
        let id = format!("{:?} {}", call.sender(), call.primary().serial_num());
        let authority = self.authority.clone();
        Ok(async move {
            let dialog = Dialog { authority, id };
            let (flags, limit) = match interactive {
                true => (CheckAuthorizationFlags::ALLOW_USER_INTERACTION, DIALOG),
                false => (CheckAuthorizationFlags::empty(), SILENT),
            };
            let about: HashMap<&str, &str> = route.iter().map(|to| ("route", &**to)).collect();
            let asked = dialog
                .authority
                .check_authorization(&subject, action, &about, flags, &dialog.id);
            let why = match timeout(limit, asked).await {
                Ok(Ok(answer)) if answer.is_authorized => return Ok(()),
                Ok(Ok(answer)) if answer.details.contains_key("polkit.dismissed") => {
                    return Err(dismissed());
                }
                Ok(Ok(answer)) if !answer.is_challenge => {
                    "this machine's policy, or the password, does not allow it: ask an administrator, or use sudo"
                }
                Ok(Ok(_)) if !interactive => {
                    "your consent is needed, and was not asked for: start the tunnel by hand"
                }
                // There is no agent: a login over ssh, a console.
                Ok(Ok(_)) => {
                    "nobody can be asked for consent here: run `sh -c 'setpriv --pdeathsig TERM pkttyagent --process $$ & sleep 1; exec minitunnel up'` to be asked in this terminal, or run minitunnel with sudo"
                }
                Ok(Err(zbus::Error::MethodError(name, ..)))
                    if name == "org.freedesktop.PolicyKit1.Error.Cancelled" =>
                {
                    return Err(dismissed());
                }
                Ok(Err(error)) => &format!("polkit can't be asked, so use sudo ({error})"),
                Err(_) if interactive => "nobody answered the dialog: try again",
                Err(_) => "polkit did not answer: see whether polkitd runs",
            };
            Err(denied(why))
        })
    }
}

/// Whether the caller lets the user be asked.
fn interactive(call: &Header<'_>) -> bool {
    let flags = call.primary().flags();
    flags.contains(Flags::ALLOW_INTERACTIVE_AUTH)
}

fn denied(why: &str) -> Refusal {
    Refusal::NotAuthorized(format!("changing routes was not allowed: {why}"))
}

/// The user, or the caller, took the question back.
pub(crate) fn dismissed() -> Refusal {
    Refusal::Dismissed(
        "the dialog that asks for your consent was closed: start the tunnel again to have it back"
            .to_owned(),
    )
}

/// Closes polkit's dialog when nobody waits for the answer any more.
struct Dialog {
    authority: AuthorityProxy<'static>,
    id: String,
}

impl Drop for Dialog {
    fn drop(&mut self) {
        let (authority, id) = (self.authority.clone(), std::mem::take(&mut self.id));
        tokio::spawn(async move {
            // It fails where there was an answer. Where it fails otherwise, the answer counts for nothing.
            let _ = timeout(SILENT, authority.cancel_check_authorization(&id)).await;
        });
    }
}
