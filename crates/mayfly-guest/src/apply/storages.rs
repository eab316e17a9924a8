//! Which storages are other datasets than `/` (SPEC P9).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;

use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::unite::Wanted;
use rustix::fs::fstat;
use rustix::io::Errno;

use crate::tree::{Tree, mount_of};

/// Why a storage is not used.
#[derive(Clone, Debug)]
pub(crate) enum Why {
    /// It is part of `/`: nothing stays, and nothing has to.
    NotApart(String),
    /// It could not be looked at.
    Unknown(String),
}

/// Looks whether `storage` is on another mount and another file system than `/`.
pub(crate) fn judge(tree: &Tree, storage: &TreePath) -> Result<(), Why> {
    if storage.is_top() {
        return Err(Why::NotApart("the storage is `/` itself".to_owned()));
    }
    // A storage may be a directory that has yet to be made, on something that is mounted.
    let mut at = storage.clone();
    let found = loop {
        match tree.directory(&at) {
            Ok(fd) => break fd,
            Err(Errno::NOENT) => match at.parent() {
                Some(parent) => at = parent,
                None => return Err(Why::Unknown("the root is gone".to_owned())),
            },
            Err(e) => return Err(Why::Unknown(tree.explain(&at, e))),
        }
    };
    let look = || -> rustix::io::Result<bool> {
        let top = tree.directory(&TreePath::top())?;
        let same_mount = mount_of(found.as_fd())?.0 == mount_of(top.as_fd())?.0;
        Ok(same_mount || fstat(&found)?.st_dev == fstat(&top)?.st_dev)
    };
    match look() {
        Ok(false) => Ok(()),
        Ok(true) => Err(Why::NotApart(format!(
            "the storage {storage} is part of `/`: no other dataset is mounted there"
        ))),
        Err(e) => Err(Why::Unknown(format!("{at} cannot be looked at: {e}"))),
    }
}

/// All storages that are not used, with the reason; and those of them that should be looked at.
pub(crate) fn inactive(
    tree: &Tree,
    wanted: &Wanted,
) -> (BTreeMap<TreePath, String>, BTreeMap<TreePath, String>) {
    let mut inactive = BTreeMap::new();
    let mut strange = BTreeMap::new();
    let storages: BTreeSet<&TreePath> = wanted
        .declarations
        .iter()
        .map(|d| &d.storage)
        .chain(&wanted.accounts)
        .collect();
    for storage in storages {
        match judge(tree, storage) {
            Ok(()) => {}
            Err(Why::NotApart(why)) => {
                inactive.insert(storage.clone(), why);
            }
            Err(Why::Unknown(why)) => {
                inactive.insert(storage.clone(), why.clone());
                strange.insert(storage.clone(), why);
            }
        }
    }
    (inactive, strange)
}
