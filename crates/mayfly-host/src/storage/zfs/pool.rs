//! An open pool.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::ids::NodeId;
use mayfly_core::mirror::MirrorKey;
use mayfly_core::names::{GuestPath, PoolPath};
use mayfly_core::observed::{DatasetSeen, InitSeen, Mark, MarkSeen, PoolSeen, Role};
use mayfly_core::ports::{
    Assembly, Cancel, HostError, HostResult, NewDataset, Outcome, Storage, TreePlan,
};
use mayfly_core::proof::{Burial, Condemned, Exchange};
use mayfly_core::run::MountSource;
use mayfly_core::trees::{TakeTo, TakenOut, TreeCopied, TreeCopy};

use super::command::Zfs;
use super::listing::Row;
use super::marks::{self, OF_A_DATASET};
use super::mount::{mount_detached, open_private};
use super::preflight::zpool_of;
use crate::storage::claims::Claims;
use crate::storage::identity::KernelIdentity;
use crate::storage::mirrors::Mirrors;
use crate::storage::probe::resolve_init;
use crate::storage::records::Records;
use crate::storage::refusals::{not_ours, pool_full};
use crate::storage::tree::{put_into_tree, read_from_tree};

/// Where the platform keeps its own things in a pool.
pub(super) const OWN: &str = ".mayfly";
pub(super) const STAGING: &str = ".mayfly/staging";
pub(super) const TRASH: &str = "trash";
pub(super) const TEMPLATES: &str = "templates";
/// A directory in [`OWN`]: what the things in the staging area are going to be.
pub(super) const INTENTS: &str = "intents";
/// A directory in [`OWN`]: where templates that are being built are mounted.
pub(super) const BUILD: &str = "build";

/// Nothing is made in a pool with less room than this, so that a guest's last block is not ours.
const FLOOR: Bytes = Bytes::mib(32);

/// Asked of every dataset, needed of the pool's own.
pub(super) const OF_THE_POOL: [&str; 3] = ["guid", "used", "available"];

/// A pool below one dataset of a zpool.
///
/// Every method blocks. What changes the shape of the pool is safe to call from several threads; two processes must not
/// have one pool open for changes (the lock of the state directory sees to that).
#[derive(Debug)]
pub struct ZfsPool {
    pub(super) zfs: Zfs,
    /// The pool's own dataset, such as `tank/ct`.
    pub(super) dataset: String,
    /// Its guid: that of another dataset of the same name would be another pool.
    pub(super) guid: u64,
    pub(super) node: NodeId,
    /// Where [`OWN`] is mounted.
    pub(super) at: PathBuf,
    pub(super) identity: KernelIdentity,
    pub(super) intents: Records,
    pub(super) mirrors: Mirrors,
    pub(super) claims: Claims,
    /// Read over each listing, written over each rename, so that a listing never misses what is being moved.
    pub(super) shape: RwLock<()>,
}

/// What one look found.
pub(super) struct Seen {
    pool: Row,
    /// Those that are there, by their whole names.
    pub(super) rows: BTreeMap<String, Row>,
}

impl Seen {
    pub(super) fn check_room(&self, action: &str) -> HostResult<()> {
        if room_in(&self.pool)?.1 < FLOOR {
            Err(pool_full(action))
        } else {
            Ok(())
        }
    }
}

/// Size and free space, from the row of the pool's own dataset.
pub(super) fn room_in(pool: &Row) -> Result<(Bytes, Bytes), LookFailed> {
    let look = |e| LookFailed::new(format!("the room in {}", pool.name), e);
    let (used, free) = (
        pool.number("used").map_err(look)?,
        pool.number("available").map_err(look)?,
    );
    Ok((Bytes(used.saturating_add(free)), Bytes(free)))
}

impl ZfsPool {
    /// Where the platform's own dataset is mounted in this process's mount namespace.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// How the kernel names this pool in mount tables.
    pub fn kernel_identity(&self) -> &KernelIdentity {
        &self.identity
    }

    /// The whole name of a dataset.
    pub(super) fn whole(&self, name: &PoolPath) -> String {
        format!("{}/{}", self.dataset, name.as_str())
    }

    /// A whole name, relative to the pool.
    pub(super) fn relative<'a>(&self, whole: &'a str) -> Option<&'a str> {
        whole.strip_prefix(self.dataset.as_str())?.strip_prefix('/')
    }

    pub(super) fn hold_shape(&self) -> RwLockReadGuard<'_, ()> {
        // The lock guards nothing that a panic could have spoiled.
        self.shape.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change_shape(&self) -> RwLockWriteGuard<'_, ()> {
        self.shape.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Datasets and snapshots by their whole names, next to the pool's own: a pool that is gone has no datasets either, so
    /// only where the pool was seen as well is "absent" an answer.
    pub(super) fn rows(&self, names: &[&str]) -> Result<Seen, LookFailed> {
        let object = || format!("dataset {}", names.join(", "));
        let properties: Vec<&str> = OF_A_DATASET.iter().chain(&OF_THE_POOL).copied().collect();
        let mut all = vec![self.dataset.as_str()];
        all.extend(names);
        let _still = self.hold_shape();
        let rows = self
            .zfs
            .get_those_there(&properties, &all)
            .map_err(|failed| failed.of_look(&object()))?;
        let mut rows: BTreeMap<String, Row> = rows
            .into_iter()
            .map(|row| (row.name.clone(), row))
            .collect();
        match rows.remove(&self.dataset) {
            Some(pool) if pool.number("guid") == Ok(self.guid) => Ok(Seen { pool, rows }),
            _ => Err(LookFailed::new(
                format!("the pool {}", self.dataset),
                "it is not there, or another one is in its place",
            )),
        }
    }

    /// A dataset by its whole name; `None` when it is certain that there is none.
    pub(super) fn row(&self, whole: &str) -> Result<Option<Row>, LookFailed> {
        Ok(self.rows(&[whole])?.rows.remove(whole))
    }

    /// A dataset, and after it what else `how` asks for, by name; none when it is certain that there is none.
    pub(super) fn listed(&self, whole: &str, how: &[&str]) -> Result<Option<Vec<Row>>, LookFailed> {
        let object = || format!("dataset {whole} and what belongs to it");
        let found = {
            let _still = self.hold_shape();
            self.zfs.get(how, &OF_A_DATASET, &[whole])
        };
        let mut rows = match found {
            Ok(rows) => rows,
            Err(failed) if failed.is_absent() => {
                return match self.row(whole)? {
                    None => Ok(None),
                    Some(_) => Err(failed.of_look(&object())),
                };
            }
            Err(failed) => return Err(failed.of_look(&object())),
        };
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        if rows.first().is_none_or(|row| row.name != whole) {
            return Err(LookFailed::new(object(), "it is not in the answer"));
        }
        Ok(Some(rows))
    }

    pub(super) fn row_must(&self, name: &PoolPath) -> HostResult<Row> {
        let found = if is_own(name) {
            None
        } else {
            self.row(&self.whole(name))?
        };
        found.ok_or_else(|| absent(name))
    }

    /// The mark of our own making, or a refusal.
    pub(super) fn own_mark(&self, row: &Row) -> HostResult<Mark> {
        match marks::mark_in(row) {
            MarkSeen::Local(mark) if mark.node == self.node => Ok(mark),
            MarkSeen::Unreadable(why) => {
                Err(LookFailed::new(format!("the mark of {}", row.name), why).into())
            }
            MarkSeen::Local(_) | MarkSeen::NotLocal | MarkSeen::Unset => {
                Err(not_ours(&row.name, "no mark of this node"))
            }
        }
    }

    /// The contents of a dataset: mounted for as long as the descriptor is open, in no mount namespace.
    pub(super) fn private(&self, name: &PoolPath) -> HostResult<OwnedFd> {
        let whole = self.whole(name);
        mount_detached(&whole)
            .and_then(open_private)
            .map_err(|e| LookFailed::new(format!("the contents of dataset {name}"), e).into())
    }

    /// Snapshots of one dataset, whoever made them, without the dataset's name.
    pub(super) fn snapshots(&self, whole: &str) -> Result<Vec<String>, LookFailed> {
        let args = [
            "list", "-H", "-t", "snapshot", "-d", "1", "-o", "name", whole,
        ];
        let out = self
            .zfs
            .run(args)
            .map_err(|failure| failure.of_look(&format!("the snapshots of {whole}")))?;
        let names = out.text();
        let own = names.lines().filter_map(|name| name.split_once('@'));
        Ok(own.map(|(_, snapshot)| snapshot.to_owned()).collect())
    }

    /// What has been changed is on the disks.
    pub(super) fn sync(&self) -> HostResult<()> {
        let zpool = zpool_of(&self.dataset);
        self.zfs
            .run_zpool(["sync", zpool])
            .map_err(|f| f.of_change(&format!("syncing the zpool {zpool}"), zpool))?;
        Ok(())
    }

    pub(super) fn check_room(&self, action: &str) -> HostResult<()> {
        self.rows(&[])?.check_room(action)
    }

    fn change_quota(&self, name: &PoolPath, quota: Bytes) -> HostResult<Outcome> {
        // What was written a moment ago is counted with the next sync.
        self.sync()?;
        let row = self.row_must(name)?;
        self.own_mark(&row)?;
        let look = |e| LookFailed::new(format!("the usage of {name}"), e);
        let seen = marks::seen(&self.dataset, &row, Vec::new()).map_err(look)?;
        if seen.quota == Some(quota) {
            return Ok(Outcome::Unchanged);
        }
        let used = seen.used.unwrap_or_default();
        if quota < used {
            return Err(HostError::Refused(Refusal::new(
                Code::QuotaBelowUse,
                format!("dataset {name} holds {used}; a quota of {quota} is less than that"),
                "ask for more, or delete something in it first",
            )));
        }
        let limit = quota.0.saturating_add(marks::shared(&row).map_err(look)?);
        self.zfs
            .run(["set", &format!("refquota={limit}"), &row.name])
            .map_err(|f| f.of_change(&format!("setting the quota of {name}"), &row.name))?;
        Ok(Outcome::Changed)
    }
}

pub(super) fn absent(name: &PoolPath) -> HostError {
    HostError::Refused(Refusal::new(
        Code::DatasetNotFound,
        format!("there is no dataset {name}"),
        "`mayfly pool show` lists what is there",
    ))
}

/// Whether a name is one of the platform's own, which no dataset has: what only holds others, and all in its corner.
pub(super) fn is_own(name: &PoolPath) -> bool {
    [OWN, TEMPLATES, TRASH].contains(&name.as_str()) || name.as_str().starts_with(".mayfly/")
}

impl Storage for ZfsPool {
    fn observe(&self) -> Result<PoolSeen, LookFailed> {
        self.observe_pool()
    }

    fn look(&self, name: &PoolPath) -> Result<Option<DatasetSeen>, LookFailed> {
        if is_own(name) {
            return Ok(None);
        }
        let whole = self.whole(name);
        let how = ["-d", "1", "-t", "filesystem,volume,snapshot"];
        let Some(rows) = self.listed(&whole, &how)? else {
            return Ok(None);
        };
        let snapshot = |row: &Row| {
            let snapshot = row.name.strip_prefix(whole.as_str())?.strip_prefix('@')?;
            Some(snapshot.to_owned())
        };
        marks::seen(
            &self.dataset,
            &rows[0],
            rows.iter().filter_map(snapshot).collect(),
        )
        .map(Some)
        .map_err(|e| LookFailed::new(format!("dataset {name}"), e))
    }

    fn create_dataset(&self, new: &NewDataset) -> HostResult<Outcome> {
        self.create(new)
    }

    fn set_quota(&self, name: &PoolPath, quota: Bytes) -> HostResult<Outcome> {
        self.change_quota(name, quota)
    }

    fn bury(&self, burial: &Burial, grave: &PoolPath) -> HostResult<Outcome> {
        self.move_to_grave(burial, grave)
    }

    fn exchange(&self, exchange: &Exchange) -> HostResult<Outcome> {
        self.exchange_contents(exchange)
    }

    fn mark_harvested(&self, root: &PoolPath) -> HostResult<Outcome> {
        let row = self.row_must(root)?;
        let mark = self.own_mark(&row)?;
        if !mark.unharvested {
            return Ok(Outcome::Unchanged);
        }
        let written = marks::written(&Mark {
            unharvested: false,
            ..mark
        })?;
        self.zfs
            .run(["set", &written, &row.name])
            .map_err(|f| f.of_change(&format!("marking {root} as harvested"), &row.name))?;
        Ok(Outcome::Changed)
    }

    fn read_file(
        &self,
        name: &PoolPath,
        path: &GuestPath,
        limit: usize,
    ) -> HostResult<Option<Vec<u8>>> {
        let top = self.private(name).or_else(|failed| {
            // One that is not there is no failed look.
            self.row_must(name)?;
            Err(failed)
        })?;
        read_from_tree(name, &top, path, limit)
    }

    fn reap(&self, condemned: &Condemned) -> HostResult<Outcome> {
        self.destroy_condemned(condemned)
    }

    fn hurry_space(&self) -> HostResult<()> {
        self.sync()?;
        let zpool = zpool_of(&self.dataset);
        self.zfs
            .run_zpool(["wait", "-t", "free", zpool])
            .map_err(|f| f.of_change(&format!("waiting for space in {zpool}"), zpool))?;
        Ok(())
    }

    fn clear_staging(&self) -> HostResult<Vec<String>> {
        self.clear_cut_off()
    }

    fn staging(&self) -> Result<Vec<String>, LookFailed> {
        self.unclaimed_staged()
    }

    fn put_mirror(&self, key: &MirrorKey, text: &str) -> HostResult<Outcome> {
        self.mirrors.put(key, text)
    }

    fn remove_mirror(&self, key: &MirrorKey) -> HostResult<Outcome> {
        self.mirrors.remove(key)
    }

    fn mirrors(&self) -> Result<BTreeMap<MirrorKey, Result<String, String>>, LookFailed> {
        self.mirrors.all()
    }

    fn generation(&self) -> Result<Option<u64>, LookFailed> {
        self.mirrors.generation()
    }

    fn raise_generation(&self, to: u64) -> HostResult<Outcome> {
        self.mirrors.raise_generation(to)
    }

    fn prepare_tree(&self, name: &PoolPath, tree: &TreePlan) -> HostResult<Outcome> {
        let mark = self.own_mark(&self.row_must(name)?)?;
        let keep_safe = mark.role != Role::Temporary;
        put_into_tree(name, self.private(name)?, keep_safe, tree)
    }

    fn copy_tree(
        &self,
        copy: &TreeCopy,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<TreeCopied> {
        self.copy(copy, cancel, progress)
    }

    fn take_out(&self, what: &TakenOut, to: TakeTo) -> HostResult<Outcome> {
        self.take(what, to)
    }

    fn probe_init(&self, assembly: &Assembly, init: &GuestPath) -> Result<InitSeen, LookFailed> {
        resolve_init(|name| self.private(name), assembly, init)
    }

    fn mount_source(&self, name: &PoolPath) -> MountSource {
        MountSource::Zfs {
            dataset: self.whole(name),
        }
    }

    fn detach(&self) -> Vec<String> {
        vec![self.at.to_string_lossy().into_owned()]
    }
}
