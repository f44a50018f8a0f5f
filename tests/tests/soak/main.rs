//! An hour's worth of random events in two minutes, against the real parts: the end is what a plain model says, and nothing
//! grows.
//!
//! `MINITUNNEL_SOAK_SECONDS` sets for how long (`tests/run soak`: two minutes), `MINITUNNEL_SOAK_SEED` which events: a seed
//! that is printed and given again repeats them.

mod cost;
mod events;
mod model;

use std::env;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{Result, Signal, WAIT};
use tokio::time::Instant;

use cost::Costs;
use events::Soak;

/// In CI, with all other tests.
const SHORT: Duration = Duration::from_secs(25);
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
    let lasts = number("MINITUNNEL_SOAK_SECONDS")?.map_or(SHORT, Duration::from_secs);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = number("MINITUNNEL_SOAK_SEED")?.unwrap_or(now.as_secs());
    println!("soak: MINITUNNEL_SOAK_SEED={seed} for {lasts:?}");
    let mut soak = Soak::start(Random(seed)).await?;
    let mut costs = Costs::default();
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < lasts {
        for _ in 0..ROUND {
            soak.happen().await.with_context(|| soak.story())?;
        }
        let asked = Instant::now();
        soak.is_as_the_model_says()
            .await
            .with_context(|| soak.story())?;
        slowest = slowest.max(asked.elapsed());
        let second_half = began.elapsed() > lasts / 2;
        costs.sample(second_half, "session", &soak.session_process()?)?;
        if let Some(helper) = soak.helper_process().await? {
            costs.sample(second_half, "helper", &helper)?;
        }
    }
    soak.calm().await.with_context(|| soak.story())?;
    let mut report = format!(
        "soak: {} events, each round right within {slowest:?}\n",
        soak.done.len()
    );
    write!(report, "{costs}")?;
    println!("{report}");
    let (mut session, scene) = soak.end().await?;
    session.signal(Signal::INT)?;
    session.success(WAIT).await?;
    let left = scene.our_routes().await?;
    ensure!(left.is_empty(), "{left:?} are left");
    costs.are_flat()
}
