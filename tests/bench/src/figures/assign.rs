//! Service created → address visible to a watcher.

use std::time::Duration;

use minitunnel_e2e::Result;
use tokio::time::Instant;

use crate::api;
use crate::report::{Figure, Limit, Reading};
use crate::scene::Scene;
use crate::stats::percentile;
use crate::watch::Services;

/// The two sides take turns, each a block of samples: both at once would take the processor from each other.
const BLOCKS: usize = 10;
/// The first is left out: it finds a cold cache.
const BLOCK: usize = 101;

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let figure = |name, limit| Figure::new(name, "ms", limit);
    let mut median = figure("service created -> address seen, p50", Limit::Beyond(1.5));
    let mut tail = figure("service created -> address seen, p99", Limit::Times(1.3));
    let scene = Scene::new().await?;
    for _ in 0..runs {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..BLOCKS {
            let up = scene.up().await?;
            ours.extend(block(&scene).await?);
            scene.down(up).await?;
            let mut up = scene.bare().await?;
            bare.extend(block(&scene).await?);
            up.kill().await?;
        }
        for (figure, part) in [(&mut median, 0.5), (&mut tail, 0.99)] {
            figure.add(Reading {
                ours: percentile(&ours, part),
                bare: percentile(&bare, part),
                samples: ours.len(),
            });
        }
    }
    Ok(vec![median, tail])
}

/// Makes services one after another, each when the one before has its address.
async fn block(scene: &Scene) -> Result<Vec<Duration>> {
    let mut services = Services::start(&scene.client).await?;
    let mut samples = Vec::new();
    for index in 0..BLOCK {
        let name = format!("assign-{index}");
        let begun = Instant::now();
        api::create(&scene.client, &name).await?;
        samples.push(services.assigned(&name).await? - begun);
    }
    api::delete_all(&scene.client).await?;
    services.none().await?;
    Ok(samples.split_off(1))
}
