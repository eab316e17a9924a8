//! A host that lives in memory and has the semantics that Mayfly relies on, so that planner, engine and recovery can be
//! tested, crashed and rebooted in microseconds.
//!
//! It is a fake, not a mock: nothing is told what to answer. Calls change a world of datasets, runs, cgroups
//! and time, and a test asserts on what is left of it. What it models, and where that was learned:
//!
//! - A btrfs subvolume can be renamed and deleted while a guest runs on it; nothing in the kernel refuses. The fake
//!   lets it happen as well and writes it down as a catastrophe ([`FakeHost::assert_no_catastrophe`]). OpenZFS with
//!   `mountpoint=legacy` lets the rename pass, too, and answers "dataset is busy" to the destroy; a dataset that
//!   something was cloned from cannot be destroyed there ([`Backend`]).
//! - Trees are copied beside the contents of the new dataset and appear there whole; what was taken out of a tree lies
//!   beside it and counts still. On OpenZFS a copy shares its blocks, and its quota counts them as well.
//! - Deleting gives its space back late: at the next commit and after the cleaner (btrfs 16 to 30 s idle, OpenZFS
//!   asynchronously). [`FakeHost::settle`] or 30 s of [`FakeHost::advance`] bring it back.
//! - Quotas count what was written through a dataset, not what it shares with the one it was cloned from. Below use
//!   they are refused.
//! - Marks do not travel with a clone. A dataset made by hand below a marked one inherits on OpenZFS (which proves
//!   nothing) and has no mark on btrfs.
//! - `create_dataset` prepares in a staging area and renames; `bury` condemns before it moves. Both can be cut
//!   between ([`FakeHost::crash_half_way`]).
//! - `kill -9` of a supervisor leaves the guest alive; the record of the run goes on saying that it runs. Run records
//!   lie on a tmpfs: a power cycle loses them. The console's ring is on disk.
//! - A mount point that is not there, or an init that does not resolve inside the guest, ends a start after the
//!   supervisor was launched, not before.
//!
//! [`FakeHost`] is a handle of one daemon. Once that daemon has died (a crash point, [`FakeHost::kill_daemon`]), all
//! ports of the handle fail for ever, so that threads of a dead engine cannot act for its successor;
//! [`FakeHost::restart_daemon`] and [`FakeHost::reboot`] give the handle of the next one. The rest of the handle, which
//! is for the test, goes on working.

mod asserts;
mod clock;
mod copies;
mod exchange;
mod guest;
mod health;
mod limits;
mod mirrors;
mod mounts;
mod network;
mod prepare;
mod runtime;
mod snapshots;
mod storage;
mod taken;
mod templates;
mod tree;
mod tree_copy;
mod world;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub use self::copies::COPIED;
pub use self::guest::GuestError;
pub use self::runtime::StartFault;
pub use self::templates::FakeRecipe;
use self::world::{Run, Snapshot, World};
use crate::bytes::Bytes;
use crate::error::LookFailed;
use crate::ids::{NodeId, VpsId};
use crate::names::PoolPath;
use crate::observed::MarkSeen;
use crate::ports::{HostError, HostResult};
use crate::snapshots::SnapshotOf;

/// What every port of a dead daemon answers.
pub const DIED: &str = "the daemon is dead";

/// Which file system the fake takes after where the two differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Nothing that is in use is protected by the kernel.
    #[default]
    Btrfs,
    /// What is in use, or was cloned from, cannot be destroyed.
    Zfs,
}

/// Where a daemon dies within the call that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Before,
    HalfWay,
    After,
    /// The call fails, and nobody dies.
    Fails,
}

/// How far a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Whole,
    HalfWay,
}

#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    changed: Condvar,
}

/// A daemon's handle of a host in memory; clones are the same host and the same daemon.
#[derive(Clone, Debug)]
pub struct FakeHost {
    shared: Arc<Shared>,
    daemon: u64,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHost {
    /// A host with an empty btrfs pool of 1 TiB that knows the recipes of [`FakeRecipe::built_in`].
    pub fn new() -> Self {
        Self::with(Backend::Btrfs, Bytes::gib(1024))
    }

    /// A host with an empty pool.
    pub fn with(backend: Backend, capacity: Bytes) -> Self {
        let world = Mutex::new(World::new(backend, capacity));
        Self {
            shared: Arc::new(Shared {
                world,
                changed: Condvar::new(),
            }),
            daemon: 0,
        }
    }

    /// The node whose datasets these are.
    pub fn node(&self) -> NodeId {
        self.world().node.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.shared
            .world
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn is_dead(&self, world: &World) -> bool {
        world.dead || world.daemon != self.daemon
    }

    /// Every call that changes the host goes through here: it counts, and it dies where it was told to.
    fn mutate<T>(
        &self,
        what: String,
        act: impl FnOnce(&mut World, Reach) -> HostResult<T>,
    ) -> HostResult<T> {
        let mut world = self.world();
        if self.is_dead(&world) {
            return Err(HostError::failed(what, DIED));
        }
        world.calls.push(what.clone());
        let cut = world
            .cut
            .filter(|(at, _)| *at == world.calls.len())
            .map(|(_, cut)| cut);
        let done = match cut {
            None => return act(&mut world, Reach::Whole),
            Some(Cut::Fails) => return Err(HostError::failed(what, "the host does not do it")),
            Some(Cut::Before) => Ok(None),
            Some(Cut::HalfWay) => act(&mut world, Reach::HalfWay).map(Some),
            Some(Cut::After) => act(&mut world, Reach::Whole).map(Some),
        };
        // Whether it went well is something that the daemon never learns.
        drop(done);
        world.dead = true;
        self.shared.changed.notify_all();
        Err(HostError::failed(what, DIED))
    }

    fn look_at<T>(&self, what: String, look: impl FnOnce(&World) -> T) -> Result<T, LookFailed> {
        let world = self.world();
        if self.is_dead(&world) {
            return Err(LookFailed::new(what, DIED));
        }
        world.can_look(&what)?;
        Ok(look(&world))
    }

    fn die_at(&self, call: usize, cut: Cut) -> Self {
        let mut world = self.world();
        world.cut = Some((
            world.calls.len() + call.max(1),
            if call == 0 { Cut::Before } else { cut },
        ));
        drop(world);
        self.clone()
    }

    /// The daemon dies after the `n`-th changing call from now; with 0, before the first.
    pub fn crash_after(&self, n: usize) -> Self {
        self.die_at(n, Cut::After)
    }

    /// The daemon dies before the `n`-th changing call from now has any effect.
    pub fn crash_before(&self, n: usize) -> Self {
        self.die_at(n, Cut::Before)
    }

    /// The daemon dies in the middle of the `n`-th changing call from now: a dataset is left in the staging area,
    /// condemned and not moved, a grave half emptied, directories made and files not, processes killed and cgroups
    /// left. What is atomic, such as a quota, is done.
    pub fn crash_half_way(&self, n: usize) -> Self {
        self.die_at(n, Cut::HalfWay)
    }

    /// The `n`-th changing call from now fails, without any effect. The daemon lives on.
    pub fn fail_call(&self, n: usize) -> Self {
        self.die_at(n, Cut::Fails)
    }

    /// Takes a crash point back.
    pub fn no_crash(&self) -> Self {
        self.world().cut = None;
        self.clone()
    }

    /// The daemon dies now.
    pub fn kill_daemon(&self) {
        self.world().dead = true;
        self.shared.changed.notify_all();
    }

    /// Whether the daemon of this handle has died.
    pub fn crashed(&self) -> bool {
        self.is_dead(&self.world())
    }

    /// The changing calls so far, in words, oldest first.
    pub fn calls(&self) -> Vec<String> {
        self.world().calls.clone()
    }

    /// The next daemon of this host. Runs live on, the staging area is as it was left, nothing is watched.
    #[must_use = "the old handle stays dead"]
    pub fn restart_daemon(&self) -> Self {
        let mut world = self.world();
        world.next_daemon();
        let daemon = world.daemon;
        drop(world);
        self.shared.changed.notify_all();
        Self {
            shared: Arc::clone(&self.shared),
            daemon,
        }
    }

    /// Power off and on: all runs are over and their records gone, the boot id is another, the boot clock starts
    /// anew. Datasets, their marks, the staging area and the consoles' rings are as they were.
    #[must_use = "the old handle stays dead"]
    pub fn reboot(&self) -> Self {
        self.world().power_cycle();
        self.restart_daemon()
    }

    /// From now on looks at anything whose description contains `what` fail: `pool`, `dataset 11327/nix`,
    /// `evidence`, `evidence of 11327`, `state`, `init`; an empty text is all of them.
    pub fn fail_looks(&self, what: &str) {
        self.world().failing.push(what.to_owned());
    }

    /// Looks succeed again.
    pub fn heal_looks(&self) {
        self.world().failing.clear();
    }

    /// From now on there is no room, or there is again.
    pub fn pool_full(&self, full: bool) {
        self.world().full = full;
    }

    /// All space that was given up is back: the transaction is committed and the cleaner done.
    pub fn settle(&self) {
        self.world().late.clear();
    }

    /// Replaces what a look at the mark of a dataset finds.
    ///
    /// # Panics
    /// When there is no such dataset.
    pub fn set_mark(&self, name: &PoolPath, mark: MarkSeen) {
        let mut world = self.world();
        let dataset = world
            .datasets
            .get_mut(name)
            .expect("the dataset whose mark a test sets is there");
        dataset.mark = mark;
        dataset.by_hand = true;
    }

    /// Someone makes a dataset by hand, with one file in it.
    pub fn make_by_hand(&self, name: &PoolPath) {
        self.world().make_by_hand(name);
    }

    /// Someone removes a dataset, and those below it, by hand.
    pub fn destroy_by_hand(&self, name: &PoolPath) {
        let mut world = self.world();
        world
            .datasets
            .retain(|one, _| one != name && !one.is_below(name));
        world.forget_lost_ledger();
    }

    /// Someone makes a snapshot of a dataset, which [`Backend::Zfs`] shows with it.
    ///
    /// # Panics
    /// When there is no such dataset, or [`Backend::Btrfs`] would show a snapshot as a dataset of its own.
    pub fn snapshot_by_hand(&self, name: &PoolPath, snapshot: &str) {
        let mut world = self.world();
        assert_eq!(
            world.backend,
            Backend::Zfs,
            "a snapshot is a dataset of its own"
        );
        let guid = world.new_uid();
        let dataset = world
            .datasets
            .get_mut(name)
            .expect("the dataset that a test makes a snapshot of is there");
        dataset.snapshots.push(Snapshot {
            name: snapshot.to_owned(),
            of: SnapshotOf::Foreign,
            guid,
            tree: dataset.tree.clone(),
        });
    }

    /// Someone removes a snapshot of a dataset.
    pub fn remove_snapshot_by_hand(&self, name: &PoolPath, snapshot: &str) {
        if let Some(dataset) = self.world().datasets.get_mut(name) {
            dataset.snapshots.retain(|one| one.name != snapshot);
        }
    }

    /// Puts something into the staging area that is not ours.
    pub fn litter_staging(&self, name: &str) {
        self.world().staging.insert(name.to_owned(), false);
    }

    /// Takes that out again.
    pub fn clean_staging(&self, name: &str) {
        self.world().staging.remove(name);
    }

    /// From now on moving or destroying this dataset is refused as busy, or no longer.
    pub fn hold(&self, name: &PoolPath, held: bool) {
        let mut world = self.world();
        if held {
            world.held.insert(name.clone());
        } else {
            world.held.remove(name);
        }
    }

    /// The names of all datasets.
    pub fn datasets(&self) -> Vec<PoolPath> {
        self.world().datasets.keys().cloned().collect()
    }

    /// The mark of a dataset, as a look would find it.
    pub fn mark(&self, name: &PoolPath) -> Option<MarkSeen> {
        self.world().datasets.get(name).map(|d| d.mark.clone())
    }

    /// Whether a guest of this VPS is alive.
    pub fn is_running(&self, vps: VpsId) -> bool {
        self.world().runs.values().any(|r| r.vps == vps && r.guest)
    }

    /// How many guests are alive.
    pub fn running(&self) -> usize {
        self.world().runs.values().filter(|r| r.guest).count()
    }

    /// The dataset that the living guest of a VPS has at `/`, by its present name.
    pub fn root_of(&self, vps: VpsId) -> Option<PoolPath> {
        let world = self.world();
        let run = world.runs.values().find(|r| r.vps == vps && r.guest)?;
        world.name_of(run.view.root?).cloned()
    }

    fn change_run(&self, vps: VpsId, change: impl FnOnce(&mut World, &Run)) {
        let mut world = self.world();
        let live = world
            .runs
            .values()
            .filter(|r| r.vps == vps && (r.guest || r.supervisor))
            .max_by_key(|r| r.pid);
        let run = live.cloned().expect("the VPS that a test acts on runs");
        change(&mut world, &run);
        drop(world);
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
