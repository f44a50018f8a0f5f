//! The person at polkit's dialog.

use std::ffi::OsStr;

use tokio::process::Command;

use crate::{Place, Process, Result, WAIT};

/// A polkit authentication agent of a lab, which answers as it is told.
///
/// Drop it and polkit has nobody to ask. Its own lines tell when it was asked: see [`Agent::process`].
#[derive(Debug)]
pub struct Agent {
    process: Process,
    told_asked: usize,
    told_cancelled: usize,
}

/// Waits for a line of input before it becomes the program, so that the agent is registered before the program asks.
const HELD: [&str; 4] = ["sh", "-c", "read -r _ && exec \"$@\"", "sh"];

impl Agent {
    pub(crate) async fn start(lab: &Place, answer: &str) -> Result<Self> {
        let process = Process::spawn(lab.command("minitunnel-lab").args(["agent", answer])).await?;
        process.wait_for_line("answering", WAIT).await?;
        Ok(Self {
            process,
            told_asked: 0,
            told_cancelled: 0,
        })
    }

    /// Starts a program of a lab, for which polkit will ask this agent. Without this, polkit has nobody to ask for it.
    pub async fn spawn(&mut self, command: &mut Command) -> Result<Process> {
        let mut program = Process::spawn(&mut held(command)).await?;
        self.register(&program).await?;
        program.write_line("go").await?;
        Ok(program)
    }

    /// Lets polkit ask this agent for a program that runs already.
    pub async fn register(&mut self, program: &Process) -> Result {
        let pid = program.lab_pid()?;
        self.process.write_line(&format!("register {pid}")).await?;
        self.process
            .wait_for_line(&format!("registered {pid}"), WAIT)
            .await?;
        Ok(())
    }

    /// Changes the answer: `approve`, `deny`, `dismiss` or `hold`. What was held is answered so too.
    pub async fn answer(&mut self, answer: &str) -> Result {
        self.process.write_line(&format!("answer {answer}")).await?;
        self.process
            .wait_for_line(&format!("answering {answer}"), WAIT)
            .await?;
        Ok(())
    }

    /// Waits until it is asked again, beyond what this told of before, and gives the line `asked ACTION: MESSAGE`.
    pub async fn asked(&mut self) -> Result<String> {
        self.told_asked += 1;
        self.process
            .wait_for_count("asked ", self.told_asked, WAIT)
            .await
    }

    /// Waits until polkit takes a question back, beyond what this told of before.
    pub async fn cancelled(&mut self) -> Result<String> {
        self.told_cancelled += 1;
        self.process
            .wait_for_count("cancelled", self.told_cancelled, WAIT)
            .await
    }

    /// How often it was asked so far.
    pub fn times_asked(&self) -> usize {
        self.process.count("asked ")
    }

    /// The agent's own process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// The same command of a lab, waiting before the program itself starts.
fn held(command: &Command) -> Command {
    let command = command.as_std();
    let mut held = Command::new(command.get_program());
    let mut entered = false;
    for argument in command.get_args() {
        held.arg(argument);
        if argument == OsStr::new("--") && !entered {
            entered = true;
            held.args(HELD);
        }
    }
    held.env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            held.env(name, value);
        }
    }
    held
}
