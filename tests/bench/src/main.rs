//! The benchmark: every figure that minitunnel is to reach, measured with the real parts, beside a bare loop.
//!
//! `tests/run bench [FAMILY…] [--runs N] [--out FILE]` builds all that it needs and runs it. It prints a table and writes
//! it as JSON; a figure that is missed is said to be, and is no failure of the program.

mod api;
mod bare;
mod figures;
mod process;
mod report;
mod scene;
mod stats;
mod user;
mod watch;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use minitunnel_e2e::Result;

use crate::api::Access;
use crate::figures::Family;
use crate::report::Report;

/// Measures what minitunnel costs and how long it takes, beside a bare loop.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; by default all.
    families: Vec<Family>,
    /// How often each figure is measured: the median run and the worst are told.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Where the JSON goes; by default beside this program.
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the benchmark starts itself as.
#[derive(Debug, Subcommand)]
enum Part {
    /// The bare loop that minitunnel is compared with.
    #[command(hide = true)]
    Bare(Access),
}

// One thread: a lab is its network.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let arguments = Arguments::parse();
    if let Some(Part::Bare(access)) = arguments.part {
        return bare::run(&access).await;
    }
    let families = match arguments.families.as_slice() {
        [] => <Family as clap::ValueEnum>::value_variants(),
        some => some,
    };
    let out = match arguments.out {
        Some(out) => out,
        None => std::env::current_exe()?.with_file_name("bench.json"),
    };
    let mut report = Report::new()?;
    let mut failed = Vec::new();
    for family in families {
        eprintln!("{family}: {} runs", arguments.runs);
        let begun = Instant::now();
        match family.measure(arguments.runs.into()).await {
            Ok(figures) => report.add(figures, begun.elapsed()),
            // What the others take is worth more than an early end.
            Err(error) => {
                eprintln!("{family} can't be measured: {error:#}");
                failed.push(family.to_string());
            }
        }
        eprintln!("{family}: {:.0} s", begun.elapsed().as_secs_f64());
    }
    print!("{report}");
    let json = serde_json::to_string_pretty(&report.json())?;
    fs::write(&out, json + "\n").with_context(|| format!("cannot write {}", out.display()))?;
    eprintln!("written to {}", out.display());
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}
