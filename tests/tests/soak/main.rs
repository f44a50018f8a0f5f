//! Random events against the real parts: the end is what a plain model says, and nothing grows.
//!
//! A seed chooses the events, and their number is given in rounds, so that the same seed has the same events in the same order;
//! not at the same moments, as the real parts take the time that they take. `tests/run soak` has enough rounds for two minutes
//! (`MINITUNNEL_SOAK_ROUNDS`) of a seed that the clock gives and the test prints; `MINITUNNEL_SOAK_SEED` has its events again.

mod cost;
mod events;
mod model;

use std::env;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{Result, Signal, WAIT};
use tokio::time::Instant;

use cost::Costs;
use events::{Mortal, Soak};

/// In CI, with all other tests: the same events for each change. The first one has found a bug.
const SEEDS: [u64; 2] = [1_795_460_841, 2];
/// The rounds of each of these.
const SHORT: usize = 8;
/// So many events come between two looks at what is: enough to meet each other.
const ROUND: usize = 32;

/// Numbers that look random, the same for the same seed (Vigna's SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        usize::try_from(self.next() % end).unwrap_or_default()
    }

    fn choose<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| &of[self.below(of.len())])
    }
}

fn number(name: &str) -> Result<Option<u64>> {
    let text = env::var(name).ok();
    let parsed = text.map(|text| text.parse().with_context(|| format!("{name}: {text}")));
    parsed.transpose()
}

#[tokio::test]
async fn random_events_end_as_a_plain_model_says_and_nothing_grows() -> Result {
    let seed = number("MINITUNNEL_SOAK_SEED")?;
    let rounds = number("MINITUNNEL_SOAK_ROUNDS")?
        .map(usize::try_from)
        .transpose()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seeds = match (seed, rounds) {
        (None, None) => SEEDS.to_vec(),
        (seed, _) => vec![seed.unwrap_or(now.as_secs())],
    };
    for seed in seeds {
        soak(seed, rounds.unwrap_or(SHORT)).await?;
    }
    Ok(())
}

async fn soak(seed: u64, rounds: usize) -> Result {
    println!("soak: MINITUNNEL_SOAK_SEED={seed} MINITUNNEL_SOAK_ROUNDS={rounds}");
    let mut soak = Soak::start(Random(seed)).await?;
    let mut costs = Costs::default();
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        // One session lives through the last three quarters, and what it needs is looked at; one helper through the last.
        let mortal = Mortal {
            session: round < rounds / 4,
            helper: round < rounds - rounds / 4,
        };
        let happened = soak.round(ROUND, mortal).await;
        happened.map_err(|error| soak.story(&error))?;
        let asked = Instant::now();
        let right = soak.is_as_the_model_says().await;
        right.map_err(|error| soak.story(&error))?;
        slowest = slowest.max(asked.elapsed());
        costs.look("session", &soak.session_process()?)?;
        if let Some(helper) = soak.helper_process().await? {
            costs.look("helper", &helper)?;
        }
    }
    let calm = soak.calm().await;
    calm.map_err(|error| soak.story(&error))?;
    println!(
        "soak: {} events in {:.0?}, each round right within {slowest:?}\n{costs}",
        soak.done.len(),
        began.elapsed(),
    );
    let session = soak.session_process()?;
    let (mut up, scene) = soak.end().await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    let left = scene.our_routes().await?;
    ensure!(left.is_empty(), "{left:?} are left");
    costs.are_flat(&session, rounds - rounds / 4)
}
