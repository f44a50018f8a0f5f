//! Start and stop; a conflict that comes, is explained, and goes.

use minitunnel_e2e::{ClusterOptions, Result, Scene, WAIT};

use crate::Desk;

#[tokio::test]
async fn a_click_brings_a_tunnel_up_and_another_one_down() -> Result {
    let desk = Desk::new(Scene::new(ClusterOptions::default()).await?).await?;
    let Desk { scene, .. } = &desk;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let _session = desk.session().await?;
    let window = desk.window().await?;
    window.heading("minikube").await?;
    window.state("Stopped").await?;
    window.see("waits for the tunnel").await?;

    window.click("Start").await?;
    window.state("Connected").await?;
    desk.route(true).await?;
    window
        .find(&format!(
            "//tr[th[normalize-space()='default/web']]/td[normalize-space()='{}']",
            web.ip()
        ))
        .await?;
    scene.cluster.served(&web.url()).await?;
    assert_eq!(scene.lab.http_get(&web.url(), WAIT).await?, 200);
    // As any other view of the session has it.
    assert_eq!(scene.service_status().await?[0], "connected");

    window.click("Stop").await?;
    window.state("Stopped").await?;
    scene.wait_for_before().await?;
    scene.cluster.wait_for_no_address("web").await?;
    window.close().await
}

#[tokio::test]
async fn a_conflict_is_explained_as_it_comes_and_gone_when_it_goes() -> Result {
    let desk = Desk::new(Scene::api_only().await?).await?;
    let Desk { scene, .. } = &desk;
    let _session = desk.session().await?;
    let window = desk.window().await?;
    window.heading("minikube").await?;
    // A VPN comes up while nobody looks at it.
    scene
        .lab
        .sh(
            "ip link add tun0 type veth peer name vpn && ip link set vpn up && ip link set tun0 up
             ip route add 10.100.0.0/16 dev tun0",
        )
        .await?;
    window
        .heading("Part of 10.96.0.0/12 already belongs to tun0")
        .await?;
    window.click("Start").await?;
    window.state("Blocked").await?;
    window
        .see("lies inside 10.96.0.0/12 via 192.168.49.2")
        .await?;
    window.find("//code[starts-with(., 'minikube delete -p minikube && minikube start -p minikube --service-cluster-ip-range=')]").await?;
    window
        .find("//button[normalize-space()='Copy the commands']")
        .await?;
    desk.route(false).await?;

    scene.lab.sh("ip link delete tun0").await?;
    window.state("Connected").await?;
    desk.route(true).await?;
    let gone = !window.text().await?.contains("already belongs to tun0");
    assert!(gone, "{}", window.text().await?);
    window.close().await
}
