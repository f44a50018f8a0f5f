//! A session in the background, on the bus.

use minitunnel_e2e::{ALLOW, Process, Result, WAIT, eventually, run};
use serde_json::json;

use super::{Bench, has_route};

/// Runs `up --detach` to its end, and gives the session's process as the lab sees it.
async fn detached(bench: &Bench) -> Result<String> {
    let mut command = bench.alice("minitunnel");
    let mut up = Process::spawn(command.args(["up", "--detach", "-p", "minikube"])).await?;
    up.success(WAIT).await?;
    assert_eq!(up.count("minikube: connected"), 1, "{}", up.report("ended"));
    assert!(has_route(&bench.lab.routes().await?));
    bench.cluster.wait_for_addresses("web").await?;
    let held = json!(["connected", "us", [bench.address]]);
    // A view is at most one snapshot behind the API server.
    eventually(WAIT, "the address in the session", async || {
        anyhow::ensure!(bench.service_status().await? == held);
        Ok(())
    })
    .await?;
    // The lease's holder, as anybody may know.
    let list = run(&mut bench.call("bob", "io.github.minitunnel.Helper1.List")).await?;
    assert!(
        !list.contains("minikube"),
        "bob is told of Alice's profile: {list}"
    );
    bench
        .lab
        .sh("pgrep --full '^[^ ]*minitunnel session$'")
        .await
}

#[tokio::test]
async fn detached_tunnel_stays_until_it_is_brought_down_or_killed() -> Result {
    let bench = Bench::start(ALLOW).await?;
    detached(&bench).await?;
    run(bench.alice("minitunnel").arg("down")).await?;
    bench.nothing_is_left().await?;

    let session = detached(&bench).await?;
    bench.lab.sh(&format!("kill -KILL {session}")).await?;
    bench.wait_for_before().await?;
    let stale = json!(["disconnected", "us", [bench.address]]);
    eventually(WAIT, "the dead session to be seen as such", async || {
        anyhow::ensure!(bench.service_status().await? == stale);
        Ok(())
    })
    .await?;
    run(bench.alice("minitunnel").arg("cleanup")).await?;
    bench.nothing_is_left().await
}
