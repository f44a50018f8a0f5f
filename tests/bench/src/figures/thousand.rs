//! 1,000 services: created by four clients at once, and released.

use std::ops::Range;
use std::pin::pin;

use futures::future::try_join_all;
use kube::Client;
use minitunnel_e2e::{Process, Result, Signal, WAIT};
use tokio::time::Instant;

use crate::api;
use crate::report::{Figure, Limit, Reading};
use crate::scene::Scene;
use crate::stats::millis;
use crate::watch::{RouteWatch, Services};

pub(super) const SERVICES: usize = 1000;
const CLIENTS: usize = 4;

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let figure = |name, limit| Figure::new(name, "ms", limit);
    let name = "1,000 created by four clients -> all assigned, to creating them";
    let mut burst = figure(name, Limit::Times(1.1));
    let mut bare_burst = figure("  the same by the bare loop", Limit::None);
    let name = "Ctrl-C with 1,000 services -> addresses and routes gone";
    let mut end = figure(name, Limit::Times(1.5));
    let scene = Scene::new().await?;
    for _ in 0..runs {
        let mut services = Services::start(&scene.client).await?;
        let mut route = RouteWatch::new(scene.route()?)?;

        let up = scene.up().await?;
        burst.add(create_all(&scene, &mut services).await?);
        let ours = end_up(up, &mut services, &mut route).await?;
        clear(&scene, &mut services).await?;

        let mut bare = scene.bare().await?;
        bare_burst.add(create_all(&scene, &mut services).await?);
        let begun = Instant::now();
        bare.write_line("release").await?;
        let released = millis(services.none_assigned().await? - begun);
        bare.success(WAIT).await?;
        clear(&scene, &mut services).await?;

        end.add(Reading {
            ours,
            bare: released,
            samples: 1,
        });
    }
    Ok(vec![burst, bare_burst, end])
}

/// Creates the services, and gives the time until all are assigned beside that until all are created.
async fn create_all(scene: &Scene, services: &mut Services) -> Result<Reading> {
    let begun = Instant::now();
    create(scene, 0..SERVICES).await?;
    let created = begun.elapsed();
    let assigned = services.all_assigned(SERVICES).await? - begun;
    Ok(Reading {
        ours: millis(assigned),
        bare: millis(created),
        samples: 1,
    })
}

/// Creates services, four at a time.
pub(super) async fn create(scene: &Scene, numbers: Range<usize>) -> Result {
    by_four(scene, numbers, async |client, name| {
        api::create(client, name).await
    })
    .await
}

/// Does something to services, four at a time.
pub(super) async fn by_four(
    scene: &Scene,
    numbers: Range<usize>,
    what: impl AsyncFn(&Client, &str) -> Result,
) -> Result {
    let share = numbers.len().div_ceil(CLIENTS);
    let numbers: Vec<usize> = numbers.collect();
    let clients = numbers.chunks(share).map(async |numbers| {
        let client = scene.another_client()?;
        for number in numbers {
            what(&client, &format!("many-{number}")).await?;
        }
        Result::Ok(())
    });
    try_join_all(clients).await.map(drop)
}

/// Ends an `up` by Ctrl-C, and gives the milliseconds until its addresses and routes are gone; infinitely many if it gave up.
async fn end_up(mut up: Process, services: &mut Services, route: &mut RouteWatch) -> Result<f64> {
    let begun = Instant::now();
    up.signal(Signal::INT)?;
    let mut gone = pin!(async { tokio::try_join!(services.none_assigned(), route.until(false)) });
    let (addresses, route) = tokio::select! {
        gone = &mut gone => gone?,
        status = up.exit(WAIT) => {
            let status = status?;
            if !status.success() {
                let left = up.count(" keeps ");
                eprintln!("  up gave up ({status}): {left} services keep their addresses");
                return Ok(f64::INFINITY);
            }
            gone.await?
        }
    };
    up.success(WAIT).await?;
    Ok(millis(addresses.max(route) - begun))
}

pub(super) async fn clear(scene: &Scene, services: &mut Services) -> Result {
    api::delete_all(&scene.client).await?;
    services.none().await.map(drop)
}
