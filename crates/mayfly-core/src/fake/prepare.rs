//! Putting things into a tree of a fake host.

use super::Reach;
use super::storage::{not_there, refuse};
use super::tree::{Node, Tree};
use super::world::World;
use crate::bytes::Bytes;
use crate::error::Code;
use crate::names::{GuestPath, PoolPath};
use crate::ports::{HostError, HostResult, Outcome, TreePlan};

impl World {
    pub(super) fn prepare(
        &mut self,
        name: &PoolPath,
        plan: &TreePlan,
        reach: Reach,
    ) -> HostResult<Outcome> {
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
            for at in way_to(path) {
                match tree.get(&at) {
                    None => drop(tree.0.insert(at, Node::Directory)),
                    Some(Node::Directory) => {}
                    Some(_) => return in_the_way(name, &at),
                }
            }
        }
        if reach == Reach::Whole {
            for (path, to) in &plan.links {
                real_directory(name, tree, path)?;
                tree.0
                    .entry(path.to_string())
                    .or_insert_with(|| Node::Link(to.clone()));
            }
            for (path, text) in &plan.files {
                real_directory(name, tree, path)?;
                if tree.get(path.as_str()) == Some(&Node::Directory) {
                    return in_the_way(name, path.as_str());
                }
                let mut with = tree.clone();
                with.0.insert(path.to_string(), Node::file(text));
                if dataset.quota.is_some_and(|quota| with.used() > quota) {
                    return refuse(
                        Code::DiskSpace,
                        format!("no room for {path} under the quota of dataset {name}"),
                    );
                }
                *tree = with;
            }
            for edit in &plan.edits {
                real_directory(name, tree, &edit.path)?;
                tree.edit(edit)?;
            }
        }
        Ok(if dataset.tree == before {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        })
    }
}

fn in_the_way<T>(name: &PoolPath, path: &str) -> HostResult<T> {
    refuse(
        Code::MountPointRefused,
        format!("in dataset {name} something else is at {path}"),
    )
}

/// A path, and before it all that lie above it, the highest first.
fn way_to(path: &GuestPath) -> Vec<String> {
    let parts = path.as_str().split('/').filter(|part| !part.is_empty());
    let deeper = |at: &mut String, part| {
        *at = format!("{at}/{part}");
        Some(at.clone())
    };
    parts.scan(String::new(), deeper).collect()
}

/// Every part of the way must be a directory, and no link to one.
fn real_directory(name: &PoolPath, tree: &Tree, path: &GuestPath) -> HostResult<()> {
    let mut way = way_to(path);
    way.pop();
    for at in way {
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
