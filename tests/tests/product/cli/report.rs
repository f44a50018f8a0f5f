//! `report`: what a bug report needs, and no secret of anything that was read for it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use minitunnel_e2e::{Process, Result, WAIT, run};
use serde_json::json;

use super::scene;

#[tokio::test]
async fn report_tells_the_state_and_no_secret_of_its_inputs() -> Result {
    let (scene, _bus) = scene().await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let home = &scene.home;
    let mut config = home.config("minikube")?;
    config["DockerEnv"] = json!(["PASSWORD=canary-environment"]);
    config["KubernetesConfig"]["ExtraOptions"] =
        json!([{ "Key": "token", "Value": "canary-option" }]);
    config["SSHAuthSock"] = json!("/canary/agent.sock");
    home.save_config("minikube", &config)?;
    let kubeconfig = fs::read_to_string(home.kubeconfig())?;
    let mut kubeconfig = kubeconfig.replace("https://", "https://admin:canary-url@");
    kubeconfig.push_str("- name: other\n  user:\n    token: canary-token\n");
    home.write(&home.kubeconfig(), kubeconfig.as_bytes())?;
    let broken = home.profile("canary.example.org");
    home.folder(&broken)?;
    home.write(&broken.join("config.json"), b"canary-broken {")?;
    // What another controller names is on the Internet, and nobody else's business.
    let foreign =
        json!({ "ingress": [{ "ip": "203.0.113.9" }, { "hostname": "lb.canary.example.com" }] });
    scene.cluster.expose("foreign", "LoadBalancer").await?;
    scene
        .cluster
        .set_load_balancer("foreign", "cloud", foreign)
        .await?;
    run(scene
        .alice("minitunnel")
        .args(["up", "--wait", "default/web"]))
    .await?;

    let file = scene.lab.user("alice").home().join("report.md");
    let mut command = scene.alice("minitunnel");
    command.args(["report", "--output"]).arg(&file);
    command.env("HTTPS_PROXY", "http://canary-proxy@canary.example.net");
    command.env("KUBECONFIG", home.kubeconfig());
    let mut report = Process::spawn(&mut command).await?;
    report.success(WAIT).await?;
    let text = fs::read_to_string(&file)?;
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    for told in [
        "\"state\": \"connected\"",
        &format!("\"{}\"", web.ip()),
        "10.96.0.0/12 via 192.168.49.2 dev ",
        "\"ServiceCIDR\": \"10.96.0.0/12\"",
        "system bus        there",
        "INFO minikube: connected",
        "profile: Some(",
    ] {
        assert!(text.contains(told), "{told:?} is not in\n{text}");
    }
    let key = fs::read_to_string(home.profile("minikube").join("client.key"))?;
    let key = key.lines().filter(|line| line.len() >= 40);
    let alice = scene.lab.user("alice").home().display().to_string();
    for secret in key.chain(["canary", "PRIVATE KEY", "203.0.113.9", "alice", &alice]) {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the report");
    }

    // A second one takes nothing away.
    let mut again = scene.alice("minitunnel");
    again.args(["report", "--output"]).arg(&file);
    let mut again = Process::spawn(&mut again).await?;
    assert_eq!(again.exit(WAIT).await?.code(), Some(1));
    assert_eq!(fs::read_to_string(&file)?, text);
    run(scene.alice("minitunnel").arg("down")).await?;
    Ok(())
}
