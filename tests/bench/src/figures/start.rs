//! `minitunnel up` on a running cluster, until routes and first address are there.

use std::time::Duration;

use minitunnel_e2e::Result;

use crate::api;
use crate::report::{Figure, Limit, Reading};
use crate::scene::Scene;
use crate::stats::percentile;
use crate::watch::{RouteWatch, Services};

/// Starts of each kind in a run.
const STARTS: usize = 20;
const SERVICE: &str = "first";

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let figure = |name, most| Figure::new(name, "ms", Limit::Fixed(most));
    let mut warm = figure("up -> routes and first address, helper running, p50", 80.0);
    let mut cold = figure(
        "up -> routes and first address, helper not running, p50",
        250.0,
    );
    let scene = Scene::new().await?;
    api::create(&scene.client, SERVICE).await?;
    // Caches of the machine are warm from here on.
    start(&scene).await?;
    for _ in 0..runs {
        let (mut running, mut ended) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            running.push(start(&scene).await?);
            scene.end_helper().await?;
            // This one leaves a helper for the next.
            ended.push(start(&scene).await?);
        }
        for (figure, samples) in [(&mut warm, running), (&mut cold, ended)] {
            figure.add(Reading {
                samples: samples.len(),
                ..Reading::of(percentile(&samples, 0.5))
            });
        }
    }
    Ok(vec![warm, cold])
}

async fn start(scene: &Scene) -> Result<Duration> {
    let mut services = Services::start(&scene.client).await?;
    let mut route = RouteWatch::new(scene.route()?)?;
    // The end of the start before was a write.
    api::settle(&scene.client).await?;
    let mut up = scene.ready_up().await?;
    let begun = scene.let_go(&mut up).await?;
    let (address, routed) = tokio::try_join!(services.assigned(SERVICE), route.until(true))?;
    scene.down(up).await?;
    Ok(address.max(routed) - begun)
}
