//! The bare loop: one keep-alive client that sees the watch event and applies the status, nothing else.
//!
//! It prints `ready` once it watches. A line on its standard input makes it release what it assigned, one by one, and end.

use std::collections::BTreeMap;
use std::pin::pin;

use anyhow::bail;
use futures::StreamExt as _;
use kube::Client;
use kube::core::WatchEvent;
use minitunnel_e2e::Result;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::api::{self, Access, Meta, Service};

/// What it assigned, by name.
type Assigned = BTreeMap<String, Meta>;

pub(crate) async fn run(access: &Access) -> Result {
    let client = api::client(access)?;
    let (services, events) = api::list_and_watch(&client).await?;
    let mut events = pin!(events);
    let mut assigned = Assigned::new();
    for service in services {
        assign(&client, service, &mut assigned).await?;
    }
    println!("ready");
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(WatchEvent::Added(service) | WatchEvent::Modified(service))) => {
                    assign(&client, service, &mut assigned).await?;
                }
                Some(Ok(WatchEvent::Deleted(service))) => {
                    assigned.remove(&service.metadata.name);
                }
                Some(Ok(WatchEvent::Bookmark(_))) => {}
                other => bail!("the watch ended: {other:?}"),
            },
            _ = orders.next_line() => break,
        }
    }
    for service in assigned.values() {
        api::release(&client, service).await?;
    }
    Ok(())
}

async fn assign(client: &Client, service: Service, assigned: &mut Assigned) -> Result {
    if service.is_load_balancer() && !service.has_address() {
        api::assign(client, &service).await?;
        assigned.insert(service.metadata.name.clone(), service.metadata);
    }
    Ok(())
}
