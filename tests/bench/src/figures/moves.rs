//! A node that gets another address: the route to its pods follows.

use std::net::Ipv4Addr;

use minitunnel_e2e::Result;
use minitunnel_model::Route;
use tokio::time::Instant;

use crate::api;
use crate::report::{Figure, Limit, Reading};
use crate::scene::{PROFILE, Scene};
use crate::stats::percentile;
use crate::watch::RouteWatch;

const MOVES: usize = 1000;

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let figure = |name, limit| Figure::new(name, "ms", limit);
    let mut median = figure(
        "node's address changed -> its pods' route follows, p50",
        Limit::None,
    );
    let name = "node's address changed -> its pods' route follows, p99";
    let mut tail = figure(name, Limit::Fixed(100.0));
    let scene = Scene::new().await?;
    // Where each node has its own pods.
    let mut config = scene.home.config(PROFILE)?;
    config["KubernetesConfig"]["CNI"] = "kindnet".into();
    scene.home.save_config(PROFILE, &config)?;
    let worker = scene.cluster.join(2).await?;
    let up = scene.up().await?;

    let [a, b, c, last] = worker.ip.octets();
    // A gateway needs a connected network, and nobody there.
    let places = [worker.ip, Ipv4Addr::new(a, b, c, last + 10)];
    let mut routes = Vec::new();
    for place in places {
        routes.push(RouteWatch::new(Route {
            destination: worker.pod_cidr().parse()?,
            gateway: place.into(),
        })?);
    }
    routes[0].until(true).await?;
    for _ in 0..runs {
        let mut samples = Vec::new();
        // An even number: each run begins where the last one did.
        for number in 1..=MOVES {
            let to = number % places.len();
            let begun = Instant::now();
            api::set_node_address(&scene.client, &worker.name, places[to]).await?;
            samples.push(routes[to].until(true).await? - begun);
        }
        for (figure, part) in [(&mut median, 0.5), (&mut tail, 0.99)] {
            figure.add(Reading {
                samples: samples.len(),
                ..Reading::of(percentile(&samples, part))
            });
        }
    }
    scene.down(up).await?;
    Ok(vec![median, tail])
}
