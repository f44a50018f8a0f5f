//! The real program on a real bus, with a polkit that says yes to everything.

use std::{
    cell::Cell,
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::StreamExt;
use minitunnel_helper_api::{BUS_NAME, Client};
use minitunnel_routing::Events;
use rustix::process::Signal;
use tempfile::TempDir;
use zbus::{Connection, Message, MessageStream, OwnedVariant, fdo::DBusProxy};

use crate::{
    PODS, SERVICES, client,
    lab::{self, PATIENCE, PROGRAM, in_namespace, ip, run, table},
    profile, route,
};

const CONFIG: &str = "<busconfig>
  <listen>unix:path=/run/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context='default'>
    <allow user='*'/>
    <allow own='*'/>
    <allow send_destination='*'/>
    <allow receive_sender='*'/>
  </policy>
  <limit name='max_connections_per_user'>1000</limit>
</busconfig>";

/// What CheckAuthorization answers: authorized, challenge, details.
type Answer = (bool, bool, HashMap<String, String>);

/// A polkit that says yes.
struct Polkit;

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    fn check_authorization(
        &self,
        _subject: (String, HashMap<String, OwnedVariant>),
        _action: &str,
        _details: HashMap<String, String>,
        _flags: u32,
        _cancellation: &str,
    ) -> Answer {
        (true, false, HashMap::new())
    }
}

/// A system bus in the test's namespace, and the state folder of the helpers on it.
struct Bus {
    daemon: Child,
    state: TempDir,
    names: DBusProxy<'static>,
    _polkit: Connection,
}

impl Bus {
    async fn start() -> Self {
        // The namespace has its own mounts: nothing of this machine's is touched.
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "none", "/run"])
            .status();
        assert!(mount.unwrap().success());
        fs::write("/run/bus.conf", CONFIG).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .args(["--config-file=/run/bus.conf", "--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon runs");
        lab::first_line(&mut daemon);
        let polkit = zbus::conn::Builder::system()
            .serve_at("/org/freedesktop/PolicyKit1/Authority", Polkit)
            .name("org.freedesktop.PolicyKit1")
            .build()
            .await
            .unwrap();
        let names = DBusProxy::new(&polkit).await.unwrap();
        Self {
            daemon,
            state: tempfile::tempdir().unwrap(),
            names,
            _polkit: polkit,
        }
    }

    /// Starts a helper, without waiting for it.
    fn spawn(&self) -> Child {
        self.command().spawn().unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--state-dir"]);
        command.arg(self.state.path().join("state"));
        command
    }

    /// Starts a helper; returns once it has its name.
    async fn helper(&self) -> Child {
        self.named(self.command()).await
    }

    async fn named(&self, mut command: Command) -> Child {
        let mut changes = self
            .names
            .receive_name_owner_changed_with_args(&[(0, BUS_NAME)])
            .await
            .unwrap();
        let helper = command.spawn().unwrap();
        while changes
            .next()
            .await
            .unwrap()
            .args()
            .unwrap()
            .new_owner()
            .is_none()
        {}
        helper
    }

    /// Writes the journal of a helper that is dead.
    fn journal(&self, text: &str) {
        let state = self.state.path().join("state");
        lab::private_folder(&state);
        let journal = state.join("journal.json");
        fs::write(&journal, text).unwrap();
        fs::set_permissions(journal, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn record(&self, id: &str, name: &str, profile: &str, routes: &[String]) -> String {
        let routes: Vec<String> = routes
            .iter()
            .map(|net| format!(r#"{{"destination":"{net}","gateway":"192.168.49.2"}}"#))
            .collect();
        format!(
            r#"{{"client":{{"owner":{{"via":"bus","bus":"{id}","name":"{name}"}},"uid":0,"pid":1,"started":1}},
                "profile":"{profile}","generation":1,"since":{{"secs_since_epoch":1,"nanos_since_epoch":0}},"routes":[{}],
                "guard":null}}"#,
            routes.join(",")
        )
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn recover(state: &Path) -> bool {
    let status = Command::new(PROGRAM)
        .args(["recover", "--state-dir"])
        .arg(state.join("state"))
        .status();
    status.unwrap().success()
}

/// Waits for a process's end; its exit code.
fn ended(mut child: Child) -> Option<i32> {
    lab::wait_for_end(vec![lab::pidfd(child.id())]);
    child.wait().unwrap().code()
}

async fn connections(count: usize) -> Vec<Connection> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(Connection::system().await.unwrap());
    }
    all
}

#[test]
fn a_storm_of_ended_connections_neither_stops_a_start_nor_hides_a_death() {
    const TEST: &str = "bus::a_storm_of_ended_connections_neither_stops_a_start_nor_hides_a_death";
    in_namespace(TEST, client, || {
        let before = table();
        run(async {
            let bus = Bus::start().await;
            let id = bus.names.get_id().await.unwrap();
            let mut storm = connections(200).await;
            let owner = storm[7].unique_name().unwrap().to_string();
            // A dead owner left so much that the helper is at it for a while.
            let dead: Vec<String> = (0..1_000)
                .map(|n| format!("10.1.{}.{}/32", n / 250, n % 250))
                .collect();
            let living = [SERVICES.to_owned()];
            bus.journal(&format!(
                r#"{{"version":4,"generation":1,"records":[{},{}],"grants":[]}}"#,
                bus.record(&id, ":0.9", "dead", &dead),
                bus.record(&id, &owner, "living", &living),
            ));
            let add = |net: &String| format!("route add {net} via 192.168.49.2 proto 109\n");
            lab::ip_batch(&dead.iter().chain(&living).map(add).collect::<String>());

            let mut events = Events::open().unwrap();
            let mut changes = bus
                .names
                .receive_name_owner_changed_with_args(&[(0, BUS_NAME)])
                .await
                .unwrap();
            let mut helper = bus.spawn();
            // It has begun to clean up: all but one of them end.
            events.changed().await.unwrap();
            let survivor = storm.remove(7);
            drop(storm);
            while changes
                .next()
                .await
                .unwrap()
                .args()
                .unwrap()
                .new_owner()
                .is_none()
            {}
            // The journal was believed: who lives keeps the route, and who then ends does not.
            let mut held = before.clone();
            held.push("10.96.0.0/12 via 192.168.49.2 dev cluster proto 109".to_owned());
            held.sort();
            assert_eq!(table(), held);
            drop(survivor);
            while table() != before {
                events.changed().await.unwrap();
            }
            helper.kill().unwrap();
            helper.wait().unwrap();
        });
    });
}

#[test]
fn nobodys_clean_ups_keep_a_death_waiting() {
    const TEST: &str = "bus::nobodys_clean_ups_keep_a_death_waiting";
    in_namespace(TEST, client, || {
        run(async {
            let bus = Bus::start().await;
            let mut helper = bus.helper().await;
            let owner = Client::system().await.unwrap();
            let routes = [route(SERVICES)];
            owner.apply(&profile(), &routes, false).await.unwrap();
            // A large table, which each clean-up reads.
            let add = |n| format!("route add 11.0.{}.{}/32 dev cluster\n", n / 250, n % 250);
            lab::ip_batch(&(0..20_000).map(add).collect::<String>());

            let caller = Connection::system().await.unwrap();
            let answered = Cell::new(0);
            let clean_up = async || {
                let path = minitunnel_helper_api::OBJECT_PATH;
                let interface = Some(minitunnel_helper_api::INTERFACE);
                let called = caller.call_method(Some(BUS_NAME), path, interface, "Cleanup", &());
                called.await.unwrap();
                answered.set(answered.get() + 1);
            };
            // Four less than one may have in flight.
            let storm = futures::future::join_all((0..60).map(async |_| {
                loop {
                    clean_up().await;
                }
            }));
            let death = async {
                let mut events = Events::open().unwrap();
                while answered.get() < 60 {
                    tokio::task::yield_now().await;
                }
                let before = answered.get();
                drop(owner);
                while table().iter().any(|line| line.starts_with(SERVICES)) {
                    events.changed().await.unwrap();
                }
                answered.get() - before
            };
            tokio::select! {
                _ = storm => {}
                answered = death => assert!(answered < 30, "{answered} clean-ups came first"),
            }
            helper.kill().unwrap();
            helper.wait().unwrap();
        });
    });
}

#[test]
fn a_helper_that_nobody_needs_ends_on_a_busy_bus() {
    const TEST: &str = "bus::a_helper_that_nobody_needs_ends_on_a_busy_bus";
    in_namespace(TEST, client, || {
        run(async {
            let bus = Bus::start().await;
            let helper = bus.helper().await;
            let busy = async {
                // Less than the five seconds after which it ends.
                let mut pause = tokio::time::interval(Duration::from_millis(500));
                loop {
                    pause.tick().await;
                    // Somebody looks, and vanishes.
                    if let Ok(Some(client)) = Client::running().await {
                        let _ = client.list().await;
                    }
                }
            };
            let end = tokio::task::spawn_blocking(move || ended(helper));
            tokio::select! {
                code = end => assert_eq!(code.unwrap(), Some(0)),
                () = busy => {}
            }
        });
    });
}

#[test]
fn an_end_while_tunnels_are_up_is_a_failure_and_the_next_helper_takes_over() {
    const TEST: &str =
        "bus::an_end_while_tunnels_are_up_is_a_failure_and_the_next_helper_takes_over";
    in_namespace(TEST, client, || {
        let before = table();
        run(async {
            let bus = Bus::start().await;
            let mut helper = bus.helper().await;
            let client = Client::system().await.unwrap();
            let routes = [route(SERVICES), route(PODS)];
            client.apply(&profile(), &routes, false).await.unwrap();
            let held = table();
            for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
                lab::signal(&helper, signal);
                assert_eq!(ended(helper), Some(1), "{signal:?}");
                assert_eq!(table(), held, "{signal:?}");
                helper = bus.helper().await;
            }
            assert_eq!(client.list().await.unwrap()[0].routes, routes);

            let mut events = Events::open().unwrap();
            drop(client);
            while table() != before {
                events.changed().await.unwrap();
            }
            lab::signal(&helper, Signal::TERM);
            assert_eq!(ended(helper), Some(0));
        });
    });
}

#[test]
fn each_grant_and_change_is_a_line_of_the_log() {
    const TEST: &str = "bus::each_grant_and_change_is_a_line_of_the_log";
    in_namespace(TEST, client, || {
        let before = table();
        run(async {
            let bus = Bus::start().await;
            let mut command = bus.command();
            command.stderr(Stdio::piped());
            let mut helper = bus.named(command).await;
            let client = Client::system().await.unwrap();
            for routes in [&[SERVICES, PODS][..], &[SERVICES], &[], &[PODS]] {
                let routes: Vec<_> = routes.iter().map(|net| route(net)).collect();
                client.apply(&profile(), &routes, false).await.unwrap();
            }
            let mut events = Events::open().unwrap();
            drop(client);
            while table() != before {
                events.changed().await.unwrap();
            }
            helper.kill().unwrap();
            let said = helper.wait_with_output().unwrap().stderr;
            let (pid, uid) = (std::process::id(), rustix::process::getuid().as_raw());
            let expected = [
                "may change routes until it ends",
                "2 routes held",
                "1 routes held",
                "0 routes held",
                "1 routes held",
                "its routes are removed",
            ];
            let expected = expected
                .map(|what| format!("minitunnel-helper: process {pid} of user {uid}: {what}\n"));
            assert_eq!(String::from_utf8(said).unwrap(), expected.concat());
        });
    });
}

#[test]
fn a_bus_that_does_not_answer_makes_nobody_dead() {
    const TEST: &str = "bus::a_bus_that_does_not_answer_makes_nobody_dead";
    in_namespace(TEST, client, || {
        let before = table();
        run(async {
            let mut bus = Bus::start().await;
            let mut helper = bus.helper().await;
            let client = Client::system().await.unwrap();
            client
                .apply(&profile(), &[route(SERVICES)], false)
                .await
                .unwrap();
            let held = table();
            helper.kill().unwrap();
            helper.wait().unwrap();

            lab::signal(&bus.daemon, Signal::STOP);
            assert!(!recover(bus.state.path()));
            assert_eq!(table(), held);
            lab::signal(&bus.daemon, Signal::CONT);
            assert!(recover(bus.state.path()));
            assert_eq!(table(), held, "the owner lives");

            // Without the bus there is nobody on it, whether its socket is still there or not.
            let journal = fs::read(bus.state.path().join("state/journal.json")).unwrap();
            bus.daemon.kill().unwrap();
            bus.daemon.wait().unwrap();
            assert!(recover(bus.state.path()));
            assert_eq!(table(), before);
            ip("route add 10.96.0.0/12 via 192.168.49.2 proto 109");
            fs::write(bus.state.path().join("state/journal.json"), journal).unwrap();
            fs::remove_file("/run/bus").unwrap();
            assert!(recover(bus.state.path()));
            assert_eq!(table(), before);
        });
    });
}

#[test]
fn after_an_unreadable_journal_nothing_of_ours_is_left() {
    const TEST: &str = "bus::after_an_unreadable_journal_nothing_of_ours_is_left";
    in_namespace(TEST, client, || {
        // A tag alone does not make a route ours.
        ip("route add 10.32.0.0/16 via 192.168.49.2 proto 109 metric 7");
        ip("route add 10.33.0.0/16 proto 109 nexthop via 192.168.49.2 nexthop via 192.168.49.3");
        let before = table();
        for journal in [
            "{",
            r#"{"version":1,"generation":0,"records":[],"grants":[]}"#,
        ] {
            ip("route add 10.96.0.0/12 via 192.168.49.2 proto 109");
            ip("-6 route add fd00:10:96::/112 via fd00:49::2 proto 109");
            let state = tempfile::tempdir().unwrap();
            lab::private_folder(&state.path().join("state"));
            fs::write(state.path().join("state/journal.json"), journal).unwrap();
            assert!(recover(state.path()));
            assert_eq!(table(), before);
        }
    });
}

#[test]
fn what_is_too_much_is_refused_and_the_helper_stays_small() {
    const TEST: &str = "bus::what_is_too_much_is_refused_and_the_helper_stays_small";
    in_namespace(TEST, client, || {
        run(async {
            let bus = Bus::start().await;
            let caller = Connection::system().await.unwrap();
            let call = |count| {
                let routes = vec![("10.96.0.0/12", "192.168.49.2"); count];
                let body = ("minikube", routes, HashMap::<&str, OwnedVariant>::new());
                let call = Message::method_call(minitunnel_helper_api::OBJECT_PATH, "Apply");
                let call = call.destination(BUS_NAME);
                let call = call.interface(minitunnel_helper_api::INTERFACE);
                call.build(&body).unwrap()
            };
            // Made before there is a helper, which waits for nobody for long.
            let (many, far_too_many) = (call(1_025), call(800_000));
            let mut helper = bus.helper().await;
            let answer = async |call: &Message| {
                let mut heard = MessageStream::from(&caller);
                caller.send(call).await.unwrap();
                let serial = Some(call.primary_header().serial_num());
                let reply = async {
                    loop {
                        let message = heard.next().await.unwrap().unwrap();
                        if message.header().reply_serial() == serial {
                            break message;
                        }
                    }
                };
                let reply = tokio::time::timeout(PATIENCE, reply).await.unwrap();
                let name = reply.header().error_name().unwrap().to_string();
                let words: String = reply.body().deserialize().unwrap();
                format!("{name}: {words}")
            };
            let refusal = answer(&many).await;
            assert!(refusal.contains("LimitExceeded"), "{refusal}");
            let refusal = answer(&far_too_many).await;
            assert!(refusal.contains("too many"), "{refusal}");
            // The message alone has 32 MB; what was made of it had another 100.
            let peak = lab::peak_memory(helper.id());
            assert!(peak < 80_000, "{peak} kB");
            helper.kill().unwrap();
            helper.wait().unwrap();
        });
    });
}
