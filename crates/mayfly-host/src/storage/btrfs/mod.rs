//! Datasets as btrfs subvolumes, with simple quotas.
//!
//! A pool is one directory of one btrfs file system, mounted nosuid, nodev, noatime, its top mode 0700:
//!
//! ```text
//! .mayfly/pool.json            whose pool this is
//! .mayfly/marks/<uuid>         ownership records, by subvolume uuid
//! .mayfly/intents/<staged>     what the thing of that name in the staging area is going to be
//! .mayfly/staging/<staged>     datasets and templates that are not finished
//! 11327/private  11327/nix/private  11327.impermanence-c5a8b7/private
//! 11327/.copying .copied       a copy on its way into `private`; what `private` is a whole copy of
//! 11327/.taken-<op> .dropped-<op>  what a conversion took out of `private`; what of it is being destroyed
//! templates/<digest>/private   templates/<digest>/<dataset>/private
//! trash/<grave>                condemned datasets
//! ```
//!
//! **Records are symlinks** whose target is JSON: they appear and are replaced in one system call, so they are never
//! torn. They and the subvolumes that they speak of are metadata of one file system, whose transactions keep the order
//! of changes over a power failure; so nothing on the path of a start waits for an fsync. It needs that nobody calls
//! fsync on a file of the pool's own subvolume once the pool was made, and nobody does. What must not be lost once it was promised
//! (persistent data, templates) ends with a sync of the file system.
//!
//! **Quotas** are a limit on the subvolume's own group (`0/<id>`), set in the staging area, before anything can write.
//! Guests cannot make subvolumes (seccomp), so there is nothing that a group of a higher level would hold together;
//! and the kernel removes that group with the subvolume.
//!
//! This module never walks a guest's tree by path: below a `private` there are only openat2 without symlinks
//! (`storage/tree`) and one component at a time without following (`storage/probe`, `storage/copy`, `storage/removal`).

mod attach;
mod bury;
mod create;
mod destroy;
mod exchange;
mod format;
mod marks;
mod observe;
mod pool;
mod quota;
mod staging;
mod template;
mod trees;

pub use format::{Allocation, NewPool};
pub use pool::{BtrfsPool, PoolSource};
