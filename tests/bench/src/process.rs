//! What a process costs, read from `/proc` (proc(5)).

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{Result, WAIT};
use rustix::param::clock_ticks_per_second;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{sleep, timeout};

/// A process by its folder in a `/proc`.
#[derive(Debug, Clone)]
pub(crate) struct Proc(pub(crate) PathBuf);

/// What a process has used since its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    cpu: Duration,
    /// Page faults of the children that have ended: none starts without some.
    child_faults: u64,
    children: usize,
}

impl Proc {
    /// The proportional set size in MB (10^6 bytes): what is shared is divided by those who share it.
    pub(crate) fn pss(&self) -> Result<f64> {
        let rollup = self.read("smaps_rollup")?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: f64 = kib.context("no Pss in smaps_rollup")?.trim().parse()?;
        Ok(kib * 1024.0 / 1e6)
    }

    /// The same of it and of all processes that came from it.
    pub(crate) fn tree_pss(&self) -> Result<f64> {
        self.tree()?.iter().map(Self::pss).sum()
    }

    /// It, its children, and theirs.
    pub(crate) fn tree(&self) -> Result<Vec<Self>> {
        let mut all = vec![self.clone()];
        let mut next = 0;
        while let Some(parent) = all.get(next) {
            next += 1;
            let mut children = Vec::new();
            for task in fs::read_dir(parent.0.join("task"))? {
                let list = fs::read_to_string(task?.path().join("children"))?;
                let list = list.split_whitespace();
                children.extend(list.map(|pid| Self(self.0.with_file_name(pid))));
            }
            all.extend(children);
        }
        Ok(all)
    }

    /// Its short name, of at most 15 characters.
    pub(crate) fn name(&self) -> Result<String> {
        Ok(self.read("comm")?.trim_end().to_owned())
    }

    /// When it was started, to the clock's tick (10 ms).
    pub(crate) fn started(&self) -> Result<SystemTime> {
        let stat = self.read("stat")?;
        let (_, fields) = stat.rsplit_once(')').context("an odd stat")?;
        // Field 22, starttime, is the 20th after the name: ticks since boot.
        let ticks = fields.split_whitespace().nth(19).context("a short stat")?;
        let seconds = ticks.parse::<u64>()? as f64 / clock_ticks_per_second() as f64;
        let now = Duration::try_from(clock_gettime(ClockId::Boottime))?;
        let age = now.saturating_sub(Duration::from_secs_f64(seconds));
        Ok(SystemTime::now() - age)
    }

    pub(crate) fn used(&self) -> Result<Used> {
        // Children that nobody waits for are not accounted: sigaction(2), SA_NOCLDWAIT. Bit 16 is SIGCHLD (17).
        let status = self.read("status")?;
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = u64::from_str_radix(ignored.context("no SigIgn in status")?.trim(), 16)?;
        ensure!(ignored & (1 << 16) == 0, "it ignores SIGCHLD");
        let stat = self.read("stat")?;
        let (_, fields) = stat.rsplit_once(')').context("an odd stat")?;
        // Field 11, cminflt, is the 9th after the name.
        let child_faults = fields.split_whitespace().nth(8).context("a short stat")?;
        let mut cpu = 0;
        let mut children = 0;
        for task in fs::read_dir(self.0.join("task"))? {
            let task = task?.path();
            let read = |file| fs::read_to_string(task.join(file));
            let (schedstat, list) = match (read("schedstat"), read("children")) {
                // A thread that has ended since it was listed.
                (Err(error), _) | (_, Err(error)) if error.kind() == ErrorKind::NotFound => {
                    continue;
                }
                (schedstat, list) => (schedstat?, list?),
            };
            // The first number: nanoseconds on a processor.
            let time = schedstat.split_whitespace().next();
            cpu += time.context("an empty schedstat")?.parse::<u64>()?;
            children += list.split_whitespace().count();
        }
        Ok(Used {
            cpu: Duration::from_nanos(cpu),
            child_faults: child_faults.parse()?,
            children,
        })
    }

    /// How often its threads have gone to sleep, and so have been woken.
    pub(crate) fn wakeups(&self) -> Result<u64> {
        let mut all = 0;
        for task in fs::read_dir(self.0.join("task"))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let mut lines = status.lines();
            let of = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            all += of.context("an odd status")?.trim().parse::<u64>()?;
        }
        Ok(all)
    }

    /// What it has used once it does nothing any more.
    pub(crate) async fn at_rest(&self) -> Result<Used> {
        // Longer than a session holds a snapshot back (33 ms).
        const REST: Duration = Duration::from_millis(100);
        let rest = async {
            let mut before = self.used()?;
            loop {
                sleep(REST).await;
                let now = self.used()?;
                if now.cpu == before.cpu {
                    return Ok(now);
                }
                before = now;
            }
        };
        timeout(WAIT, rest).await.context("it does not rest")?
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

impl Used {
    /// The time on a processor since then, of the threads that live, in seconds.
    pub(crate) fn cpu_since(&self, before: &Self) -> f64 {
        self.cpu.saturating_sub(before.cpu).as_secs_f64()
    }

    /// Subprocesses since then: those there now, and at least one where some have ended.
    pub(crate) fn subprocesses_since(&self, before: &Self) -> usize {
        self.children + usize::from(self.child_faults != before.child_faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subprocess_is_counted_while_it_runs_and_after_it_ended() -> Result {
        let this = Proc("/proc/self".into());
        let before = this.used()?;
        assert_eq!(this.used()?.subprocesses_since(&before), 0);
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()?;
        assert_eq!(this.used()?.subprocesses_since(&before), 1);
        drop(child.stdin.take());
        child.wait()?;
        assert_eq!(this.used()?.subprocesses_since(&before), 1);
        Ok(())
    }

    #[test]
    fn work_is_counted_as_time_on_a_processor() -> Result {
        let this = Proc("/proc/self".into());
        let (before, begun) = (this.used()?, std::time::Instant::now());
        // Reading /proc is work enough.
        while this.used()?.cpu_since(&before) < 0.005 {
            ensure!(
                begun.elapsed() < Duration::from_secs(20),
                "none was counted"
            );
        }
        Ok(())
    }
}
