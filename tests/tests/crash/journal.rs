//! What a helper finds in its state folder after a crash, a full disk, or somebody's hands in it: it believes no file that
//! is not plainly its own, and never works without a journal.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{Ground, Process, Result, WAIT};

use crate::bus::Bench;
use crate::{FIRST, PROFILE, SECOND, Set, holds};

/// A file of somebody else's, that a link leads to.
const PRECIOUS: &str = "precious";

/// Does something to the file at a path.
type Damage = fn(&Path) -> Result;

/// The journal: the one file that knows the profile. What it is called is the helper's business.
fn journal(state: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(state)? {
        let path = entry?.path();
        if fs::read_to_string(&path).is_ok_and(|text| text.contains(PROFILE)) {
            return Ok(path);
        }
    }
    anyhow::bail!("no file in {} knows the profile", state.display())
}

/// Alice has routes, the helper is killed, and somebody damages its journal: the next one removes what it can't know the
/// owner of, though she lives, and serves her and its folder is in order again.
async fn is_not_believed(damages: &[(&str, Damage)]) -> Result {
    let bench = Bench::new().await?;
    for (what, damage) in damages {
        let alice = bench.caller("alice").await?;
        alice
            .apply(PROFILE, FIRST, None)
            .await
            .with_context(|| format!("before {what}"))?;
        bench.trap().await?.end()?;
        assert!(holds(&bench.ground.table()?, FIRST), "somebody cleaned up");
        damage(&journal(&bench.ground.state)?).with_context(|| (*what).to_owned())?;

        // It starts the next one.
        let leases = alice.list().await.with_context(|| (*what).to_owned())?;
        assert_eq!(leases, [], "{what} was believed");
        assert_eq!(bench.ground.table()?, bench.ground.before, "{what}");
        alice
            .apply(PROFILE, SECOND, None)
            .await
            .with_context(|| format!("after {what}"))?;
        bench.settles(&[SECOND], what).await?;
        // The next one believes what that one wrote.
        bench.trap().await?.end()?;
        assert_eq!(alice.list().await?.len(), 1, "{what} is there still");
        alice.end().await?;
        bench.settles(&[&[]], what).await?;
        assert_eq!(
            fs::read_to_string(bench.ground.lab.dir().join(PRECIOUS)).unwrap_or_default(),
            "",
            "{what}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn unreadable_journal_is_put_aside_and_its_routes_are_removed() -> Result {
    is_not_believed(&[
        ("an empty journal", |journal| Ok(fs::write(journal, "")?)),
        ("a truncated journal", |journal| {
            let text = fs::read(journal)?;
            Ok(fs::write(journal, &text[..text.len() / 2])?)
        }),
        ("a corrupt journal", |journal| {
            let mut text = fs::read(journal)?;
            text.iter_mut().step_by(7).for_each(|byte| *byte ^= 0x55);
            Ok(fs::write(journal, text)?)
        }),
        ("a journal of another version", |journal| {
            let text = fs::read_to_string(journal)?;
            let other = text.replacen("\"version\":", "\"version\":9", 1);
            ensure!(other != text, "the journal has no version: {text}");
            Ok(fs::write(journal, other)?)
        }),
        ("a journal of 1 GB", |journal| {
            let file = fs::OpenOptions::new().write(true).open(journal)?;
            Ok(file.set_len(1 << 30)?)
        }),
        ("a journal nested 100,000 deep", |journal| {
            Ok(fs::write(journal, "[".repeat(100_000))?)
        }),
    ])
    .await
}

#[tokio::test]
async fn journal_that_is_no_file_is_put_aside_and_its_routes_are_removed() -> Result {
    fn replaced(journal: &Path) -> Result<Vec<u8>> {
        let text = fs::read(journal)?;
        fs::remove_file(journal)?;
        Ok(text)
    }
    is_not_believed(&[
        // First, as what cannot be put aside in the place of a file stays.
        ("a folder", |journal| {
            replaced(journal)?;
            fs::create_dir(journal)?;
            Ok(fs::write(journal.join("inside"), "")?)
        }),
        ("a FIFO", |journal| {
            replaced(journal)?;
            let made = std::process::Command::new("mkfifo").arg(journal).status()?;
            ensure!(made.success(), "mkfifo failed");
            Ok(())
        }),
        ("a link to nowhere", |journal| {
            replaced(journal)?;
            Ok(symlink("nowhere", journal)?)
        }),
        ("a link to endless zeros", |journal| {
            replaced(journal)?;
            Ok(symlink("/dev/zero", journal)?)
        }),
    ])
    .await
}

#[tokio::test]
async fn journal_that_somebody_else_can_write_is_not_believed() -> Result {
    is_not_believed(&[
        ("a journal of Alice's", |journal| {
            Ok(chown(journal, Some(4001), Some(4001))?)
        }),
        ("a journal that all can write", |journal| {
            Ok(fs::set_permissions(
                journal,
                fs::Permissions::from_mode(0o666),
            )?)
        }),
        ("a link to a journal elsewhere", |journal| {
            let elsewhere = journal.with_file_name("elsewhere");
            fs::rename(journal, &elsewhere)?;
            Ok(symlink("elsewhere", journal)?)
        }),
    ])
    .await
}

/// Nothing that a link leads to is written, and a helper that can't have its folder in order ends and says why.
#[tokio::test]
async fn link_in_the_place_of_the_helpers_files_is_not_followed() -> Result {
    let ground = Ground::new().await?;
    let precious = ground.lab.dir().join(PRECIOUS);
    // Every file that a helper makes, and those that exist for a moment only.
    let (helper, caller) = ground.served().await?;
    caller.apply(PROFILE, FIRST, None).await?;
    caller.end().await?;
    helper.end()?;
    let mut names = ground.state_files()?;
    names.extend(names.clone().iter().map(|name| format!("{name}.new")));
    for name in names {
        fs::remove_dir_all(&ground.state)?;
        fs::create_dir(&ground.state)?;
        fs::set_permissions(&ground.state, fs::Permissions::from_mode(0o700))?;
        fs::write(&precious, PRECIOUS)?;
        symlink(&precious, ground.state.join(&name))?;
        match ground.served().await {
            Ok((helper, caller)) => {
                // It works, or it refuses to.
                if let Err(refusal) = caller.apply(PROFILE, FIRST, None).await {
                    assert_eq!(refusal.name, "JournalFailed", "{name}: {refusal}");
                }
                caller.end().await?;
                helper.end()?;
            }
            Err(error) => assert!(
                format!("{error:#}").contains("/run/minitunnel"),
                "{name}: {error:#}"
            ),
        }
        assert_eq!(
            fs::read_to_string(&precious)?,
            PRECIOUS,
            "{name} was followed"
        );
        assert_eq!(ground.table()?, ground.before, "{name}");
    }
    Ok(())
}

/// Alice holds a set that is on trial, and then nothing can be written any more.
async fn nothing_can_be_written(stop: &str, go_on: &str) -> Result {
    let bench = Bench::new().await?;
    let lab = &bench.ground.lab;
    // 16 pages of 4 KiB: the first journals fit.
    lab.sh("mkdir -p /run/minitunnel; mount -t tmpfs -o size=64k,mode=700 tmpfs /run/minitunnel")
        .await?;
    let alice = bench.caller("alice").await?;
    let generation = alice.apply(PROFILE, FIRST, Some(3_600)).await?;
    lab.sh(stop).await?;

    let held = bench.ground.table()?;
    let narrow: Set = &[("10.250.0.0/24", "192.168.49.2")];
    let refusals = [
        (
            "a change",
            alice.apply(PROFILE, SECOND, None).await.map(drop),
        ),
        (
            "another profile",
            alice.apply("other", narrow, None).await.map(drop),
        ),
        ("a confirmation", alice.confirm(PROFILE, generation).await),
        ("a release", alice.release(PROFILE).await),
    ];
    for (what, answer) in refusals {
        let refusal = answer
            .err()
            .with_context(|| format!("{what} was done without a journal"))?;
        assert_eq!(refusal.name, "JournalFailed", "{what}: {refusal}");
        assert_eq!(bench.ground.table()?, held, "{what}");
    }
    // Whoever dies is another matter.
    alice.end().await?;
    bench
        .settles(&[&[]], "an owner's death without a journal")
        .await?;

    // What was not written down is so later.
    lab.sh(go_on).await?;
    let bob = bench.caller("bob").await?;
    bob.apply(PROFILE, SECOND, None).await?;
    bench.trap().await?.end()?;
    assert_eq!(bob.list().await?.len(), 1);
    bench.settles(&[SECOND], "after all").await?;
    bob.end().await?;
    bench.settles(&[&[]], "in the end").await.map(drop)
}

#[tokio::test]
async fn full_disk_refuses_every_change_and_keeps_no_dead_owners_route() -> Result {
    nothing_can_be_written(
        "cat /dev/zero >/run/minitunnel/filler 2>/dev/null || true",
        "rm /run/minitunnel/filler",
    )
    .await
}

#[tokio::test]
async fn read_only_folder_refuses_every_change_and_keeps_no_dead_owners_route() -> Result {
    // Another mount of the same, as a remount is refused while the lock file is open for writing.
    nothing_can_be_written(
        "mount --bind /run/minitunnel /run/minitunnel; mount -o remount,bind,ro /run/minitunnel",
        "umount /run/minitunnel",
    )
    .await
}

/// A helper that can't have its folder does nothing and says what to do.
#[tokio::test]
async fn folder_that_is_not_the_helpers_own_is_refused_by_name() -> Result {
    let ground = Ground::new().await?;
    for (what, make) in [
        (
            "a link",
            "mkdir -m 700 /run/elsewhere; ln -s /run/elsewhere /run/minitunnel",
        ),
        ("a file", "touch /run/minitunnel"),
        (
            "a folder of Alice's",
            "install -d -m 700 -o 4001 /run/minitunnel",
        ),
        ("a folder for all", "install -d -m 777 /run/minitunnel"),
        ("a folder for a group", "install -d -m 770 /run/minitunnel"),
    ] {
        ground
            .lab
            .sh(&format!("rm -rf /run/minitunnel /run/elsewhere; {make}"))
            .await?;
        let mut recover = ground.lab.command("minitunnel-helper");
        let mut recover = Process::spawn(recover.arg("recover")).await?;
        let status = recover.exit(WAIT).await?;
        assert!(!status.success(), "{what} was taken");
        let named = recover.count("/run/minitunnel") > 0;
        assert!(named, "{}", recover.report(what));
        let (_, socket) = ground.serve()?;
        let refused = minitunnel_e2e::Caller::peer(socket).await;
        assert!(refused.is_err(), "{what} was served from");
        assert_eq!(ground.table()?, ground.before, "{what}");
        let inside = ground
            .lab
            .sh("ls -A /run/minitunnel/ 2>/dev/null || true")
            .await?;
        assert_eq!(inside.trim_start_matches("/run/minitunnel\n"), "", "{what}");
    }
    Ok(())
}
