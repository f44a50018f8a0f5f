//! Small programs that the harness runs inside a lab. No part of the product.

mod agent;
mod bridge;
mod crowd;
mod web;

use anyhow::{Result, bail};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["web", address] => web::serve(address).await,
        ["agent", answer] => agent::run(answer.parse()?).await,
        ["bridge"] => bridge::run().await,
        ["crowd", count] => crowd::run(count.parse()?).await,
        _ => bail!(
            "usage: minitunnel-lab web ADDRESS:PORT | agent approve|deny|dismiss|hold | bridge | crowd COUNT"
        ),
    }
}
