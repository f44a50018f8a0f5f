//! The networks of pods that Calico and Cilium keep in objects of their own, as the real kube-apiserver tells them.

use std::time::Duration;

use crate::support::{ApiServer, Broken, On, Trouble, Watched};
use kube::{Client, api::DynamicObject, core::ApiResource};
use minitunnel_engine::cluster::{ClusterEvent, PodSource};
use minitunnel_model::Node;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

const UNAVAILABLE: Trouble = Trouble::Answer(
    503,
    None,
    r#"{"kind":"Status","code":503,"message":"apiserver is shutting down"}"#,
);
const TOO_MANY: Trouble = Trouble::Answer(429, Some("3"), "");

/// One request of a test's own, by the verb and path that Kubernetes documents.
async fn send(client: &Client, method: http::Method, path: &str, body: Value) -> Value {
    let request = http::Request::builder()
        .method(method.clone())
        .uri(path)
        .header("content-type", content_type(&method))
        .body(body.to_string().into_bytes())
        .unwrap();
    client.request(request).await.unwrap()
}

fn content_type(method: &http::Method) -> &'static str {
    if *method == http::Method::PATCH {
        "application/merge-patch+json"
    } else {
        "application/json"
    }
}

/// Installs a kind as its maker does, with room for everything, and waits until it can be asked for.
async fn install(client: &Client, group: &str, version: &str, kind: &str, plural: &str) {
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
            "versions": [{
                "name": version, "served": true, "storage": true, "schema": { "openAPIV3Schema": any },
            }],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    send(client, http::Method::POST, definitions, definition).await;
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let objects: kube::Api<DynamicObject> = kube::Api::all_with(client.clone(), &resource);
    let until = tokio::time::Instant::now() + crate::support::WAIT;
    // It is served some time after it was accepted; nothing announces that to one who may not ask for it yet.
    while objects
        .list(&kube::api::ListParams::default())
        .await
        .is_err()
    {
        assert!(
            tokio::time::Instant::now() < until,
            "{plural} is not served"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn add_node(client: &Client, name: &str) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
        "spec": { "podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"] },
    });
    send(client, http::Method::POST, "/api/v1/nodes", node).await;
}

fn networks(nodes: &[Node], name: &str) -> Option<Vec<String>> {
    let node = nodes.iter().find(|node| node.name == name)?;
    Some(node.pod_cidrs.iter().map(ToString::to_string).collect())
}

impl Watched {
    /// Waits until a node's pods are told to be in these networks.
    async fn pods(&mut self, node: &str, wanted: &[&str]) {
        self.find(&format!("pods of {node} in {wanted:?}"), |event| {
            let nodes = match event {
                ClusterEvent::Up { nodes, .. } | ClusterEvent::Nodes(nodes) => nodes,
                _ => return None,
            };
            (networks(&nodes, node)? == wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn calicos_blocks_are_followed_from_before_it_is_installed_to_after_it_is_gone() {
    const BLOCKS: &str = "/apis/crd.projectcalico.org/v1/blockaffinities";
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    add_node(&client, "p").await;
    let mut cluster = Watched::follow_with(
        PodSource::Calico,
        server.credentials(),
        client.clone(),
        "default",
    );
    // What Kubernetes gave the node is not what Calico goes by.
    cluster.pods("p", &[]).await;

    install(
        &client,
        "crd.projectcalico.org",
        "v1",
        "BlockAffinity",
        "blockaffinities",
    )
    .await;
    let block = |name: &str, cidr: &str, state: &str| {
        json!({
            "apiVersion": "crd.projectcalico.org/v1",
            "kind": "BlockAffinity",
            "metadata": { "name": name },
            "spec": { "cidr": cidr, "node": "p", "state": state, "deleted": "false" },
        })
    };
    for object in [
        block("one", "10.244.120.64/26", "confirmed"),
        block("two", "10.244.120.128/26", "pending"),
        block("bad", "10.244.0.0/99", "confirmed"),
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
            "metadata": { "name": "worse" }, "spec": { "cidr": ["x"], "node": 7 },
        }),
    ] {
        send(&client, http::Method::POST, BLOCKS, object).await;
    }
    // The node gets ready when its network is: that is when the objects are looked for.
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    send(
        &client,
        http::Method::PATCH,
        "/api/v1/nodes/p/status",
        ready,
    )
    .await;
    cluster.pods("p", &["10.244.120.64/26"]).await;

    let confirmed = json!({ "spec": { "state": "confirmed" } });
    let two = format!("{BLOCKS}/two");
    send(&client, http::Method::PATCH, &two, confirmed).await;
    cluster
        .pods("p", &["10.244.120.64/26", "10.244.120.128/26"])
        .await;
    let one = format!("{BLOCKS}/one");
    send(&client, http::Method::DELETE, &one, json!({})).await;
    cluster.pods("p", &["10.244.120.128/26"]).await;

    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/blockaffinities.crd.projectcalico.org";
    send(&client, http::Method::DELETE, definition, json!({})).await;
    cluster.pods("p", &[]).await;
    // All that time its services were followed.
    cluster.create("web").await;
}

#[tokio::test]
async fn ciliums_nodes_are_read_where_they_are_and_followed() {
    const NODES: &str = "/apis/cilium.io/v2/ciliumnodes";
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    add_node(&client, "p").await;
    add_node(&client, "p-m02").await;
    install(&client, "cilium.io", "v2", "CiliumNode", "ciliumnodes").await;
    let node = |name: &str, cidrs: Value| {
        json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": { "name": name },
            "spec": { "addresses": [{ "type": "InternalIP", "ip": "192.168.49.2" }], "ipam": { "podCIDRs": cidrs } },
        })
    };
    let first = node("p", json!(["10.0.0.0/24", "fd00:1::/64"]));
    send(&client, http::Method::POST, NODES, first).await;
    let mut cluster = Watched::follow_with(
        PodSource::Cilium,
        server.credentials(),
        client.clone(),
        "default",
    );
    cluster.pods("p", &["10.0.0.0/24", "fd00:1::/64"]).await;
    let second = node("p-m02", json!(["10.0.1.0/24"]));
    send(&client, http::Method::POST, NODES, second).await;
    cluster.pods("p-m02", &["10.0.1.0/24"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_keep_their_networks_while_a_server_is_found_anew() {
    const NODES: &str = "/apis/cilium.io/v2/ciliumnodes";
    let server = ApiServer::shared();
    let client = server.client().await;
    add_node(&client, "kept").await;
    install(&client, "cilium.io", "v2", "CiliumNode", "ciliumnodes").await;
    let node = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": { "name": "kept" },
        "spec": { "ipam": { "podCIDRs": ["10.0.7.0/24"] } },
    });
    send(&client, http::Method::POST, NODES, node).await;
    let proxy = Broken::start(server).await;
    let credentials = proxy.credentials(server);
    let mut cluster = Watched::follow_with(PodSource::Cilium, credentials, client, "default");
    cluster.pods("kept", &["10.0.7.0/24"]).await;
    // Its two watches are refused once.
    proxy.begin(On::Watches, UNAVAILABLE, 2);
    let again = |event| match event {
        ClusterEvent::Up { nodes, .. } => networks(&nodes, "kept"),
        _ => None,
    };
    let networks = cluster.find("the server again", again).await;
    assert_eq!(networks, ["10.0.7.0/24"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_pods_that_is_refused_costs_few_requests_and_leaves_the_cluster_up() {
    const LASTS: Duration = Duration::from_secs(8);
    let server = ApiServer::shared();
    let client = server.client().await;
    install(
        &client,
        "crd.projectcalico.org",
        "v1",
        "BlockAffinity",
        "blockaffinities",
    )
    .await;
    // Two watches that were cut and are begun again, the third with its list where that was cut, too; at 3 s and 6 s a list
    // and a watch.
    let resting = (TOO_MANY, 2 + 2 * 2 + 2 * 2);
    // At 0.2, 0.6, 1.4, 3, and 6.2 s.
    let failing = (UNAVAILABLE, 2 + 2 * 2 + 5 * 2);
    for (trouble, most) in [resting, failing] {
        let proxy = Broken::start(server).await;
        let credentials = proxy.credentials(server);
        let mut cluster =
            Watched::follow_with(PodSource::Calico, credentials, client.clone(), "default");
        cluster.up().await;
        proxy.begin(On::BlockWatches, trouble, usize::MAX);
        let until = Instant::now() + LASTS;
        while let Ok(event) = timeout_at(until, cluster.events.recv()).await {
            assert!(
                !matches!(event, None | Some(ClusterEvent::Down { .. })),
                "{event:?}"
            );
        }
        let (_, requests) = proxy.asked();
        assert!(requests <= most, "{trouble:?}: {requests}");
        assert!(requests > 4, "{trouble:?}: it was not asked again");
    }
}
