//! The lab's bus and polkit: what the tests of the product rely on is true without the product.

use std::fs;

use minitunnel_e2e::{Agent, Lab, Process, Result, SystemBus, WAIT};

/// The exit codes of pkcheck(1).
const AUTHORIZED: Option<i32> = Some(0);
const NOT_AUTHORIZED: Option<i32> = Some(1);
const NOBODY_TO_ASK: Option<i32> = Some(2);
const DISMISSED: Option<i32> = Some(3);

const POLICY: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<policyconfig>
  <action id="io.github.minitunnel.lab">
    <message>Prove the lab</message>
    <defaults><allow_any>auth_admin</allow_any></defaults>
  </action>
</policyconfig>
"#;

/// A bus with one action, which asks an administrator.
async fn start_bus(lab: &Lab, rules: &str) -> Result<SystemBus> {
    let files = lab.dir().join("files");
    fs::create_dir(&files)?;
    fs::write(files.join("lab.policy"), POLICY)?;
    fs::write(files.join("lab.conf"), "<busconfig></busconfig>\n")?;
    fs::write(
        files.join("lab.service"),
        "[D-BUS Service]\nName=lab.Helper\nUser=root\nExec=/x/minitunnel-helper\n",
    )?;
    SystemBus::start_with(lab, rules, &files).await
}

/// Asks polkit for the action, as alice.
async fn check(lab: &Lab, agent: Option<&mut Agent>) -> Result<Process> {
    let script =
        "exec pkcheck --action-id io.github.minitunnel.lab --process $$ --allow-user-interaction";
    let mut command = lab.user("alice").command("sh");
    command.args(["-c", script]);
    match agent {
        Some(agent) => agent.spawn(&mut command).await,
        None => Process::spawn(&mut command).await,
    }
}

#[tokio::test]
async fn agent_approves_denies_dismisses_and_holds() -> Result {
    let lab = Lab::new()?;
    let bus = start_bus(&lab, "").await?;
    let mut agent = bus.agent("approve").await?;
    assert_eq!(
        check(&lab, Some(&mut agent))
            .await?
            .exit(WAIT)
            .await?
            .code(),
        AUTHORIZED
    );
    assert_eq!(
        agent.asked().await?,
        "asked io.github.minitunnel.lab: Prove the lab"
    );

    agent.answer("deny").await?;
    assert_eq!(
        check(&lab, Some(&mut agent))
            .await?
            .exit(WAIT)
            .await?
            .code(),
        NOT_AUTHORIZED
    );
    agent.answer("dismiss").await?;
    assert_eq!(
        check(&lab, Some(&mut agent))
            .await?
            .exit(WAIT)
            .await?
            .code(),
        DISMISSED
    );
    assert_eq!(agent.times_asked(), 3);

    agent.answer("hold").await?;
    agent.asked().await?;
    agent.asked().await?;
    let mut held = check(&lab, Some(&mut agent)).await?;
    agent.asked().await?;
    assert!(held.pid().is_ok(), "a held question has been answered");
    agent.answer("approve").await?;
    assert_eq!(held.exit(WAIT).await?.code(), AUTHORIZED);
    Ok(())
}

#[tokio::test]
async fn question_of_a_killed_client_is_taken_back() -> Result {
    let lab = Lab::new()?;
    let bus = start_bus(&lab, "").await?;
    let mut agent = bus.agent("hold").await?;
    let mut client = check(&lab, Some(&mut agent)).await?;
    agent.asked().await?;
    client.kill().await?;
    agent.cancelled().await?;
    Ok(())
}

#[tokio::test]
async fn rules_of_the_test_decide_where_they_speak() -> Result {
    let lab = Lab::new()?;
    let rule = "polkit.addRule(function(action, subject) {
        if (subject.user == 'alice') return polkit.Result.YES;
    });";
    let _bus = start_bus(&lab, rule).await?;
    assert_eq!(
        check(&lab, None).await?.exit(WAIT).await?.code(),
        AUTHORIZED
    );
    Ok(())
}

#[tokio::test]
async fn without_an_agent_there_is_nobody_to_ask() -> Result {
    let lab = Lab::new()?;
    let bus = start_bus(&lab, "").await?;
    assert_eq!(
        check(&lab, None).await?.exit(WAIT).await?.code(),
        NOBODY_TO_ASK
    );
    assert_eq!(bus.owner("lab.Helper").await?, None);
    assert_eq!(
        bus.owner("org.freedesktop.PolicyKit1").await?,
        Some(bus.polkit().lab_pid()?)
    );
    Ok(())
}

#[tokio::test]
async fn bus_activates_the_built_helper_as_root_from_the_installed_files() -> Result {
    let lab = Lab::new()?;
    let bus = SystemBus::start(&lab, "").await?;
    assert_eq!(bus.owner("io.github.minitunnel.Helper").await?, None);
    let call = "dbus-send --system --print-reply=literal --dest=io.github.minitunnel.Helper \
        /io/github/minitunnel/Helper org.freedesktop.DBus.Properties.Get \
        string:io.github.minitunnel.Helper1 string:RouteProtocol";
    let answer = lab
        .user("alice")
        .sh(call)
        .await
        .map_err(|error| error.context(bus.daemon().report("said")))?;
    assert!(answer.contains("109"), "{answer}");
    let helper = bus
        .owner("io.github.minitunnel.Helper")
        .await?
        .expect("the helper has its name");
    let (program, owner) = (
        format!("readlink /proc/{helper}/exe"),
        format!("stat --format %u /proc/{helper}"),
    );
    assert!(lab.sh(&program).await?.ends_with("/minitunnel-helper\n"));
    assert_eq!(lab.sh(&owner).await?, "0\n");
    Ok(())
}
