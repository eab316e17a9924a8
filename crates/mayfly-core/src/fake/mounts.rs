//! Mounts of runs of a fake host that are added and removed while the guest lives.

use super::runtime::dataset_of;
use super::tree::{NoWay, Node, View};
use super::world::World;
use super::{FakeHost, Reach};
use crate::error::{Code, Refusal};
use crate::ids::{RunId, VpsId};
use crate::names::{GuestPath, PoolPath};
use crate::ports::{HostError, HostResult, Outcome};
use crate::run::RunMount;

impl World {
    /// Cut off, the mount point is there and nothing is shown.
    pub(super) fn show_mount(
        &mut self,
        key: &(VpsId, RunId),
        mount: &RunMount,
        reach: Reach,
    ) -> HostResult<Outcome> {
        let Some(view) = self.living_view(key) else {
            return Ok(Outcome::Unchanged);
        };
        let uid = self.uid_of(mount, key.0)?;
        let shown = (mount.target.clone(), uid, mount.read_only);
        if view.mounts.contains(&shown) {
            return Ok(Outcome::Unchanged);
        }
        let mut at = String::new();
        for part in mount.target.relative().split('/') {
            at = format!("{at}/{part}");
            match view.resolve(&at, |uid, path| self.node_at(uid, path)) {
                Ok(there) if there == at => {
                    let (uid, inside, _) = view.place(&at);
                    if let Some(Node::File { .. }) = self.node_at(uid, &inside) {
                        return Err(in_the_way(key.0, &at, "a file"));
                    }
                }
                Ok(_) => return Err(in_the_way(key.0, &at, "a symlink")),
                Err(NoWay::Missing(missing)) if missing == at => {
                    let (uid, inside, read_only) = view.place(&at);
                    let Some(uid) = uid.filter(|_| !read_only) else {
                        return Err(in_the_way(key.0, &at, "a read-only mount"));
                    };
                    let put = self.put_into(uid, &inside, Node::Directory);
                    put.map_err(|e| HostError::failed(format!("making {at}"), format!("{e:?}")))?;
                }
                Err(why) => return Err(in_the_way(key.0, &at, &why.to_string())),
            }
        }
        if reach == Reach::Whole {
            if let Some(run) = self.runs.get_mut(key) {
                run.view.mounts.push(shown);
            }
        }
        Ok(Outcome::Changed)
    }

    pub(super) fn hide_mount(
        &mut self,
        key: &(VpsId, RunId),
        mount: &RunMount,
        reach: Reach,
    ) -> HostResult<Outcome> {
        if self.living_view(key).is_none() {
            return Ok(Outcome::Unchanged);
        }
        let uid = self.uid_of(mount, key.0)?;
        let is_it = |(at, one, _): &(GuestPath, u64, bool)| *at == mount.target && *one == uid;
        let Some(run) = self.runs.get_mut(key) else {
            return Ok(Outcome::Unchanged);
        };
        if !run.view.mounts.iter().any(is_it) {
            return Ok(Outcome::Unchanged);
        }
        if reach == Reach::Whole {
            run.view.mounts.retain(|one| !is_it(one));
        }
        Ok(Outcome::Changed)
    }

    fn living_view(&self, key: &(VpsId, RunId)) -> Option<View> {
        let run = self.runs.get(key).filter(|run| run.guest)?;
        Some(run.view.clone())
    }

    fn uid_of(&self, mount: &RunMount, vps: VpsId) -> HostResult<u64> {
        let name = dataset_of(&mount.source);
        let found = name.as_ref().and_then(|name| self.datasets.get(name));
        found.map(|dataset| dataset.uid).ok_or_else(|| {
            let action = format!("mounting at {} in VPS {vps}", mount.target);
            HostError::failed(action, format!("there is no dataset {:?}", mount.source))
        })
    }
}

fn in_the_way(vps: VpsId, at: &str, what: &str) -> HostError {
    Refusal::new(
        Code::MountPointRefused,
        format!("VPS {vps}: {at} is {what}"),
        "remove it inside, or choose another path",
    )
    .into()
}

impl FakeHost {
    /// What the living guest of a VPS has mounted: paths and datasets.
    pub fn mounts_of(&self, vps: VpsId) -> Vec<(GuestPath, PoolPath)> {
        let world = self.world();
        let run = world.runs.values().find(|run| run.vps == vps && run.guest);
        let mounts = run.map_or(&[][..], |run| &run.view.mounts);
        let name = |uid: &u64| world.name_of(*uid).cloned();
        let mut all: Vec<_> = mounts
            .iter()
            .filter_map(|(at, uid, _)| Some((at.clone(), name(uid)?)))
            .collect();
        all.sort();
        all
    }
}
