//! What must hold of a host whatever happened to the daemon.

use super::FakeHost;
use super::tree::Node;
use super::world::Dataset;
use crate::documents::VpsDoc;
use crate::names::PoolPath;
use crate::observed::{MarkSeen, Role};

impl FakeHost {
    /// Persistent datasets that were given up, by a proof that an operation had to show, oldest first.
    pub fn given_up(&self) -> Vec<PoolPath> {
        self.world().given_up.clone()
    }

    /// Persistent data that is not where and what it was, in words. Data counts from the moment that a guest or a
    /// person wrote it until its own guest removes it or a burial of persistent data, or a person, takes the dataset.
    pub fn losses(&self) -> Vec<String> {
        let world = self.world();
        let mut losses = Vec::new();
        for (uid, deposit) in &world.ledger {
            let name = &deposit.name;
            let Some(dataset) = world.datasets.get(name).filter(|d| d.uid == *uid) else {
                losses.push(format!("dataset {name} is gone, or is another one"));
                continue;
            };
            for (path, text) in &deposit.files {
                match dataset.tree.get(path).or(dataset.beside.taken_at(path)) {
                    Some(Node::File { text: there, .. }) if there == text => {}
                    other => losses.push(format!("{name}: {path} was {text:?} and is {other:?}")),
                }
            }
        }
        losses.extend(world.lost_copies());
        losses
    }

    /// What is on the host and should not be, given these VPSes, in words: staging leftovers, graves, datasets that no
    /// document knows, signs of life that no document explains. Things that a test or a person made are left out.
    pub fn orphans(&self, vpses: &[VpsDoc]) -> Vec<String> {
        let world = self.world();
        let mut found: Vec<String> = world
            .staging
            .iter()
            .filter(|(_, ours)| **ours)
            .map(|(name, _)| format!("staging/{name}"))
            .collect();
        for (name, dataset) in world.datasets.iter().filter(|(_, d)| !d.by_hand) {
            let held = |(one, d): (&PoolPath, &Dataset)| {
                (one == name || one.is_below(name) || name.is_below(one))
                    && world.held_by(d.uid).is_some()
            };
            let why = match &dataset.mark {
                // What a process of the host holds waits for that one.
                _ if name.is_grave() && world.datasets.iter().any(held) => None,
                _ if name.is_grave() => Some("lies in the graveyard"),
                MarkSeen::Local(mark) if mark.condemned_by.is_some() => {
                    Some("is condemned and was not moved")
                }
                MarkSeen::Local(mark) if mark.role == Role::Template => None,
                MarkSeen::Local(mark) => {
                    let owner = vpses
                        .iter()
                        .find(|v| mark.owner == Some((v.id, v.incarnation.clone())));
                    let known = owner.is_some_and(|v| match mark.role {
                        Role::Temporary => {
                            // A rescue system has parts below its root.
                            let of = |root: &PoolPath| root == name || name.is_below(root);
                            v.run.as_ref().is_some_and(|r| of(&r.root))
                                || v.last_root.as_ref() == Some(name)
                        }
                        Role::Replaced | Role::Base => v.knows_aside(name),
                        _ => v.datasets.iter().any(|d| v.pool_path(&d.name) == *name),
                    });
                    (!known).then_some("is known to no document")
                }
                _ => Some("has no mark of its own"),
            };
            found.extend(why.map(|why| format!("dataset {name} {why}")));
        }
        for vps in vpses {
            let missing = vps
                .datasets
                .iter()
                .map(|d| vps.pool_path(&d.name))
                .filter(|n| !world.datasets.contains_key(n));
            found.extend(missing.map(|name| format!("dataset {name} is not there")));
        }
        for run in world.runs.values().filter(|r| r.is_alive() || r.cgroup) {
            let known = vpses.iter().any(|v| {
                v.id == run.vps
                    && v.incarnation == run.spec.incarnation
                    && v.run.as_ref().is_some_and(|r| r.run == run.run)
            });
            if !known {
                let what = if run.is_alive() {
                    "is alive"
                } else {
                    "left a cgroup"
                };
                found.push(format!("run {} of {} {what}", run.run, run.vps));
            }
        }
        found
    }

    /// What no kernel refused and nobody may do, in words, oldest first.
    pub fn catastrophes(&self) -> Vec<String> {
        self.world().catastrophes.clone()
    }

    /// No persistent data was lost; see [`FakeHost::losses`].
    ///
    /// # Panics
    /// When some was.
    #[track_caller]
    pub fn assert_persistent_data_intact(&self) {
        let losses = self.losses();
        assert!(
            losses.is_empty(),
            "persistent data was lost: {losses:#?}\nafter {:#?}",
            self.calls()
        );
    }

    /// Nothing is left lying about; see [`FakeHost::orphans`].
    ///
    /// # Panics
    /// When something is.
    #[track_caller]
    pub fn assert_no_orphans(&self, vpses: &[VpsDoc]) {
        let orphans = self.orphans(vpses);
        assert!(
            orphans.is_empty(),
            "orphans: {orphans:#?}\nafter {:#?}",
            self.calls()
        );
    }

    /// No root in use was moved or destroyed, no two inits ran on one root, no root was used twice.
    ///
    /// # Panics
    /// When one was.
    #[track_caller]
    pub fn assert_no_catastrophe(&self) {
        let found = self.catastrophes();
        assert!(
            found.is_empty(),
            "catastrophes: {found:#?}\nafter {:#?}",
            self.calls()
        );
    }
}
