//! The data plane: what the tunnel makes reachable with a real kube-proxy, and that nothing of it stays.

use std::time::Duration;

use minitunnel_e2e::{ClusterOptions, Lab, ProxyMode, Result, Scene, Signal, WAIT};

/// An address that nothing routes to answers never: time enough for one that does.
const SOON: Duration = Duration::from_millis(700);

/// All of these URLs answer.
async fn reachable(lab: &Lab, urls: &[String]) -> Result {
    for url in urls {
        assert_eq!(lab.http_get(url, WAIT).await?, 200, "{url}");
    }
    Ok(())
}

/// None of these URLs answers.
async fn unreachable(lab: &Lab, urls: &[String]) {
    for url in urls {
        let answer = lab.http_get(url, SOON).await;
        assert!(answer.is_err(), "{url} answers: {answer:?}");
    }
}

/// Cluster IPs, LoadBalancer addresses and pod IPs, of every family, answer exactly while the tunnel is up.
async fn all_addresses_answer_exactly_while_the_tunnel_is_up(scene: &Scene) -> Result {
    let Scene { lab, cluster, .. } = scene;
    let internal = cluster.expose("internal", "ClusterIP").await?;
    let web = cluster.expose("web", "LoadBalancer").await?;
    let services = internal.urls().chain(web.urls());
    let urls: Vec<_> = services.chain(cluster.pod_urls()?).collect();
    for url in &urls {
        cluster.served(url).await?;
    }
    unreachable(lab, &urls).await;
    assert_eq!(cluster.addresses("web").await?, [""; 0]);

    let mut up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    let line = format!(
        "service default/web → {} port 80",
        web.addresses().join(", ")
    );
    up.wait_for_count(&format!("minikube: {line}"), 1, WAIT)
        .await?;
    assert_eq!(cluster.addresses("web").await?, web.addresses());
    assert_eq!(cluster.addresses("internal").await?, [""; 0]);
    reachable(lab, &urls).await?;

    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(lab.routes().await?, scene.before);
    assert_eq!(cluster.addresses("web").await?, [""; 0]);
    unreachable(lab, &urls).await;
    Ok(())
}

#[tokio::test]
async fn addresses_answer_exactly_while_the_tunnel_is_up_by_nftables() -> Result {
    let scene = Scene::new(ClusterOptions::default()).await?;
    all_addresses_answer_exactly_while_the_tunnel_is_up(&scene).await
}

#[tokio::test]
async fn addresses_answer_exactly_while_the_tunnel_is_up_by_iptables() -> Result {
    let options = ClusterOptions {
        proxy: ProxyMode::Iptables,
        ..ClusterOptions::default()
    };
    let scene = Scene::new(options).await?;
    all_addresses_answer_exactly_while_the_tunnel_is_up(&scene).await
}

#[tokio::test]
async fn addresses_of_both_families_answer_exactly_while_the_tunnel_is_up() -> Result {
    let scene = Scene::new(ClusterOptions::dual_stack()).await?;
    // minikube's bridge knows IPv4 alone; with kindnet a node serves the pods that Kubernetes gave it.
    scene.choose_cni("minikube", "kindnet")?;
    all_addresses_answer_exactly_while_the_tunnel_is_up(&scene).await
}

#[tokio::test]
async fn cluster_that_stops_and_returns_with_another_address_is_reached_by_the_same_up() -> Result {
    let mut scene = Scene::new(ClusterOptions::default()).await?;
    let mut up = scene.sudo_up(&["minikube"]).await?;
    let Scene {
        lab, cluster, home, ..
    } = &mut scene;
    let web = cluster.expose("web", "LoadBalancer").await?;
    let urls = [web.url()];
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    cluster.wait_for_addresses("web").await?;
    cluster.served(&urls[0]).await?;
    reachable(lab, &urls).await?;

    cluster.stop().await?;
    up.wait_for_count("minikube: waiting for the cluster", 1, WAIT)
        .await?;
    unreachable(lab, &urls).await;

    cluster.start_again(Some("192.168.49.7".parse()?)).await?;
    home.add(cluster)?;
    up.wait_for_count("minikube: connected", 2, WAIT).await?;
    cluster.served(&urls[0]).await?;
    reachable(lab, &urls).await?;

    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(cluster.addresses("web").await?, [""; 0]);
    unreachable(lab, &urls).await;
    scene.is_as_before_on_new_links().await
}
