//! A minute in which nothing happens, with 1,000 services assigned.

use std::time::Duration;

use anyhow::ensure;
use minitunnel_e2e::Result;
use tokio::time::sleep;

use super::thousand::{SERVICES, create};
use crate::report::{Figure, Limit, Reading};
use crate::scene::Scene;
use crate::watch::Services;

const MINUTE: Duration = Duration::from_secs(60);
/// What the last assignments brought about is over by then; it is not idling.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let none = |name| Figure::new(name, "", Limit::Fixed(0.0));
    let name = "60 s idle, 1,000 services: CPU of up and helper";
    let mut cpu = Figure::new(name, "s", Limit::Fixed(0.05));
    let mut subprocesses = none("  subprocesses of both");
    let mut requests = none("  API requests but watches");
    let scene = Scene::audited().await?;
    create(&scene, 0..SERVICES).await?;
    for _ in 0..runs {
        let mut services = Services::start(&scene.client).await?;
        let up = scene.up().await?;
        services.all_assigned(SERVICES).await?;
        sleep(SETTLE).await;
        let (up_costs, helper_costs) = (scene.costs(&up)?, scene.helper_costs().await?);
        let before = (up_costs.used()?, helper_costs.used()?);
        // Nobody else is at this API server as this user: the benchmark itself asks nothing meanwhile.
        let asked_before = scene.cluster.requests()?.len();
        ensure!(asked_before > SERVICES, "the API server counts nothing");
        sleep(MINUTE).await;
        let after = (up_costs.used()?, helper_costs.used()?);
        let asked = scene.cluster.requests()?.split_off(asked_before);
        let beyond_watches: Vec<_> = asked
            .iter()
            .filter(|request| !request.starts_with("watch "))
            .collect();
        for request in &beyond_watches {
            eprintln!("  request: {request}");
        }
        let used = after.0.cpu_since(&before.0) + after.1.cpu_since(&before.1);
        cpu.add(Reading::of(used));
        let started = after.0.subprocesses_since(&before.0) + after.1.subprocesses_since(&before.1);
        subprocesses.add(Reading::of(started as f64));
        requests.add(Reading::of(beyond_watches.len() as f64));
        scene.down(up).await?;
        services.none_assigned().await?;
    }
    Ok(vec![cpu, subprocesses, requests])
}
