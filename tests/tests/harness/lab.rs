//! Labs and their processes: what the tests of the product rely on is true without the product.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use minitunnel_e2e::{Lab, Process, Result, Signal, WAIT, eventually, run};

#[tokio::test]
async fn lab_has_users_a_network_and_processes_of_its_own() -> Result {
    let machine = fs::read_to_string("/proc/thread-self/net/dev")?;
    let lab = Lab::new()?;
    let alice = lab.user("alice");
    assert_eq!(
        alice
            .sh("id --user --name; id --group --name; echo $HOME")
            .await?,
        { format!("alice\nalice\n{}\n", lab.dir().join("home/alice").display()) }
    );
    alice.sh("touch $HOME/file $XDG_RUNTIME_DIR/file").await?;
    // This thread, and commands, are in the lab's network, which begins with `lo` alone.
    assert_eq!(
        fs::read_to_string("/proc/thread-self/net/dev")?
            .matches(':')
            .count(),
        1
    );
    assert_eq!(
        lab.sh("ls /sys/class/net; cat /proc/1/comm").await?,
        "lo\nbash\n"
    );
    drop(lab);
    assert_eq!(
        interfaces(&fs::read_to_string("/proc/thread-self/net/dev")?),
        interfaces(&machine)
    );
    Ok(())
}

#[tokio::test]
async fn signals_reach_the_program_and_its_end_is_told() -> Result {
    let lab = Lab::new()?;
    let mut program = Process::spawn(
        lab.user("bob")
            .command("sh")
            .args(["-c", "echo up; read -r _"]),
    )
    .await?;
    program.wait_for_line("up", WAIT).await?;
    assert_eq!(
        fs::read_to_string(format!("/proc/{}/comm", program.pid()?))?,
        "sh\n"
    );
    program.signal(Signal::STOP)?;
    program.signal(Signal::CONT)?;
    program.signal(Signal::TERM)?;
    assert_eq!(
        program.exit(WAIT).await?.signal(),
        Some(Signal::TERM.as_raw())
    );
    assert!(
        program.signal(Signal::TERM).is_err(),
        "a program that has ended took a signal"
    );
    Ok(())
}

#[tokio::test]
async fn stopped_programs_keep_neither_their_process_nor_the_lab_from_ending() -> Result {
    let stopped = async |lab: &Lab| -> Result<(Process, String)> {
        let program = Process::spawn(lab.command("sleep").arg("infinity")).await?;
        let comm = format!("/proc/{}/comm", program.pid()?);
        program.signal(Signal::STOP)?;
        Ok((program, comm))
    };
    let lab = Lab::new()?;
    let (mut killed, _) = stopped(&lab).await?;
    killed.kill().await?;
    let (dropped, dropped_comm) = stopped(&lab).await?;
    drop(dropped);
    let (left, left_comm) = stopped(&lab).await?;
    drop(lab);
    for comm in [dropped_comm, left_comm] {
        assert!(!fs::exists(&comm)?, "{comm} is there after its lab");
    }
    drop(left);
    Ok(())
}

#[tokio::test]
async fn every_place_has_a_runtime_folder_of_its_own() -> Result {
    let lab = Lab::new()?;
    let script = "stat --format '%a %u' $XDG_RUNTIME_DIR; touch $XDG_RUNTIME_DIR/mine; echo $XDG_RUNTIME_DIR";
    let places = [
        (lab.sh(script).await?, 0),
        (lab.user("alice").sh(script).await?, 4001),
    ];
    for (said, uid) in places {
        assert_eq!(said, format!("700 {uid}\n/run/user/{uid}\n"));
        let outside = format!("/run/user/{uid}/mine");
        assert!(lab.outside_path(&outside).exists());
        assert!(!fs::exists(&outside)?, "{outside} is the machine's");
    }
    // sudo(8) takes the caller's away.
    let mut sudo = lab.sudo("alice", "sh");
    assert_eq!(
        run(sudo.args(["-c", "echo ${XDG_RUNTIME_DIR-none}"])).await?,
        "none\n"
    );
    Ok(())
}

#[tokio::test]
async fn wait_for_a_line_that_never_comes_shows_the_others() -> Result {
    let lab = Lab::new()?;
    let program = Process::spawn(
        lab.command("sh")
            .args(["-c", "echo one; echo two >&2; echo three"]),
    )
    .await?;
    assert_eq!(program.wait_for_line("one", WAIT).await?, "one");
    let error = program
        .wait_for_line("one", WAIT)
        .await
        .expect_err("a line was found twice")
        .to_string();
    assert!(
        error.contains("ended without `one`") && error.contains("two"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn orphans_are_adopted_and_end_with_the_lab() -> Result {
    let lab = Lab::new()?;
    // An orphan that has ended must not stay as a zombie: liveness checks of the product would see it.
    let orphan = lab.sh("sh -c 'true & echo $!'").await?;
    eventually(WAIT, "the orphan to be reaped", async || {
        run(lab
            .command("test")
            .args(["!", "-e", &format!("/proc/{}", orphan.trim())]))
        .await
        .map(drop)
    })
    .await?;
    let survivor = Process::spawn(lab.command("sleep").arg("infinity")).await?;
    let proc = format!("/proc/{}/comm", survivor.pid()?);
    assert!(fs::exists(&proc)?);
    drop(lab);
    assert!(
        fs::read_to_string(&proc).map_or(true, |comm| comm != "sleep\n"),
        "a process outlived its lab"
    );
    Ok(())
}

/// The names in /proc/net/dev, without the counters.
fn interfaces(dev: &str) -> Vec<&str> {
    dev.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim())
        .collect()
}
