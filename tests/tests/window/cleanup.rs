//! The clean-up: what goes is shown first, what is foreign stays, and what another program left goes only by consent.

use minitunnel_e2e::{Result, Scene};
use serde_json::json;

use crate::Desk;

/// As `minikube tunnel` makes it, for a profile that was deleted.
const DEAD: &str = "10.112.0.0/12 via 192.168.49.2";

#[tokio::test]
async fn a_clean_up_removes_what_was_previewed_and_chosen_and_nothing_else() -> Result {
    let desk = Desk::new(Scene::api_only().await?).await?;
    let Desk { scene, bus, .. } = &desk;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    // A minikube tunnel that died, and whose profile is gone.
    scene.lab.sh(&format!("ip route add {DEAD}")).await?;
    let records = json!([{
        "Route": {
            "Gateway": "192.168.49.2",
            "DestCIDR": { "IP": "10.112.0.0", "Mask": "//AAAA==" },
            "ClusterDomain": "cluster.local",
            "ClusterDNSIP": "10.112.0.10",
        },
        "MachineName": "deleted",
        // The kernel gives none so high.
        "Pid": i32::MAX,
    }]);
    scene.home.write(
        &scene.home.path().join("tunnels.json"),
        &serde_json::to_vec(&records)?,
    )?;
    // And one in this cluster, of which an address is left.
    let ingress = json!({ "ingress": [{ "ip": web.ip() }] });
    scene
        .cluster
        .set_load_balancer("web", "minikube", ingress)
        .await?;
    // Somebody's own.
    scene
        .lab
        .sh(
            "ip link add tun0 type veth peer name vpn && ip link set vpn up && ip link set tun0 up
        ip route add 10.100.0.0/16 dev tun0",
        )
        .await?;

    let mut agent = bus.agent("approve").await?;
    let session = agent
        .spawn(scene.alice("minitunnel").arg("session"))
        .await?;
    let window = desk.window().await?;
    window.heading("minikube").await?;
    window
        .find("//button[starts-with(normalize-space(), 'Clean up… 2')]")
        .await?;
    let routes = scene.lab.routes().await?;
    window.click("Clean up…").await?;
    window
        .see("Found 2 things that no running tunnel needs.")
        .await?;
    for text in [
        "Route 10.112.0.0/12 via 192.168.49.2 dev",
        "asks for consent",
        "of default/web in minikube",
    ] {
        window.see(text).await?;
    }
    window.heading("Will not be touched").await?;
    window.see("Route 10.100.0.0/16 dev tun0").await?;
    // So far, it was a look.
    assert_eq!(scene.lab.routes().await?, routes);
    assert_eq!(agent.times_asked(), 0);

    // The address is not chosen.
    window
        .find("//dialog//label[contains(., 'default/web')]/input")
        .await?
        .click()
        .await?;
    window.click("Remove 1").await?;
    window.see("1 thing removed.").await?;
    assert_eq!(agent.times_asked(), 1, "{}", session.report("asked"));
    let left = scene.lab.routes().await?;
    assert!(
        !left.iter().any(|route| route.contains("10.112.0.0/12")),
        "{left:#?}"
    );
    assert!(
        left.iter().any(|route| route.contains("10.100.0.0/16")),
        "{left:#?}"
    );
    assert_eq!(scene.cluster.addresses("web").await?, web.addresses());

    window.click("Close").await?;
    window.click("Clean up…").await?;
    window.click("Remove 1").await?;
    scene.cluster.wait_for_no_address("web").await?;
    window.close().await
}
