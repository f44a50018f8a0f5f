//! The HTTP client of one API server, with the profile's certificates.

use std::{sync::Arc, time::Duration};

use http::Uri;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::api::Api;
use crate::minikube::Credentials;

/// A node is on a network of this machine, where a connection takes milliseconds.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a connection is silent before the kernel asks whether it still is one.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long it waits for an answer: the other end is on a network of this machine.
const KEEP_ALIVE_WAIT: Duration = Duration::from_secs(2);
/// So often it asks before the connection is dead.
const KEEP_ALIVE_TRIES: u32 = 3;

/// Makes clients of one API server; the certificates are parsed once.
pub(super) struct Connector {
    config: kube::Config,
    tls: Arc<ClientConfig>,
}

/// The credentials can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadCredentials {
    #[error("the kubeconfig's server \"{}\" is no URL", .0.escape_debug())]
    Server(String, #[source] http::uri::InvalidUri),
    #[error("the kubeconfig's server \"{}\" is no https URL", .0.escape_debug())]
    Scheme(String),
    #[error("the {what} is no PEM")]
    Pem {
        what: &'static str,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("the {what} can't be used")]
    Unusable {
        what: &'static str,
        #[source]
        source: rustls::Error,
    },
}

impl Connector {
    pub(super) fn new(credentials: &Credentials) -> Result<Self, BadCredentials> {
        let server = &credentials.server;
        let uri: Uri = server
            .parse()
            .map_err(|source| BadCredentials::Server(server.clone(), source))?;
        // The client's certificate says who we are; without TLS nobody would ask for it, and anybody could listen.
        if uri.scheme_str() != Some("https") || uri.host().is_none_or(str::is_empty) {
            return Err(BadCredentials::Scheme(server.clone()));
        }
        Ok(Self {
            config: kube::Config::new(uri),
            tls: Arc::new(tls(credentials)?),
        })
    }

    /// A client with connections of its own: none that died unseen is used again.
    pub(super) fn connect(&self) -> Api {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // One small request is one packet, and must not wait for the answer to another one.
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        // A node that lost its power, or that came back while the link was down, never tells that it knows a watch's
        // connection no more.
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE_WAIT));
        tcp.set_keepalive_retries(Some(KEEP_ALIVE_TRIES));
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config((*self.tls).clone())
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(https);
        // No layer that retries: each caller knows better when, and has a deadline.
        let client = ClientBuilder::new(http, "default")
            .with_layer(&self.config.base_uri_layer())
            .build();
        Api::new(client)
    }
}

fn tls(credentials: &Credentials) -> Result<ClientConfig, BadCredentials> {
    let pem = |what| move |source| BadCredentials::Pem { what, source };
    let unusable = |what| move |source| BadCredentials::Unusable { what, source };

    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&credentials.ca) {
        let certificate = certificate.map_err(pem("cluster's CA certificate"))?;
        roots
            .add(certificate)
            .map_err(unusable("cluster's CA certificate"))?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&credentials.cert).collect();
    let chain = chain.map_err(pem("client certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(&credentials.key).map_err(pem("client key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable("TLS library"))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(unusable("client certificate"))
}
