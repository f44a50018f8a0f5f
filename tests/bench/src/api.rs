//! The API server by the same client as the product's, without the product.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use http::{Method, Request, header};
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::core::WatchEvent;
use minitunnel_e2e::Result;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// Where an API server is, and who asks.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Access {
    pub(crate) server: String,
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// A service, as far as a bare loop needs it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Service {
    pub(crate) metadata: Meta,
    pub(crate) spec: Spec,
    #[serde(default)]
    pub(crate) status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    pub(crate) name: String,
    pub(crate) uid: String,
    resource_version: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    pub(crate) r#type: String,
    #[serde(rename = "clusterIPs")]
    pub(crate) cluster_ips: Vec<String>,
    pub(crate) ports: Vec<Port>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Port {
    pub(crate) port: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    load_balancer: LoadBalancer,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Vec<Value>,
}

impl Service {
    pub(crate) fn is_load_balancer(&self) -> bool {
        self.spec.r#type == "LoadBalancer"
    }

    pub(crate) fn has_address(&self) -> bool {
        !self.status.load_balancer.ingress.is_empty()
    }
}

/// The services of namespace `default`.
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// What the benchmark makes, beside the API server's own.
const LABEL: &str = "bench";
/// JSON is YAML.
const APPLY: &str = "application/apply-patch+yaml";

/// A client with connections of its own, made as the product makes it: HTTP/1.1, rustls with ring, no retries.
pub(crate) fn client(access: &Access) -> Result<Client> {
    let pem = |path: &PathBuf| format!("cannot read {}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&access.ca).with_context(|| pem(&access.ca))? {
        roots.add(certificate?)?;
    }
    let chain = CertificateDer::pem_file_iter(&access.certificate)
        .with_context(|| pem(&access.certificate))?
        .collect::<std::result::Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&access.key).with_context(|| pem(&access.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .wrap_connector(tcp);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(https);
    let config = kube::Config::new(access.server.parse()?);
    let client = ClientBuilder::new(http, "default")
        .with_layer(&config.base_uri_layer())
        .build();
    Ok(client)
}

/// All services, and what happens to them from then on. The server has taken up the watch when this returns.
pub(crate) async fn list_and_watch(
    client: &Client,
) -> Result<(
    Vec<Service>,
    impl Stream<Item = kube::Result<WatchEvent<Service>>> + Send + use<>,
)> {
    #[derive(Deserialize)]
    struct List {
        metadata: Meta,
        items: Vec<Service>,
    }
    let list = request(Method::GET, SERVICES, "", Vec::new())?;
    let list: List = serde_json::from_str(&client.request_text(list).await?)?;
    let from = list.metadata.resource_version;
    let path = format!("{SERVICES}?watch=true&allowWatchBookmarks=true&resourceVersion={from}");
    let watch = request(Method::GET, &path, "", Vec::new())?;
    let events = client.request_events(watch).await?;
    Ok((list.items, events))
}

/// Lets the server's caches of what a tunnel reads first catch up with what was just written: a list waits for that.
pub(crate) async fn settle(client: &Client) -> Result {
    for path in ["/api/v1/nodes", "/apis/networking.k8s.io/v1/servicecidrs"] {
        send(client, Method::GET, path, "", Vec::new()).await?;
    }
    Ok(())
}

/// Makes a LoadBalancer service.
pub(crate) async fn create(client: &Client, name: &str) -> Result {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "labels": { LABEL: "" } },
        "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
    });
    let body = service.to_string().into_bytes();
    send(client, Method::POST, SERVICES, "application/json", body).await
}

/// Changes a service's port.
pub(crate) async fn set_port(client: &Client, name: &str, port: u16) -> Result {
    let spec = json!({ "spec": { "ports": [{ "port": port }] } });
    let path = format!("{SERVICES}/{name}");
    merge(client, &path, &spec).await
}

/// Gives a node another address.
pub(crate) async fn set_node_address(client: &Client, node: &str, ip: Ipv4Addr) -> Result {
    let addresses = json!([{ "type": "InternalIP", "address": ip }]);
    let path = format!("/api/v1/nodes/{node}/status");
    merge(
        client,
        &path,
        &json!({ "status": { "addresses": addresses } }),
    )
    .await
}

/// Waits until the server says that it is ready, and tells when it did. It may be away until then.
pub(crate) async fn ready(access: &Access) -> Result<Instant> {
    // A connection to a node that is away can hang for seconds: each try is another one.
    const TRY: Duration = Duration::from_millis(100);
    loop {
        let client = client(access)?;
        let asked = send(&client, Method::GET, "/readyz", "", Vec::new());
        if let Ok(Ok(())) = timeout(TRY, asked).await {
            return Ok(Instant::now());
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn merge(client: &Client, path: &str, patch: &Value) -> Result {
    let body = patch.to_string().into_bytes();
    send(
        client,
        Method::PATCH,
        path,
        "application/merge-patch+json",
        body,
    )
    .await
}

/// Deletes all services that [`create`] made; they are gone when it returns.
pub(crate) async fn delete_all(client: &Client) -> Result {
    let path = format!("{SERVICES}?labelSelector={LABEL}");
    send(client, Method::DELETE, &path, "", Vec::new()).await
}

/// Gives a service its cluster IPs as addresses.
pub(crate) async fn assign(client: &Client, service: &Service) -> Result {
    let ips = service.spec.cluster_ips.iter();
    let ingress: Vec<Value> = ips.map(|ip| json!({ "ip": ip, "ipMode": "VIP" })).collect();
    let status = json!({ "loadBalancer": { "ingress": ingress } });
    apply(client, &service.metadata, &status).await
}

/// Takes the addresses back that [`assign`] gave.
pub(crate) async fn release(client: &Client, service: &Meta) -> Result {
    apply(client, service, &json!({})).await
}

async fn apply(client: &Client, service: &Meta, status: &Value) -> Result {
    let body = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": "default", "name": service.name, "uid": service.uid },
        "status": status,
    });
    let path = format!("{SERVICES}/{}/status?fieldManager=bare", service.name);
    let body = body.to_string().into_bytes();
    send(client, Method::PATCH, &path, APPLY, body).await
}

async fn send(client: &Client, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Result {
    let request = request(method, path, kind, body)?;
    // Read to its end, so that the connection serves the next one.
    client.request_text(request).await?;
    Ok(())
}

fn request(method: Method, path: &str, kind: &str, body: Vec<u8>) -> Result<Request<Vec<u8>>> {
    let mut request = Request::builder().method(method).uri(path);
    if !kind.is_empty() {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    Ok(request.body(body)?)
}
