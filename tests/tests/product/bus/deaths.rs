//! Ends on a bus: by a signal in order, and by SIGKILL of the client, of the helper, of both.

use minitunnel_e2e::{ALLOW, Process, Result, Signal, WAIT, run};
use serde_json::json;

use super::{Bench, PING};

/// Kills the helper and its client as if at one instant: the stopped client can't call for another helper.
async fn kill_both(bench: &Bench, mut up: Process) -> Result {
    let held = bench.lab.routes().await?;
    let helper = bench.helper().await?;
    up.signal(Signal::STOP)?;
    bench.lab.sh(&format!("kill -KILL {helper}")).await?;
    up.kill().await?;
    bench.wait_for_no_helper().await?;
    assert_eq!(bench.lab.routes().await?, held, "somebody cleaned up");
    Ok(())
}

#[tokio::test]
async fn ctrl_c_sigterm_and_sighup_leave_no_route_and_no_address() -> Result {
    let bench = Bench::start(ALLOW).await?;
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut up = bench.connected().await?;
        up.signal(signal)?;
        up.success(WAIT).await?;
        assert_eq!(bench.lab.routes().await?, bench.before);
        bench.nothing_is_left().await?;
    }
    Ok(())
}

#[tokio::test]
async fn killed_client_leaves_no_route_and_its_address_until_cleanup() -> Result {
    let bench = Bench::start(ALLOW).await?;
    let mut up = bench.connected().await?;
    up.kill().await?;
    bench.wait_for_before().await?;
    let stale = json!(["disconnected", "us", [bench.address]]);
    assert_eq!(bench.service_status().await?, stale);
    let cleaned = run(bench.alice("minitunnel").arg("cleanup")).await?;
    assert!(cleaned.contains(&bench.address), "{cleaned}");
    bench.nothing_is_left().await
}

#[tokio::test]
async fn killed_helper_is_followed_by_another_and_the_orderly_end_leaves_nothing() -> Result {
    let bench = Bench::start(ALLOW).await?;
    let mut up = bench.connected().await?;
    bench.survives_a_killed_helper(&up).await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(bench.lab.routes().await?, bench.before);
    bench.nothing_is_left().await
}

#[tokio::test]
async fn client_killed_after_its_helper_was_leaves_no_route() -> Result {
    let bench = Bench::start(ALLOW).await?;
    let mut up = bench.connected().await?;
    bench.survives_a_killed_helper(&up).await?;
    // The helper that took the lease over knows its owner.
    up.kill().await?;
    bench.wait_for_before().await
}

#[tokio::test]
async fn routes_of_both_killed_go_at_the_next_activation_start_or_cleanup() -> Result {
    let bench = Bench::start(ALLOW).await?;

    kill_both(&bench, bench.connected().await?).await?;
    run(&mut bench.call("bob", PING)).await?;
    bench.wait_for_before().await?;

    // A start adopts the address that is still there.
    kill_both(&bench, bench.connected().await?).await?;
    let mut next = bench.connected().await?;
    next.signal(Signal::INT)?;
    next.success(WAIT).await?;
    bench.nothing_is_left().await?;

    kill_both(&bench, bench.connected().await?).await?;
    let cleaned = run(bench.alice("minitunnel").arg("cleanup")).await?;
    assert!(cleaned.contains(&bench.address), "{cleaned}");
    bench.nothing_is_left().await
}
