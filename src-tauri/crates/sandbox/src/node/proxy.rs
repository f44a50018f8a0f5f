//! kube-proxy's part: an address in a LoadBalancer service's status is served on the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::{FromNode, listen};
use crate::{
    Error,
    api::{Action, Key, Kind, Store},
    ip::ip,
};

/// Keeps the node's `lo` and web servers equal to what the services' statuses say.
pub(super) struct Proxy {
    store: Arc<Store>,
    changed: watch::Receiver<u64>,
    version: u64,
    served: BTreeMap<Key, Served>,
}

/// A service that has addresses.
struct Served {
    addresses: BTreeSet<IpAddr>,
    /// One task for each address and port; dropped, they end.
    _servers: JoinSet<()>,
}

impl Proxy {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            changed: store.subscribe(),
            version: store.list(Kind::Service, None).0,
            store,
            served: BTreeMap::new(),
        }
    }

    /// Waits until there is something to follow; safe to drop.
    pub(super) async fn wait(&mut self) {
        let known = self.version;
        // The sender is in the store, which lives as long as this.
        drop(self.changed.wait_for(|version| *version > known).await);
    }

    /// Follows what changed, and tells of it. To be run to its end.
    pub(super) async fn follow(
        &mut self,
        created: &BTreeMap<Key, Instant>,
    ) -> Result<Vec<FromNode>, Error> {
        let seen = Instant::now();
        let mut told = Vec::new();
        for event in self.store.since(self.version).unwrap_or_default() {
            self.version = event.version;
            if event.key.kind != Kind::Service {
                continue;
            }
            let wanted = if event.action == Action::Deleted {
                BTreeSet::new()
            } else {
                addresses(&event.object)
            };
            let took = created.get(&event.key).map(|start| seen - *start);
            self.serve(
                event.key,
                &event.object,
                wanted,
                took.unwrap_or_default(),
                &mut told,
            )
            .await?;
        }
        Ok(told)
    }

    async fn serve(
        &mut self,
        key: Key,
        service: &Value,
        wanted: BTreeSet<IpAddr>,
        took: Duration,
        told: &mut Vec<FromNode>,
    ) -> Result<(), Error> {
        let before = self.served.get(&key).map(|served| &served.addresses);
        if before.is_none_or(BTreeSet::is_empty) && wanted.is_empty() || before == Some(&wanted) {
            return Ok(());
        }
        let name = format!("{}/{}", key.namespace, key.name);
        if let Some(served) = self.served.remove(&key) {
            let lines = served.addresses.iter().map(|address| lo("del", *address));
            ip(&lines.collect::<String>()).await?;
            told.push(FromNode::Withdrawn {
                service: name.clone(),
            });
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let lines = wanted.iter().map(|address| lo("replace", *address));
        ip(&lines.collect::<String>()).await?;
        let mut servers = JoinSet::new();
        for address in &wanted {
            for port in ports(service) {
                let listener = listen(*address, port).await?;
                servers.spawn(answer(
                    listener,
                    format!("Hello from {name} at {address}\n"),
                ));
                told.push(FromNode::Assigned {
                    service: name.clone(),
                    address: *address,
                    port,
                    micros: took.as_micros() as u64,
                });
            }
        }
        self.served.insert(
            key,
            Served {
                addresses: wanted,
                _servers: servers,
            },
        );
        Ok(())
    }
}

fn lo(action: &str, address: IpAddr) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!("address {action} {address}/{length} dev lo\n")
}

/// The addresses that the service's status names.
fn addresses(service: &Value) -> BTreeSet<IpAddr> {
    let list = service.pointer("/status/loadBalancer/ingress");
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["ip"].as_str()?.parse().ok())
        .collect()
}

/// The TCP ports that the service declares.
fn ports(service: &Value) -> Vec<u16> {
    let list = service.pointer("/spec/ports").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter(|port| port["protocol"] == "TCP")
        .filter_map(|port| port["port"].as_u64()?.try_into().ok())
        .collect()
}

/// Answers every request with a line of text.
async fn answer(listener: TcpListener, text: String) {
    let text = Bytes::from(text);
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let text = text.clone();
        connections.spawn(async move {
            let service = service_fn(move |_| {
                let response = Response::new(Full::new(text.clone()));
                async { Ok::<_, Infallible>(response) }
            });
            // A connection that ends in an error has nobody left to tell.
            drop(
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}
