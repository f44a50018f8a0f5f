//! What one client holds, nobody else takes.

use minitunnel_e2e::{ALLOW, ClusterOptions, MinikubeHome, Process, Result, Signal, WAIT};

use super::{Bench, has_route};

/// The documented exit code of a conflict.
const CONFLICT: Option<i32> = Some(4);
const ERROR: &str = "io.github.minitunnel.Helper1.Error";
const METHOD: &str = "io.github.minitunnel.Helper1";

#[tokio::test]
async fn routes_of_another_user_are_refused_explained_and_not_released() -> Result {
    let mut bench = Bench::start(ALLOW).await?;
    let bobs = bench.add_for_nobody(ClusterOptions::second("bobs")).await?;
    let mut up = bench.connected().await?;
    let held = bench.lab.routes().await?;

    // What is not his lease is none to release, and none to confirm.
    let mut release = bench.call("bob", &format!("{METHOD}.Release string:minikube"));
    Process::spawn(&mut release).await?.success(WAIT).await?;
    let confirm = format!("{METHOD}.Confirm string:minikube uint64:1");
    let refused = bench.refusal("bob", &confirm).await?;
    assert!(refused.contains(&format!("{ERROR}.LeaseHeld")), "{refused}");
    assert_eq!(bench.lab.routes().await?, held);

    MinikubeHome::create(&bench.lab, "bob")?.add(&bobs)?;
    let mut command = bench.lab.user("bob").command("minitunnel");
    let mut bob = Process::spawn(command.args(["up", "-p", "bobs"])).await?;
    let status = bob.exit(WAIT).await?;
    assert_eq!(status.code(), CONFLICT, "{}", bob.report("ended"));
    let sentence = "bobs: blocked: another user's minitunnel already has 10.96.0.0/12 via 192.168.49.2, \
                    which overlaps 10.96.0.0/12 via 192.168.58.2";
    assert_eq!(bob.count(sentence), 1, "{}", bob.report("ended"));
    assert_eq!(bench.lab.routes().await?, held);

    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    bench.nothing_is_left().await
}

#[tokio::test]
async fn second_session_of_a_user_is_told_who_holds_the_profile_and_takes_over() -> Result {
    let bench = Bench::start(ALLOW).await?;
    let mut up = bench.connected().await?;
    let held = bench.lab.routes().await?;

    // Another runtime folder and another minikube home: neither the session nor minikube's lock tells of the first.
    let other = bench.lab.user("alice").home().join("other");
    bench.home.folder(&other)?;
    bench.home.folder(&other.join("run"))?;
    let copy = format!(
        "cp -r .minikube .kube {0} && chmod 700 {0}/run",
        other.display()
    );
    bench.lab.user("alice").sh(&format!("cd && {copy}")).await?;
    let mut command = bench.alice("minitunnel");
    command
        .args(["up", "-p", "minikube"])
        .env("HOME", &other)
        .env("XDG_RUNTIME_DIR", other.join("run"));
    let mut second = Process::spawn(&mut command).await?;
    let sentence = format!(
        "process {} holds the tunnel of minikube: end it there first",
        up.lab_pid()?
    );
    let line = second.wait_for_line(&sentence, WAIT).await?;
    assert!(line.starts_with("minikube: failed: "), "{line}");
    assert_eq!(bench.lab.routes().await?, held);

    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    second.wait_for_line("minikube: connected", WAIT).await?;
    assert!(has_route(&bench.lab.routes().await?));
    second.signal(Signal::INT)?;
    second.success(WAIT).await?;
    bench.nothing_is_left().await
}
