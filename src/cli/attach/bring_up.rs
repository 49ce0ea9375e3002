//! All devices of a command, together: each is made anew, brought back, or taken over.

use std::time::Instant;

use futures::future::join_all;

use super::context::Context;
use super::handover::take_over;
use super::plan::{Plan, plan};
use super::policy::Wish;
use super::resume::resume;
use super::served::{Phase, Served};
use super::start::attach_new;
use crate::cli::devices::blocking;
use crate::cli::failure::{Failure, Outcome};
use crate::host::DeviceRecord;
use crate::pool::VolumeRecord;

/// Brings up the devices of `volumes`, in their order. Where one fails, new ones are removed again and those that were
/// brought back wait as before.
///
/// # Errors
/// The first failure.
pub async fn bring_up(context: &Context, wish: Wish, volumes: Vec<VolumeRecord>) -> Outcome<Vec<Served>> {
    let mut plans = Vec::new();
    for volume in volumes {
        plans.push((plan_of(context, wish, &volume).await?, volume));
    }
    let given: Vec<DeviceRecord> = plans
        .iter()
        .filter_map(|(plan, _)| match plan {
            Plan::TakeOver(record) => Some((**record).clone()),
            Plan::Anew | Plan::Resume(_) => None,
        })
        .collect();
    if given.is_empty() {
        return all(context, plans).await;
    }
    let began = take_over(&given).await?;
    // From here on the devices wait, whatever happens.
    let outcome = async {
        let mut ours = Vec::new();
        for (plan, volume) in plans {
            ours.push(match plan {
                Plan::TakeOver(_) => (plan_of(context, Wish::Recover, &volume).await?, volume),
                other => (other, volume),
            });
        }
        all(context, ours).await
    };
    match outcome.await {
        Ok(served) => {
            report_pause(&served, began);
            Ok(served)
        }
        Err(e) => {
            let why =
                format!("{e}; the old process has let go, so bring its devices back with `esker attach --recover`");
            // Whatever it is: this is the service's main process by now, and a service that has failed is started again.
            Err(Failure::plain("handover", why))
        }
    }
}

fn report_pause(served: &[Served], began: Instant) {
    let devices: Vec<_> = served.iter().map(|s| s.record().name()).collect();
    tracing::info!("handover: {} paused for {} ms", devices.join(" "), began.elapsed().as_millis());
}

async fn plan_of(context: &Context, wish: Wish, volume: &VolumeRecord) -> Outcome<Plan> {
    let (devices, pool, volume) = (context.devices.clone(), context.pool.id_hex(), volume.clone());
    let asked = context.asked(&volume);
    blocking("device records", move || plan(&devices, wish, &pool, &volume, &asked)).await
}

async fn all(context: &Context, plans: Vec<(Plan, VolumeRecord)>) -> Outcome<Vec<Served>> {
    let attempts = plans.into_iter().map(async |(plan, volume)| match plan {
        Plan::Anew => attach_new(context, &volume).await.map(|served| (served, true)),
        Plan::Resume(parts) => {
            let (held, record) = *parts;
            resume(context, &volume, held, record).await.map(|served| (served, false))
        }
        Plan::TakeOver(record) => {
            let why = "another process took it at the same moment; try again";
            Err(Failure::plain(record.path().display(), why))
        }
    });
    let mut live = Vec::new();
    let mut failed = None;
    for outcome in join_all(attempts).await {
        match outcome {
            Ok(served) => live.push(served),
            Err(failure) => failed = Some(failed.unwrap_or(failure)),
        }
    }
    let Some(failure) = failed else { return Ok(live.into_iter().map(|(served, _)| served).collect()) };
    for (served, new) in &live {
        let undone = if *new && served.step(Phase::Live, Phase::Removing) {
            served.remove(false, &|text| tracing::info!("{text}")).await
        } else {
            served.let_go().await
        };
        if let Err(e) = undone {
            tracing::error!("{e}");
        }
    }
    Err(failure)
}
