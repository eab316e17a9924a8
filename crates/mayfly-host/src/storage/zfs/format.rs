//! Making a pool, and opening one that is there.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::ids::NodeId;
use mayfly_core::ports::{HostError, HostResult};
use rustix::fs::{CWD, Mode, fchmod, mkdirat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::command::Zfs;
use super::marks::{POOL, PoolRecord};
use super::mount::mount_detached;
use super::pool::{BUILD, INTENTS, OWN, STAGING, TEMPLATES, TRASH, ZfsPool};
use super::preflight::{Health, check_host, check_owner, look_at_pool, zpool_of};
use crate::crash::crash_point;
use crate::runner::Runner;
use crate::storage::claims::Claims;
use crate::storage::contained::{DIRECTORY, names_in, open_below};
use crate::storage::identity::KernelIdentity;
use crate::storage::mirrors::Mirrors;
use crate::storage::records::Records;

/// What every dataset of a pool has from its top: nothing is ever mounted by ZFS itself.
const OF_THE_TOP: [&str; 4] = [
    "mountpoint=legacy",
    "atime=off",
    "xattr=sa",
    "acltype=posix",
];

impl ZfsPool {
    /// Makes `dataset` a pool of `node` and opens it. One that is the node's already is only opened. The dataset is
    /// made where it is missing; one that is there must be empty. Cut off, it is completed by the next call.
    pub fn format(runner: &Runner, dataset: &str, node: &NodeId, at: &Path) -> HostResult<Self> {
        let zfs = check_host(runner, dataset, Health::Whole)?;
        let there = look_at_pool(&zfs, dataset)?;
        let owned = match &there {
            Some(row) => check_owner(row, node)?,
            None => false,
        };
        if !owned {
            match there {
                Some(_) => take_over(&zfs, dataset)?,
                None => make_top(&zfs, dataset)?,
            }
            lay_out(&zfs, dataset, node)?;
        }
        Self::attach(runner, dataset, node, at)
    }

    /// Opens a pool and mounts what the platform itself keeps in it at the directory `at` (made when it is not there),
    /// in the mount namespace of this thread. No dataset of a VPS is mounted.
    pub fn attach(runner: &Runner, dataset: &str, node: &NodeId, at: &Path) -> HostResult<Self> {
        let zfs = check_host(runner, dataset, Health::Usable)?;
        let Some(row) = look_at_pool(&zfs, dataset)? else {
            return Err(no_pool(dataset, "there is no such dataset"));
        };
        if !check_owner(&row, node)? {
            return Err(no_pool(dataset, "it has no pool record"));
        }
        let guid = row
            .number("guid")
            .map_err(|e| LookFailed::new(format!("the dataset {dataset}"), e))?;
        let own = mount_own(dataset, at)?;
        let look = |e: Errno| LookFailed::new(format!("{dataset}/{OWN}"), e);
        let intents = open_below(&own, INTENTS, DIRECTORY).map_err(look)?;
        Ok(Self {
            zfs,
            dataset: dataset.to_owned(),
            guid,
            node: node.clone(),
            at: at.to_owned(),
            identity: KernelIdentity::Datasets {
                pool: dataset.to_owned(),
            },
            intents: Records::new(intents, "intent"),
            mirrors: Mirrors::open(own)?,
            claims: Claims::default(),
            shape: std::sync::RwLock::default(),
        })
    }

    /// Takes what [`ZfsPool::attach`] mounted out of this mount namespace.
    pub fn unmount(self) -> HostResult<()> {
        let at = self.at.clone();
        drop(self);
        unmount(&at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|errno| HostError::failed(format!("unmounting {}", at.display()), errno))
    }
}

fn no_pool(dataset: &str, why: &str) -> HostError {
    HostError::Refused(Refusal::new(
        Code::PoolUnavailable,
        format!("the pool {dataset} cannot be used: {why}"),
        format!(
            "zfs list -r {} shows what is there; where it was renamed, rename it back",
            zpool_of(dataset)
        ),
    ))
}

fn make_top(zfs: &Zfs, dataset: &str) -> HostResult<()> {
    let above = dataset.rsplit_once('/').map_or(dataset, |(above, _)| above);
    if look_at_pool(zfs, above)?.is_none() {
        return Err(HostError::Refused(Refusal::new(
            Code::PoolUnavailable,
            format!("there is no dataset {above} that {dataset} could lie in"),
            format!("zfs create -p -o mountpoint=none {above}"),
        )));
    }
    let options = OF_THE_TOP.iter().flat_map(|option| ["-o", option]);
    let args = ["create", "-u"].into_iter().chain(options).chain([dataset]);
    zfs.run(args)
        .map_err(|f| f.of_change(&format!("making the dataset {dataset}"), dataset))?;
    crash_point("format.after_file");
    Ok(())
}

/// An empty dataset that somebody made for it.
fn take_over(zfs: &Zfs, dataset: &str) -> HostResult<()> {
    let not_empty = |what: &str| {
        HostError::Refused(Refusal::new(
            Code::HostUnsuitable,
            format!("{dataset} is not empty: it has {}", what.escape_debug()),
            "name an empty dataset, or one that is not there",
        ))
    };
    let rows = zfs
        .get(&["-r", "-t", "filesystem,volume"], &["name"], &[dataset])
        .map_err(|failed| failed.of_look(dataset))?;
    // What an earlier call made before it was cut off.
    let ours = |name: &str| {
        name.strip_prefix(dataset)
            .is_some_and(|rest| rest.is_empty() || LAYOUT.contains(&rest.trim_start_matches('/')))
    };
    if let Some(other) = rows.iter().find(|row| !ours(&row.name)) {
        return Err(not_empty(&other.name));
    }
    let look = |e: Errno| LookFailed::new(format!("the contents of {dataset}"), e);
    let top = mount_detached(dataset).map_err(look)?;
    let top = open_below(&top, ".", DIRECTORY).map_err(look)?;
    if let Some(file) = names_in(&top).map_err(look)?.first() {
        return Err(not_empty(file));
    }
    drop(top);
    let args = ["set"].iter().chain(&OF_THE_TOP).copied().chain([dataset]);
    zfs.run(args)
        .map_err(|f| f.of_change(&format!("setting up the dataset {dataset}"), dataset))?;
    Ok(())
}

const LAYOUT: [&str; 4] = [OWN, STAGING, TEMPLATES, TRASH];

/// What a pool has besides VPSes, and at last the record that makes it a pool.
fn lay_out(zfs: &Zfs, dataset: &str, node: &NodeId) -> HostResult<()> {
    for name in LAYOUT {
        let whole = format!("{dataset}/{name}");
        if look_at_pool(zfs, &whole)?.is_none() {
            zfs.run(["create", "-u", "-o", "mountpoint=legacy", &whole])
                .map_err(|f| f.of_change(&format!("making the dataset {whole}"), &whole))?;
        }
    }
    crash_point("format.after_mount");
    let whole = format!("{dataset}/{OWN}");
    let failed = |e: Errno| HostError::failed(format!("laying out {whole}"), e);
    let own = mount_detached(&whole).map_err(failed)?;
    let own = open_below(&own, ".", DIRECTORY).map_err(failed)?;
    fchmod(&own, Mode::RWXU).map_err(failed)?;
    for name in [INTENTS, BUILD] {
        match mkdirat(&own, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    drop(own);
    let record = serde_json::to_string(&PoolRecord::of(node))
        .map_err(|e| HostError::failed("writing the pool record", e))?;
    zfs.run(["set", &format!("{POOL}={record}"), dataset])
        .map_err(|f| f.of_change(&format!("marking the pool {dataset}"), dataset))?;
    crash_point("format.after_pool_record");
    Ok(())
}

fn mount_own(dataset: &str, at: &Path) -> HostResult<std::os::fd::OwnedFd> {
    let action = || format!("mounting {dataset}/{OWN} at {}", at.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(at)
        .map_err(|e| HostError::failed(action(), e))?;
    let mount =
        mount_detached(&format!("{dataset}/{OWN}")).map_err(|e| HostError::failed(action(), e))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mount, "", CWD, at, flags).map_err(|e| HostError::failed(action(), e))?;
    open_below(&mount, ".", DIRECTORY).map_err(|e| HostError::failed(action(), e))
}
