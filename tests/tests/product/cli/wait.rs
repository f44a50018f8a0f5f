//! `up --wait`: a script goes on when the service answers, and not before.

use minitunnel_e2e::{Result, Signal, WAIT, run};
use serde_json::json;

use super::{scene, start};

/// The documented exit code of a service that was waited for and did not answer.
const UNANSWERED: Option<i32> = Some(9);

#[tokio::test]
async fn up_that_waits_returns_when_the_service_answers_and_the_tunnel_stays() -> Result {
    let (scene, _bus) = scene().await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let mut up = start(&scene, &["up", "--wait", "default/web"]).await?;
    up.success(WAIT).await?;
    let said = up.report("ended");
    let answers = format!("minikube: service default/web answers at {}:80", web.ip());
    assert_eq!(up.count(&answers), 1, "{said}");
    // No wait: it is as the exit code says.
    assert_eq!(scene.lab.http_get(&web.url(), WAIT).await?, 200);

    // A service to come, as a client of the session that runs; and one that no connection can tell of.
    let mut later = start(&scene, &["up", "-w", "default/later", "-w", "default/dns"]).await?;
    later.wait_for_count("minikube: connected", 1, WAIT).await?;
    let later_on = scene.cluster.expose("later", "LoadBalancer").await?;
    scene.cluster.expose("dns", "LoadBalancer").await?;
    let udp = json!({ "ports": [{ "port": 53, "protocol": "UDP" }] });
    let dns = scene.cluster.change("dns", udp).await?;
    later.success(WAIT).await?;
    let said = later.report("ended");
    let answers = format!("default/later answers at {}:80", later_on.ip());
    assert_eq!(later.count(&answers), 1, "{said}");
    let untried = format!(
        "default/dns has the address {}; it has no TCP port",
        dns.ip()
    );
    assert_eq!(later.count(&untried), 1, "{said}");
    assert_eq!(scene.lab.http_get(&later_on.url(), WAIT).await?, 200);

    run(scene.alice("minitunnel").arg("down")).await?;
    scene.wait_for_before().await
}

#[tokio::test]
async fn up_that_waits_in_vain_says_why_and_leaves_nothing() -> Result {
    let (mut scene, _bus) = scene().await?;
    scene.cluster.expose("web", "LoadBalancer").await?;
    let class = json!({ "type": "LoadBalancer", "loadBalancerClass": "example.com/lb" });
    scene.cluster.expose_as("classed", class).await?;
    scene.cluster.web().kill().await?;
    for (service, why) in [
        ("web", "do its pods run?"),
        (
            "classed",
            "it asks for the load balancer class example.com/lb",
        ),
        ("absent", "there is no LoadBalancer service of that name"),
    ] {
        let service = format!("default/{service}");
        let mut up = start(&scene, &["up", "--wait", &service, "--timeout", "2"]).await?;
        let status = up.exit(WAIT).await?;
        let said = up.report("ended");
        assert_eq!(status.code(), UNANSWERED, "{said}");
        let lost = format!("minikube: service {service} did not answer within 2 s: ");
        let lines = up.lines();
        let line = lines.iter().find(|line| line.starts_with(&lost));
        assert!(line.is_some_and(|line| line.ends_with(why)), "{said}");
        scene.wait_for_before().await?;
    }

    // Whoever is interrupted has not been answered either.
    let mut up = start(&scene, &["up", "--wait", "default/web"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    up.signal(Signal::INT)?;
    assert_eq!(up.exit(WAIT).await?.code(), UNANSWERED);
    scene.wait_for_before().await
}
