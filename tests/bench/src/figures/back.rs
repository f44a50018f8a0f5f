//! A cluster that is stopped and comes back.

use minitunnel_e2e::Result;

use super::thousand::create;
use crate::api;
use crate::report::{Figure, Limit, Reading};
use crate::scene::{PROFILE, Scene};
use crate::stats::millis;
use crate::watch::{RouteWatch, Services};

const SERVICES: usize = 100;

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let name = "cluster back, /readyz ok -> route and 100 addresses back";
    let mut back = Figure::new(name, "ms", Limit::Fixed(1000.0));
    let mut scene = Scene::new().await?;
    let mut route = RouteWatch::new(scene.route()?)?;
    create(&scene, 0..SERVICES).await?;
    let up = scene.up().await?;
    for _ in 0..runs {
        let mut services = Services::start(&scene.client).await?;
        services.all_assigned(SERVICES).await?;
        // As `minikube stop` does: it says so, and its node goes.
        scene.home.event(PROFILE, "Stopping")?;
        services.none_assigned().await?;
        drop(services);
        scene.cluster.stop().await?;
        route.until(false).await?;
        scene.home.event(PROFILE, "Done")?;

        let access = scene.access.clone();
        let seen = async {
            let ready = api::ready(&access).await?;
            let mut services = Services::start(&api::client(&access)?).await?;
            let addresses = services.all_assigned(SERVICES).await?;
            let there = route.until(true).await?;
            Result::Ok(millis(addresses.max(there) - ready))
        };
        let (took, ()) = tokio::try_join!(seen, scene.cluster.start_again(None))?;
        back.add(Reading::of(took));
        scene.client = scene.another_client()?;
    }
    scene.down(up).await?;
    Ok(vec![back])
}
