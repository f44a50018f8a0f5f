//! Clusters of several nodes: each node's pods through that node, and the services through one that is ready.

use std::time::Duration;

use minitunnel_e2e::{
    Cluster, ClusterOptions, Lab, ProxyMode, Result, Scene, Signal, WAIT, Worker, eventually,
};
use serde_json::{Value, json};

/// Waits until the services of both families go through these addresses of a node, and answer.
async fn services_through(scene: &Scene, gateways: &[String], urls: &[String]) -> Result {
    for (cidr, gateway) in ["10.96.0.0/12", "fd00:10:96::/112"].iter().zip(gateways) {
        scene.wait_for_route(cidr, Some(gateway)).await?;
    }
    answer(&scene.lab, urls).await
}

/// One try: a node that saw a connection before its kube-proxy was ready goes on not to serve that one.
const TRY: Duration = Duration::from_secs(1);

/// Waits until all of these answer: a kube-proxy or a neighbour may have to learn something first.
async fn answer(lab: &Lab, urls: &[String]) -> Result {
    for url in urls {
        eventually(WAIT, &format!("{url} to answer"), async || {
            let status = lab.http_get(url, TRY).await?;
            anyhow::ensure!(status == 200, "{status}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn both(worker: &Worker) -> Vec<String> {
    let mut ips = vec![worker.ip.to_string()];
    ips.extend(worker.ip6.map(|ip| ip.to_string()));
    ips
}

/// Three nodes of both families. Services and the pods of each node answer; when the services' gateway is not ready, or its
/// link goes, they go on through the next; a node that joins, moves or goes takes the routes to its pods along.
async fn nodes_come_and_go(proxy: ProxyMode) -> Result {
    let options = ClusterOptions {
        proxy,
        ..ClusterOptions::dual_stack()
    };
    let mut scene = Scene::new(options).await?;
    scene.choose_cni("minikube", "kindnet")?;
    let second = scene.cluster.join(2).await?;
    scene.before = scene.lab.routes().await?;
    let Scene { lab, cluster, .. } = &scene;
    let web = cluster.expose("web", "LoadBalancer").await?;
    let services: Vec<String> = web.urls().collect();
    assert_eq!(services.len(), 2);
    for url in &services {
        cluster.served(url).await?;
    }
    let mut first = vec![cluster.node_ip().to_string()];
    first.extend(cluster.node_ip6().map(|ip| ip.to_string()));

    let mut up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    cluster.wait_for_addresses("web").await?;
    assert_eq!(cluster.addresses("web").await?, web.addresses());
    services_through(&scene, &first, &services).await?;
    for (cidr, gateway) in ["10.244.0.0/24", "fd00:10:244::/64"].iter().zip(&first) {
        scene.wait_for_route(cidr, Some(gateway)).await?;
    }
    answer(lab, &cluster.pod_urls()?).await?;
    answer(lab, &second.pod_urls()).await?;

    // A third one joins while the tunnel is up.
    let mut third = cluster.join(3).await?;
    for (cidr, gateway) in third.pod_cidrs().iter().zip(&both(&third)) {
        scene.wait_for_route(cidr, Some(gateway)).await?;
    }
    answer(lab, &third.pod_urls()).await?;

    cluster.set_ready("minikube", false).await?;
    services_through(&scene, &both(&second), &services).await?;
    // The machine of the services' gateway is gone, and after a while Kubernetes says so.
    cluster.unplug_worker(&second).await?;
    cluster.set_ready(&second.name, false).await?;
    services_through(&scene, &both(&third), &services).await?;
    answer(lab, &third.pod_urls()).await?;

    cluster.set_ready("minikube", true).await?;
    services_through(&scene, &first, &services).await?;
    let moved = "192.168.49.13";
    cluster.move_worker(&mut third, moved.parse()?).await?;
    scene.wait_for_route(&third.pod_cidr(), Some(moved)).await?;
    answer(lab, &third.pod_urls()).await?;

    cluster.remove_node(&second.name).await?;
    for cidr in second.pod_cidrs() {
        scene.wait_for_route(&cidr, None).await?;
    }
    answer(lab, &services).await?;

    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(cluster.addresses("web").await?, [""; 0]);
    scene.is_as_before_on_new_links().await
}

#[tokio::test]
async fn nodes_come_and_go_by_nftables() -> Result {
    nodes_come_and_go(ProxyMode::Nftables).await
}

#[tokio::test]
async fn nodes_come_and_go_by_iptables() -> Result {
    nodes_come_and_go(ProxyMode::Iptables).await
}

#[tokio::test]
async fn several_control_planes_have_one_address_and_stand_in_for_each_other() -> Result {
    let mut scene = Scene::new(ClusterOptions::default()).await?;
    let server = scene.cluster.take_common_address().await?;
    scene.home.serve("minikube", &server)?;
    let mut config = scene.home.config("minikube")?;
    config["KubernetesConfig"]["APIServerHAVIP"] = "192.168.49.254".into();
    scene.home.save_config("minikube", &config)?;
    scene.choose_cni("minikube", "kindnet")?;
    // By name the worker comes before the second control plane.
    let worker = scene.cluster.join(2).await?;
    let control = scene.cluster.join(3).await?;
    scene.before = scene.lab.routes().await?;
    let cluster = &scene.cluster;
    for name in ["minikube", &control.name] {
        cluster.label_control_plane(name).await?;
    }
    let web = cluster.expose("web", "LoadBalancer").await?;
    cluster.served(&web.url()).await?;

    let mut up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    cluster.wait_for_addresses("web").await?;
    let first = cluster.node_ip().to_string();
    let urls = [web.url(), worker.pod_url(), control.pod_url()];
    for (ready, gateway) in [(false, control.ip.to_string()), (true, first)] {
        cluster.set_ready("minikube", ready).await?;
        scene.wait_for_route("10.96.0.0/12", Some(&gateway)).await?;
        answer(&scene.lab, &urls).await?;
    }
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(cluster.addresses("web").await?, [""; 0]);
    assert_eq!(scene.lab.routes().await?, scene.before);
    Ok(())
}

const KINDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A kind whose objects take anything.
fn kind(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group, "scope": "Cluster",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
            "versions": [{ "name": version, "served": true, "storage": true, "schema": {
                "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
            } }],
        },
    })
}

/// Makes an object of a kind that was installed just now.
async fn create(cluster: &Cluster, path: &str, object: Value) -> Result {
    eventually(WAIT, "the kind to be served", async || {
        cluster.create_at(path, &object).await
    })
    .await
}

#[tokio::test]
async fn pods_of_calico_are_reached_by_the_blocks_of_their_nodes() -> Result {
    const BLOCKS: &str = "/apis/crd.projectcalico.org/v1/blockaffinities";
    let scene = Scene::api_only().await?;
    let Scene { lab, cluster, .. } = &scene;
    scene.choose_cni("minikube", "calico")?;
    let second = cluster.join(2).await?;
    let before = lab.routes().await?;

    let mut up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    let unbound = "Calico has bound no block of pod addresses to minikube-m02 yet";
    up.wait_for_count(unbound, 1, WAIT).await?;

    let blocks = kind(
        "crd.projectcalico.org",
        "v1",
        "BlockAffinity",
        "blockaffinities",
    );
    cluster.create_at(KINDS, &blocks).await?;
    // A public network, and one of a node that is none, cost nobody else anything.
    for (name, node, cidr) in [
        ("first", "minikube", "10.244.0.0/26"),
        ("public", "minikube", "8.8.8.0/26"),
        ("second", "minikube-m02", "10.244.1.0/26"),
        ("nobodys", "minikube-m09", "10.244.9.0/26"),
    ] {
        let block = json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity", "metadata": { "name": name },
            "spec": { "cidr": cidr, "node": node, "state": "confirmed", "deleted": "false" },
        });
        create(cluster, BLOCKS, block).await?;
    }
    // A node gets ready when its pod network is there.
    cluster.set_ready("minikube", false).await?;
    cluster.set_ready("minikube", true).await?;
    scene
        .wait_for_route("10.244.0.0/26", Some("192.168.49.2"))
        .await?;
    scene
        .wait_for_route("10.244.1.0/26", Some("192.168.49.3"))
        .await?;
    scene.wait_for_route("8.8.8.0/26", None).await?;
    let public = "8.8.8.0/26 is outside the private networks";
    up.wait_for_count(public, 1, WAIT).await?;
    answer(lab, &cluster.pod_urls()?).await?;
    answer(lab, &second.pod_urls()).await?;

    cluster.delete_at(&format!("{BLOCKS}/second")).await?;
    scene.wait_for_route("10.244.1.0/26", None).await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(lab.routes().await?, before);
    Ok(())
}

#[tokio::test]
async fn pods_of_cilium_are_reached_by_the_networks_of_its_nodes() -> Result {
    let scene = Scene::api_only().await?;
    let cluster = &scene.cluster;
    scene.choose_cni("minikube", "cilium")?;
    let nodes = kind("cilium.io", "v2", "CiliumNode", "ciliumnodes");
    cluster.create_at(KINDS, &nodes).await?;
    let node = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": { "name": "minikube" },
        "spec": {
            "addresses": [{ "type": "InternalIP", "ip": "192.168.49.2" }],
            "ipam": { "podCIDRs": ["10.244.0.0/25"] },
        },
    });
    create(cluster, "/apis/cilium.io/v2/ciliumnodes", node).await?;
    let mut up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    scene
        .wait_for_route("10.244.0.0/25", Some("192.168.49.2"))
        .await?;
    answer(&scene.lab, &cluster.pod_urls()?).await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(scene.lab.routes().await?, scene.before);
    Ok(())
}
