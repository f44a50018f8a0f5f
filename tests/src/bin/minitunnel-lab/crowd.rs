//! Many connections of one user to the system bus, each of which has asked the helper something.

use anyhow::{Context as _, Result};
use tokio::io::AsyncReadExt as _;

/// Makes so many, has each ask for the list, says so when all have an answer, and keeps them until the input ends.
pub(crate) async fn run(count: usize) -> Result<()> {
    let mut crowd = Vec::new();
    for number in 0..count {
        let connecting = zbus::connection::Builder::system().build();
        let one = connecting
            .await
            .with_context(|| format!("connection {number} is refused"))?;
        crowd.push(one);
    }
    for (number, one) in crowd.iter().enumerate() {
        one.call_method(
            Some("io.github.minitunnel.Helper"),
            "/io/github/minitunnel/Helper",
            Some("io.github.minitunnel.Helper1"),
            "List",
            &(),
        )
        .await
        .with_context(|| format!("the list for connection {number}"))?;
    }
    println!("a crowd of {}", crowd.len());
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
