//! A route of ours that someone deletes comes back.

use anyhow::{Context as _, ensure};
use minitunnel_e2e::Result;
use minitunnel_model::{Command, FromSession, TargetState, ToSession};
use tokio::time::Instant;

use crate::report::{Figure, Limit, Reading};
use crate::scene::{PROFILE, Scene};
use crate::stats::percentile;
use crate::user::User;
use crate::watch::RouteWatch;

const LOSSES: usize = 1000;

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let figure = |name, most| Figure::new(name, "ms", Limit::Fixed(most));
    let mut median = figure("our route deleted -> back in the kernel, p50", 10.0);
    let mut tail = figure("our route deleted -> back in the kernel, p99", 50.0);
    let scene = Scene::new().await?;
    let mut route = RouteWatch::new(scene.route()?)?;
    let up = scene.up().await?;
    let mut user = User::at(&scene).await?;
    let helper_at_rest = scene.helper_at_rest().await?;
    for _ in 0..runs {
        let mut samples = Vec::new();
        for _ in 0..LOSSES {
            route.until(true).await?;
            // Who deletes it before the helper has looked whether it is there is a fight of its own.
            helper_at_rest().await?;
            let begun = Instant::now();
            route.delete()?;
            let back = route.until(true).await;
            samples.push(back.with_context(|| up.report("did not repair"))? - begun);
            ask_again(&mut user).await?;
        }
        for (figure, part) in [(&mut median, 0.5), (&mut tail, 0.99)] {
            figure.add(Reading {
                samples: samples.len(),
                ..Reading::of(percentile(&samples, part))
            });
        }
    }
    drop(user);
    scene.down(up).await?;
    Ok(vec![median, tail])
}

/// Asks for the tunnel again, which forgives a loss: three within 10 s would be a fight, and the tunnel would rest.
async fn ask_again(user: &mut User) -> Result {
    let command = Command::SetTarget {
        profile: PROFILE.parse()?,
        target: TargetState::Up,
    };
    user.say(&ToSession::Command(command)).await?;
    let answer: FromSession = user.hear().await?;
    ensure!(answer == FromSession::Taken, "the session says {answer:?}");
    Ok(())
}
