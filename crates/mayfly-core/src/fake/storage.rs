//! The datasets of a fake host.

use super::tree::{Node, Tree, View};
use super::world::{Dataset, POOL, World};
use super::{Backend, FakeHost, Reach};
use crate::bytes::Bytes;
use crate::error::{Code, LookFailed, Refusal};
use crate::names::{GuestPath, PoolPath};
use crate::observed::{DatasetSeen, InitSeen, Mark, MarkSeen, PoolSeen, Role};
use crate::ports::{
    Assembly, HostError, HostResult, NewDataset, Origin, Outcome, Storage, TreePlan,
};
use crate::proof::{Burial, Condemned};
use crate::run::MountSource;

fn refuse<T>(code: Code, message: String) -> HostResult<T> {
    Err(Refusal::new(code, message, "see `mayfly pool show`").into())
}

fn not_there<T>(name: &PoolPath) -> HostResult<T> {
    refuse(Code::DatasetNotFound, format!("there is no dataset {name}"))
}

fn seen(dataset: &Dataset) -> DatasetSeen {
    DatasetSeen {
        mark: dataset.mark.clone(),
        quota: dataset.quota,
        used: Some(dataset.tree.used()),
        snapshots: Vec::new(),
    }
}

impl World {
    /// The mark of a dataset where it is this node's.
    fn own_mark(&self, name: &PoolPath) -> HostResult<Mark> {
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

    fn below(&self, name: &PoolPath) -> Vec<PoolPath> {
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

    fn create(&mut self, new: &NewDataset, reach: Reach) -> HostResult<Outcome> {
        let name = &new.name;
        self.can_look(&format!("dataset {name}"))?;
        if new.mark.node != self.node
            || new.mark.made_as != *name
            || new.mark.condemned_by.is_some()
            || name.is_grave()
        {
            return refuse(
                Code::NotOurs,
                format!("{name} was to be made with a mark that does not fit it"),
            );
        }
        let staged = name.as_str().replace('/', "+");
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
        if let Some((parent, _)) = name
            .as_str()
            .rsplit_once('/')
            .filter(|(parent, _)| *parent != "templates")
        {
            let parent = PoolPath::from_pool(parent)
                .ok_or_else(|| HostError::failed(format!("making {name}"), "bad name"))?;
            let mark = self.own_mark(&parent)?;
            if mark.owner != new.mark.owner || mark.condemned_by.is_some() {
                return refuse(
                    Code::NotOurs,
                    format!("dataset {parent} has another owner, or was condemned"),
                );
            }
        }
        let (tree, origin) = match &new.origin {
            Origin::Empty => (Tree::default(), None),
            Origin::Clone(from) => {
                self.own_mark(from)?;
                let from = &self.datasets[from];
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
            if mark.role == Role::Persistent {
                self.given_up.push(one.clone());
                self.ledger.remove(&dataset.uid);
            }
            self.datasets.insert(to, dataset);
        }
        Ok(Outcome::Changed)
    }

    fn note_if_in_use(&mut self, name: &PoolPath, what: &str) {
        let user = self.datasets.get(name).and_then(|d| self.in_use(d.uid));
        if let Some(user) = user {
            self.catastrophes
                .push(format!("dataset {name} was {what} while {user}"));
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
            self.note_if_in_use(one, "destroyed");
            self.remove(one);
        }
        self.note_if_in_use(grave, "destroyed");
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
            let why = self
                .in_use(uid)
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

    fn prepare(&mut self, name: &PoolPath, plan: &TreePlan, reach: Reach) -> HostResult<Outcome> {
        self.own_mark(name)?;
        if self.free() == Bytes(0) {
            return refuse(
                Code::PoolFull,
                format!("no room for files in dataset {name}"),
            );
        }
        let Some(dataset) = self.datasets.get_mut(name) else {
            return not_there(name);
        };
        let before = dataset.tree.clone();
        let tree = &mut dataset.tree;
        for path in &plan.directories {
            real_directory(name, tree, parent(path))?;
            match tree.get(path.as_str()) {
                None => drop(tree.0.insert(path.to_string(), Node::Directory)),
                Some(Node::Directory) => {}
                Some(_) => return in_the_way(name, path.as_str()),
            }
        }
        if reach == Reach::Whole {
            for (path, to) in &plan.links {
                real_directory(name, tree, parent(path))?;
                tree.0
                    .entry(path.to_string())
                    .or_insert_with(|| Node::Link(to.clone()));
            }
            for (path, text) in &plan.files {
                real_directory(name, tree, parent(path))?;
                if tree.get(path.as_str()) == Some(&Node::Directory) {
                    return in_the_way(name, path.as_str());
                }
                tree.0.insert(path.to_string(), Node::file(text));
            }
        }
        Ok(if dataset.tree == before {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        })
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

fn parent(path: &GuestPath) -> &str {
    match path.as_str().rsplit_once('/') {
        None | Some(("", _)) => "/",
        Some((parent, _)) => parent,
    }
}

fn in_the_way<T>(name: &PoolPath, path: &str) -> HostResult<T> {
    refuse(
        Code::MountPointRefused,
        format!("in dataset {name} something else is at {path}"),
    )
}

/// Every part of the way must be a directory, and no link to one.
fn real_directory(name: &PoolPath, tree: &Tree, path: &str) -> HostResult<()> {
    let mut at = String::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        at = format!("{at}/{part}");
        match tree.get(&at) {
            Some(Node::Directory) => {}
            Some(_) => return in_the_way(name, &at),
            None => {
                return Err(HostError::failed(
                    format!("putting files into {name}"),
                    format!("{at} is not there"),
                ));
            }
        }
    }
    Ok(())
}

impl Storage for FakeHost {
    fn observe(&self) -> Result<PoolSeen, LookFailed> {
        self.look_at("the pool".into(), |world| PoolSeen {
            datasets: world
                .datasets
                .iter()
                .map(|(name, d)| (name.clone(), seen(d)))
                .collect(),
            capacity: world.capacity,
            free: world.free(),
        })
    }

    fn look(&self, name: &PoolPath) -> Result<Option<DatasetSeen>, LookFailed> {
        self.look_at(format!("dataset {name}"), |world| {
            world.datasets.get(name).map(seen)
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
            let used = dataset.tree.used();
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

    fn prepare_tree(&self, name: &PoolPath, tree: &TreePlan) -> HostResult<Outcome> {
        self.mutate(format!("prepare the tree of {name}"), |world, reach| {
            world.prepare(name, tree, reach)
        })
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
