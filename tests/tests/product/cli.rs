//! The command line for people and scripts, with real parts behind it.

mod demo;
mod live;
mod log;
mod report;
mod wait;

use minitunnel_e2e::{ALLOW, ClusterOptions, Process, Result, Scene, SystemBus, WAIT, run};

/// A cluster that serves what is sent to it, and a system bus on which nobody is asked.
async fn scene() -> Result<(Scene, SystemBus)> {
    let scene = Scene::new(ClusterOptions::default()).await?;
    let bus = SystemBus::start(&scene.lab, ALLOW).await?;
    Ok((scene, bus))
}

#[tokio::test]
async fn down_refuses_a_profile_that_is_not_there_with_and_without_a_session() -> Result {
    let (scene, _bus) = scene().await?;
    for session in [false, true] {
        if session {
            run(scene.alice("minitunnel").args(["up", "--detach"])).await?;
        }
        let mut down = start(&scene, &["down", "-p", "nope"]).await?;
        let code = down.exit(WAIT).await?.code();
        assert_eq!(code, Some(3), "{}", down.report("ended"));
        assert_eq!(down.count("there is no minikube profile nope"), 1);
    }
    run(scene.alice("minitunnel").arg("down")).await?;
    scene.wait_for_before().await
}

/// A `minitunnel` of Alice's.
async fn start(scene: &Scene, arguments: &[&str]) -> Result<Process> {
    Process::spawn(scene.alice("minitunnel").args(arguments)).await
}
