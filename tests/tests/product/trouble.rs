//! An API server in trouble, as a person sees it who runs `minitunnel up` and asks `minitunnel status`.

use std::time::Duration;

use minitunnel_e2e::{Front, Result, Scene, Signal, Trouble, WAIT};
use tokio::time::{Instant, sleep_until};

/// How long each lasts after it was told: enough for a hot loop to show.
const LASTS: Duration = Duration::from_secs(4);
/// Tries at 0, 0.2, 0.6, 1.4, 3 and 6.2 s, of which each has a connection for its question and one for `/readyz`, and cut watches
/// may be begun once more.
const CONNECTIONS: usize = 6 * 2 + 2;

/// Each trouble, and words of what is said of it.
const TROUBLES: [(Trouble, &str); 5] = [
    (Trouble::Hang, "does not answer: if the cluster is paused"),
    (
        Trouble::Answer("500 Internal Server Error", "etcdserver: leader changed"),
        "the API server of minikube is starting",
    ),
    (
        Trouble::Certificate,
        "and the certificates of minikube don't fit together",
    ),
    (
        Trouble::Rubbish(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        "and the certificates of minikube don't fit together",
    ),
    (
        Trouble::SlowReader(Duration::from_millis(50)),
        "does not answer: if the cluster is paused",
    ),
];

#[tokio::test]
async fn state_says_what_is_wrong_with_the_api_server_and_the_tunnel_returns_by_itself() -> Result {
    let mut scene = Scene::api_only().await?;
    let front = Front::start(&mut scene).await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let mut up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    scene.cluster.wait_for_addresses("web").await?;
    for (number, (trouble, words)) in TROUBLES.into_iter().enumerate() {
        front.set(Some(trouble));
        let line = up.wait_for_line(words, WAIT).await?;
        let told = "minikube: waiting for the cluster: ";
        assert!(line.contains(told), "{trouble:?}: {line}");
        let until = Instant::now() + LASTS;
        // Nothing leads to a cluster of which nothing is known.
        scene.wait_for_route("10.96.0.0/12", None).await?;
        let tunnel = scene.snapshot().await?["profiles"][0]["tunnel"].clone();
        assert_eq!(tunnel["state"], "waiting", "{trouble:?}: {tunnel}");
        assert_eq!(tunnel["for"], "cluster", "{trouble:?}: {tunnel}");
        let reason = tunnel["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(words), "{trouble:?}: {reason}");
        sleep_until(until).await;
        let connections = front.connections();
        assert!(
            (1..=CONNECTIONS).contains(&connections),
            "{trouble:?}: {connections} connections"
        );

        front.set(None);
        up.wait_for_count("minikube: connected", number + 2, WAIT)
            .await?;
        scene
            .wait_for_route("10.96.0.0/12", Some("192.168.49.2"))
            .await?;
        let name = format!("after-{number}");
        let after = scene.cluster.expose(&name, "LoadBalancer").await?;
        let given = scene.cluster.wait_for_addresses(&name).await?;
        assert_eq!(given, after.addresses(), "{trouble:?}");
        assert_eq!(scene.cluster.addresses("web").await?, web.addresses());
        let state = scene.snapshot().await?["profiles"][0]["tunnel"]["state"].clone();
        assert_eq!(state, "connected", "{trouble:?}");
    }
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(scene.cluster.addresses("web").await?, [""; 0]);
    assert_eq!(scene.lab.routes().await?, scene.before);
    Ok(())
}
