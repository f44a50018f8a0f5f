//! Memory of `minitunnel up` with ten profiles.

use minitunnel_e2e::Result;

use crate::api;
use crate::report::{Figure, Limit, Reading};
use crate::scene::Scene;
use crate::watch::Services;

const PROFILES: u8 = 10;
const SERVICES: usize = 100;

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let name = "memory (PSS) of up, 10 profiles with 100 services each";
    let mut memory = Figure::new(name, "MB", Limit::Fixed(20.0));
    let name = "  of the helper, with their routes";
    let mut helper = Figure::new(name, "MB", Limit::None);
    let mut scene = Scene::new().await?;
    let mut clients = vec![scene.client.clone()];
    let mut clusters = Vec::new();
    for number in 2..=PROFILES {
        let (cluster, client) = scene.add(number).await?;
        clusters.push(cluster);
        clients.push(client);
    }
    let profiles: Vec<&str> = std::iter::once(&scene.cluster)
        .chain(&clusters)
        .map(|cluster| cluster.profile())
        .collect();
    let mut watches = Vec::new();
    for client in &clients {
        for number in 0..SERVICES {
            api::create(client, &format!("many-{number}")).await?;
        }
        watches.push(Services::start(client).await?);
    }
    for _ in 0..runs {
        let up = scene.up_for(&profiles).await?;
        for services in &mut watches {
            services.all_assigned(SERVICES).await?;
        }
        memory.add(Reading::of(scene.costs(&up)?.pss()?));
        helper.add(Reading::of(scene.helper_costs().await?.pss()?));
        // Ten API servers on a small machine may be silent for longer than an end waits: what it leaves, the next one takes on.
        scene.end(up).await?;
    }
    Ok(vec![memory, helper])
}
