//! The pool of a node, whichever driver it has.

use std::path::Path;
use std::sync::Arc;

use mayfly_core::documents::PoolSpec;
use mayfly_core::ids::NodeId;
use mayfly_core::ports::{HostResult, Storage};

use super::btrfs::{Allocation, BtrfsPool, NewPool};
use super::zfs::ZfsPool;
use super::{KernelIdentity, TemplatePool};
use crate::runner::Runner;

/// A pool that was opened.
pub struct OpenPool {
    /// Its datasets.
    pub storage: Arc<dyn Storage>,
    /// The same pool, to build templates in.
    pub templates: Arc<dyn TemplatePool>,
    /// How mount tables name it.
    pub identity: KernelIdentity,
}

impl OpenPool {
    fn of<P: TemplatePool + 'static>(pool: P, identity: KernelIdentity) -> Self {
        let pool = Arc::new(pool);
        Self {
            storage: pool.clone(),
            templates: pool,
            identity,
        }
    }
}

/// Makes a pool and mounts the platform's part of it at `at` in the mount namespace of this thread. One that is there and
/// belongs to `node` is only opened. Cut off, it is completed by the next call.
pub fn format_pool(spec: &PoolSpec, node: &NodeId, at: &Path) -> HostResult<()> {
    match Kind::of(spec) {
        Kind::Btrfs(new) => BtrfsPool::format(&Runner::default(), &new, node, at).map(drop),
        Kind::Zfs(dataset) => ZfsPool::format(&Runner::default(), dataset, node, at).map(drop),
    }
}

/// Opens a pool that is there, as [`format_pool`] mounts it.
pub fn open_pool(spec: &PoolSpec, node: &NodeId, at: &Path) -> HostResult<OpenPool> {
    Ok(match Kind::of(spec) {
        Kind::Btrfs(new) => {
            let pool = BtrfsPool::attach(&new.source(), node, at)?;
            let identity = pool.kernel_identity().clone();
            OpenPool::of(pool, identity)
        }
        Kind::Zfs(dataset) => {
            let pool = ZfsPool::attach(&Runner::default(), dataset, node, at)?;
            let identity = pool.kernel_identity().clone();
            OpenPool::of(pool, identity)
        }
    })
}

/// A pool by its driver.
enum Kind<'a> {
    Btrfs(NewPool),
    Zfs(&'a str),
}

impl<'a> Kind<'a> {
    fn of(spec: &'a PoolSpec) -> Self {
        match spec {
            PoolSpec::Loop {
                file,
                size_bytes,
                sparse,
            } => Self::Btrfs(NewPool::Loop {
                file: file.into(),
                size: *size_bytes,
                allocation: if *sparse {
                    Allocation::Sparse
                } else {
                    Allocation::Full
                },
            }),
            PoolSpec::Btrfs { directory } => Self::Btrfs(NewPool::Directory {
                dir: directory.into(),
            }),
            PoolSpec::Zfs { dataset } => Self::Zfs(dataset),
        }
    }
}
