//! The demo with a stand-in for the tunnel: its own program is this test, so it shows the namespaces, the cluster and
//! the checks, and that each of them fails for a tunnel that leaves something.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test with a main of its own is no test to clippy"
)]

mod tunnel;

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, ChildStdout, Command, ExitCode, Output, Stdio},
};

use clap::Parser;
use minitunnel_sandbox::{Demo, demo};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, geteuid, kill_process, kill_process_group, pidfd_open},
};

/// What the program is called with, when it is the one under test.
#[derive(Parser)]
enum Program {
    Demo(Demo),
}

fn main() -> ExitCode {
    let name = env::args().next().unwrap_or_default();
    let command = env::args().nth(1).unwrap_or_default();
    match (
        Path::new(&name).file_name().and_then(|name| name.to_str()),
        command.as_str(),
    ) {
        (Some("minitunnel-keep"), _) => tunnel::keep(),
        (_, "up") => tunnel::up(),
        (_, "demo") => match Program::parse() {
            Program::Demo(options) => demo(&options),
        },
        _ => tests(),
    }
}

/// All tests; a name on the command line chooses, as with every other test program.
fn tests() -> ExitCode {
    let tests: [(&str, fn()); 8] = [
        ("all_scenes_play_as_root", all_scenes_play_as_root),
        (
            "all_scenes_play_as_an_ordinary_user",
            all_scenes_play_as_an_ordinary_user,
        ),
        (
            "a_route_that_is_left_fails_the_demo",
            a_route_that_is_left_fails_the_demo,
        ),
        (
            "a_file_that_is_left_fails_the_demo",
            a_file_that_is_left_fails_the_demo,
        ),
        (
            "a_missing_helper_is_named_with_its_places",
            a_missing_helper_is_named_with_its_places,
        ),
        (
            "ctrl_c_ends_a_kept_demo_in_good_order",
            ctrl_c_ends_a_kept_demo_in_good_order,
        ),
        (
            "sigterm_ends_a_kept_demo_in_good_order",
            sigterm_ends_a_kept_demo_in_good_order,
        ),
        (
            "a_demo_that_is_killed_takes_everything_with_it",
            a_demo_that_is_killed_takes_everything_with_it,
        ),
    ];
    let chosen: Vec<String> = env::args()
        .skip(1)
        .filter(|name| !name.starts_with('-'))
        .collect();
    let list = env::args().any(|argument| argument == "--list");
    let mut passed = 0;
    for (name, test) in tests {
        if !chosen.is_empty() && !chosen.iter().any(|part| name.contains(part)) {
            continue;
        }
        if list {
            println!("{name}: test");
            continue;
        }
        // A failed test panics, and with it this program.
        test();
        println!("test {name} ... ok");
        passed += 1;
    }
    if !list {
        println!(
            "\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"
        );
    }
    ExitCode::SUCCESS
}

/// A folder with the programs that the demo needs, and what the stand-in is to do wrong.
fn install(fault: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = env::current_exe().unwrap();
    for name in ["minitunnel", "minitunnel-keep"] {
        fs::copy(&program, folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("fault"), fault).unwrap();
    folder
}

/// Runs `minitunnel demo`, after the words of another program that changes the user.
fn play(folder: &Path, as_user: &[&str]) -> Output {
    let program = folder.join("minitunnel");
    let mut command = match as_user.split_first() {
        Some((change, arguments)) => {
            let mut command = Command::new(change);
            command.args(arguments).arg(program);
            command
        }
        None => Command::new(program),
    };
    command
        .arg("demo")
        .current_dir("/")
        .env("HOME", "/nonexistent")
        .env_remove("XDG_RUNTIME_DIR");
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Each scene is told in its turn.
fn assert_plays(output: &Output) {
    let text = text(output);
    assert!(output.status.success(), "{text}");
    let mut rest = text.as_str();
    for scene in [
        "✓ cluster up",
        "✓ tunnel up",
        "routes in the kernel: 1",
        "✓ service has an address",
        "default/hello → 10.96.",
        "200 “Hello from default/hello at 10.96.",
        "✓ kill -9",
        "fails: network unreachable",
        "✓ nothing is left",
        "✓ the machine is clean",
    ] {
        let Some((_, after)) = rest.split_once(scene) else {
            panic!("no “{scene}” in its place:\n{text}");
        };
        rest = after;
    }
}

/// The line that tells of it; a title is 24 columns wide.
fn left(trace: &str) -> String {
    format!("✗ {:24} {trace}", "left behind")
}

fn all_scenes_play_as_root() {
    // Where this is not root, sudo has to do it without asking.
    let root: &[&str] = if geteuid().is_root() {
        &[]
    } else {
        &["sudo", "-n"]
    };
    assert_plays(&play(install("").path(), root));
}

fn all_scenes_play_as_an_ordinary_user() {
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let user: &[&str] = if geteuid().is_root() { &nobody } else { &[] };
    assert_plays(&play(install("").path(), user));
}

fn a_route_that_is_left_fails_the_demo() {
    let output = play(install("route").path(), &[]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("✗ GET"), "{text}");
    let route = left("route 10.96.0.0/12 via 192.168.49.2 dev minikube proto ");
    assert!(text.contains(&route), "{text}");
    assert!(text.contains("✓ the machine is clean"), "{text}");
}

fn a_file_that_is_left_fails_the_demo() {
    let output = play(install("file").path(), &[]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&left("file /run/user/0/left")), "{text}");
}

fn a_missing_helper_is_named_with_its_places() {
    let folder = install("");
    let helper = folder.path().join("minitunnel-keep");
    fs::remove_file(&helper).unwrap();
    let output = play(folder.path(), &[]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains(&format!(
            "minitunnel-keep is neither at {} nor at ",
            helper.display()
        )),
        "{text}"
    );
}

/// Starts a demo that waits for Ctrl-C, in a process group of its own; gives it, its output, and the process inside.
fn keep(folder: &Path) -> (Child, BufReader<ChildStdout>, Pid) {
    let mut child = Command::new(folder.join("minitunnel"))
        .args(["demo", "--keep"])
        .current_dir("/")
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let inside = kept(&mut output);
    (child, output, inside)
}

/// Reads until the demo waits; gives the process inside, which the way in names.
fn kept(output: &mut impl BufRead) -> Pid {
    let mut inside = None;
    loop {
        let mut line = String::new();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the demo ended");
        if let Some((_, command)) = line.split_once("nsenter --target ") {
            inside = command.split(' ').next().and_then(|pid| pid.parse().ok());
        }
        if line.contains("Ctrl-C") {
            return Pid::from_raw(inside.unwrap()).unwrap();
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).unwrap()
}

fn ctrl_c_ends_a_kept_demo_in_good_order() {
    ends_in_good_order(|demo| kill_process_group(demo, Signal::INT).unwrap());
}

fn sigterm_ends_a_kept_demo_in_good_order() {
    ends_in_good_order(|demo| kill_process(demo, Signal::TERM).unwrap());
}

fn ends_in_good_order(end: impl FnOnce(Pid)) {
    let folder = install("");
    let (mut child, mut output, _) = keep(folder.path());
    end(pid(&child));
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    for scene in [
        "✓ tunnel ended",
        "✓ address withdrawn",
        "fails: network unreachable",
        "✓ nothing is left",
        "✓ the machine is clean",
    ] {
        assert!(text.contains(scene), "no “{scene}”:\n{text}");
    }
}

fn a_demo_that_is_killed_takes_everything_with_it() {
    let folder = install("");
    let (mut child, _output, inside) = keep(folder.path());
    // Process 1 of the namespaces: the kernel ends all others there before it is gone.
    let inside = pidfd_open(inside, PidfdFlags::empty()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut end = [PollFd::new(&inside, PollFlags::IN)];
    let limit = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(
        poll(&mut end, Some(&limit)),
        Ok(1),
        "the demo goes on inside"
    );
}
