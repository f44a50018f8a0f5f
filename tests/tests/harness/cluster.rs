//! The clusters of the testbed: what the tests of the product rely on is true without the product.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use minitunnel_e2e::{Cluster, ClusterOptions, Lab, MinikubeHome, ProxyMode, Result, WAIT};
use serde_json::json;
use tokio::time::timeout;

/// Long enough for a server that answers, short for one that does not.
const SOON: Duration = Duration::from_millis(700);

/// A cluster without kube-proxy, for what concerns the API server alone.
fn api_only() -> ClusterOptions {
    ClusterOptions {
        proxy: ProxyMode::None,
        ..ClusterOptions::default()
    }
}

#[tokio::test]
async fn cluster_that_starts_again_elsewhere_has_its_services_and_serves_them() -> Result {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, ClusterOptions::default()).await?;
    let service = cluster.expose("web", "LoadBalancer").await?;
    let client = cluster.services();
    cluster.stop().await?;
    let call = timeout(SOON, client.get("web")).await;
    assert!(!matches!(call, Ok(Ok(_))), "a stopped API server answers");

    let moved = "192.168.49.7".parse()?;
    cluster.start_again(Some(moved)).await?;
    assert_eq!(
        cluster
            .services()
            .get("web")
            .await?
            .metadata
            .name
            .as_deref(),
        Some("web")
    );
    cluster.served(&service.url()).await?;
    lab.sh(&format!("ip route add 10.96.0.0/12 via {moved}"))
        .await?;
    assert_eq!(lab.http_get(&service.url(), WAIT).await?, 200);
    Ok(())
}

#[tokio::test]
async fn paused_api_server_hangs_until_it_is_resumed() -> Result {
    let lab = Lab::new()?;
    let cluster = Cluster::start(&lab, api_only()).await?;
    cluster.pause_api_server()?;
    assert!(
        timeout(SOON, cluster.services().get_opt("web"))
            .await
            .is_err(),
        "a paused API server answers"
    );
    cluster.resume_api_server()?;
    assert!(
        timeout(WAIT, cluster.services().get_opt("web"))
            .await??
            .is_none()
    );
    Ok(())
}

#[tokio::test]
async fn clusters_with_equal_ranges_live_side_by_side() -> Result {
    let lab = Lab::new()?;
    let one = Cluster::start(&lab, ClusterOptions::default()).await?;
    let other = Cluster::start(&lab, ClusterOptions::second("other")).await?;
    one.expose("only-here", "ClusterIP").await?;
    assert!(other.services().get_opt("only-here").await?.is_none());
    let there = other.expose("there", "LoadBalancer").await?;
    other.served(&there.url()).await?;
    lab.sh(&format!(
        "ip route add 10.96.0.0/12 via {}",
        other.node_ip()
    ))
    .await?;
    assert_eq!(lab.http_get(&there.url(), WAIT).await?, 200);
    Ok(())
}

#[tokio::test]
async fn dual_stack_cluster_serves_both_families() -> Result {
    let lab = Lab::new()?;
    let cluster = Cluster::start(&lab, ClusterOptions::dual_stack()).await?;
    let service = cluster.expose("web", "LoadBalancer").await?;
    let gateway = cluster
        .node_ip6()
        .expect("a dual-stack cluster has an IPv6 gateway");
    let [ipv4, ipv6] = service.cluster_ips[..] else {
        panic!("not two families: {service:?}")
    };
    let before = lab.routes().await?;
    lab.sh(&format!(
        "ip route add 10.96.0.0/12 via {}",
        cluster.node_ip()
    ))
    .await?;
    lab.sh(&format!("ip route add fd00:10:96::/112 via {gateway}"))
        .await?;
    for url in [format!("http://{ipv4}/"), format!("http://[{ipv6}]/")] {
        cluster.served(&url).await?;
        assert_eq!(lab.http_get(&url, WAIT).await?, 200, "{url}");
    }
    lab.sh("ip route del 10.96.0.0/12; ip route del fd00:10:96::/112")
        .await?;
    assert_eq!(lab.routes().await?, before);
    Ok(())
}

#[tokio::test]
async fn service_is_watched_through_what_another_controller_does() -> Result {
    let lab = Lab::new()?;
    let cluster = Cluster::start(&lab, api_only()).await?;
    cluster.expose("web", "LoadBalancer").await?;
    cluster
        .set_load_balancer(
            "web",
            "other",
            json!({ "ingress": [{ "ip": "172.31.7.9" }] }),
        )
        .await?;
    assert_eq!(cluster.wait_for_addresses("web").await?, ["172.31.7.9"]);
    cluster
        .change("web", json!({ "type": "ClusterIP" }))
        .await?;
    cluster.wait_for_no_address("web").await?;
    cluster.delete("web").await?;
    cluster
        .wait_for_service("web", "go", WAIT, |service| service.is_none())
        .await?;
    // Made anew under its name, beside the EndpointSlices that it had.
    cluster.expose("web", "ClusterIP").await?;
    Ok(())
}

#[tokio::test]
async fn minikube_home_holds_what_a_client_needs() -> Result {
    let lab = Lab::new()?;
    let cluster = Cluster::start(&lab, api_only()).await?;
    let mut home = MinikubeHome::create(&lab, "alice")?;
    home.add(&cluster)?;
    let config = home.config("minikube")?;
    assert_eq!(config["Nodes"][0]["IP"], "192.168.49.2");
    assert_eq!(config["KubernetesConfig"]["ServiceCIDR"], "10.96.0.0/12");
    home.event("minikube", "Stopping")?;
    for file in ["config.json", "client.crt", "client.key", "events.json"] {
        assert_eq!(
            fs::metadata(home.profile("minikube").join(file))?.uid(),
            4001,
            "{file}"
        );
    }

    // The certificates are files named in the kubeconfig, as minikube has it without `--embed-certs`.
    let kubeconfig = Kubeconfig::read_from(home.kubeconfig())?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let version = timeout(WAIT, kube::Client::try_from(config)?.apiserver_version()).await??;
    assert_eq!(version.git_version, "v1.37.2");

    home.delete("minikube")?;
    assert!(!fs::exists(home.profile("minikube"))?);
    assert!(
        Kubeconfig::read_from(home.kubeconfig())?
            .clusters
            .is_empty()
    );
    Ok(())
}
