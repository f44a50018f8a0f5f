//! The helper of `sudo minitunnel up`, whose one client is the other end of a socket: whatever it was killed at, recovery
//! leaves the tables as they were before.

use anyhow::{bail, ensure};
use minitunnel_e2e::{Caller, Ground, PeerHelper, Result, Trap};

use crate::{FIRST, PROFILE, SECOND, Tally, Twins, WRITE, foreign, holds, lines};

/// What a client does while its helper is about to be killed.
#[derive(Debug, Clone, Copy)]
enum Deed {
    First,
    Change,
    Confirm,
    Release,
    Death,
    Cleanup,
}

impl Deed {
    /// The least changes of files and requests by netlink: a change is written down before and after it is made.
    fn least(self) -> (usize, usize) {
        match self {
            Self::First => (2 * WRITE, FIRST.len()),
            // Two are moved, which takes a delete and an add; one goes, two come.
            Self::Change => (2 * WRITE, 7),
            Self::Confirm => (WRITE, 0),
            Self::Release => (2 * WRITE, FIRST.len()),
            // An owner that is dead is not written down before.
            Self::Death => (WRITE, FIRST.len()),
            // What nobody holds is in no journal.
            Self::Cleanup => (0, FIRST.len()),
        }
    }

    /// What there is before anything is counted; gives the generation.
    async fn prepare(self, ground: &Ground, caller: &Caller) -> Result<u64> {
        let guard = matches!(self, Self::Confirm).then_some(3_600);
        match self {
            Self::First => Ok(0),
            Self::Cleanup => {
                // Ours by their tag, and in no journal. The call makes the helper read its own first.
                caller.list().await?;
                ground.ip(&lines([&FIRST], "add", "proto 109"))?;
                Ok(0)
            }
            _ => Ok(caller.apply(PROFILE, FIRST, guard).await?),
        }
    }

    /// Does it; a helper that is killed has no answer.
    async fn act(self, caller: Caller, generation: u64, trap: &Trap) -> Result<Option<Caller>> {
        let answer = match self {
            Self::First => caller.apply(PROFILE, FIRST, None).await.map(drop),
            Self::Change => caller.apply(PROFILE, SECOND, None).await.map(drop),
            Self::Confirm => caller.confirm(PROFILE, generation).await,
            Self::Release => caller.release(PROFILE).await,
            Self::Cleanup => caller.cleanup().await.map(drop),
            Self::Death => {
                caller.end().await?;
                trap.wait().await?;
                return Ok(None);
            }
        };
        match answer {
            Err(refusal) if trap.struck().is_none() => Err(refusal.into()),
            _ => Ok(Some(caller)),
        }
    }
}

async fn every_point(what: &'static str, deed: Deed) -> Result {
    let mut ground = Ground::new().await?;
    Twins::aside(&ground)?;
    ground.before = ground.table()?;
    let mut tally = Tally::new(what);
    for nth in 0.. {
        let (helper, caller) = ground.served().await?;
        let generation = deed.prepare(&ground, &caller).await?;
        let trap = Trap::attach(helper.pid())?;
        trap.at_rest().await?;
        trap.arm(nth);
        let caller = deed.act(caller, generation, &trap).await?;
        // Its caller lives for as long: what follows the answer belongs to it.
        trap.at_rest().await?;
        drop(caller);
        let struck = trap.end()?;
        let when = match struck {
            Some(point) => format!("{what}, killed at point {nth}, {point}"),
            None => format!("{what}, killed in the end"),
        };
        nothing_remains(&ground, helper, deed, &when).await?;
        let Some(point) = struck else { break };
        tally.add(point);
    }
    assert_only_usual_files(&ground)?;
    let (files, netlink) = deed.least();
    tally.tell(files, netlink)
}

/// What the killed helper left goes, and nothing else.
async fn nothing_remains(ground: &Ground, killed: PeerHelper, deed: Deed, when: &str) -> Result {
    assert_eq!(killed.last_words()?, "", "{when}");
    let left = ground.table()?;
    assert_eq!(
        foreign(&left),
        ground.before.iter().collect::<Vec<_>>(),
        "{when}"
    );
    let twins = Twins::beside(ground, &left)?;
    assert_eq!(ground.recover()?, "", "{when}");
    if matches!(deed, Deed::Cleanup) {
        // What no journal knows is removed when somebody asks for it.
        let (helper, caller) = ground.served().await?;
        caller.cleanup().await?;
        caller.end().await?;
        assert_eq!(helper.end()?, (String::new(), true), "{when}");
    }
    twins.untouched(ground, &ground.before, when)
}

/// No temporary file is left, however many helpers were killed.
fn assert_only_usual_files(ground: &Ground) -> Result {
    let usual = Ground::state_files(ground)?;
    assert!(usual.len() <= 3, "{usual:?}");
    Ok(())
}

#[tokio::test]
async fn first_apply_is_undone_wherever_its_helper_is_killed() -> Result {
    every_point("a first apply", Deed::First).await
}

#[tokio::test]
async fn change_is_undone_wherever_its_helper_is_killed() -> Result {
    every_point("a change of both families", Deed::Change).await
}

#[tokio::test]
async fn confirmed_set_is_undone_wherever_its_helper_is_killed() -> Result {
    every_point("a confirmation", Deed::Confirm).await
}

#[tokio::test]
async fn release_is_completed_wherever_its_helper_is_killed() -> Result {
    every_point("a release", Deed::Release).await
}

#[tokio::test]
async fn dead_owners_routes_go_wherever_the_helper_is_killed() -> Result {
    every_point("an owner's death", Deed::Death).await
}

#[tokio::test]
async fn cleanup_is_completed_wherever_its_helper_is_killed() -> Result {
    every_point("a clean-up", Deed::Cleanup).await
}

/// What a recovery finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// A set, and a journal that knows it.
    Set,
    /// A part of two sets, and a journal that knows both.
    HalfAChange,
    /// A set, and a journal that says nothing.
    Unreadable,
}

/// Kills a helper in the middle of a change, where the table holds neither set: at that point, or one of the next ones; gives
/// which.
async fn half_a_change(ground: &Ground, from: usize) -> Result<usize> {
    for nth in from.. {
        let (helper, caller) = ground.served().await?;
        caller.apply(PROFILE, FIRST, None).await?;
        let trap = Trap::attach(helper.pid())?;
        trap.at_rest().await?;
        trap.arm(nth);
        let answer = caller.apply(PROFILE, SECOND, None).await;
        ensure!(answer.is_err(), "a change has no middle to be killed in");
        drop(caller);
        trap.end()?;
        helper.last_words()?;
        let table = ground.table()?;
        if !holds(&table, FIRST) && !holds(&table, SECOND) {
            return Ok(nth);
        }
        ground.recover()?;
    }
    bail!("there is no such point")
}

/// Recovery that is itself killed, at every point, and then runs again.
async fn every_point_of_recovery(what: &'static str, left: Left) -> Result {
    let mut ground = Ground::new().await?;
    Twins::aside(&ground)?;
    ground.before = ground.table()?;
    let mut tally = Tally::new(what);
    let mut middle = 0;
    for nth in 0.. {
        if left == Left::HalfAChange {
            middle = half_a_change(&ground, middle).await?;
        } else {
            let (helper, caller) = ground.served().await?;
            caller.apply(PROFILE, SECOND, None).await?;
            Trap::attach(helper.pid())?.end()?;
            assert!(holds(&ground.table()?, SECOND));
        }
        if left == Left::Unreadable {
            std::fs::write(ground.state.join("journal.json"), "{")?;
        }

        let (recovery, go) = ground.held(&["recover"])?;
        let trap = Trap::attach(recovery.pid())?;
        trap.arm(nth);
        drop(go);
        trap.wait().await?;
        let struck = trap.end()?;
        let when = format!("{what}, killed at point {nth}, {struck:?}");
        if left != Left::Unreadable {
            nothing_remains(&ground, recovery, Deed::First, &when).await?;
        } else {
            // What it says depends on how far it came.
            recovery.last_words()?;
            ground.recover()?;
            assert_eq!(ground.table()?, ground.before, "{when}");
        }
        let Some(point) = struck else { break };
        tally.add(point);
    }
    assert_only_usual_files(&ground)?;
    // Of half a change, at least what both sets have is there.
    let least = if left == Left::HalfAChange {
        1
    } else {
        SECOND.len()
    };
    tally.tell(WRITE, least)
}

#[tokio::test]
async fn recovery_is_completed_wherever_it_is_killed() -> Result {
    every_point_of_recovery("a recovery", Left::Set).await
}

#[tokio::test]
async fn recovery_of_half_a_change_is_completed_wherever_it_is_killed() -> Result {
    every_point_of_recovery("a recovery of half a change", Left::HalfAChange).await
}

#[tokio::test]
async fn recovery_without_a_readable_journal_is_completed_wherever_it_is_killed() -> Result {
    every_point_of_recovery("a recovery without a readable journal", Left::Unreadable).await
}
