//! A helper that nobody needs ends by itself, and whoever comes at that moment is served.

use std::time::Duration;

use minitunnel_e2e::{ALLOW, Process, Result, Signal, WAIT, run};

use super::{Bench, PING};

/// The helper stays for some seconds without anybody to stay for; the rest is for a loaded machine.
const IDLE_END: Duration = Duration::from_secs(30);

#[tokio::test]
async fn client_that_comes_while_an_idle_helper_ends_is_served_by_another() -> Result {
    let bench = Bench::start(ALLOW).await?;
    run(&mut bench.call("alice", PING)).await?;
    let idle = bench.helper().await?;
    // The next that an idle helper says is that it gives its name away. There it is held, before it ends.
    let mut strace = bench.lab.command("strace");
    strace.args([
        "-f",
        "-e",
        "trace=sendmsg",
        "-e",
        "inject=sendmsg:signal=STOP:when=1",
        "-p",
    ]);
    let strace = Process::spawn(strace.arg(idle.to_string())).await?;
    strace.wait_for_line("attached", WAIT).await?;
    strace.wait_for_line("stopped by SIGSTOP", IDLE_END).await?;
    assert_eq!(bench.bus.owner(super::HELPER).await?, None);

    // It is called for while the ending one still has the lock: the next one waits, and the bus shows what it says.
    let mut up = bench.up(None, &["minikube"]).await?;
    let waits =
        format!("another minitunnel helper (process {idle}) is at work: waiting for its end");
    bench.bus.daemon().wait_for_count(&waits, 1, WAIT).await?;
    bench.lab.sh(&format!("kill -CONT {idle}")).await?;
    up.wait_for_line("minikube: connected", WAIT).await?;
    assert_ne!(bench.helper().await?, idle);
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    bench.nothing_is_left().await
}
