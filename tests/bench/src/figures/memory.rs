//! Memory of `minitunnel up`, of the helper, and of a bare loop.

use minitunnel_e2e::Result;

use super::thousand::{SERVICES, clear, create};
use crate::process::Proc;
use crate::report::{Figure, Limit, Reading};
use crate::scene::Scene;
use crate::watch::Services;

const FEW: usize = 100;

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let figure = |name, limit| Figure::new(name, "MB", limit);
    let mut few = figure("memory (PSS) of up, 100 services", Limit::Fixed(10.0));
    let mut many = figure("memory (PSS) of up, 1,000 services", Limit::Fixed(12.0));
    let mut helper = figure("memory (PSS) of the helper", Limit::Fixed(5.0));
    let mut bare_few = figure("  of the bare loop, 100 services", Limit::None);
    let mut bare_many = figure("  of the bare loop, 1,000 services", Limit::None);
    let scene = Scene::new().await?;
    for _ in 0..runs {
        let mut services = Services::start(&scene.client).await?;
        let up = scene.up().await?;
        // On the bus, `minitunnel up` is one process.
        let costs = scene.costs(&up)?;
        grow(&scene, &mut services, &costs, (&mut few, &mut many)).await?;
        helper.add(Reading::of(scene.helper_costs().await?.pss()?));
        scene.down(up).await?;
        clear(&scene, &mut services).await?;

        let mut bare = scene.bare().await?;
        let costs = scene.costs(&bare)?;
        let figures = (&mut bare_few, &mut bare_many);
        grow(&scene, &mut services, &costs, figures).await?;
        bare.kill().await?;
        clear(&scene, &mut services).await?;
    }
    Ok(vec![few, many, helper, bare_few, bare_many])
}

/// Reads the memory of a process when it has assigned 100 services, and again at 1,000.
async fn grow(
    scene: &Scene,
    services: &mut Services,
    costs: &Proc,
    (few, many): (&mut Figure, &mut Figure),
) -> Result {
    create(scene, 0..FEW).await?;
    services.all_assigned(FEW).await?;
    few.add(Reading::of(costs.pss()?));
    create(scene, FEW..SERVICES).await?;
    services.all_assigned(SERVICES).await?;
    many.add(Reading::of(costs.pss()?));
    Ok(())
}
