//! The log of a session: what happened, and no secret at any level.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use minitunnel_e2e::{Result, Scene, WAIT, run};

use super::scene;

fn path(scene: &Scene) -> PathBuf {
    let uid = scene.lab.user("alice").uid();
    let inside = format!("/run/user/{uid}/minitunnel/session.log");
    scene.lab.outside_path(&inside)
}

#[tokio::test]
async fn session_in_the_background_logs_a_line_for_each_event() -> Result {
    let (scene, _bus) = scene().await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    run(scene
        .alice("minitunnel")
        .args(["up", "--wait", "default/web"]))
    .await?;
    run(scene.alice("minitunnel").arg("down")).await?;
    let log = fs::read_to_string(path(&scene))?;
    for event in [
        " begins on ".to_owned(),
        "INFO asked command=SetTarget { profile: ProfileName(\"minikube\"), target: Up }"
            .to_owned(),
        "INFO minikube: route  10.96.0.0/12 via 192.168.49.2 (services)\n".to_owned(),
        "INFO minikube: connected\n".to_owned(),
        format!(
            "INFO minikube: service default/web → {} port 80 (",
            web.ip()
        ),
        "INFO minikube: disconnected\n".to_owned(),
    ] {
        assert_eq!(log.matches(&event).count(), 1, "{event:?} in\n{log}");
    }
    // Its own events alone, at the default level.
    assert!(log.lines().count() < 20, "{log}");
    assert_eq!(
        fs::metadata(path(&scene))?.permissions().mode() & 0o777,
        0o600
    );
    Ok(())
}

#[tokio::test]
async fn nothing_secret_is_logged_at_any_level() -> Result {
    let (scene, _bus) = scene().await?;
    scene.cluster.expose("web", "LoadBalancer").await?;
    let home = &scene.home;
    let key = fs::read_to_string(home.profile("minikube").join("client.key"))?;
    // A line within the key, as PEM has it, and the same without its breaks.
    let secrets: Vec<&str> = key.lines().filter(|line| line.len() >= 40).collect();
    assert!(!secrets.is_empty());
    // A password in the server's URL is left out, and the tunnel needs none.
    let kubeconfig = fs::read_to_string(home.kubeconfig())?;
    let mut kubeconfig = kubeconfig.replace("https://", "https://admin:canary-url@");
    assert!(kubeconfig.contains("canary-url"));
    kubeconfig.push_str(
        "- name: other\n  user:\n    token: canary-token\n    password: canary-password\n",
    );
    home.write(&home.kubeconfig(), kubeconfig.as_bytes())?;
    let mut config = home.config("minikube")?;
    config["DockerEnv"] = serde_json::json!(["PASSWORD=canary-environment"]);
    home.save_config("minikube", &config)?;

    let mut up = scene.alice("minitunnel");
    up.args(["up", "--wait", "default/web"])
        .env("MINITUNNEL_LOG", "trace");
    let mut up = minitunnel_e2e::Process::spawn(&mut up).await?;
    up.success(WAIT).await?;
    run(scene.alice("minitunnel").arg("down")).await?;
    let old = path(&scene).with_extension("log.old");
    let mut log = fs::read_to_string(old).unwrap_or_default();
    log += &fs::read_to_string(path(&scene))?;
    log += &up.lines().join("\n");
    // It is a log of everything, from its beginning: nothing was put away twice.
    assert!(log.contains(" TRACE "), "{log}");
    assert!(log.contains(" begins on "), "{log}");
    for secret in secrets.into_iter().chain(["canary", "PRIVATE KEY"]) {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    Ok(())
}
