//! Profiles of every shape beside a plain one: those that need no route, those whose addresses another hands out, and those
//! that an old minikube wrote.

use minitunnel_e2e::{
    Cluster, ClusterOptions, Process, Result, Scene, Signal, WAIT, eventually, run,
};
use serde_json::{Value, json};

async fn connected(scene: &Scene) -> Result<Process> {
    let up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    Ok(up)
}

#[tokio::test]
async fn driver_none_gets_addresses_without_any_route_helper_or_consent() -> Result {
    let scene = Scene::api_only().await?;
    let cluster = &scene.cluster;
    let mut config = scene.home.config("minikube")?;
    config["Driver"] = "none".into();
    scene.home.save_config("minikube", &config)?;
    let web = cluster.expose("web", "LoadBalancer").await?;

    // There is neither a system bus nor root here.
    let mut up = Process::spawn(scene.alice("minitunnel").args(["up", "-p", "minikube"])).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    assert_eq!(cluster.wait_for_addresses("web").await?, web.addresses());
    assert_eq!(scene.lab.routes().await?, scene.before);

    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(cluster.addresses("web").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn beside_the_metallb_addon_nothing_is_written_on_any_service() -> Result {
    let scene = Scene::api_only().await?;
    let cluster = &scene.cluster;
    let mut config = scene.home.config("minikube")?;
    config["Addons"]["metallb"] = true.into();
    scene.home.save_config("minikube", &config)?;
    cluster.expose("web", "LoadBalancer").await?;

    let mut up = connected(&scene).await?;
    let serves = "minikube: service default/web: the metallb addon serves it";
    up.wait_for_count(serves, 1, WAIT).await?;
    assert_eq!(cluster.address_managers("web").await?, [""; 0]);
    // MetalLB's controller, whose field manager is its program's name.
    let address = json!({ "ingress": [{ "ip": "192.168.49.100" }] });
    cluster
        .set_load_balancer("web", "controller", address)
        .await?;
    let set = "minikube: service default/web: controller has set its address";
    up.wait_for_count(set, 1, WAIT).await?;

    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(cluster.addresses("web").await?, ["192.168.49.100"]);
    assert_eq!(cluster.address_managers("web").await?, ["controller"]);
    Ok(())
}

#[tokio::test]
async fn profile_of_minikube_1_6_is_carried_like_any_other() -> Result {
    let scene = Scene::api_only().await?;
    let cluster = &scene.cluster;
    // The one node, the driver and the pod network are in other places than today.
    let config = json!({
        "Name": "minikube",
        "VMDriver": "kvm2",
        "KubernetesConfig": {
            "KubernetesVersion": "v1.28.0", "NodeIP": "192.168.49.2", "NodePort": 8443, "NodeName": "minikube",
            "ContainerRuntime": "docker", "NetworkPlugin": "cni", "EnableDefaultCNI": true, "ServiceCIDR": "",
        },
    });
    scene.home.save_config("minikube", &config)?;
    let web = cluster.expose("web", "LoadBalancer").await?;
    let mut up = connected(&scene).await?;
    assert_eq!(cluster.wait_for_addresses("web").await?, web.addresses());
    for url in cluster.pod_urls()? {
        assert_eq!(scene.lab.http_get(&url, WAIT).await?, 200, "{url}");
    }
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(scene.lab.routes().await?, scene.before);
    Ok(())
}

#[tokio::test]
async fn service_of_a_stopped_tunnel_says_so_while_its_cluster_runs() -> Result {
    let scene = Scene::api_only().await?;
    scene.cluster.expose("web", "LoadBalancer").await?;
    let profile = scene.snapshot().await?["profiles"][0].clone();
    assert_eq!(profile["tunnel"]["state"], "disconnected");
    assert_eq!(profile["cluster"]["cluster"], "running");
    let service = &profile["load_balancers"][0];
    assert_eq!(service["pending"]["pending"], "tunnel_down");
    let status = run(scene.alice("minitunnel").arg("status")).await?;
    let told = |line: &str| line.contains("default/web") && line.contains("the tunnel is not up");
    assert!(status.lines().any(told), "{status}");
    Ok(())
}

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const WORDS: &str = "no addresses on Fridays";

/// A policy of the cluster's that denies some services their addresses.
fn policy() -> [(&'static str, Value); 2] {
    let of = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": { "name": "fridays" },
            "spec": spec,
        })
    };
    let rules = json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["services/status"],
    }]);
    let expression =
        "!object.metadata.name.startsWith('refused') || !has(object.status.loadBalancer.ingress)";
    let policy = json!({
        "failurePolicy": "Fail",
        "matchConstraints": { "resourceRules": rules },
        "validations": [{ "expression": expression, "message": WORDS }],
    });
    let binding = json!({ "policyName": "fridays", "validationActions": ["Deny"] });
    [
        (
            "validatingadmissionpolicies",
            of("ValidatingAdmissionPolicy", policy),
        ),
        (
            "validatingadmissionpolicybindings",
            of("ValidatingAdmissionPolicyBinding", binding),
        ),
    ]
}

/// Waits until the policy holds, or not any more: it is taken up some time after it was accepted.
async fn policy_holds(cluster: &Cluster, holds: bool) -> Result {
    eventually(WAIT, "the policy to change", async || {
        let ingress = json!({ "ingress": [{ "ip": "172.31.7.9" }] });
        let set = cluster.set_load_balancer("refused-too", "test", ingress);
        anyhow::ensure!(set.await.is_err() == holds);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn service_that_the_api_server_refuses_an_address_quotes_it_and_costs_the_others_nothing()
-> Result {
    let scene = Scene::api_only().await?;
    let cluster = &scene.cluster;
    for name in ["refused", "refused-too"] {
        cluster.expose(name, "LoadBalancer").await?;
    }
    for (kind, object) in policy() {
        cluster
            .create_at(&format!("{ADMISSION}/{kind}"), &object)
            .await?;
    }
    policy_holds(cluster, true).await?;
    let mut up = connected(&scene).await?;
    let refused = "minikube: service default/refused: the API server refused the address:";
    let line = up.wait_for_count(refused, 1, WAIT).await?;
    assert!(line.contains(WORDS), "{line}");
    let web = cluster.expose("web", "LoadBalancer").await?;
    assert_eq!(cluster.wait_for_addresses("web").await?, web.addresses());
    let status = run(scene.alice("minitunnel").arg("status")).await?;
    let told = |line: &str| line.contains("default/refused ") && line.contains(WORDS);
    assert!(status.lines().any(told), "{status}");

    // The service changes after the reason is gone.
    cluster
        .delete_at(&format!(
            "{ADMISSION}/validatingadmissionpolicybindings/fridays"
        ))
        .await?;
    policy_holds(cluster, false).await?;
    let service = cluster
        .change("refused", json!({ "sessionAffinity": "ClientIP" }))
        .await?;
    assert_eq!(
        cluster.wait_for_addresses("refused").await?,
        service.addresses()
    );
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(cluster.addresses("refused").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn range_that_one_cluster_gives_back_is_taken_by_the_other_that_waits_for_it() -> Result {
    let mut scene = Scene::new(ClusterOptions::default()).await?;
    let other = Cluster::start(&scene.lab, ClusterOptions::second("other")).await?;
    scene.home.add(&other)?;
    // One with a range of its own runs beside both.
    let apart = ClusterOptions {
        subnet: 67,
        service_cidrs: vec!["10.112.0.0/12".to_owned()],
        ..ClusterOptions::second("apart")
    };
    let apart = scene.add(apart).await?;
    let before = scene.lab.routes().await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let there = other.expose("there", "LoadBalancer").await?;
    scene.cluster.served(&web.url()).await?;
    other.served(&there.url()).await?;

    let mut up = scene.sudo_up(&["minikube", "other", "apart"]).await?;
    up.wait_for_count(": connected", 2, WAIT).await?;
    let blocked = up.wait_for_count(": blocked: ", 1, WAIT).await?;
    let clusters = [(&scene.cluster, &web, "web"), (&other, &there, "there")];
    let [(first, mine, name), (second, theirs, other_name)] = match blocked.starts_with("minikube")
    {
        true => [clusters[1], clusters[0]],
        false => clusters,
    };
    assert_eq!(first.wait_for_addresses(name).await?, mine.addresses());
    assert_eq!(scene.lab.http_get(&mine.url(), WAIT).await?, 200);
    // Who is blocked gives no address that nobody could reach.
    assert_eq!(second.addresses(other_name).await?, [""; 0]);

    run(scene
        .alice("minitunnel")
        .args(["down", "-p", first.profile()]))
    .await?;
    let connected = format!("{}: connected", second.profile());
    up.wait_for_count(&connected, 1, WAIT).await?;
    assert_eq!(
        second.wait_for_addresses(other_name).await?,
        theirs.addresses()
    );
    assert_eq!(scene.lab.http_get(&theirs.url(), WAIT).await?, 200);
    assert_eq!(first.addresses(name).await?, [""; 0]);
    assert_eq!(up.count("apart: connected"), 1);
    let beside = apart.expose("beside", "LoadBalancer").await?;
    assert_eq!(
        apart.wait_for_addresses("beside").await?,
        beside.addresses()
    );

    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(scene.lab.routes().await?, before);
    Ok(())
}
