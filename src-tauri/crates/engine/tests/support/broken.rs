//! A proxy that speaks TLS and HTTP for the API server, counts what it is asked, and answers some of it as broken servers do.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::client::Body as KubeBody;
use minitunnel_engine::minikube::Credentials;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{A_DAY, ApiServer, Authority};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The connection is accepted, and that is all.
    Mute,
    /// These bytes where TLS is expected.
    NoTls(&'static [u8]),
    /// These bytes, by TLS, where HTTP is expected.
    NoHttp(&'static [u8]),
    /// The connection is cut.
    Cut,
    /// No answer.
    Hang,
    /// An answer whose body never comes.
    NoBody,
    /// This status, with these seconds to wait, and body.
    Answer(u16, Option<&'static str>, &'static str),
    /// The beginning of a good answer, and the connection's end.
    Half(&'static str),
    /// A good answer's head, and a body without an end, nor a line's end.
    Endless,
    /// The server's own answer, byte by byte.
    Slow(Duration),
    /// Every page of a list promises another one.
    Circle,
    /// Every list promises another page, of which nothing is known any more (410).
    Forgotten,
}

/// Which requests it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    All,
    /// Of services.
    Lists,
    Watches,
    /// Watches of Calico's objects.
    BlockWatches,
    Patches,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) struct Broken {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    authority: Authority,
    upstream: kube::Client,
    tls: RwLock<TlsAcceptor>,
    trouble: RwLock<Option<(On, Trouble)>>,
    /// How often it still happens.
    left: AtomicUsize,
    connections: AtomicUsize,
    requests: AtomicUsize,
    pages: AtomicUsize,
    /// Connections of an older generation end.
    generation: watch::Sender<u64>,
}

impl Broken {
    /// Starts one that is whole as yet.
    pub(crate) async fn start(server: &ApiServer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let authority = Authority::new();
        let shared = Arc::new(Shared {
            tls: RwLock::new(acceptor(&authority, SystemTime::now() + A_DAY)),
            authority,
            upstream: server.client().await,
            trouble: RwLock::default(),
            left: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            generation: watch::Sender::new(0),
        });
        tokio::spawn(accept(listener, shared.clone()));
        Self { port, shared }
    }

    /// What its clients need.
    pub(crate) fn credentials(&self, of: &ApiServer) -> Credentials {
        Credentials {
            server: format!("https://127.0.0.1:{}", self.port),
            ca: self.shared.authority.certificate.clone().into_bytes(),
            ..of.credentials()
        }
    }

    /// From now on, so many times.
    pub(crate) fn begin(&self, on: On, trouble: Trouble, times: usize) {
        for count in [&self.shared.connections, &self.shared.requests] {
            count.store(0, Ordering::SeqCst);
        }
        self.shared.left.store(times, Ordering::SeqCst);
        self.set(Some((on, trouble)));
        self.cut();
    }

    /// From now on all is well again.
    pub(crate) fn end(&self) {
        self.set(None);
        self.cut();
    }

    /// Has a certificate that ends then.
    pub(crate) fn renew(&self, until: SystemTime) {
        *self
            .shared
            .tls
            .write()
            .unwrap_or_else(PoisonError::into_inner) = acceptor(&self.shared.authority, until);
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        self.shared
            .generation
            .send_modify(|generation| *generation += 1);
    }

    /// How many connections and requests there were since the trouble began.
    pub(crate) fn asked(&self) -> (usize, usize) {
        let Shared {
            connections,
            requests,
            ..
        } = &*self.shared;
        (
            connections.load(Ordering::SeqCst),
            requests.load(Ordering::SeqCst),
        )
    }

    fn set(&self, trouble: Option<(On, Trouble)>) {
        *self
            .shared
            .trouble
            .write()
            .unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

impl Shared {
    /// The trouble that a request has; none says what a connection has.
    fn trouble(&self, request: Option<&Request<Incoming>>) -> Option<Trouble> {
        let (on, trouble) = (*self.trouble.read().unwrap_or_else(PoisonError::into_inner))?;
        let concerned = match (on, request) {
            (On::All, _) => true,
            (_, None) => false,
            (On::Patches, Some(request)) => request.method() == Method::PATCH,
            (On::Watches, Some(request)) => has(request.uri(), "watch="),
            (On::BlockWatches, Some(request)) => {
                has(request.uri(), "watch=") && request.uri().path().ends_with("/blockaffinities")
            }
            (On::Lists, Some(request)) => {
                has(request.uri(), "limit=") && request.uri().path().ends_with("/services")
            }
        };
        let takes_one = |left: usize| left.checked_sub(1);
        let counted = concerned
            && self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, takes_one)
                .is_ok();
        counted.then_some(trouble)
    }

    async fn forward(&self, request: Request<Incoming>) -> Response<KubeBody> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut request = Request::new(KubeBody::from(body));
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        let kind = head.headers.get(http::header::CONTENT_TYPE);
        request
            .headers_mut()
            .extend(kind.map(|kind| (http::header::CONTENT_TYPE, kind.clone())));
        self.upstream.send(request).await.unwrap()
    }

    /// A list that ends in the promise of another page.
    async fn page(&self, request: Request<Incoming>) -> Response<Body> {
        let answer = self.forward(request).await.into_body();
        let mut list: Value =
            serde_json::from_slice(&answer.collect().await.unwrap().to_bytes()).unwrap();
        let number = self.pages.fetch_add(1, Ordering::SeqCst);
        list["metadata"]["continue"] = json!(format!("page-{number}"));
        Response::new(whole(list.to_string()))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        let mut generations = shared.generation.subscribe();
        shared.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            tokio::select! {
                _ = generations.changed() => {}
                () = connection(client, shared) => {}
            }
        });
    }
}

async fn connection(mut client: TcpStream, shared: Arc<Shared>) {
    client.set_nodelay(true).unwrap();
    // A request has the trouble; a connection only one that no request can have.
    let below = match *shared
        .trouble
        .read()
        .unwrap_or_else(PoisonError::into_inner)
    {
        Some((_, trouble @ (Trouble::Mute | Trouble::NoTls(_) | Trouble::NoHttp(_)))) => {
            Some(trouble)
        }
        _ => None,
    };
    match below {
        Some(Trouble::Mute) => return std::future::pending().await,
        Some(Trouble::NoTls(bytes)) => {
            let _ = client.write_all(bytes).await;
            return;
        }
        _ => {}
    }
    let acceptor = shared
        .tls
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let Ok(mut client) = acceptor.accept(client).await else {
        return;
    };
    if let Some(Trouble::NoHttp(bytes)) = below {
        return rubbish(&mut client, bytes).await;
    }
    let service = service_fn(|request| answer(shared.clone(), request));
    // A connection that ends in an error is what a trouble may be.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(client), service)
        .await;
}

async fn rubbish(client: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    // After the request, as whoever else listens at the port would.
    let _ = client.read(&mut [0; 4096]).await;
    let _ = client.write_all(bytes).await;
    let _ = client.shutdown().await;
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let Some(trouble) = shared.trouble(Some(&request)) else {
        return Ok(shared
            .forward(request)
            .await
            .map(|body| body.map_err(io::Error::other).boxed_unsync()));
    };
    match trouble {
        Trouble::Cut => Err(io::Error::other("cut")),
        Trouble::Hang | Trouble::Mute | Trouble::NoTls(_) | Trouble::NoHttp(_) => {
            std::future::pending().await
        }
        Trouble::NoBody => Ok(Response::new(
            StreamBody::new(stream::pending()).boxed_unsync(),
        )),
        Trouble::Answer(status, wait, body) => {
            let mut answer = Response::builder().status(status);
            if let Some(wait) = wait {
                answer = answer.header(http::header::RETRY_AFTER, wait);
            }
            Ok(answer.body(whole(body)).unwrap())
        }
        Trouble::Half(text) => {
            let pieces = [
                Ok(Frame::data(Bytes::from(text))),
                Err(io::Error::other("cut")),
            ];
            // The head and the piece are sent before the end is seen.
            let pieces = stream::iter(pieces).then(async |piece| {
                if piece.is_err() {
                    sleep(Duration::from_millis(20)).await;
                }
                piece
            });
            Ok(Response::new(StreamBody::new(pieces).boxed_unsync()))
        }
        Trouble::Endless => {
            let piece = Bytes::from(vec![b' '; 1 << 20]);
            let pieces = stream::repeat_with(move || Ok(Frame::data(piece.clone())));
            Ok(Response::new(StreamBody::new(pieces).boxed_unsync()))
        }
        Trouble::Slow(pause) => {
            let (head, body) = shared.forward(request).await.into_parts();
            let pieces = body.into_data_stream().flat_map(|piece| {
                let piece = piece.unwrap();
                stream::iter((0..piece.len()).map(move |at| piece.slice(at..=at)))
            });
            let pieces = pieces.then(move |byte| async move {
                sleep(pause).await;
                Ok(Frame::data(byte))
            });
            Ok(Response::from_parts(
                head,
                StreamBody::new(pieces).boxed_unsync(),
            ))
        }
        Trouble::Forgotten if has(request.uri(), "continue=") => {
            let body = r#"{"kind":"Status","code":410,"message":"The provided continue parameter is too old"}"#;
            Ok(Response::builder().status(410).body(whole(body)).unwrap())
        }
        Trouble::Circle | Trouble::Forgotten => Ok(shared.page(request).await),
    }
}

fn has(uri: &Uri, parameter: &str) -> bool {
    uri.query().unwrap_or_default().contains(parameter)
}

fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn acceptor(authority: &Authority, until: SystemTime) -> TlsAcceptor {
    let mut params = CertificateParams::default();
    params
        .subject_alt_names
        .push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    params.not_after = until.into();
    let (certificate, key) = authority.sign(params, ExtendedKeyUsagePurpose::ServerAuth);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
