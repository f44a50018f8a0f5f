//! The routes of a client that is killed go.

use std::time::Duration;

use minitunnel_e2e::{Result, Signal, WAIT};
use tokio::time::Instant;

use crate::report::{Figure, Limit, Reading};
use crate::scene::Scene;
use crate::stats::percentile;
use crate::watch::RouteWatch;

const DEATHS: usize = 1000;

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let figure = |name, limit| Figure::new(name, "ms", limit);
    let mut median = figure("client killed -> its routes gone, p50", Limit::None);
    let mut tail = figure("client killed -> its routes gone, p99", Limit::Fixed(15.0));
    let scene = Scene::new().await?;
    let mut route = RouteWatch::new(scene.route()?)?;
    for _ in 0..runs {
        let mut samples = Vec::new();
        for _ in 0..DEATHS {
            samples.push(death(&scene, &mut route).await?);
        }
        for (figure, part) in [(&mut median, 0.5), (&mut tail, 0.99)] {
            figure.add(Reading {
                samples: samples.len(),
                ..Reading::of(percentile(&samples, part))
            });
        }
    }
    Ok(vec![median, tail])
}

async fn death(scene: &Scene, route: &mut RouteWatch) -> Result<Duration> {
    let mut up = scene.up().await?;
    route.until(true).await?;
    let begun = Instant::now();
    up.signal(Signal::KILL)?;
    let gone = route.until(false).await? - begun;
    up.exit(WAIT).await?;
    Ok(gone)
}
