//! On the helper's side: the real bus, with and without consent, and the inherited socket.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{Caller, Ground, Process, Result, SystemBus, WAIT, eventually};
use tokio::time::Instant;
use zbus::Variant;

/// Alice is allowed to apply, and Bob is not.
const ALLOW_ALICE: &str = "polkit.addRule(function(action, subject) {
    if (action.id == 'io.github.minitunnel.apply' && subject.user == 'alice') return polkit.Result.YES;
});";
const PROFILE: &str = "minikube";
/// For five calls in a crowd, which take some milliseconds without one; a loaded machine has the rest.
const SERVED: Duration = Duration::from_secs(5);
const GOOD: &[(&str, &str)] = &[
    ("10.96.0.0/12", "192.168.49.2"),
    ("fd00:10:96::/112", "fd00:49::2"),
];
const OPTIONS: [(&str, Variant<'static>); 0] = [];

/// What no caller may ever have a route for, and what the helper calls it.
const REFUSED: &[(&str, &str, &str)] = &[
    // Another family's gateway.
    ("10.96.0.0/12", "fd00:49::2", "InvalidRoute"),
    ("fd00:10:96::/112", "192.168.49.2", "InvalidRoute"),
    // The default, and its halves.
    ("0.0.0.0/0", "192.168.49.2", "InvalidRoute"),
    ("::/0", "fd00:49::2", "InvalidRoute"),
    ("0.0.0.0/1", "192.168.49.2", "InvalidRoute"),
    ("128.0.0.0/1", "192.168.49.2", "InvalidRoute"),
    // Everybody's.
    ("8.8.8.0/24", "192.168.49.2", "InvalidRoute"),
    ("9.0.0.0/8", "192.168.49.2", "InvalidRoute"),
    ("172.0.0.0/8", "192.168.49.2", "InvalidRoute"),
    ("192.169.0.0/16", "192.168.49.2", "InvalidRoute"),
    ("2001:db8::/64", "fd00:49::2", "InvalidRoute"),
    // The machine's own, its link's, everybody's at once.
    ("127.0.0.0/8", "192.168.49.2", "InvalidRoute"),
    ("::1/128", "fd00:49::2", "InvalidRoute"),
    ("169.254.169.254/32", "192.168.49.2", "InvalidRoute"),
    ("fe80::/64", "fd00:49::2", "InvalidRoute"),
    ("224.0.0.0/8", "192.168.49.2", "InvalidRoute"),
    ("ff00::/64", "fd00:49::2", "InvalidRoute"),
    ("255.255.255.255/32", "192.168.49.2", "InvalidRoute"),
    // Wider than anything of a cluster.
    ("10.0.0.0/7", "192.168.49.2", "InvalidRoute"),
    ("fd00::/8", "fd00:49::2", "InvalidRoute"),
    ("fd00::/47", "fd00:49::2", "InvalidRoute"),
    // Bits of a host.
    ("10.96.0.1/12", "192.168.49.2", "InvalidRoute"),
    ("fd00:10:96::1/112", "fd00:49::2", "InvalidRoute"),
    // No network at all.
    ("", "192.168.49.2", "InvalidRoute"),
    ("10.96.0.0", "192.168.49.2", "InvalidRoute"),
    ("10.96.0.0/33", "192.168.49.2", "InvalidRoute"),
    ("10.96.0.0/-1", "192.168.49.2", "InvalidRoute"),
    (
        "10.96.0.0/12 via 192.168.49.9",
        "192.168.49.2",
        "InvalidRoute",
    ),
    ("10.96.0.0/12", "node", "InvalidRoute"),
    ("10.96.0.0/12", "", "InvalidRoute"),
    ("::ffff:10.96.0.0/108", "fd00:49::2", "InvalidRoute"),
    // A gateway behind another one, and this machine itself.
    ("10.96.0.0/12", "192.168.50.2", "GatewayUnreachable"),
    ("10.96.0.0/12", "192.168.49.1", "GatewayUnreachable"),
    ("10.96.0.0/12", "127.0.0.1", "InvalidRoute"),
    ("fd00:10:96::/112", "fd00:49::1", "GatewayUnreachable"),
    ("fd00:10:96::/112", "fd00:50::2", "GatewayUnreachable"),
    // The node's own network.
    ("192.168.49.0/24", "192.168.49.2", "Conflict"),
    ("192.168.49.128/25", "192.168.49.2", "Conflict"),
];

/// The name with which an answer is refused.
fn refused<T: std::fmt::Debug>(
    answer: std::result::Result<T, minitunnel_e2e::Refusal>,
    what: &str,
) -> Result<String> {
    match answer {
        Ok(answer) => anyhow::bail!("{what} was answered with {answer:?}"),
        Err(refusal) => {
            // A sentence for a person, however long and strange what was sent is.
            ensure!(
                refusal.message.len() < 2_000,
                "{what}: {} bytes",
                refusal.message.len()
            );
            ensure!(
                !refusal.message.contains(char::is_control),
                "{what}: {:?}",
                refusal.message
            );
            Ok(refusal.name)
        }
    }
}

/// Somebody who means well is served.
async fn serves(ground: &Ground, caller: &Caller) -> Result {
    caller.apply(PROFILE, GOOD, None).await?;
    assert_eq!(ground.table()?.len(), ground.before.len() + GOOD.len());
    caller.release(PROFILE).await?;
    assert_eq!(ground.table()?, ground.before);
    Ok(())
}

/// All that is wrong with one set, by a caller who has consent to everything.
async fn refuses_every_set(ground: &Ground, caller: &Caller) -> Result {
    for (to, via, name) in REFUSED {
        let what = format!("{to:?} via {via:?}");
        let answer = caller.apply(PROFILE, &[(to, via)], None).await;
        assert_eq!(refused(answer, &what)?, *name, "{what}");
        // Among good ones it spoils all.
        let answer = caller
            .apply(
                PROFILE,
                &[GOOD[0], ("10.250.0.0/24", "192.168.49.2"), (to, via)],
                None,
            )
            .await;
        refused(answer, &what)?;
        assert_eq!(ground.table()?, ground.before, "{what}");
    }
    let long = "9".repeat(1 << 20);
    for profile in [
        "",
        "-p",
        "../../etc",
        "a b",
        "mini\nkube",
        "mini\u{202e}kube",
        "minikube\u{1b}[2J",
        "ä",
        &long,
    ] {
        let answer = caller.apply(profile, GOOD, None).await;
        assert_eq!(
            refused(answer, &format!("{profile:.20?}"))?,
            "InvalidRoute",
            "{profile:.20?}"
        );
        refused(caller.release(profile).await, profile)?;
        refused(caller.confirm(profile, 1).await, profile)?;
    }
    assert_eq!(
        refused(caller.apply(PROFILE, &[(&long, &long)], None).await, "long")?,
        "InvalidRoute"
    );
    let twice = [
        ("10.96.0.0/12", "192.168.49.2"),
        ("10.96.0.0/12", "192.168.49.3"),
    ];
    assert_eq!(
        refused(caller.apply(PROFILE, &twice, None).await, "twice")?,
        "InvalidRoute"
    );
    assert_eq!(ground.table()?, ground.before);
    serves(ground, caller).await
}

/// Options and arguments of other kinds than the contract's.
async fn refuses_other_arguments(ground: &Ground, caller: &Caller) -> Result {
    let options: [(&str, Variant<'_>, &str); 8] = [
        ("force", Variant::from(true), "Incompatible"),
        ("confirm_within ", Variant::from(5u32), "Incompatible"),
        ("\u{1b}[2J", Variant::from(5u32), "Incompatible"),
        ("confirm_within", Variant::from("5"), "InvalidRoute"),
        ("confirm_within", Variant::from(5u64), "InvalidRoute"),
        ("confirm_within", Variant::from(0u32), "InvalidRoute"),
        ("confirm_within", Variant::from(3_601u32), "InvalidRoute"),
        ("confirm_within", Variant::from(-1i32), "InvalidRoute"),
    ];
    for (key, value, name) in options {
        let what = format!("{key:?}: {value:?}");
        let answer = caller
            .call("Apply", &(PROFILE, GOOD, HashMap::from([(key, value)])))
            .await;
        assert_eq!(refused(answer, &what)?, name, "{what}");
    }
    let dbus = "org.freedesktop.DBus.Error.";
    let none: HashMap<&str, Variant<'_>> = OPTIONS.into_iter().collect();
    let answers = [
        (caller.call("Apply", &()).await, "nothing"),
        (caller.call("Apply", &(PROFILE,)).await, "a name alone"),
        (
            caller.call("Apply", &(1u32, GOOD, &none)).await,
            "a number for a name",
        ),
        (
            caller
                .call("Apply", &(PROFILE, ["10.96.0.0/12"].as_slice(), &none))
                .await,
            "strings for routes",
        ),
        (
            caller.call("Apply", &(PROFILE, GOOD, "none")).await,
            "a string for options",
        ),
        (
            caller.call("Release", &(vec![0u8; 1 << 20],)).await,
            "bytes for a name",
        ),
        (
            caller.call("Confirm", &(PROFILE, "1")).await,
            "a string for a generation",
        ),
        (caller.call("Reboot", &()).await, "another method"),
    ];
    for (answer, what) in answers {
        let name = refused(answer, what)?;
        assert!(name.starts_with(dbus), "{what}: {name}");
    }
    assert_eq!(ground.table()?, ground.before);
    serves(ground, caller).await
}

/// Host routes, of which each is fine.
fn many(net: usize, count: usize) -> Vec<(String, String)> {
    (0..count)
        .map(|n| {
            (
                format!("10.{net}.{}.{}/32", n / 256, n % 256),
                "192.168.49.2".to_owned(),
            )
        })
        .collect()
}

async fn apply_many(
    caller: &Caller,
    profile: &str,
    routes: &[(String, String)],
) -> std::result::Result<u64, minitunnel_e2e::Refusal> {
    let routes: Vec<(&str, &str)> = routes
        .iter()
        .map(|(to, via)| (to.as_str(), via.as_str()))
        .collect();
    caller.apply(profile, &routes, None).await
}

#[tokio::test]
async fn peer_is_refused_whatever_is_wrong_with_its_sets_and_served_afterwards() -> Result {
    let ground = Ground::new().await?;
    let (helper, caller) = ground.served().await?;
    refuses_every_set(&ground, &caller).await?;
    refuses_other_arguments(&ground, &caller).await?;
    caller.end().await?;
    assert_eq!(helper.end()?, (String::new(), true));
    Ok(())
}

#[tokio::test]
async fn caller_with_consent_is_refused_whatever_is_wrong_with_its_sets_and_served_afterwards()
-> Result {
    let (ground, _bus) = bench().await?;
    let alice = caller(&ground, "alice").await?;
    serves(&ground, &alice).await?;
    refuses_every_set(&ground, &alice).await?;
    refuses_other_arguments(&ground, &alice).await
}

#[tokio::test]
async fn caller_without_consent_learns_what_is_wrong_or_that_he_may_not_and_changes_nothing()
-> Result {
    let (ground, _bus) = bench().await?;
    let bob = caller(&ground, "bob").await?;
    for (to, via, name) in REFUSED {
        let got = refused(bob.apply(PROFILE, &[(to, via)], None).await, to)?;
        // What takes a look at the tables is not told to somebody who may not.
        let wanted = if *name == "InvalidRoute" {
            name
        } else {
            "NotAuthorized"
        };
        assert_eq!(got, wanted, "{to:?} via {via:?}");
    }
    assert_eq!(
        refused(bob.apply(PROFILE, GOOD, None).await, "good")?,
        "NotAuthorized"
    );
    assert_eq!(ground.table()?, ground.before);
    serves(&ground, &caller(&ground, "alice").await?).await
}

#[tokio::test]
async fn limits_hold_for_one_set_one_users_sets_and_all_of_them() -> Result {
    let (ground, _bus) = bench().await?;
    let alice = caller(&ground, "alice").await?;
    let answer = apply_many(&alice, PROFILE, &many(64, 1_025)).await;
    assert_eq!(refused(answer, "1,025 routes")?, "LimitExceeded");
    assert_eq!(ground.table()?, ground.before);

    for lease in 0..32 {
        alice
            .apply(
                &format!("p{lease}"),
                &[(&format!("10.200.{lease}.0/24"), "192.168.49.2")],
                None,
            )
            .await?;
    }
    let held = ground.table()?;
    let answer = alice
        .apply("p32", &[("10.200.32.0/24", "192.168.49.2")], None)
        .await;
    assert_eq!(refused(answer, "33 leases")?, "LimitExceeded");
    // Another connection is another owner, and the same user.
    let again = caller(&ground, "alice").await?;
    let answer = again
        .apply("p33", &[("10.200.33.0/24", "192.168.49.2")], None)
        .await;
    assert_eq!(refused(answer, "33 leases by two")?, "LimitExceeded");
    assert_eq!(ground.table()?, held);
    for lease in 0..32 {
        alice.release(&format!("p{lease}")).await?;
    }

    for lease in 0..4 {
        apply_many(&alice, &format!("p{lease}"), &many(64 + lease, 1_024)).await?;
    }
    assert_eq!(ground.table()?.len(), ground.before.len() + 4_096);
    let answer = alice
        .apply("p4", &[("10.200.0.0/24", "192.168.49.2")], None)
        .await;
    assert_eq!(refused(answer, "4,097 routes")?, "LimitExceeded");
    assert_eq!(ground.table()?.len(), ground.before.len() + 4_096);
    alice.end().await?;
    waits_for_before(&ground).await
}

#[tokio::test]
async fn nobody_touches_the_lease_of_somebody_else() -> Result {
    let (ground, _bus) = bench().await?;
    let alice = caller(&ground, "alice").await?;
    let generation = alice.apply(PROFILE, GOOD, Some(3_600)).await?;
    let held = ground.table()?;
    // Another user, and another process of her own.
    for thief in [
        caller(&ground, "bob").await?,
        caller(&ground, "alice").await?,
    ] {
        // There is nothing of his own to release.
        thief.release(PROFILE).await?;
        assert_eq!(
            refused(thief.confirm(PROFILE, generation).await, "confirm")?,
            "LeaseHeld"
        );
        refused(
            thief
                .apply(PROFILE, &[("10.250.0.0/24", "192.168.49.2")], None)
                .await,
            "apply",
        )?;
        assert_eq!(thief.cleanup().await?, []);
        let empty: &[(&str, &str)] = &[];
        // An empty set is a release.
        thief.apply(PROFILE, empty, None).await?;
        assert_eq!(ground.table()?, held);
    }
    let states: Vec<String> = alice
        .list()
        .await?
        .into_iter()
        .map(|(_, state, _)| state)
        .collect();
    assert_eq!(states, ["unconfirmed"], "somebody else confirmed it");
    alice.confirm(PROFILE, generation).await?;
    alice.end().await?;
    waits_for_before(&ground).await
}

#[tokio::test]
async fn silent_readers_and_a_thousand_connections_keep_nobody_from_being_served() -> Result {
    let (ground, bus) = bench().await?;
    let alice = caller(&ground, "alice").await?;
    alice.apply(PROFILE, GOOD, None).await?;
    // The bus lets a user have 256 at a time. All stay, and each has asked the helper for its list.
    let mut crowd = Vec::new();
    for user in ["alice", "bob", "carol", "dave"] {
        let place = ground.lab.user(user);
        let part = Process::spawn(place.command("minitunnel-lab").args(["crowd", "250"])).await?;
        crowd.push(part);
    }
    for part in &crowd {
        part.wait_for_line("a crowd of 250", WAIT).await?;
    }
    // Bob asks for the list without end and never reads an answer.
    let silent = caller(&ground, "bob").await?;
    for _ in 0..2_000 {
        let call = zbus::Message::method_call("/io/github/minitunnel/Helper", "List")
            .destination("io.github.minitunnel.Helper")
            .interface("io.github.minitunnel.Helper1")
            .build(&())?;
        if tokio::time::timeout(WAIT, silent.connection().send(&call))
            .await
            .is_err()
        {
            break;
        }
    }
    let asked = Instant::now();
    let bob = caller(&ground, "bob").await?;
    assert_eq!(bob.list().await?.len(), 1);
    alice.release(PROFILE).await?;
    assert_eq!(ground.table()?, ground.before);
    serves(&ground, &alice).await?;
    assert!(asked.elapsed() < SERVED, "{:?}", asked.elapsed());
    // They were there all the time, and go.
    for mut part in crowd {
        part.success(WAIT).await?;
    }
    serves(&ground, &alice).await?;
    drop((silent, bus));
    Ok(())
}

/// What takes some of the packets only, of which a lookup of one address shows nothing.
#[tokio::test]
async fn rule_or_route_that_takes_a_part_of_the_packets_is_an_overlap() -> Result {
    let ground = Ground::new().await?;
    ground.ip("route add default via 192.168.49.9 table 52\n")?;
    let before = ground.table()?;
    let (helper, caller) = ground.served().await?;
    for (what, refused_by_it) in [
        ("rule X pref 100 to 10.100.0.0/16 lookup 52", true),
        ("rule X pref 100 to 10.100.0.0/16 prohibit", true),
        ("rule X pref 100 ipproto tcp dport 443 lookup 52", true),
        ("rule X pref 100 not to 10.96.0.0/16 lookup 52", true),
        ("route X throw 10.100.0.0/16", true),
        // Other packets, no route for them, or too late.
        ("rule X pref 100 to 10.200.0.0/16 prohibit", false),
        ("rule X pref 100 fwmark 7 to 10.100.0.0/16 prohibit", false),
        ("rule X pref 100 to 10.100.0.0/16 lookup 53", false),
        ("rule X pref 100 to 10.100.0.0/16 lookup main", false),
        ("rule X pref 40000 to 10.100.0.0/16 prohibit", false),
    ] {
        ground.ip(&format!("{}\n", what.replace('X', "add")))?;
        let with = ground.table()?;
        let answer = caller.apply(PROFILE, &GOOD[..1], None).await;
        if refused_by_it {
            assert_eq!(refused(answer, what)?, "Conflict", "{what}");
            assert_eq!(ground.table()?, with, "{what}");
        } else {
            answer.with_context(|| what.to_owned())?;
            caller.release(PROFILE).await?;
        }
        ground.ip(&format!("{}\n", what.replace('X', "del")))?;
        assert_eq!(ground.table()?, before, "{what}");
    }
    caller.end().await?;
    assert!(helper.end()?.1);
    Ok(())
}

#[tokio::test]
async fn rubbish_on_the_peer_socket_ends_its_helper_and_leaves_nothing() -> Result {
    let ground = Ground::new().await?;
    let line = vec![b'A'; 1 << 20];
    let hello = b"\0AUTH ANONYMOUS\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n".to_vec();
    let mut header = hello.clone();
    // A message that claims to be as long as D-Bus allows, and does not come.
    header.extend(b"l\x01\0\x01\xff\xff\xff\x07\x01\0\0\0\0\0\0\0");
    let mut endless = hello.clone();
    endless.extend(b"l\x01\0\x01\xff\xff\xff\xff\x01\0\0\0\xff\xff\xff\xff");
    let mut noise = hello.clone();
    noise.extend((0..10_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]));
    for (what, rubbish) in [
        ("zeros", vec![0; 4_096]),
        ("no handshake", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a line without an end", line),
        ("another mechanism", b"\0AUTH EXTERNAL 30\r\n".to_vec()),
        ("a long message that does not come", header),
        ("a message longer than any", endless),
        ("noise", noise),
    ] {
        let (helper, mut socket) = ground.serve()?;
        socket.set_write_timeout(Some(WAIT))?;
        // It may end while it is being told.
        let _ = socket.write_all(&rubbish);
        socket.shutdown(std::net::Shutdown::Write)?;
        socket.set_read_timeout(Some(WAIT))?;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        drop(socket);
        let (said, _) = helper.end()?;
        assert!(!said.contains("panicked"), "{what}: {said}");
        assert_eq!(ground.table()?, ground.before, "{what}");
    }
    let (_helper, caller) = ground.served().await?;
    serves(&ground, &caller).await
}

async fn bench() -> Result<(Ground, SystemBus)> {
    let mut ground = Ground::new().await?;
    let bus = SystemBus::start(&ground.lab, ALLOW_ALICE).await?;
    ground.before = ground.table()?;
    Ok((ground, bus))
}

async fn caller(ground: &Ground, name: &str) -> Result<Caller> {
    Caller::bus(&ground.lab.user(name))
        .await
        .with_context(|| format!("{name} on the bus"))
}

async fn waits_for_before(ground: &Ground) -> Result {
    eventually(WAIT, "the tables of before", async || {
        ensure!(ground.table()? == ground.before, "not yet");
        Ok(())
    })
    .await
}
