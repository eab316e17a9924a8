//! Everything that a fake host consists of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::copies::Owed;
use super::snapshots::Received;
use super::taken::Beside;
use super::tree::{Node, Tree, View, skeleton};
use super::{Backend, Cut, FakeRecipe, StartFault};
use crate::bytes::Bytes;
use crate::error::{LookFailed, Refusal};
use crate::features::{Feature, FeatureSeen};
use crate::health::Health;
use crate::ids::{NodeId, RunId, VpsId};
use crate::mirror::MirrorKey;
use crate::names::PoolPath;
use crate::network::NetworkPlan;
use crate::observed::{Evidence, MarkSeen, Role};
use crate::run::{RunEnd, RunPhase, RunSpec};
use crate::snapshots::SnapshotOf;

/// How long the space of a destroyed dataset stays away, in milliseconds.
const SPACE_IS_LATE_MS: u64 = 30_000;

/// The process id of all stray processes.
const STRAY: i32 = 999;

/// Where the fake says that its pool is mounted.
pub(super) const POOL: &str = "/fake-pool";

#[derive(Clone, Debug)]
pub(super) struct Dataset {
    /// Its identity: what is mounted goes by this, not by the name.
    pub(super) uid: u64,
    pub(super) mark: MarkSeen,
    pub(super) quota: Option<Bytes>,
    pub(super) tree: Tree,
    pub(super) origin: Option<u64>,
    /// Whether a person or a test had a hand in it.
    pub(super) by_hand: bool,
    /// The run that had it at `/`.
    pub(super) lived_in: Option<RunId>,
    /// Oldest first.
    pub(super) snapshots: Vec<Snapshot>,
    /// What lies beside the tree, out of every guest's reach.
    pub(super) beside: Beside,
}

impl Dataset {
    /// Bytes that are charged to it.
    pub(super) fn used(&self) -> Bytes {
        self.tree.used().saturating_add(self.beside.used())
    }
}

/// A snapshot of a dataset; only [`Backend::Zfs`] has them as such.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) name: String,
    pub(super) of: SnapshotOf,
    /// A copy that was received has the same.
    pub(super) guid: u64,
    pub(super) tree: Tree,
}

#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) vps: VpsId,
    pub(super) run: RunId,
    pub(super) spec: RunSpec,
    pub(super) view: View,
    /// The supervisor's process id; lxc-start and init have the two after it.
    pub(super) pid: i32,
    pub(super) supervisor: bool,
    pub(super) guest: bool,
    pub(super) cgroup: bool,
    pub(super) phase: RunPhase,
    /// What the state file says; nobody can write it once the supervisor is dead.
    pub(super) written_end: Option<RunEnd>,
    /// Whether the state file is there.
    pub(super) record: bool,
}

impl Run {
    pub(super) fn is_alive(&self) -> bool {
        self.supervisor || self.guest
    }
}

/// A process of the host that holds a copy of a run's mount namespace.
#[derive(Clone, Debug)]
pub(super) struct Leak {
    pub(super) pid: i32,
    pub(super) command: String,
    /// Whether it is seen by the kernel alone.
    pub(super) hidden: bool,
    pub(super) shown: Vec<u64>,
}

/// What a person put into a dataset, which nobody else may take away.
#[derive(Clone, Debug)]
pub(super) struct Deposit {
    pub(super) name: PoolPath,
    pub(super) files: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) backend: Backend,
    pub(super) node: NodeId,
    pub(super) capacity: Bytes,
    pub(super) datasets: BTreeMap<PoolPath, Dataset>,
    /// Names in the staging area, and whether our records speak of them.
    pub(super) staging: BTreeMap<String, bool>,
    /// Mirrors by key.
    pub(super) mirrors: BTreeMap<MirrorKey, Result<String, String>>,
    pub(super) network: Option<NetworkPlan>,
    pub(super) network_fault: Option<Refusal>,
    pub(super) generation: Option<u64>,
    /// What has been received of streams that are not finished, by what they are to become.
    pub(super) receiving: BTreeMap<PoolPath, Received>,
    /// Bytes that were given up, and the boot time at which they are back.
    pub(super) late: Vec<(u64, Bytes)>,
    pub(super) full: bool,
    pub(super) held: BTreeSet<PoolPath>,
    pub(super) failing: Vec<String>,
    pub(super) recipes: BTreeMap<String, FakeRecipe>,
    pub(super) runs: BTreeMap<(VpsId, RunId), Run>,
    pub(super) consoles: BTreeSet<VpsId>,
    pub(super) faults: BTreeMap<VpsId, VecDeque<StartFault>>,
    /// Guests that do not halt when asked to.
    pub(super) stubborn: BTreeSet<VpsId>,
    /// Guests whose processes no signal ends.
    pub(super) unkillable: BTreeSet<VpsId>,
    /// What guests hold of memory, where a test says so.
    pub(super) used_memory: BTreeMap<(VpsId, RunId), Bytes>,
    /// How guests are, where a test says so.
    pub(super) healths: BTreeMap<VpsId, Health>,
    /// The same of runs on a temporary root.
    pub(super) healths_of_roots: BTreeMap<VpsId, Health>,
    /// VPSes whose limits the kernel does not take.
    pub(super) unlimitable: BTreeSet<VpsId>,
    /// What the host has for features, where it is not all that they need.
    pub(super) features: BTreeMap<Feature, FeatureSeen>,
    /// Foreign processes that have datasets mounted.
    pub(super) strays: Vec<(VpsId, u64)>,
    pub(super) leaks: Vec<Leak>,
    pub(super) watched: BTreeSet<(VpsId, RunId)>,
    pub(super) ends: VecDeque<(VpsId, RunId, RunEnd)>,
    pub(super) unix_ms: u64,
    pub(super) boot_ms: u64,
    pub(super) boots: u64,
    pub(super) random: u64,
    pub(super) daemon: u64,
    pub(super) dead: bool,
    pub(super) cut: Option<(usize, Cut)>,
    pub(super) calls: Vec<String>,
    pub(super) catastrophes: Vec<String>,
    pub(super) ledger: BTreeMap<u64, Deposit>,
    pub(super) given_up: Vec<PoolPath>,
    /// Copies that guests changed and that their storages, by identity, do not have yet.
    pub(super) owed: BTreeMap<u64, Owed>,
    last_uid: u64,
    last_pid: i32,
}

impl World {
    pub(super) fn new(backend: Backend, capacity: Bytes) -> Self {
        Self {
            backend,
            node: NodeId::from_random([0xf0; 8]),
            capacity,
            datasets: BTreeMap::new(),
            staging: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            network: None,
            network_fault: None,
            generation: None,
            receiving: BTreeMap::new(),
            late: Vec::new(),
            full: false,
            held: BTreeSet::new(),
            failing: Vec::new(),
            recipes: FakeRecipe::built_in(),
            runs: BTreeMap::new(),
            consoles: BTreeSet::new(),
            faults: BTreeMap::new(),
            stubborn: BTreeSet::new(),
            unkillable: BTreeSet::new(),
            used_memory: BTreeMap::new(),
            healths: BTreeMap::new(),
            healths_of_roots: BTreeMap::new(),
            unlimitable: BTreeSet::new(),
            features: BTreeMap::new(),
            strays: Vec::new(),
            leaks: Vec::new(),
            watched: BTreeSet::new(),
            ends: VecDeque::new(),
            unix_ms: 1_800_000_000_000,
            boot_ms: 60_000,
            boots: 1,
            random: 0x9e37_79b9_7f4a_7c15,
            daemon: 0,
            dead: false,
            cut: None,
            calls: Vec::new(),
            catastrophes: Vec::new(),
            ledger: BTreeMap::new(),
            given_up: Vec::new(),
            owed: BTreeMap::new(),
            last_uid: 0,
            last_pid: 1000,
        }
    }

    pub(super) fn can_look(&self, what: &str) -> Result<(), LookFailed> {
        match self.failing.iter().find(|f| what.contains(f.as_str())) {
            None => Ok(()),
            Some(_) => Err(LookFailed::new(what, "Input/output error")),
        }
    }

    pub(super) fn new_uid(&mut self) -> u64 {
        self.last_uid += 1;
        self.last_uid
    }

    pub(super) fn new_pids(&mut self) -> i32 {
        self.last_pid += 3;
        self.last_pid
    }

    pub(super) fn name_of(&self, uid: u64) -> Option<&PoolPath> {
        self.datasets
            .iter()
            .find(|(_, d)| d.uid == uid)
            .map(|(name, _)| name)
    }

    pub(super) fn by_uid(&self, uid: u64) -> Option<&Dataset> {
        self.datasets.values().find(|d| d.uid == uid)
    }

    pub(super) fn by_uid_mut(&mut self, uid: u64) -> Option<&mut Dataset> {
        self.datasets.values_mut().find(|d| d.uid == uid)
    }

    /// What is at a path of a dataset; without a dataset, of the skeleton.
    pub(super) fn node_at(&self, uid: Option<u64>, path: &str) -> Option<Node> {
        match uid {
            None => skeleton().get(path).cloned(),
            Some(uid) => self.by_uid(uid)?.tree.get(path).cloned(),
        }
    }

    pub(super) fn used(&self) -> Bytes {
        let held = self
            .datasets
            .values()
            .fold(Bytes(0), |sum, d| sum.saturating_add(d.used()));
        self.late
            .iter()
            .fold(held, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    pub(super) fn free(&self) -> Bytes {
        if self.full {
            Bytes(0)
        } else {
            self.capacity.saturating_sub(self.used())
        }
    }

    /// Whether a living guest or supervisor, or a stray process, has the dataset mounted.
    pub(super) fn in_use(&self, uid: u64) -> Option<String> {
        let run = self
            .runs
            .values()
            .find(|r| r.is_alive() && shows(&r.view, uid));
        match run {
            Some(run) => Some(format!("run {} of {} has it mounted", run.run, run.vps)),
            None => self
                .strays
                .iter()
                .find(|(_, one)| *one == uid)
                .map(|_| "a stray process has it mounted".into()),
        }
    }

    /// Who of the host holds the dataset in a copy of a mount namespace.
    pub(super) fn held_by(&self, uid: u64) -> Option<&Leak> {
        self.leaks.iter().find(|leak| leak.shown.contains(&uid))
    }

    /// Every process that has the dataset mounted.
    fn mounted_by(&self, uid: u64) -> Vec<Evidence> {
        let dataset = self
            .name_of(uid)
            .map_or_else(|| "deleted".to_owned(), ToString::to_string);
        let alive = self
            .runs
            .values()
            .filter(|run| run.is_alive() && shows(&run.view, uid));
        let pids = alive.map(|run| if run.guest { run.pid + 2 } else { run.pid });
        let strays = self.strays.iter().filter(|(_, one)| *one == uid);
        let mounted = pids
            .chain(strays.map(|_| STRAY))
            .map(|pid| Evidence::Mounted {
                pid,
                dataset: dataset.clone(),
            });
        let leaks = self
            .leaks
            .iter()
            .filter(|leak| !leak.hidden && leak.shown.contains(&uid));
        let held = leaks.map(|leak| Evidence::Held {
            pid: leak.pid,
            dataset: dataset.clone(),
            command: leak.command.clone(),
        });
        mounted.chain(held).collect()
    }

    pub(super) fn holders(&self, names: &[PoolPath]) -> BTreeMap<PoolPath, Vec<Evidence>> {
        let mut found: BTreeMap<PoolPath, Vec<Evidence>> = BTreeMap::new();
        for name in names {
            let inside = self
                .datasets
                .iter()
                .filter(|(one, _)| *one == name || one.is_below(name));
            let signs: Vec<_> = inside.flat_map(|(_, d)| self.mounted_by(d.uid)).collect();
            if !signs.is_empty() {
                found.insert(name.clone(), signs);
            }
        }
        found
    }

    pub(super) fn remove(&mut self, name: &PoolPath) {
        if let Some(gone) = self.datasets.remove(name) {
            let back = self.boot_ms + SPACE_IS_LATE_MS;
            self.late.push((back, gone.used()));
        }
    }

    pub(super) fn deposit(&mut self, uid: u64, path: &str, text: Option<&str>) {
        let Some(name) = self.name_of(uid).cloned() else {
            return;
        };
        let Some(dataset) = self.by_uid(uid) else {
            return;
        };
        if matches!(&dataset.mark, MarkSeen::Local(m) if m.role != Role::Persistent) {
            return;
        }
        let entry = self.ledger.entry(uid).or_insert_with(|| Deposit {
            name,
            files: BTreeMap::new(),
        });
        match text {
            Some(text) => drop(entry.files.insert(path.to_owned(), text.to_owned())),
            None => drop(entry.files.remove(path)),
        }
    }

    pub(super) fn forget_lost_ledger(&mut self) {
        let there: BTreeSet<u64> = self.datasets.values().map(|d| d.uid).collect();
        self.ledger.retain(|uid, _| there.contains(uid));
    }

    pub(super) fn make_by_hand(&mut self, name: &PoolPath) {
        let below_ours = self.datasets.iter().any(|(one, d)| {
            name.is_below(one) && matches!(d.mark, MarkSeen::Local(_) | MarkSeen::NotLocal)
        });
        let inherits = self.backend == Backend::Zfs && below_ours;
        let uid = self.new_uid();
        let mut tree = Tree::default();
        tree.put("/by-hand", Node::file("precious"));
        let mark = if inherits {
            MarkSeen::NotLocal
        } else {
            MarkSeen::Unset
        };
        let dataset = Dataset {
            uid,
            mark,
            quota: None,
            tree,
            origin: None,
            by_hand: true,
            lived_in: None,
            snapshots: Vec::new(),
            beside: Default::default(),
        };
        self.datasets.insert(name.clone(), dataset);
        self.deposit(uid, "/by-hand", Some("precious"));
    }

    pub(super) fn evidence(&self, vps: VpsId) -> Vec<Evidence> {
        let mut signs = Vec::new();
        for run in self.runs.values().filter(|r| r.vps == vps) {
            let cgroup = format!("mayfly-{}/{}.{}", self.node, run.vps, run.run);
            if run.supervisor {
                signs.push(Evidence::Supervisor {
                    pid: run.pid,
                    run: run.run.clone(),
                });
            }
            if run.guest {
                signs.push(Evidence::Processes { cgroup, count: 3 });
            } else if run.cgroup {
                signs.push(Evidence::EmptyCgroup { cgroup });
            }
        }
        // A dataset that was buried is one of the VPS's still.
        let of_it = |name: &PoolPath| {
            let name = name.as_str();
            name.strip_prefix("trash/")
                .unwrap_or(name)
                .strip_prefix(&vps.to_string())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.', ':', '+']))
        };
        for (_, dataset) in self.datasets.iter().filter(|(name, _)| of_it(name)) {
            signs.extend(self.mounted_by(dataset.uid));
        }
        signs
    }

    /// The guest is over. A living supervisor sweeps, writes the end down and ends as well; without one, the processes
    /// are gone and the rest lies about.
    pub(super) fn end(&mut self, key: &(VpsId, RunId), end: RunEnd) {
        let Some(run) = self.runs.get_mut(key) else {
            return;
        };
        let supervised = run.supervisor;
        run.guest = false;
        run.supervisor = false;
        if supervised {
            run.cgroup = false;
            run.phase = RunPhase::Ended;
            run.written_end = Some(end.clone());
            self.tell(key, end);
        }
    }

    /// Tells whoever watches the run.
    pub(super) fn tell(&mut self, key: &(VpsId, RunId), end: RunEnd) {
        if self.watched.remove(key) {
            self.ends.push_back((key.0, key.1.clone(), end));
        }
    }

    pub(super) fn next_daemon(&mut self) {
        self.daemon += 1;
        self.dead = false;
        self.cut = None;
        self.watched.clear();
        self.ends.clear();
    }

    pub(super) fn power_cycle(&mut self) {
        self.runs.clear();
        self.strays.clear();
        self.leaks.clear();
        self.unkillable.clear();
        self.late.clear();
        self.boots += 1;
        self.boot_ms = 5_000;
        self.unix_ms += 60_000;
    }

    pub(super) fn advance(&mut self, ms: u64) {
        self.boot_ms += ms;
        self.unix_ms += ms;
        let now = self.boot_ms;
        self.late.retain(|(back, _)| *back > now);
    }
}

fn shows(view: &View, uid: u64) -> bool {
    view.root == Some(uid) || view.mounts.iter().any(|(_, one, _)| *one == uid)
}
