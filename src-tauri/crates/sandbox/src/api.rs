//! A Kubernetes API server in memory: just what a reflector and the apply of a service's status need.
//!
//! It knows services, nodes and service CIDRs: list, watch, get, create and delete of each, and the patches of
//! `services/status`. Whoever has a certificate of its authority may do everything. HTTP/1.1 over TLS.

mod apply;
mod http;
mod store;

use std::{io, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_rustls::TlsAcceptor;

use crate::pki::{Authority, Identity};
pub use store::{Action, Event, Key, Kind, Store};

/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why the server can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A certificate or key can't be read.
    #[error("cannot read the API server's certificate: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// TLS refuses the certificates.
    #[error("cannot set up the API server's TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// TLS refuses the authority.
    #[error("cannot set up the check of client certificates: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// TLS as a Kubernetes API server speaks it: with this identity, and only to clients with a certificate of the authority.
pub fn tls(authority: &Authority, identity: &Identity) -> Result<TlsAcceptor, StartError> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(
        authority.certificate().as_bytes(),
    )?)?;
    let clients =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build()?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(
                identity.certificate.as_bytes(),
            )?],
            PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?,
        )?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until the future is dropped; so do all its connections.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, store: Arc<Store>) -> io::Error {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // A client that is gone before it was accepted is no reason to stop.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return error,
        };
        while connections.try_join_next().is_some() {}
        // As the real server: an event must not wait for the acknowledgement of the one before.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let (tls, store) = (tls.clone(), store.clone());
        connections.spawn(async move {
            // A connection that ends in an error has nobody left to tell.
            let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await else {
                return;
            };
            let service = service_fn(|request| http::answer(store.clone(), request));
            drop(
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

/// A refusal, as a Kubernetes `Status` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// The machine-readable reason.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code,
            reason,
            message,
        }
    }

    fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    fn not_found(name: &str) -> Self {
        Self::new(404, "NotFound", format!("\"{name}\" not found"))
    }

    fn exists(name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("\"{name}\" already exists"))
    }

    fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, "Conflict", message)
    }

    fn expired(version: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {version}"),
        )
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    fn to_json(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "code": self.code, "reason": self.reason, "message": self.message,
        })
    }
}

/// The present time as Kubernetes writes it: RFC 3339, UTC, whole seconds.
fn now() -> String {
    jiff::Timestamp::now().strftime("%FT%TZ").to_string()
}
