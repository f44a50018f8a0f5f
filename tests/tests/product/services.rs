//! LoadBalancer services of a real API server, as `minitunnel up` serves them from its start to its end.

use minitunnel_e2e::{Cluster, Exposed, Process, Result, Scene, Signal, WAIT, run};
use serde_json::{Value, json};

/// Merged into a spec, it takes the cluster IPs away.
fn external_name() -> Value {
    json!({ "type": "ExternalName", "externalName": "a.example", "clusterIP": null, "clusterIPs": null })
}

async fn connected(scene: &Scene) -> Result<Process> {
    let up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    Ok(up)
}

/// Waits until the service has its cluster IPs as its addresses.
async fn assigned(cluster: &Cluster, service: &Exposed) -> Result {
    let wanted = service.addresses();
    let has = |now: Option<&k8s_openapi::api::core::v1::Service>| {
        now.is_some_and(|now| minitunnel_e2e::ingress(now) == wanted)
    };
    cluster
        .wait_for_service(&service.name, "have its cluster IPs", WAIT, has)
        .await
        .map(drop)
}

#[tokio::test]
async fn up_serves_its_own_services_and_leaves_those_of_others_alone() -> Result {
    let scene = Scene::api_only().await?;
    let cluster = &scene.cluster;
    let web = cluster.expose("web", "LoadBalancer").await?;
    let foreign = json!({ "ingress": [{ "ip": "172.31.7.9" }] });
    cluster.expose("foreign", "LoadBalancer").await?;
    cluster
        .set_load_balancer("foreign", "metallb", foreign)
        .await?;
    let class = json!({ "type": "LoadBalancer", "loadBalancerClass": "example.com/lb" });
    cluster.expose_as("classed", class).await?;
    // As `minikube tunnel` does it: the cluster IP, by a plain patch.
    let left = cluster.expose("left", "LoadBalancer").await?;
    let ingress = json!({ "ingress": [{ "ip": left.ip() }] });
    cluster
        .set_load_balancer("left", "minikube", ingress)
        .await?;

    let mut up = connected(&scene).await?;
    for line in [
        format!("service default/web → {} port 80", web.ip()),
        format!("service default/left → {} port 80", left.ip()),
        "service default/foreign: metallb has set its address".to_owned(),
        "service default/classed: it asks for the load balancer class example.com/lb".to_owned(),
    ] {
        up.wait_for_count(&format!("minikube: {line}"), 1, WAIT)
            .await?;
    }
    assert_eq!(cluster.addresses("web").await?, web.addresses());
    assert_eq!(cluster.addresses("foreign").await?, ["172.31.7.9"]);
    assert_eq!(cluster.addresses("classed").await?, [""; 0]);

    // Another controller takes a service over while the tunnel is up: it stays his.
    let taken = json!({ "ingress": [{ "ip": "172.31.7.10" }] });
    cluster.set_load_balancer("web", "metallb", taken).await?;
    up.wait_for_count(
        "minikube: service default/web: metallb has set its address",
        1,
        WAIT,
    )
    .await?;

    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(cluster.addresses("web").await?, ["172.31.7.10"]);
    assert_eq!(cluster.addresses("foreign").await?, ["172.31.7.9"]);
    assert_eq!(cluster.addresses("classed").await?, [""; 0]);
    // `minikube tunnel` owns it too: that one's leftover is not ours to remove.
    assert_eq!(cluster.addresses("left").await?, left.addresses());
    Ok(())
}

#[tokio::test]
async fn up_follows_a_service_through_types_names_and_cluster_ips() -> Result {
    let scene = Scene::api_only().await?;
    let cluster = &scene.cluster;
    let mut up = connected(&scene).await?;
    let web = cluster.expose("web", "LoadBalancer").await?;
    assigned(cluster, &web).await?;

    cluster
        .change("web", json!({ "type": "ClusterIP" }))
        .await?;
    cluster.wait_for_no_address("web").await?;
    cluster
        .change("web", json!({ "type": "LoadBalancer" }))
        .await?;
    assigned(cluster, &web).await?;

    cluster.change("web", external_name()).await?;
    cluster.wait_for_no_address("web").await?;
    // Its old cluster IP is taken by another service, so that it comes back with a new one.
    cluster
        .expose_as(
            "taker",
            json!({ "type": "ClusterIP", "clusterIP": web.ip() }),
        )
        .await?;
    let back = json!({ "type": "LoadBalancer", "externalName": null });
    let moved = cluster.change("web", back).await?;
    assert_ne!(moved.ip(), web.ip());
    assigned(cluster, &moved).await?;

    // Views skip what comes and goes within a thirtieth of a second.
    let line = format!("minikube: service default/web → {} port 80", moved.ip());
    up.wait_for_line(&line, WAIT).await?;
    cluster.delete("web").await?;
    up.wait_for_line("minikube: service default/web: address withdrawn", WAIT)
        .await?;
    let anew = cluster.expose("web", "LoadBalancer").await?;
    assigned(cluster, &anew).await?;

    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(cluster.addresses("web").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn next_up_finds_what_a_killed_one_left_on_services_that_changed_meanwhile() -> Result {
    let scene = Scene::api_only().await?;
    let cluster = &scene.cluster;
    let kept = cluster.expose("kept", "LoadBalancer").await?;
    let taken = cluster.expose("taken", "LoadBalancer").await?;
    let mut killed = connected(&scene).await?;
    assigned(cluster, &kept).await?;
    assigned(cluster, &taken).await?;
    // Of the processes in the lab that are Alice's, it is the one.
    scene
        .lab
        .sh("kill -KILL $(pgrep --uid alice minitunnel)")
        .await?;
    killed.exit(WAIT).await?;
    scene.wait_for_before().await?;
    assert_eq!(cluster.addresses("kept").await?, kept.addresses());
    assert_eq!(cluster.addresses("taken").await?, taken.addresses());
    let foreign = json!({ "ingress": [{ "ip": "172.31.7.9" }] });
    cluster
        .set_load_balancer("taken", "metallb", foreign)
        .await?;

    let mut next = connected(&scene).await?;
    assigned(cluster, &kept).await?;
    next.signal(Signal::INT)?;
    next.success(WAIT).await?;
    assert_eq!(cluster.addresses("kept").await?, [""; 0]);
    assert_eq!(cluster.addresses("taken").await?, ["172.31.7.9"]);
    let cleaned = run(scene.lab.sudo("alice", "minitunnel").arg("cleanup")).await?;
    assert_eq!(cleaned, "nothing is left over\n");
    assert_eq!(cluster.addresses("taken").await?, ["172.31.7.9"]);
    Ok(())
}
