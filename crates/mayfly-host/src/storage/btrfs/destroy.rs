//! Destroying subvolumes: the one place that does it.
//!
//! Children go first, the marks last: cut off anywhere, what is left of a grave is still a grave with its proof, and a
//! mark without a subvolume is collected by [`BtrfsPool::clear_cut_off`]. The calls return before the blocks are free;
//! the kernel's cleaner does that in the background.

use mayfly_core::error::LookFailed;
use mayfly_core::names::PoolPath;
use mayfly_core::ports::{HostError, HostResult, Outcome};
use mayfly_core::proof::Condemned;
use rustix::io::Errno;

use super::pool::{BtrfsPool, Subvolume, Uuid};
use crate::crash::crash_point;
use crate::storage::records::Intent;
use crate::storage::refusals::not_ours;
use crate::sys::btrfs as sys;

/// Why something may be destroyed.
pub(super) enum Proof<'a> {
    /// It lies in the graveyard, and every mark in it says that an operation condemned it.
    Condemned(&'a Condemned),
    /// It lies in the staging area under the name of a record of this node: no guest ever saw it.
    Staged(&'a Intent),
}

/// A subvolume somewhere below another.
pub(super) struct Lower {
    pub(super) id: u64,
    pub(super) uuid: Uuid,
    /// Its path, relative to the pool; bytes that are no UTF-8 are replaced.
    pub(super) path: String,
}

impl BtrfsPool {
    /// The subvolumes below the subvolume `id`, which lies at `path`; parents before children.
    pub(super) fn below(&self, id: u64, path: &str) -> Result<Vec<Lower>, LookFailed> {
        let look = |e: Errno| LookFailed::new(format!("what lies below {path}"), e);
        let _still = self.hold_shape();
        let mut all: Vec<Lower> = Vec::new();
        let mut next = vec![(id, path.to_owned())];
        while let Some((id, path)) = next.pop() {
            for child in sys::children(&self.top, id).map_err(look)? {
                let Some(uuid) = sys::uuid_of(&self.top, child.id).map_err(look)? else {
                    continue;
                };
                let dir = sys::path_in(&self.top, id, child.dir).map_err(look)?;
                let mut path = path.clone();
                for part in [&dir, &child.name]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                {
                    path.push('/');
                    path.push_str(&String::from_utf8_lossy(part));
                }
                next.push((child.id, path.clone()));
                all.push(Lower {
                    id: child.id,
                    uuid: Uuid(uuid),
                    path,
                });
            }
        }
        Ok(all)
    }

    pub(super) fn destroy_condemned(&self, condemned: &Condemned) -> HostResult<Outcome> {
        let name = condemned.dataset();
        self.collect_groups();
        match self.subvolume(name)? {
            Some(grave) => self.destroy(name.as_str(), &grave, &Proof::Condemned(condemned)),
            None => Ok(Outcome::Unchanged),
        }
    }

    /// Destroys a subvolume and all below it.
    pub(super) fn destroy(
        &self,
        path: &str,
        top: &Subvolume,
        proof: &Proof<'_>,
    ) -> HostResult<Outcome> {
        let lower = self.below(top.id, path)?;
        match proof {
            Proof::Staged(intent) if intent.node == self.node => {}
            Proof::Staged(_) => return Err(not_ours(path, "its record names another node")),
            Proof::Condemned(condemned) => {
                self.check_condemned(condemned.dataset().as_str(), &top.uuid)?;
                lower
                    .iter()
                    .try_for_each(|one| self.check_condemned(&one.path, &one.uuid))?;
            }
        }
        for one in lower.iter().rev() {
            self.destroy_one(&one.path, one.id)?;
            crash_point("reap.after_one_subvolume");
        }
        self.destroy_one(path, top.id)?;
        crash_point("reap.after_subvolumes");
        for uuid in lower.iter().map(|one| &one.uuid).chain([&top.uuid]) {
            self.marks.remove(&uuid.to_string())?;
        }
        Ok(Outcome::Changed)
    }

    fn check_condemned(&self, path: &str, uuid: &Uuid) -> HostResult<()> {
        let name =
            PoolPath::from_pool(path).ok_or_else(|| not_ours(path, "it has no plain name"))?;
        match self.own_mark(&name, uuid)?.condemned_by {
            Some(_) => Ok(()),
            None => Err(not_ours(path, "no operation condemned it")),
        }
    }

    fn destroy_one(&self, path: &str, id: u64) -> HostResult<()> {
        match sys::destroy_subvolume(&self.top, id) {
            Ok(()) => {
                self.dropped().insert(id);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::BUSY) => Err(HostError::Busy {
                object: path.to_owned(),
                why: "something is mounted on it".to_owned(),
            }),
            Err(errno) => Err(HostError::failed(format!("deleting {path}"), errno)),
        }
    }
}
