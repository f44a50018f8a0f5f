//! 1,000 services that change at once: what is sent to a view, and what it costs.

use std::collections::VecDeque;
use std::time::Duration;

use minitunnel_e2e::{Result, WAIT};
use minitunnel_model::ToSession;
use tokio::time::Instant;

use super::thousand::{SERVICES, by_four, clear, create};
use crate::api;
use crate::process::Proc;
use crate::report::{Figure, Limit, Reading};
use crate::scene::Scene;
use crate::user::User;
use crate::watch::Services;

/// The ports before and after, as a snapshot names them.
const CHANGES: [u16; 2] = [81, 82];

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let name = "1,000 services changing at once: most snapshots sent in a second";
    let mut sent = Figure::new(name, "", Limit::Fixed(30.0));
    let name = "  CPU of up, to the bare loop's";
    let mut cpu = Figure::new(name, "s", Limit::Times(1.5));
    let name = "  CPU of up with a view that is sent the snapshots";
    let mut viewed = Figure::new(name, "s", Limit::None);
    let scene = Scene::new().await?;
    for _ in 0..runs {
        let mut services = Services::start(&scene.client).await?;
        let up = scene.up().await?;
        create(&scene, 0..SERVICES).await?;
        services.all_assigned(SERVICES).await?;
        let costs = scene.costs(&up)?;
        let alone = change(&scene, &mut services, &costs, CHANGES[0]).await?;
        let (rate, with_view) = watched(&scene, &mut services, &costs, CHANGES[1]).await?;
        sent.add(Reading::of(rate));
        viewed.add(Reading::of(with_view));
        scene.down(up).await?;
        clear(&scene, &mut services).await?;

        let mut bare = scene.bare().await?;
        create(&scene, 0..SERVICES).await?;
        services.all_assigned(SERVICES).await?;
        let costs = scene.costs(&bare)?;
        cpu.add(Reading {
            ours: alone,
            bare: change(&scene, &mut services, &costs, CHANGES[0]).await?,
            samples: 1,
        });
        bare.write_line("release").await?;
        bare.success(WAIT).await?;
        clear(&scene, &mut services).await?;
    }
    Ok(vec![sent, cpu, viewed])
}

/// Changes all services, and gives the seconds of CPU that a process used for that.
async fn change(scene: &Scene, services: &mut Services, costs: &Proc, port: u16) -> Result<f64> {
    let before = costs.at_rest().await?;
    by_four(scene, 0..SERVICES, async |client, name| {
        api::set_port(client, name, port).await
    })
    .await?;
    services.all_with_port(SERVICES, port).await?;
    Ok(costs.at_rest().await?.cpu_since(&before))
}

/// The same with a view, and the most snapshots that it was sent within one second until it knew of all changes.
async fn watched(
    scene: &Scene,
    services: &mut Services,
    costs: &Proc,
    port: u16,
) -> Result<(f64, f64)> {
    let mut user = User::at(scene).await?;
    user.say(&ToSession::Watch).await?;
    // What is, before anything changes.
    user.line().await?;
    let changed = format!("\"port\":{port},");
    let view = async {
        let mut came = Vec::new();
        loop {
            // Not parsed: the processor is the session's.
            let line = user.line().await?;
            came.push(Instant::now());
            if line.matches(&changed).count() == SERVICES {
                return Result::Ok(most_in_a_second(&came));
            }
        }
    };
    let (cpu, rate) = tokio::try_join!(change(scene, services, costs, port), view)?;
    Ok((rate, cpu))
}

/// The most of these moments, which are in order, that lie within any one second.
fn most_in_a_second(came: &[Instant]) -> f64 {
    let second = Duration::from_secs(1);
    let mut most = 0_u32;
    let mut window = VecDeque::new();
    for now in came {
        window.push_back(*now);
        while window.front().is_some_and(|first| *now - *first >= second) {
            window.pop_front();
        }
        most = most.max(u32::try_from(window.len()).unwrap_or(u32::MAX));
    }
    f64::from(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_counts_and_not_the_mean() {
        let begun = Instant::now();
        let at = |millis: &u64| begun + Duration::from_millis(*millis);
        let came: Vec<_> = [0, 900, 950, 1_000, 1_899, 1_900, 9_000]
            .iter()
            .map(at)
            .collect();
        // From 900 on: 900, 950, 1,000 and 1,899; from 950 on as many.
        assert!((most_in_a_second(&came) - 4.0).abs() < f64::EPSILON);
    }
}
