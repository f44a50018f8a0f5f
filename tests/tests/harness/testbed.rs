//! The testbed itself: what the tests of the product rely on is true without the product.

use std::time::Duration;

use minitunnel_e2e::{Cluster, ClusterOptions, Lab, POD_PORT, ProxyMode, Result, WAIT};
use serde_json::json;

/// An address that nothing routes to answers never: time enough for one that does.
const SOON: Duration = Duration::from_millis(700);

/// With kube-proxy in one mode, all kinds of addresses answer exactly while there are routes to them.
async fn addresses_answer_only_while_routed(options: ClusterOptions) -> Result {
    let lab = Lab::new()?;
    let cluster = Cluster::start(&lab, options).await?;
    let service = cluster.expose("web", "LoadBalancer").await?;
    let pool = "172.31.7.1";
    cluster
        .set_load_balancer("web", "someone", json!({ "ingress": [{ "ip": pool }] }))
        .await?;
    assert_eq!(cluster.wait_for_addresses("web").await?, [pool]);
    let urls = [
        service.url(),
        format!("http://{pool}/"),
        format!("http://{}:{POD_PORT}/", cluster.pod_ip()),
    ];
    for url in &urls {
        cluster.served(url).await?;
        assert!(
            lab.http_get(url, SOON).await.is_err(),
            "{url} answers without a route"
        );
    }
    let before = lab.routes().await?;
    let gateway = cluster.node_ip();

    for destination in ["10.96.0.0/12", "172.31.7.0/28", "10.244.0.0/16"] {
        lab.sh(&format!("ip route add {destination} via {gateway}"))
            .await?;
    }
    for url in &urls {
        assert_eq!(lab.http_get(url, WAIT).await?, 200, "{url} with a route");
    }
    assert_eq!(lab.routes().await?.len(), before.len() + 3);

    for destination in ["10.96.0.0/12", "172.31.7.0/28", "10.244.0.0/16"] {
        lab.sh(&format!("ip route delete {destination} via {gateway}"))
            .await?;
    }
    for url in &urls {
        assert!(
            lab.http_get(url, SOON).await.is_err(),
            "{url} answers after its route went"
        );
    }
    assert_eq!(lab.routes().await?, before);
    Ok(())
}

#[tokio::test]
async fn nftables_cluster_serves_addresses_only_while_routed() -> Result {
    addresses_answer_only_while_routed(ClusterOptions::default()).await
}

#[tokio::test]
async fn iptables_cluster_serves_addresses_only_while_routed() -> Result {
    addresses_answer_only_while_routed(ClusterOptions {
        proxy: ProxyMode::Iptables,
        ..ClusterOptions::default()
    })
    .await
}
