//! A look at the whole pool.

use std::collections::{BTreeMap, HashMap};

use mayfly_core::error::LookFailed;
use mayfly_core::names::PoolPath;
use mayfly_core::observed::{MarkSeen, PoolSeen};
use rustix::io::Errno;

use super::pool::{BtrfsPool, Uuid, is_own};
use super::quota::Groups;
use crate::sys::btrfs::{self as sys, Entry};

impl BtrfsPool {
    pub(super) fn observe_pool(&self) -> Result<PoolSeen, LookFailed> {
        let look =
            |e: Errno| LookFailed::new(format!("the datasets in {}", self.path.display()), e);
        let found = {
            let _still = self.hold_shape();
            let all = sys::all_subvolumes(&self.top).map_err(look)?;
            Paths::new(self, &all).below_pool().map_err(look)?
        };
        let groups = Groups::open(&self.uuid)?;
        let mut datasets = BTreeMap::new();
        for (name, id, uuid) in found {
            if is_own(&name) {
                continue;
            }
            let seen = self.seen(&groups, id, &uuid)?;
            // A reaped one loses its mark after it was listed here, and must not pass for somebody else's.
            if seen.mark == MarkSeen::Unset && sys::uuid_of(&self.top, id).map_err(look)?.is_none()
            {
                continue;
            }
            datasets.insert(name, seen);
        }
        let (capacity, free) = self.room()?;
        Ok(PoolSeen {
            datasets,
            capacity,
            free,
        })
    }
}

/// Where each subvolume lies, put together from the directory entries that lead to them.
struct Paths<'a> {
    pool: &'a BtrfsPool,
    all: BTreeMap<u64, (&'a Entry, Uuid)>,
    /// Paths of directories in their subvolumes; many entries share one.
    directories: HashMap<(u64, u64), Vec<u8>>,
    /// Paths below the pool; none for what lies elsewhere.
    known: HashMap<u64, Option<Vec<u8>>>,
}

impl<'a> Paths<'a> {
    fn new(pool: &'a BtrfsPool, all: &'a [(Entry, [u8; 16])]) -> Self {
        let all = all
            .iter()
            .map(|(entry, uuid)| (entry.id, (entry, Uuid(*uuid))))
            .collect();
        Self {
            pool,
            all,
            directories: HashMap::new(),
            known: HashMap::new(),
        }
    }

    fn below_pool(mut self) -> rustix::io::Result<Vec<(PoolPath, u64, Uuid)>> {
        let mut found = Vec::new();
        for (id, uuid) in self
            .all
            .values()
            .map(|(entry, uuid)| (entry.id, *uuid))
            .collect::<Vec<_>>()
        {
            let Some(path) = self.path(id)? else { continue };
            // Only a guest that could make subvolumes gives one a name without a plain text.
            let text = String::from_utf8_lossy(&path).into_owned();
            found.extend(PoolPath::from_pool(&text).map(|name| (name, id, uuid)));
        }
        Ok(found)
    }

    fn path(&mut self, id: u64) -> rustix::io::Result<Option<Vec<u8>>> {
        if let Some(known) = self.known.get(&id) {
            return Ok(known.clone());
        }
        let path = self.look_up(id)?;
        self.known.insert(id, path.clone());
        Ok(path)
    }

    fn look_up(&mut self, id: u64) -> rustix::io::Result<Option<Vec<u8>>> {
        let (top, top_path) = &self.pool.place;
        let Some((entry, _)) = self.all.get(&id).copied() else {
            return Ok(None);
        };
        let mut path = self.directory(entry.parent, entry.dir)?;
        if entry.parent == *top {
            // A directory of the pool's own subvolume: the pool's path there comes off again.
            let rest = match path.strip_prefix(top_path.as_slice()) {
                Some(rest) if top_path.is_empty() || rest.is_empty() => rest,
                Some([b'/', rest @ ..]) => rest,
                Some(_) | None => return Ok(None),
            };
            path = rest.to_vec();
        } else {
            match self.path(entry.parent)? {
                None => return Ok(None),
                Some(above) => path = joined(above, &path),
            }
        }
        Ok(Some(joined(path, &entry.name)))
    }

    fn directory(&mut self, tree: u64, inode: u64) -> rustix::io::Result<Vec<u8>> {
        if let Some(known) = self.directories.get(&(tree, inode)) {
            return Ok(known.clone());
        }
        let path = sys::path_in(&self.pool.top, tree, inode)?;
        self.directories.insert((tree, inode), path.clone());
        Ok(path)
    }
}

fn joined(mut above: Vec<u8>, below: &[u8]) -> Vec<u8> {
    if !above.is_empty() && !below.is_empty() {
        above.push(b'/');
    }
    above.extend_from_slice(below);
    above
}
