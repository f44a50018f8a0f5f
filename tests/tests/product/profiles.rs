//! A minikube home with profiles of every sort beside one of a real cluster.

use std::fs;
use std::path::Path;

use minitunnel_e2e::{MinikubeHome, Result, Scene, Signal, WAIT, run};
use serde_json::Value;

/// Profiles as minikube's versions wrote them: of several nodes, old, without Kubernetes, of a virtual machine, with
/// embedded certificates.
const FIXTURES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../src-tauri/crates/engine/tests/fixtures/minikube/profiles"
);
/// The documented exit code for a profile that can't be meant.
const NO_PROFILE: Option<i32> = Some(3);

/// Damaged files, and a word of what is said of each.
const DAMAGED: [(&str, &[u8], &str); 4] = [
    ("empty", b"", "is empty"),
    (
        "truncated",
        br#"{"Name": "truncated", "Driver": "doc"#,
        "ends in the middle",
    ),
    (
        "wrong-typed",
        br#"{"Driver": {"a": 1}}"#,
        "not as minikube writes it",
    ),
    ("huge", b"{", "larger than"),
];

/// Adds the profiles of minikube's other versions, and the damaged ones.
fn fill(home: &MinikubeHome) -> Result<Vec<String>> {
    let mut readable = vec!["minikube".to_owned()];
    for entry in fs::read_dir(FIXTURES)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "minikube" {
            copy(home, &entry.path(), &home.profile(&name))?;
            readable.push(name);
        }
    }
    for (name, bytes, _) in DAMAGED {
        let folder = home.profile(name);
        home.folder(&folder)?;
        home.write(&folder.join("config.json"), bytes)?;
    }
    // A terabyte with nothing in it.
    let huge = home.profile("huge").join("config.json");
    fs::File::options()
        .write(true)
        .open(huge)?
        .set_len(1 << 40)?;
    readable.sort();
    Ok(readable)
}

fn copy(home: &MinikubeHome, from: &Path, to: &Path) -> Result {
    home.folder(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        home.write(&to.join(entry.file_name()), &fs::read(entry.path())?)?;
    }
    Ok(())
}

fn names(list: &Value, name: impl Fn(&Value) -> &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|of| name(of).as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn damaged_profiles_say_what_is_wrong_and_cost_the_others_nothing() -> Result {
    let scene = Scene::api_only().await?;
    let readable = fill(&scene.home)?;
    let snapshot = scene.snapshot().await?;
    assert_eq!(
        names(&snapshot["profiles"], |of| &of["profile"]["name"]),
        readable
    );
    let text = run(scene.alice("minitunnel").arg("status")).await?;
    for (name, _, problem) in DAMAGED {
        let told = |line: &str| line.contains(name) && line.contains(problem);
        assert!(text.lines().any(told), "{name}: {text}");
        let mut up = scene.sudo_up(&[name]).await?;
        let status = up.exit(WAIT).await?;
        assert_eq!(status.code(), NO_PROFILE, "{}", up.report(name));
        assert_eq!(up.count(problem), 1, "{}", up.report(name));
    }

    let mut up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_line("minikube: connected", WAIT).await?;
    // One more breaks while the tunnel is up, and so does its own file: it goes by what was read last.
    for name in ["multi", "minikube"] {
        let config = scene.home.profile(name).join("config.json");
        scene.home.write(&config, b"{")?;
    }
    scene.cluster.expose("web", "LoadBalancer").await?;
    up.wait_for_line("minikube: service default/web → ", WAIT)
        .await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(scene.lab.routes().await?, scene.before);
    assert_eq!(scene.cluster.addresses("web").await?, [""; 0]);
    Ok(())
}
