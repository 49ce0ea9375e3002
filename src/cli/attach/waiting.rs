//! From names to volumes, while devices of theirs may wait.

use super::args::AttachCommand;
use super::patience::Outage;
use super::policy::Wish;
use super::resume::give_up;
use crate::cli::devices::{Seen, blocking, look_at_all};
use crate::cli::failure::{Doing, Exit, Failure, Outcome};
use crate::cli::process::named_volumes;
use crate::env::Env;
use crate::host::{DeviceRecord, Devices};
use crate::pool::{Pool, VolumeRecord};

/// Opens the pool and looks up the volumes. While a device of theirs waits, a store that is away is waited for; a device
/// whose volume has been deleted is failed.
///
/// # Errors
/// Where the pool cannot be opened in time, or does not have the volumes.
pub async fn open(args: &AttachCommand, devices: &Devices, env: &Env) -> Outcome<(Pool, Vec<VolumeRecord>)> {
    let store = args.pool.store.open(&args.pool.url, env)?;
    let password = args.pool.password.current()?;
    let waiting = match args.wish() {
        Wish::Recover => waiting_of(devices, store.url(), &args.volumes).await?,
        Wish::Attach | Wish::Handover => Vec::new(),
    };
    let mut outage = Outage::new(args.engine.on_outage, env);
    loop {
        let opened = async {
            let pool = Pool::open(store.clone(), &password, env).await.doing(&args.pool.url)?;
            let found = find(&pool, &args.volumes, &waiting).await?;
            Ok::<_, Failure>((pool, found))
        };
        let opened = if waiting.is_empty() { Ok(opened.await) } else { outage.attempt(&store, opened).await };
        let over = match opened {
            Ok(Ok((pool, Found::All(volumes)))) => return Ok((pool, volumes)),
            Ok(Ok((_, Found::Deleted(seen)))) => {
                let what = format!("volume {}", seen.record.volume);
                let why = Failure::new(Exit::InUse, what, "it has been deleted");
                return Err(give_up_all(devices, vec![*seen], why).await);
            }
            Ok(Err(failure)) if waiting.is_empty() || failure.exit() != Exit::Store => return Err(failure),
            Ok(Err(failure)) => outage.wait(failure).await,
            Err(over) => Err(over),
        };
        if let Err(over) = over {
            return Err(give_up_all(devices, waiting, over).await);
        }
    }
}

/// The devices without a process that were made of volumes called `names` of the pool at `url`.
async fn waiting_of(devices: &Devices, url: &str, names: &[String]) -> Outcome<Vec<Seen>> {
    let (devices, url, names) = (devices.clone(), url.to_owned(), names.to_vec());
    blocking("device records", move || {
        let ours = |s: &Seen| s.record.url == url && names.contains(&s.record.volume);
        let (seen, _) = look_at_all(&devices)?;
        Ok(seen.into_iter().filter(|s| ours(s) && !s.owned && s.has_volume()).collect())
    })
    .await
}

/// What the pool has.
enum Found {
    All(Vec<VolumeRecord>),
    /// Not the volume of this device any more.
    Deleted(Box<Seen>),
}

async fn find(pool: &Pool, names: &[String], waiting: &[Seen]) -> Outcome<Found> {
    if waiting.is_empty() {
        return named_volumes(pool, names).await.map(Found::All);
    }
    let all = pool.volumes().await.doing(pool.store().url())?;
    choose(&all, &pool.id_hex(), names, waiting)
}

/// The volumes called `names`, each once. A device that waits is its volume's, whatever that is called by now and whatever
/// has its name: a name alone is good for new devices only.
fn choose(all: &[VolumeRecord], pool: &str, names: &[String], waiting: &[Seen]) -> Outcome<Found> {
    let mut chosen: Vec<VolumeRecord> = Vec::new();
    for name in names {
        let device = waiting.iter().find(|s| s.record.pool == pool && s.record.volume == *name);
        let found = match device {
            Some(seen) => all.iter().find(|v| seen.record.is_of(pool, v.number)),
            None => all.iter().find(|v| v.name == *name),
        };
        match (found, device) {
            (Some(volume), _) if chosen.iter().any(|v| v.number == volume.number) => {}
            (Some(volume), _) => chosen.push(volume.clone()),
            (None, Some(seen)) => return Ok(Found::Deleted(Box::new(seen.clone()))),
            (None, None) => {
                let why = "the pool has none of that name; see `esker volume list`";
                return Err(Failure::new(Exit::NotFound, format_args!("volume {name}"), why));
            }
        }
    }
    Ok(Found::All(chosen))
}

/// Fails devices whose volumes cannot be had, or not in time.
async fn give_up_all(devices: &Devices, waiting: Vec<Seen>, mut why: Failure) -> Failure {
    for seen in waiting {
        let held = match devices.try_hold(seen.record.id) {
            Ok(Some(held)) => held,
            // Somebody else has taken it up meanwhile.
            Ok(None) => continue,
            Err(e) => {
                tracing::error!("{e}");
                continue;
            }
        };
        match held.load() {
            // The look may be long ago.
            Ok(Some(now)) if is_unchanged(&seen.record, &now) => why = give_up(held, now, why).await,
            Ok(_) => {
                tracing::warn!("{}: another process has been at it since: left alone", seen.record.path().display())
            }
            Err(e) => tracing::error!("{e}"),
        }
    }
    why
}

/// Whether nobody has made the device anew or tried to bring it back between the two looks.
fn is_unchanged(then: &DeviceRecord, now: &DeviceRecord) -> bool {
    now.is_of(&then.pool, then.number) && now.instance == then.instance && now.writers == then.writers
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::devices::Kernel;
    use crate::pool::Compression;

    fn seen(name: &str, number: u32) -> Seen {
        let text = format!(
            r#"{{"format":1,"id":0,"boot":"b","instance":7,"stage":"live","pool":"p","url":"s3://b/p","label":"b-p",
            "volume":"{name}","number":{number},"size":8192,"read_only":false,"queues":1,"depth":1,"durability":"object",
            "pid":1,"control":"/c","links":[],"arguments":[],"writers":["0f"]}}"#
        );
        Seen { record: serde_json::from_str(&text).unwrap(), owned: false, kernel: Kernel::Paused }
    }

    fn volume(name: &str, number: u32) -> VolumeRecord {
        VolumeRecord {
            number,
            uuid: [0; 16],
            name: name.into(),
            size: 8192,
            block_size: 4096,
            compression: Compression::None,
            created_ms: 0,
        }
    }

    #[test]
    fn a_device_that_waits_is_its_volumes_whatever_has_the_name() {
        let all = [volume("new", 3), volume("data", 7), volume("other", 8)];
        let chosen = |names: &[&str], waiting: &[Seen]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            match choose(&all, "p", &names, waiting) {
                Ok(Found::All(volumes)) => volumes.iter().map(|v| v.number.to_string()).collect::<Vec<_>>().join(" "),
                Ok(Found::Deleted(seen)) => format!("deleted {}", seen.record.number),
                Err(failure) => format!("exit {}", failure.exit() as u8),
            }
        };
        assert_eq!(chosen(&["data", "other", "data"], &[]), "7 8");
        assert_eq!(chosen(&["data", "new"], &[seen("data", 3)]), "3", "renamed");
        assert_eq!(chosen(&["other", "data"], &[seen("data", 2)]), "deleted 2");
        assert_eq!(chosen(&["gone"], &[seen("data", 3)]), "exit 6");
        let mut foreign = seen("gone", 2);
        foreign.record.pool = "q".into();
        assert_eq!(chosen(&["gone"], &[foreign]), "exit 6", "another pool at that URL says nothing of it");
    }

    #[test]
    fn what_changed_since_is_left_alone() {
        let then = seen("data", 3).record;
        assert!(is_unchanged(&then, &then));
        for now in [
            DeviceRecord { instance: Some(8), ..then.clone() },
            DeviceRecord { writers: Vec::new(), ..then.clone() },
            DeviceRecord { number: 4, ..then.clone() },
        ] {
            assert!(!is_unchanged(&then, &now));
        }
    }
}
