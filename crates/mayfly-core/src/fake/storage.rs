//! The datasets of a fake host.

use std::collections::BTreeMap;

use super::tree::{Tree, View};
use super::world::{Dataset, POOL, World};
use super::{Backend, FakeHost, Reach};
use crate::bytes::Bytes;
use crate::error::{Code, LookFailed, Refusal};
use crate::mirror::MirrorKey;
use crate::names::{GuestPath, PoolPath};
use crate::observed::{DatasetSeen, InitSeen, Mark, MarkSeen, PoolSeen, Role};
use crate::ports::{
    Assembly, Cancel, HostError, HostResult, NewDataset, Origin, Outcome, Storage, TreePlan,
};
use crate::proof::{Burial, Condemned, Exchange};
use crate::run::MountSource;
use crate::trees::{TakeTo, TakenOut, TreeCopied, TreeCopy};

pub(super) fn refuse<T>(code: Code, message: String) -> HostResult<T> {
    Err(Refusal::new(code, message, "see `mayfly pool show`").into())
}

pub(super) fn not_there<T>(name: &PoolPath) -> HostResult<T> {
    refuse(Code::DatasetNotFound, format!("there is no dataset {name}"))
}

fn seen(world: &World, dataset: &Dataset) -> DatasetSeen {
    let origin = dataset.origin.filter(|_| world.backend == Backend::Zfs);
    let named = |uid| {
        let found = world.datasets.iter().find(|(_, d)| d.uid == uid);
        found.map(|(name, _)| name.clone())
    };
    DatasetSeen {
        origin: origin.and_then(named),
        mark: dataset.mark.clone(),
        quota: dataset.quota,
        used: Some(dataset.used()),
        snapshots: dataset.snapshots.iter().map(|s| s.name.clone()).collect(),
    }
}

/// Names that are the platform's own.
fn is_reserved(name: &PoolPath) -> bool {
    let mut parts = name.as_str().split('/');
    name.is_grave()
        || ["trash", "templates"].contains(&name.as_str())
        || parts.clone().next() == Some(".mayfly")
        || parts.any(|part| part == "private")
}

impl World {
    /// The mark of a dataset where it is this node's.
    pub(super) fn own_mark(&self, name: &PoolPath) -> HostResult<Mark> {
        self.can_look(&format!("dataset {name}"))?;
        let Some(dataset) = self.datasets.get(name) else {
            return not_there(name);
        };
        match &dataset.mark {
            MarkSeen::Local(mark) if mark.node == self.node => Ok(mark.clone()),
            MarkSeen::Unreadable(why) => {
                Err(LookFailed::new(format!("the mark of {name}"), why).into())
            }
            _ => refuse(
                Code::NotOurs,
                format!("dataset {name} bears no mark of this node"),
            ),
        }
    }

    pub(super) fn below(&self, name: &PoolPath) -> Vec<PoolPath> {
        self.datasets
            .keys()
            .filter(|one| one.is_below(name))
            .cloned()
            .collect()
    }

    fn check_held(&self, name: &PoolPath) -> HostResult<()> {
        let lower = self
            .datasets
            .keys()
            .find(|one| (*one == name || one.is_below(name)) && self.held.contains(*one));
        match lower {
            None => Ok(()),
            Some(one) => Err(HostError::Busy {
                object: format!("dataset {one}"),
                why: "it is held".into(),
            }),
        }
    }

    /// Refuses a dataset whose name or mark cannot be.
    pub(super) fn check_new(&self, new: &NewDataset) -> HostResult<()> {
        let name = &new.name;
        if new.mark.node != self.node
            || new.mark.made_as != *name
            || new.mark.condemned_by.is_some()
            || is_reserved(name)
        {
            return refuse(
                Code::NotOurs,
                format!("{name} was to be made with a mark that does not fit it"),
            );
        }
        Ok(())
    }

    /// Refuses a dataset that would lie in one of another owner, or in nothing.
    pub(super) fn check_parent(&self, name: &PoolPath, mark: &Mark) -> HostResult<()> {
        let Some((parent, _)) = name
            .as_str()
            .rsplit_once('/')
            .filter(|(parent, _)| *parent != "templates")
        else {
            return Ok(());
        };
        let parent = PoolPath::from_pool(parent)
            .ok_or_else(|| HostError::failed(format!("making {name}"), "bad name"))?;
        let above = self.own_mark(&parent)?;
        if above.owner != mark.owner || above.condemned_by.is_some() {
            return refuse(
                Code::NotOurs,
                format!("dataset {parent} has another owner, or was condemned"),
            );
        }
        Ok(())
    }

    fn create(&mut self, new: &NewDataset, reach: Reach) -> HostResult<Outcome> {
        let name = &new.name;
        self.can_look(&format!("dataset {name}"))?;
        self.check_new(new)?;
        let staged = name.as_str().replace('/', ":");
        if let Some(there) = self.datasets.get(name) {
            return match &there.mark {
                MarkSeen::Local(mark) if *mark == new.mark => {
                    self.staging.remove(&staged);
                    Ok(Outcome::Unchanged)
                }
                MarkSeen::Unreadable(why) => {
                    Err(LookFailed::new(format!("the mark of {name}"), why).into())
                }
                _ => refuse(
                    Code::DatasetExists,
                    format!("there is something else under the name {name}"),
                ),
            };
        }
        if self.free() == Bytes(0) {
            return refuse(Code::PoolFull, format!("no room for dataset {name}"));
        }
        self.check_parent(name, &new.mark)?;
        let (tree, origin) = match &new.origin {
            Origin::Empty => (Tree::default(), None),
            Origin::Clone(from) => {
                let mark = self.own_mark(from)?;
                let from = &self.datasets[from];
                if mark.role == Role::Base && from.beside.copied.is_none() {
                    let what = format!("the contents of {}", mark.made_as);
                    return Err(LookFailed::new(what, "they are not whole").into());
                }
                (from.tree.shared(), Some(from.uid))
            }
        };
        self.staging.insert(staged.clone(), true);
        if reach == Reach::HalfWay {
            return Ok(Outcome::Changed);
        }
        self.staging.remove(&staged);
        let uid = self.new_uid();
        let mark = MarkSeen::Local(new.mark.clone());
        let dataset = Dataset {
            uid,
            mark,
            quota: new.quota,
            tree,
            origin,
            by_hand: false,
            lived_in: None,
            snapshots: Vec::new(),
            beside: Default::default(),
        };
        self.datasets.insert(name.clone(), dataset);
        Ok(Outcome::Changed)
    }

    fn bury(&mut self, burial: &Burial, grave: &PoolPath, reach: Reach) -> HostResult<Outcome> {
        let name = burial.dataset();
        self.can_look(&format!("dataset {name}"))?;
        if !grave.is_grave() || name.is_grave() {
            return refuse(
                Code::NotOurs,
                format!("{name} is not buried from its place into the graveyard"),
            );
        }
        if !self.datasets.contains_key(name) {
            return match self.datasets.get(grave).map(|d| &d.mark) {
                Some(MarkSeen::Local(m))
                    if m.made_as == *name && m.condemned_by.as_ref() == Some(burial.by()) =>
                {
                    Ok(Outcome::Unchanged)
                }
                _ => not_there(name),
            };
        }
        let mark = self.own_mark(name)?;
        let lower = self.below(name);
        for one in &lower {
            let below = self.own_mark(one)?;
            if below.owner != mark.owner || below.role != mark.role {
                return refuse(
                    Code::NotOurs,
                    format!("dataset {one} has another owner or role than {name}"),
                );
            }
        }
        self.check_held(name)?;
        if self.datasets.contains_key(grave) {
            return refuse(
                Code::DatasetExists,
                format!("there is something under the name {grave}"),
            );
        }
        for one in lower.iter().chain([name]) {
            if let Some(Dataset {
                mark: MarkSeen::Local(mark),
                ..
            }) = self.datasets.get_mut(one)
            {
                mark.condemned_by = Some(burial.by().clone());
            }
        }
        if reach == Reach::HalfWay {
            return Ok(Outcome::Changed);
        }
        for one in lower.iter().chain([name]) {
            self.note_if_in_use(one, "moved to the graveyard");
            let (Some(to), Some(dataset)) = (one.moved(name, grave), self.datasets.remove(one))
            else {
                continue;
            };
            if matches!(mark.role, Role::Persistent | Role::Replaced | Role::Base) {
                self.given_up.push(one.clone());
                self.ledger.remove(&dataset.uid);
            }
            self.datasets.insert(to, dataset);
        }
        Ok(Outcome::Changed)
    }

    pub(super) fn note_if_in_use(&mut self, name: &PoolPath, what: &str) {
        let user = self.datasets.get(name).and_then(|d| self.in_use(d.uid));
        if let Some(user) = user {
            self.catastrophes
                .push(format!("dataset {name} was {what} while {user}"));
        }
    }

    /// Whoever has it mounted loses it, a process of the host too; a move does no harm to that one.
    fn note_if_lost(&mut self, name: &PoolPath) {
        self.note_if_in_use(name, "destroyed");
        let uid = self.datasets.get(name).map(|d| d.uid);
        if let Some(pid) = uid.and_then(|uid| self.held_by(uid)).map(|leak| leak.pid) {
            self.catastrophes.push(format!(
                "dataset {name} was destroyed while process {pid} of the host held it"
            ));
        }
    }

    fn reap(&mut self, grave: &PoolPath, reach: Reach) -> HostResult<Outcome> {
        self.can_look(&format!("dataset {grave}"))?;
        if !self.datasets.contains_key(grave) {
            return Ok(Outcome::Unchanged);
        }
        let mut all = self.below(grave);
        all.push(grave.clone());
        for one in &all {
            if self.own_mark(one)?.condemned_by.is_none() || !one.is_grave() {
                return refuse(
                    Code::NotOurs,
                    format!("no operation condemned dataset {one}"),
                );
            }
        }
        self.check_held(grave)?;
        if self.backend == Backend::Zfs {
            self.check_zfs_lets_go(&all)?;
        }
        for one in all.iter().rev().filter(|one| *one != grave) {
            self.note_if_lost(one);
            self.remove(one);
        }
        self.note_if_lost(grave);
        if reach == Reach::HalfWay {
            if let Some(dataset) = self.datasets.get_mut(grave) {
                dataset.tree = Tree::default();
            }
            return Ok(Outcome::Changed);
        }
        self.remove(grave);
        Ok(Outcome::Changed)
    }

    fn check_zfs_lets_go(&self, names: &[PoolPath]) -> HostResult<()> {
        for name in names {
            let uid = self.datasets[name].uid;
            let clone = self
                .datasets
                .iter()
                .find(|(other, d)| d.origin == Some(uid) && !names.contains(*other));
            let held = self.held_by(uid);
            let why = self
                .in_use(uid)
                .or_else(|| held.map(|leak| format!("process {} of the host holds it", leak.pid)))
                .or_else(|| clone.map(|(other, _)| format!("{other} was cloned from it")));
            if let Some(why) = why {
                return Err(HostError::Busy {
                    object: format!("dataset {name}"),
                    why,
                });
            }
        }
        Ok(())
    }

    pub(super) fn view(
        &self,
        root: Option<&PoolPath>,
        mounts: &[(PoolPath, GuestPath, bool)],
    ) -> Result<View, PoolPath> {
        let uid = |name: &PoolPath| {
            self.datasets
                .get(name)
                .map(|d| d.uid)
                .ok_or_else(|| name.clone())
        };
        let root = root.map(uid).transpose()?;
        let mounts = mounts
            .iter()
            .map(|(name, at, read_only)| Ok((at.clone(), uid(name)?, *read_only)))
            .collect::<Result<_, PoolPath>>()?;
        Ok(View { root, mounts })
    }
}

impl Storage for FakeHost {
    fn observe(&self) -> Result<PoolSeen, LookFailed> {
        self.look_at("the pool".into(), |world| PoolSeen {
            datasets: world
                .datasets
                .iter()
                .map(|(name, d)| (name.clone(), seen(world, d)))
                .collect(),
            capacity: world.capacity,
            free: world.free(),
        })
    }

    fn look(&self, name: &PoolPath) -> Result<Option<DatasetSeen>, LookFailed> {
        self.look_at(format!("dataset {name}"), |world| {
            world.datasets.get(name).map(|dataset| seen(world, dataset))
        })
    }

    fn create_dataset(&self, new: &NewDataset) -> HostResult<Outcome> {
        self.mutate(format!("create dataset {}", new.name), |world, reach| {
            world.create(new, reach)
        })
    }

    fn set_quota(&self, name: &PoolPath, quota: Bytes) -> HostResult<Outcome> {
        self.mutate(format!("set the quota of {name}"), |world, _| {
            world.own_mark(name)?;
            let Some(dataset) = world.datasets.get_mut(name) else {
                return not_there(name);
            };
            let used = dataset.used();
            if used > quota {
                return refuse(
                    Code::QuotaBelowUse,
                    format!("dataset {name} holds {used}, more than {quota}"),
                );
            }
            let had = dataset.quota.replace(quota);
            Ok(if had == Some(quota) {
                Outcome::Unchanged
            } else {
                Outcome::Changed
            })
        })
    }

    fn bury(&self, burial: &Burial, grave: &PoolPath) -> HostResult<Outcome> {
        self.mutate(format!("bury {}", burial.dataset()), |world, reach| {
            world.bury(burial, grave, reach)
        })
    }

    fn exchange(&self, exchange: &Exchange) -> HostResult<Outcome> {
        let told = format!("exchange {} with {}", exchange.dataset(), exchange.aside());
        self.mutate(told, |world, reach| world.exchange(exchange, reach))
    }

    fn mark_harvested(&self, root: &PoolPath) -> HostResult<Outcome> {
        self.mutate(format!("mark {root} as harvested"), |world, _| {
            world.mark_harvested(root)
        })
    }

    fn read_file(
        &self,
        name: &PoolPath,
        path: &GuestPath,
        limit: usize,
    ) -> HostResult<Option<Vec<u8>>> {
        self.look_at(format!("{path} in {name}"), |world| {
            world.read_file(name, path, limit)
        })?
    }

    fn reap(&self, condemned: &Condemned) -> HostResult<Outcome> {
        let grave = condemned.dataset();
        self.mutate(format!("reap {grave}"), |world, reach| {
            world.reap(grave, reach)
        })
    }

    fn hurry_space(&self) -> HostResult<()> {
        self.mutate("hurry the return of space".into(), |world, _| {
            world.late.clear();
            Ok(())
        })
    }

    fn clear_staging(&self) -> HostResult<Vec<String>> {
        self.mutate("clear the staging area".into(), |world, reach| {
            let mut first = true;
            world.staging.retain(|_, ours| {
                let goes = *ours && (reach == Reach::Whole || first);
                first &= !goes;
                !goes
            });
            Ok(world
                .staging
                .keys()
                .map(|name| format!("staging/{name}: no record speaks of it; left alone"))
                .collect())
        })
    }

    fn staging(&self) -> Result<Vec<String>, LookFailed> {
        self.look_at("the staging area".into(), |world| {
            world.staging.keys().cloned().collect()
        })
    }

    fn put_mirror(&self, key: &MirrorKey, text: &str) -> HostResult<Outcome> {
        self.write_mirror(key, Some(text))
    }

    fn remove_mirror(&self, key: &MirrorKey) -> HostResult<Outcome> {
        self.write_mirror(key, None)
    }

    fn mirrors(&self) -> Result<BTreeMap<MirrorKey, Result<String, String>>, LookFailed> {
        self.look_at("the mirrors".into(), |world| world.mirrors.clone())
    }

    fn generation(&self) -> Result<Option<u64>, LookFailed> {
        self.look_at("the generation".into(), |world| world.generation)
    }

    fn raise_generation(&self, to: u64) -> HostResult<Outcome> {
        self.write_generation(to)
    }

    fn prepare_tree(&self, name: &PoolPath, tree: &TreePlan) -> HostResult<Outcome> {
        self.mutate(format!("prepare the tree of {name}"), |world, reach| {
            world.prepare(name, tree, reach)
        })
    }

    fn copy_tree(
        &self,
        copy: &TreeCopy,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<TreeCopied> {
        let told = format!("copy {} of {} into {}", copy.below, copy.from, copy.to);
        // Whoever is told may ask the host for something.
        progress("copying");
        self.mutate(told, |world, reach| world.copy_tree(copy, cancel, reach))
    }

    fn take_out(&self, what: &TakenOut, to: TakeTo) -> HostResult<Outcome> {
        let told = match to {
            TakeTo::Aside => format!("take {} out of {}", what.path, what.dataset),
            TakeTo::Back => format!("put {} back into {}", what.path, what.dataset),
            TakeTo::Nothing => format!("destroy what was {} of {}", what.path, what.dataset),
        };
        self.mutate(told, |world, reach| world.take_out(what, to, reach))
    }

    fn probe_init(&self, assembly: &Assembly, init: &GuestPath) -> Result<InitSeen, LookFailed> {
        let what = "the init of an assembled root";
        self.look_at(what.into(), |world| {
            let mounts: Vec<_> = assembly
                .mounts
                .iter()
                .map(|(name, at)| (name.clone(), at.clone(), true))
                .collect();
            let view = world
                .view(assembly.root.as_ref(), &mounts)
                .map_err(|name| LookFailed::new(what, format!("there is no dataset {name}")))?;
            Ok(view.init(init, |uid, path| world.node_at(uid, path)))
        })?
    }

    fn mount_source(&self, name: &PoolPath) -> MountSource {
        MountSource::Directory {
            path: format!("{POOL}/{}/private", name.as_str()),
        }
    }

    fn detach(&self) -> Vec<String> {
        vec![POOL.to_owned()]
    }
}
