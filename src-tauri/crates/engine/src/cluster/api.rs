//! The calls that are made, each with a deadline, and watches that go on through what watches meet.

use std::{fmt::Debug, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream, Stream},
};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use kube::{
    Client,
    client::Body,
    core::{Status, WatchEvent, response::StatusDetails},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep, timeout};

use super::{events::Events, health::Backoff};

/// How long any call may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// So many objects of a list come at a time: a page of 500 services is about 1 MB.
const PAGE: u32 = 500;
/// More than a page of the largest objects that etcd takes (1.5 MB each) on average has.
const MAX_BODY: usize = 64 << 20;
/// More pages than any minikube has: 50,000 objects. A list that goes on is none of an API server.
const MAX_PAGES: usize = 100;
/// A watch that ended sooner than this says that something is wrong.
pub(super) const SHORT_WATCH: Duration = Duration::from_secs(1);
/// No server's wish for a rest is granted for longer: the user waits too.
const MAX_REST: Duration = Duration::from_secs(60);
/// So much of a server's own words is shown, in characters.
const MAX_MESSAGE: usize = 300;

/// One API server's client.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    /// Whether the server knows `ipMode`, see [`Self::knows_ip_mode`].
    ip_mode: bool,
}

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The server says no.
    #[error("{}", .0.message)]
    Status(Box<Status>),
    /// Connections are accepted, or not even refused, and nothing is answered.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
    /// No connection, or it broke.
    #[error("the connection failed")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An answer that is none of an API server.
    #[error("the answer is not an API server's")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Watches can be begun, and are of no use.
    #[error("it ends each watch at once")]
    Watch(#[source] Box<Self>),
}

impl CallError {
    /// Whether something answered.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Malformed(_) | Self::Watch(_))
    }

    /// How long the server wants to be left alone.
    pub(super) fn rest(&self) -> Duration {
        let Self::Status(status) = self else {
            return Duration::ZERO;
        };
        let seconds = status.details.as_ref().map(|of| of.retry_after_seconds);
        Duration::from_secs(seconds.unwrap_or_default().into()).min(MAX_REST)
    }
}

/// An object of a list or watch.
pub(super) trait Object: Clone + Debug + DeserializeOwned + Send + 'static {
    /// Where all of its kind are listed.
    const PATH: &'static str;
    /// `metadata.resourceVersion`.
    fn resource_version(&self) -> &str;
}

/// `/version`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Version {
    major: String,
    /// Some distributions have a `+` behind the number.
    minor: String,
}

impl Version {
    /// `ipMode` came with 1.29, and is served without a feature gate since 1.30.
    fn knows_ip_mode(&self) -> bool {
        let minor: Option<u32> = self.minor.trim_end_matches('+').parse().ok();
        self.major != "1" || minor.is_none_or(|minor| minor >= 30)
    }
}

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Told<K> {
    /// New, or different from before.
    Applied {
        object: K,
        is_new: bool,
    },
    Deleted(K),
    /// These are all: the watch had fallen behind.
    Reset(Vec<K>),
    /// The server lives.
    Bookmark,
}

impl<K> Told<K> {
    /// The same of what each object is made into.
    pub(super) fn map<T>(self, mut make: impl FnMut(K) -> T) -> Told<T> {
        match self {
            Self::Applied { object, is_new } => Told::Applied {
                object: make(object),
                is_new,
            },
            Self::Deleted(object) => Told::Deleted(make(object)),
            Self::Reset(objects) => Told::Reset(objects.into_iter().map(make).collect()),
            Self::Bookmark => Told::Bookmark,
        }
    }
}

#[derive(Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
struct List<K> {
    metadata: ListMeta,
    #[serde(default = "Vec::new")]
    items: Vec<K>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    r#continue: String,
}

impl Api {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            ip_mode: true,
        }
    }

    /// The same for a server of that version.
    pub(super) fn of_version(mut self, version: &Version) -> Self {
        self.ip_mode = version.knows_ip_mode();
        self
    }

    /// Whether `ipMode` may be sent: an older server refuses an apply for it.
    pub(super) fn knows_ip_mode(&self) -> bool {
        self.ip_mode
    }

    /// What the server says of its version; one that says nothing is taken for a present one.
    pub(super) async fn version(&self) -> Result<Version, CallError> {
        match self.get("/version").await {
            Err(CallError::Status(_) | CallError::Malformed(_)) => Ok(Version::default()),
            version => version,
        }
    }

    /// Reads one object.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let body = self.call(&Call::get(path)).await?;
        parse(&body)
    }

    /// Patches an object; what it is then, the watch tells.
    pub(super) async fn patch(
        &self,
        path: &str,
        kind: &'static str,
        body: Vec<u8>,
    ) -> Result<(), CallError> {
        let call = Call {
            method: Method::PATCH,
            path,
            kind: Some(kind),
            body: body.into(),
        };
        // Whatever else listens at the port may say 200 to anything.
        #[derive(Deserialize)]
        struct Patched {
            #[serde(rename = "kind")]
            _kind: String,
        }
        let body = self.call(&call).await?;
        parse::<Patched>(&body).map(drop)
    }

    /// Whether the server says that it is ready; an error if it can't be asked.
    pub(super) async fn is_ready(&self) -> Result<bool, CallError> {
        match self.call(&Call::get("/readyz")).await {
            Ok(_) => Ok(true),
            Err(CallError::Status(status)) if status.code >= 500 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists all objects of a kind; with the version from which to watch.
    pub(super) async fn list<K: Object>(&self) -> Result<(Vec<K>, String), CallError> {
        let mut items = Vec::new();
        let mut from = String::new();
        let mut forgotten = false;
        for _ in 0..MAX_PAGES {
            let path = format!("{}?limit={PAGE}{from}", K::PATH);
            let mut page: List<K> = match self.get(&path).await {
                // The server has forgotten what the pages so far are of: they are of no use, and new ones come.
                Err(CallError::Status(status))
                    if is_expired(&status) && !from.is_empty() && !forgotten =>
                {
                    forgotten = true;
                    items.clear();
                    from.clear();
                    continue;
                }
                page => page?,
            };
            items.append(&mut page.items);
            if page.metadata.r#continue.is_empty() {
                return Ok((items, page.metadata.resource_version));
            }
            // The token is base64url, sometimes with `=`, all of which may stand in a query.
            from = format!("&continue={}", page.metadata.r#continue);
        }
        Err(CallError::Malformed("a list without an end".into()))
    }

    /// Watches all objects of a kind. Ends with an error when the server can't be asked any more; what is dropped or
    /// expired on the way is taken up again or listed anew.
    pub(super) fn watch<K: Object>(
        &self,
        version: String,
    ) -> impl Stream<Item = Result<Told<K>, CallError>> + Send + use<K> {
        Watch::new(self, version).into_stream()
    }

    /// Begins such a watch, and ends it at the first sign of trouble where the one before was no good.
    pub(super) async fn begin_watch<K: Object>(
        &self,
        version: String,
        suspect: bool,
    ) -> Result<BoxStream<'static, Result<Told<K>, CallError>>, CallError> {
        let mut watch = Watch::new(self, version);
        watch.open().await?;
        if suspect {
            watch.backoff = Backoff::spent();
        }
        Ok(watch.into_stream().boxed())
    }

    async fn call(&self, call: &Call<'_>) -> Result<Bytes, CallError> {
        let answer = async { read(accepted(self.send(call).await?).await?).await };
        timeout(DEADLINE, answer)
            .await
            .map_err(|_| CallError::Deadline)?
    }

    async fn send(&self, call: &Call<'_>) -> Result<Response<Body>, CallError> {
        let mut response = self.client.send(call.request()).await;
        if broke(&response) {
            response = self.client.send(call.request()).await;
        }
        response.map_err(transport)
    }
}

/// One watch through its interruptions.
struct Watch<K> {
    api: Api,
    version: String,
    open: Option<Events<K>>,
    opened: Instant,
    backoff: Backoff,
}

impl<K: Object> Watch<K> {
    fn new(api: &Api, version: String) -> Self {
        Self {
            api: api.clone(),
            version,
            open: None,
            opened: Instant::now(),
            backoff: Backoff::new(),
        }
    }

    fn into_stream(self) -> impl Stream<Item = Result<Told<K>, CallError>> + Send + use<K> {
        stream::try_unfold(self, |mut watch| async move {
            let told = watch.next().await?;
            Ok(Some((told, watch)))
        })
    }

    async fn next(&mut self) -> Result<Told<K>, CallError> {
        loop {
            let Some(open) = &mut self.open else {
                match self.open().await {
                    Ok(()) => continue,
                    Err(CallError::Status(status)) if is_expired(&status) => {
                        return self.relist(status).await;
                    }
                    Err(error) => return Err(error),
                }
            };
            let told = match open.next().await {
                Ok(Some(WatchEvent::Added(object))) => Told::Applied {
                    object,
                    is_new: true,
                },
                Ok(Some(WatchEvent::Modified(object))) => Told::Applied {
                    object,
                    is_new: false,
                },
                Ok(Some(WatchEvent::Deleted(object))) => Told::Deleted(object),
                Ok(Some(WatchEvent::Bookmark(bookmark))) => {
                    self.version = bookmark.metadata.resource_version;
                    return Ok(Told::Bookmark);
                }
                Ok(Some(WatchEvent::Error(status))) if is_expired(&status) => {
                    return self.relist(status).await;
                }
                // The server ends each watch after some time, and all when it ends itself: opening it again tells which.
                Ok(Some(WatchEvent::Error(status))) => {
                    self.broke(CallError::Status(status)).await?;
                    continue;
                }
                Ok(None) => {
                    self.broke(CallError::Malformed("a watch without an event".into()))
                        .await?;
                    continue;
                }
                Err(error) => {
                    self.broke(error).await?;
                    continue;
                }
            };
            if let Told::Applied { object, .. } | Told::Deleted(object) = &told {
                object.resource_version().clone_into(&mut self.version);
            }
            self.backoff = Backoff::new();
            return Ok(told);
        }
    }

    async fn open(&mut self) -> Result<(), CallError> {
        self.opened = Instant::now();
        // Without `timeoutSeconds` the server chooses, between half an hour and an hour.
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={}",
            K::PATH,
            self.version
        );
        let call = Call::get(&path);
        let response = async { accepted(self.api.send(&call).await?).await };
        let response = timeout(DEADLINE, response).await;
        let response = response.map_err(|_| CallError::Deadline)??;
        self.open = Some(Events::new(response.into_body()));
        Ok(())
    }

    /// The version is too old for the server to know what came after it (410 Gone).
    async fn relist(&mut self, expired: Box<Status>) -> Result<Told<K>, CallError> {
        self.broke(CallError::Status(expired)).await?;
        let (items, version) = self.api.list().await?;
        self.version = version;
        Ok(Told::Reset(items))
    }

    /// Rests before another one is begun; fails for one of several in a row that were too short to be of any use.
    async fn broke(&mut self, error: CallError) -> Result<(), CallError> {
        tracing::debug!(path = K::PATH, %error, "a watch broke");
        self.open = None;
        if self.opened.elapsed() < SHORT_WATCH {
            let pause = self.backoff.next();
            if pause > SHORT_WATCH {
                return Err(CallError::Watch(Box::new(error)));
            }
            sleep(pause).await;
        }
        Ok(())
    }
}

fn is_expired(status: &Status) -> bool {
    status.code == StatusCode::GONE.as_u16()
}

/// A call that may be sent twice: all of ours leave the same behind then.
struct Call<'a> {
    method: Method,
    path: &'a str,
    kind: Option<&'static str>,
    body: Bytes,
}

impl<'a> Call<'a> {
    fn get(path: &'a str) -> Self {
        Self {
            method: Method::GET,
            path,
            kind: None,
            body: Bytes::new(),
        }
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::from(self.body.clone()));
        *request.method_mut() = self.method.clone();
        // Paths are ours, and names in them are Kubernetes': a path that is none asks for `/` and is answered as such.
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        if let Some(kind) = self.kind {
            request
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        }
        request
    }
}

/// Whether a connection that was there broke, as one that was kept for later use does when the server ends it at that
/// moment: worth another one.
fn broke<T>(answer: &kube::Result<T>) -> bool {
    let Err(kube::Error::Service(error)) = answer else {
        return false;
    };
    error
        .downcast_ref::<hyper_util::client::legacy::Error>()
        .is_some_and(|error| !error.is_connect())
}

async fn read(response: Response<Body>) -> Result<Bytes, CallError> {
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => CallError::Malformed(error),
        false => CallError::Transport(error),
    });
    Ok(body?.to_bytes())
}

/// The answer, unless it is a refusal.
async fn accepted(response: Response<Body>) -> Result<Response<Body>, CallError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let rest = response.headers().get(header::RETRY_AFTER);
    let rest = rest.and_then(|rest| rest.to_str().ok()?.parse().ok());
    let body = read(response).await?;
    Err(CallError::Status(Box::new(refusal(status, rest, &body))))
}

/// The server's own words, where there are some, and how many seconds it wants to be left alone.
fn refusal(status: StatusCode, rest: Option<u32>, body: &[u8]) -> Status {
    let mut refusal: Status = serde_json::from_slice(body).unwrap_or_default();
    if refusal.code == 0 {
        refusal.code = status.as_u16();
    }
    if refusal.message.is_empty() {
        refusal.message = status.to_string();
    }
    // They become part of a sentence.
    let words = refusal.message.chars().take(MAX_MESSAGE);
    refusal.message = words
        .map(|of| if of.is_control() { ' ' } else { of })
        .collect();
    if let Some(rest) = rest {
        let details = refusal.details.get_or_insert_with(|| StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: rest,
        });
        details.retry_after_seconds = rest;
    }
    refusal
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body).map_err(|error| CallError::Malformed(error.into()))
}

fn transport(error: kube::Error) -> CallError {
    match error {
        kube::Error::Api(status) => CallError::Status(status),
        kube::Error::Service(error) => CallError::Transport(error),
        error => CallError::Transport(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_an_address_is_known_since_1_30_and_to_whoever_says_no_version() {
        let knows = |major: &str, minor: &str| {
            let version = Version {
                major: major.to_owned(),
                minor: minor.to_owned(),
            };
            version.knows_ip_mode()
        };
        assert!(knows("1", "30") && knows("1", "37+") && knows("2", "0"));
        assert!(!knows("1", "29") && !knows("1", "22+"));
        assert!(Version::default().knows_ip_mode());
    }
}
