//! The program `ip` of iproute2: all network set-up in the namespaces.

use std::process::Stdio;

use tokio::{io::AsyncWriteExt, process::Command};

use crate::Error;

/// Runs `ip` once for all of these commands, a line each.
pub(crate) async fn ip(commands: &str) -> Result<(), Error> {
    let failed = |message: String| Error::Ip {
        commands: commands.trim().replace('\n', "; "),
        message,
    };
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        let written = stdin.write_all(commands.as_bytes()).await;
        written.map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output().await;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(failed(
        stderr.lines().next().unwrap_or("no reason").to_owned(),
    ))
}

/// The routes of every table and both families, a line each, sorted, without what changes by itself: the time that some
/// still have to live, and whether their link has a carrier.
pub(crate) async fn routes() -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let arguments = [family, "route", "show", "table", "all"];
        let output = Command::new("ip").args(arguments).output().await;
        let output = output.map_err(|error| Error::Ip {
            commands: arguments.join(" "),
            message: error.to_string(),
        })?;
        if !output.status.success() {
            return Err(Error::Ip {
                commands: arguments.join(" "),
                message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        let text = String::from_utf8_lossy(&output.stdout);
        lines.extend(text.lines().map(lasting));
    }
    lines.sort();
    Ok(lines)
}

fn lasting(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "expires" => drop(words.next()),
            "linkdown" => {}
            _ => kept.push(word),
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::lasting;

    #[test]
    fn a_route_is_the_same_while_its_lifetime_runs_down_and_its_cable_is_out() {
        let line =
            "default via fe80::1 dev eth0 proto ra metric 100 expires 1742sec pref medium linkdown";
        let same = "default via fe80::1 dev eth0 proto ra metric 100 pref medium";
        assert_eq!(lasting(line), same);
    }
}
