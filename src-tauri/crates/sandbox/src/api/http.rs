//! Requests and answers.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{Action, Event, Key, Kind, Refusal, Store, apply};

/// The largest body that is read: an object in etcd is smaller.
const MAX_BODY: usize = 1024 * 1024;
/// How long a watch lasts that names no time, as the real server's shortest.
const WATCH: Duration = Duration::from_secs(30 * 60);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers one request.
pub(super) async fn answer(
    store: Arc<Store>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    Ok(respond(store, request)
        .await
        .unwrap_or_else(|refusal| object(refusal.code, &refusal.to_json())))
}

async fn respond(store: Arc<Store>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let Some(target) = Target::parse(&path) else {
        return plain(&head.method, &path);
    };
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    let body = async || {
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body.map_err(|error| Refusal::bad_request(error.to_string()))?;
        serde_json::from_slice::<Value>(&body.to_bytes())
            .map_err(|error| Refusal::bad_request(format!("this server reads JSON only: {error}")))
    };
    let namespace = target.namespace.clone().unwrap_or_default();
    match (&head.method, target.key(), target.status) {
        (&Method::GET, None, false) if query.flag("watch") => watch(store, target, &query),
        (&Method::GET, None, false) => {
            query.no_selectors()?;
            let (version, items) = store.list(target.kind, target.namespace.as_deref());
            let (api_version, kind) = target.kind.names();
            let list = json!({
                "apiVersion": api_version, "kind": format!("{kind}List"),
                "metadata": { "resourceVersion": version.to_string() }, "items": items,
            });
            Ok(object(200, &list))
        }
        (&Method::GET, Some(key), _) => store
            .get(&key)
            .map(|found| object(200, &found))
            .ok_or_else(|| Refusal::not_found(&key.name)),
        (&Method::POST, None, false) => store
            .create(target.kind, &namespace, body().await?)
            .map(|made| object(201, &made)),
        (&Method::DELETE, Some(key), false) => store.delete(&key).map(|last| object(200, &last)),
        (&Method::PATCH, Some(key), true) if key.kind == Kind::Service => {
            let patch = body().await?;
            let manager = query.get("fieldManager").unwrap_or("unknown");
            let content_type = head.headers.get(CONTENT_TYPE);
            let changed = match content_type.and_then(|value| value.to_str().ok()) {
                Some("application/apply-patch+yaml") => {
                    if store.get(&key).is_none() {
                        // An apply would create the service, and a status alone makes none.
                        return Err(Refusal::invalid("spec.ports: Required value"));
                    }
                    store.update(&key, |old| {
                        apply::apply(old, manager, query.flag("force"), &patch)
                    })
                }
                Some("application/merge-patch+json" | "application/strategic-merge-patch+json") => {
                    store.update(&key, |old| apply::merge(old, manager, &patch))
                }
                other => Err(Refusal::new(
                    415,
                    "UnsupportedMediaType",
                    format!("this server takes no patch of type {other:?}"),
                )),
            };
            changed.map(|new| object(200, &new))
        }
        (method, ..) => Err(Refusal::new(
            405,
            "MethodNotAllowed",
            format!("this server has no {method} for {path}"),
        )),
    }
}

/// What is no object: health and version.
fn plain(method: &Method, path: &str) -> Result<Response<Body>, Refusal> {
    match (method, path) {
        (&Method::GET, "/readyz" | "/livez" | "/healthz") => {
            let mut response = Response::new(full("ok"));
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, text);
            Ok(response)
        }
        (&Method::GET, "/version") => Ok(object(
            200,
            &json!({
                "major": "1", "minor": "37", "gitVersion": crate::KUBERNETES_VERSION,
                "gitCommit": "", "gitTreeState": "clean", "buildDate": "", "goVersion": "",
                "compiler": "", "platform": "linux/amd64",
            }),
        )),
        _ => Err(Refusal::not_found(path)),
    }
}

fn object(code: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

/// What a path below `/api` or `/apis` names.
#[derive(Clone, Debug)]
struct Target {
    kind: Kind,
    namespace: Option<String>,
    name: Option<String>,
    status: bool,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let (group, rest) = match path.strip_prefix("/api/v1/") {
            Some(rest) => ("", rest),
            None => (
                "networking",
                path.strip_prefix("/apis/networking.k8s.io/v1/")?,
            ),
        };
        let mut parts = rest.split('/');
        let mut part = parts.next()?;
        let mut namespace = None;
        if part == "namespaces" {
            namespace = Some(parts.next()?.to_owned());
            part = parts.next()?;
        }
        let kind = match (group, part) {
            ("", "services") => Kind::Service,
            ("", "nodes") => Kind::Node,
            ("networking", "servicecidrs") => Kind::ServiceCidr,
            _ => return None,
        };
        let name = parts.next().map(str::to_owned);
        let status = match parts.next() {
            None => false,
            Some("status") => true,
            Some(_) => return None,
        };
        (parts.next().is_none() && (kind == Kind::Service || namespace.is_none())).then_some(Self {
            kind,
            namespace,
            name,
            status,
        })
    }

    fn key(&self) -> Option<Key> {
        Some(Key {
            kind: self.kind,
            namespace: self.namespace.clone().unwrap_or_default(),
            name: self.name.clone()?,
        })
    }

    fn has(&self, event: &Event) -> bool {
        event.key.kind == self.kind
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == event.key.namespace)
    }
}

/// The query's parameters.
struct Query<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Query<'a> {
    fn parse(text: &'a str) -> Result<Self, Refusal> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let query = Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .collect(),
        );
        // No parameter that this server reads needs an escape; one that has it would be misread.
        match query.get("fieldManager") {
            Some(manager) if manager.contains('%') => Err(Refusal::bad_request(
                "this server takes no fieldManager with an escape",
            )),
            _ => Ok(query),
        }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied().filter(|value| !value.is_empty())
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(&("true" | "1" | "")))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.get(name)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| Refusal::bad_request(format!("{name} is no number: {value}")))
            })
            .transpose()
    }

    /// A selector that is ignored would show what was not asked for.
    fn no_selectors(&self) -> Result<(), Refusal> {
        for name in ["labelSelector", "fieldSelector"] {
            if self.get(name).is_some() {
                return Err(Refusal::bad_request(format!("this server has no {name}")));
            }
        }
        Ok(())
    }
}

/// A watch: newline-delimited events until its time is over or the client leaves.
struct Watch {
    store: Arc<Store>,
    target: Target,
    changed: watch::Receiver<u64>,
    /// The version up to which the client knows everything.
    version: u64,
    queued: VecDeque<Value>,
    bookmarks: bool,
    until: Instant,
    over: bool,
}

fn watch(store: Arc<Store>, target: Target, query: &Query<'_>) -> Result<Response<Body>, Refusal> {
    query.no_selectors()?;
    let lasts = query.number("timeoutSeconds")?.map(Duration::from_secs);
    let from = query.number("resourceVersion")?;
    // Without a version, or with 0, or where it asks so, a watch begins with what there is.
    let initial = query.flag("sendInitialEvents");
    let (version, objects) = match from {
        Some(version @ 1..) if !initial => (version, Vec::new()),
        _ => store.list(target.kind, target.namespace.as_deref()),
    };
    let mut queued: VecDeque<Value> = objects
        .into_iter()
        .map(|object| json!({ "type": "ADDED", "object": object }))
        .collect();
    if initial {
        let mut end = bookmark(target.kind, version);
        end["object"]["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        queued.push_back(end);
    }
    let watch = Watch {
        changed: store.subscribe(),
        store,
        target,
        version,
        queued,
        bookmarks: query.flag("allowWatchBookmarks"),
        until: Instant::now() + lasts.unwrap_or(WATCH).min(WATCH),
        over: false,
    };
    let mut response = Response::new(StreamBody::new(watch.lines()).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Watch {
    fn lines(self) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
        stream::unfold(self, async |mut watch| {
            let event = watch.next().await?;
            let line = Bytes::from(format!("{event}\n"));
            Some((Ok(Frame::data(line)), watch))
        })
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.queued.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            // Marked as seen before it is read, so that a change in between is not missed.
            self.changed.mark_unchanged();
            let Some(events) = self.store.since(self.version) else {
                self.over = true;
                let expired = Refusal::expired(self.version).to_json();
                return Some(json!({ "type": "ERROR", "object": expired }));
            };
            self.version = events.last().map_or(self.version, |event| event.version);
            let seen = events.iter().filter(|event| self.target.has(event));
            self.queued.extend(seen.map(|event| {
                let action = match event.action {
                    Action::Added => "ADDED",
                    Action::Modified => "MODIFIED",
                    Action::Deleted => "DELETED",
                };
                json!({ "type": action, "object": event.object })
            }));
            if self.queued.is_empty()
                && timeout_at(self.until, self.changed.changed())
                    .await
                    .is_err()
            {
                self.over = true;
                if self.bookmarks {
                    return Some(bookmark(self.target.kind, self.version));
                }
            }
        }
    }
}

fn bookmark(kind: Kind, version: u64) -> Value {
    let (api_version, kind) = kind.names();
    json!({
        "type": "BOOKMARK",
        "object": {
            "apiVersion": api_version, "kind": kind,
            "metadata": { "resourceVersion": version.to_string() },
        },
    })
}
