//! The node: an API server and, in kube-proxy's place, addresses on `lo` with a web server behind each.
//!
//! It is a process in a network namespace of its own, driven over its standard input and output, a JSON text a line.

mod proxy;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
};

use crate::{
    Error,
    api::{self, Key, Kind, Store},
    home,
    ip::ip,
    pki::Authority,
};
use proxy::Proxy;

/// The profile of the cluster.
pub(crate) const PROFILE: &str = "demo";
/// The node's address, that of minikube's docker network.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 49, 2);
/// The host's address in that network.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 49, 1);
/// Where the cluster IPs come from.
pub(crate) const SERVICE_CIDR: &str = "10.96.0.0/12";
/// Where the pods' addresses come from.
pub(crate) const POD_CIDR: &str = "10.244.0.0/16";
/// The API server's port.
const PORT: u16 = 8443;

/// A line to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum ToNode {
    /// Its `eth0` is there: bring the cluster up, and write its minikube home below this folder.
    Start {
        /// The person's home.
        home: PathBuf,
    },
    /// Make a LoadBalancer service in namespace `default`.
    Create {
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
    },
}

/// A line from the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "node", rename_all = "snake_case")]
pub(crate) enum FromNode {
    /// It is in its namespace and waits for [`ToNode::Start`].
    Here,
    /// The cluster is up.
    Ready,
    /// A service has an address, and the node serves it.
    Assigned {
        /// `namespace/name`.
        service: String,
        /// The address.
        address: IpAddr,
        /// Its first port.
        port: u16,
        /// From its creation to the address in its status, in microseconds.
        micros: u64,
    },
    /// The node serves a service's address no longer.
    Withdrawn {
        /// `namespace/name`.
        service: String,
    },
}

/// Runs the node until its standard input ends.
pub(crate) async fn run() -> Result<(), Error> {
    say(&FromNode::Here);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut next = async || -> Result<Option<ToNode>, Error> {
        let Some(line) = lines.next_line().await.map_err(Error::Pipe)? else {
            return Ok(None);
        };
        serde_json::from_str(&line)
            .map_err(Error::Message)
            .map(Some)
    };
    let Some(ToNode::Start { home }) = next().await? else {
        return Ok(());
    };
    ip(&format!(
        "link set lo up\naddress add {NODE}/24 dev eth0\nlink set eth0 up\n"
    ))
    .await?;
    let authority = Authority::new()?;
    let identity = authority.server(&[IpAddr::V4(NODE)])?;
    let tls = api::tls(&authority, &identity)?;
    let store = Arc::new(Store::default());
    populate(&store)?;
    let cluster = home::Cluster {
        profile: PROFILE,
        node: NODE,
        port: PORT,
        service_cidr: SERVICE_CIDR,
    };
    let listener = listen(IpAddr::V4(NODE), PORT).await?;
    home::write(&home, &cluster, &authority, &authority.client()?).map_err(|source| {
        Error::File {
            path: home.clone(),
            source,
        }
    })?;
    let mut proxy = Proxy::new(store.clone());
    let mut created: BTreeMap<Key, Instant> = BTreeMap::new();
    say(&FromNode::Ready);
    let server = api::serve(listener, tls, store.clone());
    tokio::pin!(server);
    loop {
        tokio::select! {
            line = next() => match line? {
                None => return Ok(()),
                Some(ToNode::Start { .. }) => {}
                Some(ToNode::Create { name, port }) => {
                    let start = Instant::now();
                    let service = store.create(Kind::Service, "default", json!({
                        "metadata": { "name": name },
                        "spec": { "type": "LoadBalancer", "ports": [{ "port": port }] },
                    }))?;
                    let name = service["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    let namespace = "default".to_owned();
                    created.insert(Key { kind: Kind::Service, namespace, name }, start);
                }
            },
            () = proxy.wait() => proxy.follow(&created).await?.iter().for_each(say),
            error = &mut server => return Err(Error::Listen { address: IpAddr::V4(NODE), port: PORT, source: error }),
        }
    }
}

/// Binds a port of an address of this node.
async fn listen(address: IpAddr, port: u16) -> Result<TcpListener, Error> {
    TcpListener::bind((address, port))
        .await
        .map_err(|source| Error::Listen {
            address,
            port,
            source,
        })
}

/// What every minikube cluster has from its start.
fn populate(store: &Store) -> Result<(), Error> {
    store.create(
        Kind::ServiceCidr,
        "",
        json!({ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": [SERVICE_CIDR] } }),
    )?;
    store.create(
        Kind::Node,
        "",
        json!({
            "metadata": { "name": PROFILE, "labels": { "minikube.k8s.io/primary": "true" } },
            "spec": { "podCIDR": POD_CIDR, "podCIDRs": [POD_CIDR] },
            "status": {
                "addresses": [
                    { "type": "InternalIP", "address": NODE },
                    { "type": "Hostname", "address": PROFILE },
                ],
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        }),
    )?;
    store.create(
        Kind::Service,
        "default",
        json!({
            "metadata": { "name": "kubernetes" },
            "spec": { "clusterIP": "10.96.0.1", "ports": [{ "name": "https", "port": 443 }] },
        }),
    )?;
    Ok(())
}

/// Writes a line for the parent; where it is gone, so is this process in a moment.
fn say(line: &FromNode) {
    use io::Write as _;
    if let Ok(line) = serde_json::to_string(line) {
        drop(writeln!(io::stdout(), "{line}"));
    }
}
