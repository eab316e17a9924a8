//! The daemon's side: copies are taken back from the root of a run that is over.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::UNIX_EPOCH;

use mayfly_core::error::LookFailed;
use mayfly_core::names::GuestPath;
use mayfly_core::persist::record::{Ending, Taken};
use mayfly_core::ports::{HarvestOrder, HostError, HostResult};
use mayfly_core::run::{MountSource, RunEnd, RunMount, RunState};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::child::Harvester;
use super::order::{Dataset, Order, Source, When, innermost, record_path};
use crate::run::paths::RunDir;
use crate::run::show::open;
use crate::storage::open_below;
use crate::storage::zfs::{mount_detached, open_private};

/// Takes copies back. Nothing of the VPS is alive: the caller has looked.
///
/// `state` is what is recorded of the run, `heard_unix_ms` when its supervisor was heard to die, and `dir` its directory,
/// which may be gone.
pub(crate) fn harvest(
    order: &HarvestOrder,
    (state, heard_unix_ms, dir): (Option<&RunState>, Option<u64>, &RunDir),
    (program, helper): (&Path, &Path),
) -> HostResult<Taken> {
    let failed = |why: &dyn std::fmt::Display| {
        let action = format!(
            "taking back copies of run {} of VPS {}",
            order.run, order.vps
        );
        HostError::failed(action, why)
    };
    let Some(record) = record_path(&order.storage, &order.run) else {
        return Err(failed(&"the path of the storage is too long"));
    };
    let (mount, below) = writable(&order.mounts, &order.storage)
        .and_then(|_| writable(&order.mounts, &record))
        .map_err(|why| failed(&why))?;
    if is_absent(&mount.source, below)? {
        return Ok(Taken::default());
    }
    let ending = observe_ending(state, heard_unix_ms, dir)?;
    let datasets = order.mounts.iter().map(|mount| Dataset {
        source: Source::from(&mount.source),
        target: mount.target.clone(),
        read_only: mount.read_only,
    });
    let told = Order::new(
        Source::from(&order.root),
        datasets.collect(),
        order.ids,
        (order.storage.clone(), order.run.clone()),
        When::Over(ending),
        helper.display().to_string(),
    );
    let report = Harvester::start(program, &told)
        .map_err(|e| failed(&e))?
        .wait()
        .map_err(|e| failed(&e))?;
    match report.incomplete {
        None => Ok(report.taken),
        Some(why) => Err(failed(&why)),
    }
}

/// The mount that has `path`, and the path in it; or why nothing can be kept there.
fn writable<'a, 'p>(
    mounts: &'a [RunMount],
    path: &'p GuestPath,
) -> Result<(&'a RunMount, &'p str), String> {
    match innermost(mounts.iter().map(|mount| (mount, &mount.target)), path) {
        None => Err(format!("no dataset of the VPS holds {path}")),
        Some((mount, _)) if mount.read_only => Err(format!(
            "the dataset at {}, which holds {path}, is mounted read-only",
            mount.target
        )),
        Some(found) => Ok(found),
    }
}

/// Whether there certainly is no such file. What a guest put in the way is for the helper to tell.
fn is_absent(source: &MountSource, below: &str) -> Result<bool, LookFailed> {
    let look = || -> io::Result<bool> {
        let top = private_of(source)?;
        match open_below(top.as_fd(), below, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => Ok(true),
            Ok(_) | Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => Ok(false),
            Err(e) => Err(e.into()),
        }
    };
    let name = match source {
        MountSource::Directory { path } => path,
        MountSource::Zfs { dataset } => dataset,
    };
    look().map_err(|e| LookFailed::new(format!("what was placed, in {name}"), e))
}

fn private_of(source: &MountSource) -> io::Result<OwnedFd> {
    match source {
        MountSource::Directory { path } => open(Path::new(path), OFlags::DIRECTORY),
        MountSource::Zfs { dataset } => Ok(open_private(mount_detached(dataset)?)?),
    }
}

/// How the run came to its end, and when: as its supervisor wrote it; else as the daemon heard of it; else the last moment
/// at which it certainly lived.
fn observe_ending(
    state: Option<&RunState>,
    heard_unix_ms: Option<u64>,
    dir: &RunDir,
) -> Result<Ending, LookFailed> {
    let end = state.and_then(|state| state.end.as_ref());
    if end.is_some_and(RunEnd::is_the_guests_wish) || state.is_some_and(|state| state.in_order) {
        return Ok(Ending::InOrder);
    }
    let told = state.and_then(|state| state.ended_unix_ms);
    if let Some(at_unix_ms) = told.or(heard_unix_ms) {
        return Ok(Ending::Crashed { at_unix_ms });
    }
    for file in [dir.lock(), dir.state()] {
        if let Some(at_unix_ms) = observe_written(&file)? {
            return Ok(Ending::Crashed { at_unix_ms });
        }
    }
    // Nothing is known of the run, so nothing is known to be whole: what had a second to settle was taken while it lived.
    Ok(Ending::Crashed { at_unix_ms: 0 })
}

/// When a file was written to, or touched; none where it does not exist.
fn observe_written(file: &Path) -> Result<Option<u64>, LookFailed> {
    let time = match std::fs::metadata(file).and_then(|seen| seen.modified()) {
        Ok(time) => time,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LookFailed::new(file.display().to_string(), e)),
    };
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use mayfly_core::run::{IdRange, RunPhase};

    use super::*;

    fn order() -> HarvestOrder {
        let mount = |target: &str, read_only| RunMount {
            source: MountSource::Directory {
                path: "/pool/x/private".into(),
            },
            target: target.parse().unwrap(),
            read_only,
        };
        HarvestOrder {
            vps: 11327.try_into().unwrap(),
            run: "c5a8b7".parse().unwrap(),
            root: MountSource::Directory {
                path: "/pool/r/private".into(),
            },
            mounts: vec![
                mount("/persistent", false),
                mount("/persistent/fixed", true),
            ],
            ids: IdRange {
                first: 1 << 20,
                count: IdRange::SIZE,
            },
            storage: "/persistent".parse().unwrap(),
        }
    }

    fn state(end: Option<RunEnd>, ended_unix_ms: Option<u64>) -> RunState {
        RunState {
            protocol: 1,
            phase: RunPhase::Ended,
            supervisor_pid: 1,
            supervisor_start_ticks: 1,
            lxc_pid: None,
            init_pid: None,
            launch_us: None,
            end,
            in_order: false,
            ended_unix_ms,
            features: [].into(),
            persistence: None,
        }
    }

    #[test]
    fn an_end_is_in_order_or_has_the_best_time_that_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let dir = RunDir::new(dir.path());
        let crashed = |detail: &str| RunEnd::Crashed {
            detail: detail.into(),
        };
        let ends = |heard: Option<u64>, state: Option<&RunState>| {
            observe_ending(state, heard, &dir).unwrap()
        };
        let at = |at_unix_ms| Ending::Crashed { at_unix_ms };
        assert_eq!(ends(None, None), at(0));
        for (file, seconds) in [(dir.state(), 7), (dir.lock(), 5)] {
            let file = std::fs::File::create(file).unwrap();
            let time = UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
            assert_eq!(ends(None, None), at(seconds * 1000));
        }
        let swept = state(Some(crashed("the supervisor died")), None);
        assert_eq!(ends(None, Some(&swept)), at(5000));
        let heard = Some(6001);
        assert_eq!(ends(heard, Some(&swept)), at(6001));
        let told = state(Some(crashed("init was killed")), Some(5900));
        assert_eq!(ends(heard, Some(&told)), at(5900));
        for wish in [RunEnd::PowerOff, RunEnd::Reboot] {
            let told = state(Some(wish), Some(5900));
            assert_eq!(ends(heard, Some(&told)), Ending::InOrder);
        }
        let killed = state(Some(RunEnd::Killed), Some(5900));
        assert_eq!(ends(heard, Some(&killed)), at(5900));
        let mut down = state(Some(RunEnd::HostDown), Some(5900));
        assert_eq!(ends(heard, Some(&down)), at(5900));
        down.in_order = true;
        assert_eq!(ends(heard, Some(&down)), Ending::InOrder);
    }

    #[test]
    fn a_storage_that_nothing_can_be_written_into_is_told() {
        let order = order();
        let why = |path: &str| writable(&order.mounts, &path.parse().unwrap()).unwrap_err();
        assert!(why("/srv").contains("no dataset of the VPS holds /srv"));
        assert!(why("/persistent/fixed/x").contains("read-only"));
        let path = "/persistent/var".parse().unwrap();
        assert_eq!(writable(&order.mounts, &path).unwrap().1, "var");
    }
}
