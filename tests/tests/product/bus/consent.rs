//! polkit's answers, and what becomes of a dialog.

use std::fs;

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{
    Agent, Cluster, ClusterOptions, Process, Result, Signal, WAIT, eventually, run,
};

use super::{Bench, NOT_AUTHORIZED, has_route};

const DENY: &str = "polkit.addRule(function(action, subject) {
    if (action.id == 'io.github.minitunnel.apply') return polkit.Result.NO;
});";

/// IPv4's part of a dump.
fn ipv4(routes: &[String]) -> Vec<&String> {
    let of = |route: &&String| route.starts_with("-4 ");
    routes.iter().filter(of).collect()
}

/// An `up` whose dialog is open, and nothing applied.
async fn asking(bench: &Bench) -> Result<(Agent, Process)> {
    let mut agent = bench.bus.agent("hold").await?;
    let up = bench.up(Some(&mut agent), &["minikube"]).await?;
    agent.asked().await?;
    assert_eq!(bench.lab.routes().await?, bench.before);
    Ok((agent, up))
}

/// The helper that had the dialog lives, has applied nothing and goes on serving: a tunnel comes up, is approved of by
/// one dialog, and ends.
async fn still_serves(bench: &Bench, agent: &mut Agent, helper: u32) -> Result {
    assert_eq!(bench.helper().await?, helper, "another helper serves");
    agent.answer("approve").await?;
    assert_eq!(bench.lab.routes().await?, bench.before);
    let asked = agent.times_asked();
    let mut up = bench.up(Some(agent), &["minikube"]).await?;
    up.wait_for_line("minikube: connected", WAIT).await?;
    assert_eq!(agent.times_asked(), asked + 1);
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    bench.nothing_is_left().await
}

#[tokio::test]
async fn denied_tunnel_says_so_and_changes_nothing() -> Result {
    let bench = Bench::start(DENY).await?;
    let mut up = bench.up(None, &["minikube"]).await?;
    let status = up.exit(WAIT).await?;
    assert_eq!(status.code(), NOT_AUTHORIZED, "{}", up.report("denied"));
    assert_eq!(up.count("policy"), 1, "{}", up.report("denied"));
    assert_eq!(bench.lab.routes().await?, bench.before);
    Ok(())
}

/// What PAM asks of the administrator: nothing, for a password would be typed into a terminal that says when it reads it
/// to nobody.
const NO_PASSWORD: &str = "auth required pam_permit.so\naccount required pam_permit.so\n";

#[tokio::test]
async fn challenged_caller_with_nobody_to_ask_is_told_how_to_be_asked_in_the_terminal() -> Result {
    let bench = Bench::start("").await?;
    let mut up = bench.up(None, &["minikube"]).await?;
    let status = up.exit(WAIT).await?;
    assert_eq!(status.code(), NOT_AUTHORIZED, "{}", up.report("challenged"));
    assert_eq!(up.count("sudo"), 1, "{}", up.report("challenged"));
    assert_eq!(bench.lab.routes().await?, bench.before);

    let said = up.lines().join("\n");
    let advice = said.split('`').find(|part| part.contains("pkttyagent"));
    let advice = advice.context("no command with pkttyagent is advised")?;
    let pam = bench.lab.dir().join("polkit-1");
    fs::write(&pam, NO_PASSWORD)?;
    // Where the distribution has it: Debian 12, and most others.
    let mount = format!(
        "file=$(ls /usr/lib/pam.d/polkit-1 /etc/pam.d/polkit-1 2>/dev/null) || true; mount --bind {} $file",
        pam.display()
    );
    bench.lab.sh(&mount).await?;
    // In a terminal whose shell hears Ctrl-C, too, and outlives the tunnel: until the second line, after Ctrl-C's own.
    let shell = format!("trap : INT; {advice} && echo back in the shell && read -r _ && read -r _");
    let mut terminal = bench.alice("script");
    terminal.args(["--quiet", "--return", "--command", &shell, "/dev/null"]);
    let mut up = Process::spawn(&mut terminal).await?;
    up.wait_for_count("AUTHENTICATING FOR io.github.minitunnel.apply", 1, WAIT)
        .await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    assert!(
        has_route(&bench.lab.routes().await?),
        "{}",
        up.report("has")
    );
    // Ctrl-C.
    up.write_line("\u{3}").await?;
    up.wait_for_count("back in the shell", 1, WAIT).await?;
    bench.nothing_is_left().await?;
    eventually(WAIT, "the agent's end", async || {
        let agents = bench.lab.sh("pgrep -a pkttyagent || true").await?;
        ensure!(agents.is_empty(), "{agents}");
        Ok(())
    })
    .await?;
    up.write_line("").await?;
    up.success(WAIT).await
}

/// A second cluster, whose routes overlap nothing of the first one's services.
async fn add_other(bench: &mut Bench) -> Result<Cluster> {
    let options = ClusterOptions {
        service_cidrs: vec!["10.112.0.0/12".to_owned()],
        ..ClusterOptions::second("other")
    };
    bench.add(options).await
}

#[tokio::test]
async fn one_dialog_serves_two_clusters_and_one_that_returns() -> Result {
    let mut bench = Bench::start("").await?;
    let _other = add_other(&mut bench).await?;
    let mut agent = bench.bus.agent("approve").await?;
    let mut up = bench.up(Some(&mut agent), &["minikube", "other"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    up.wait_for_count("other: connected", 1, WAIT).await?;
    let one = |agent: &Agent, when: &str| {
        assert_eq!(agent.times_asked(), 1, "{}", agent.process().report(when));
    };
    one(&agent, "both up");

    bench.cluster.stop().await?;
    eventually(WAIT, "the route of the stopped cluster to go", async || {
        ensure!(!has_route(&bench.lab.routes().await?));
        Ok(())
    })
    .await?;
    bench.cluster.start_again(None).await?;
    up.wait_for_count("minikube: connected", 2, WAIT).await?;
    assert!(has_route(&bench.lab.routes().await?));
    one(&agent, "one returned");
    bench.survives_a_killed_helper(&up).await?;
    one(&agent, "the helper was killed");
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    one(&agent, "ended");
    // The new link of the node has another IPv6 address of its own; the tunnels are IPv4.
    assert_eq!(ipv4(&bench.lab.routes().await?), ipv4(&bench.before));
    Ok(())
}

#[tokio::test]
async fn closed_dialog_ends_up_and_is_not_opened_again() -> Result {
    let bench = Bench::start("").await?;
    let mut agent = bench.bus.agent("dismiss").await?;
    let mut up = bench.up(Some(&mut agent), &["minikube"]).await?;
    let status = up.exit(WAIT).await?;
    assert_eq!(status.code(), NOT_AUTHORIZED, "{}", up.report("dismissed"));
    assert_eq!(
        up.count("dialog that asks for your consent was closed"),
        1,
        "{}",
        up.report("dismissed")
    );
    assert_eq!(agent.times_asked(), 1);
    assert_eq!(bench.lab.routes().await?, bench.before);
    let helper = bench.helper().await?;
    still_serves(&bench, &mut agent, helper).await
}

#[tokio::test]
async fn dialog_of_a_killed_client_goes_and_nothing_is_applied() -> Result {
    let bench = Bench::start("").await?;
    let (mut agent, mut up) = asking(&bench).await?;
    let helper = bench.helper().await?;
    up.kill().await?;
    agent.cancelled().await?;
    still_serves(&bench, &mut agent, helper).await
}

#[tokio::test]
async fn ctrl_c_during_the_dialog_withdraws_it_and_ends_cleanly() -> Result {
    let bench = Bench::start("").await?;
    let (mut agent, mut up) = asking(&bench).await?;
    let helper = bench.helper().await?;
    up.signal(Signal::INT)?;
    agent.cancelled().await?;
    up.success(WAIT).await?;
    assert_eq!(up.count("failed"), 0, "{}", up.report("ended"));
    still_serves(&bench, &mut agent, helper).await
}

#[tokio::test]
async fn down_during_the_dialog_withdraws_it_and_ends_up_cleanly() -> Result {
    let bench = Bench::start("").await?;
    let (mut agent, mut up) = asking(&bench).await?;
    let helper = bench.helper().await?;
    run(bench.alice("minitunnel").arg("down")).await?;
    agent.cancelled().await?;
    up.success(WAIT).await?;
    still_serves(&bench, &mut agent, helper).await
}

#[tokio::test]
async fn down_of_the_profile_that_asks_closes_its_dialog_and_the_other_one_asks_anew() -> Result {
    let mut bench = Bench::start("").await?;
    let other = add_other(&mut bench).await?;
    let mut agent = bench.bus.agent("hold").await?;
    other.pause_api_server()?;
    let mut up = bench.up(Some(&mut agent), &["minikube", "other"]).await?;
    agent.asked().await?;
    other.resume_api_server()?;
    up.wait_for_count("other: answer the dialog", 1, WAIT)
        .await?;
    // The client lives on, so that polkit has no reason of its own to close the dialog.
    run(bench.alice("minitunnel").args(["down", "-p", "minikube"])).await?;
    agent.cancelled().await?;
    agent.asked().await?;
    assert_eq!(bench.lab.routes().await?, bench.before);
    agent.answer("approve").await?;
    up.wait_for_count("other: connected", 1, WAIT).await?;
    assert!(
        !has_route(&bench.lab.routes().await?),
        "{}",
        up.report("has")
    );
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(bench.lab.routes().await?, bench.before);
    Ok(())
}
