//! Where a path of a guest lies in the pool, as far as its document knows: through mounts that the guest makes itself, and
//! through links, nobody looks from outside.

use crate::documents::{Mount, VpsDoc};
use crate::names::{DatasetName, GuestPath, PoolPath};
use crate::persist::path::TreePath;

/// The innermost of these mounts that holds `path`.
pub(super) fn mount_in<'a>(mounts: &'a [Mount], path: &TreePath) -> Option<&'a Mount> {
    let holds = |m: &&Mount| TreePath::parse(m.path.as_str()).is_ok_and(|at| path.is_in(&at));
    mounts
        .iter()
        .filter(holds)
        .max_by_key(|m| m.path.as_str().len())
}

/// The innermost mount of the VPS that holds `path`.
pub fn mount_of<'a>(doc: &'a VpsDoc, path: &TreePath) -> Option<&'a Mount> {
    mount_in(&doc.mounts, path)
}

/// The dataset that holds `path`, and the path inside it. What no mount holds is in the present root, or in the last; none
/// where there is no root, or where the host has no name for the path.
pub fn place_of(doc: &VpsDoc, path: &TreePath) -> Option<(PoolPath, GuestPath)> {
    let path_there: GuestPath = path.as_str().parse().ok()?;
    if let Some(mount) = mount_of(doc, path) {
        let inside = format!("/{}", path_there.below(&mount.path)?);
        return Some((doc.pool_path(&mount.dataset), inside.parse().ok()?));
    }
    let root = match (&doc.run, &doc.impermanence) {
        // Another system's root says nothing of this one's.
        (Some(run), _) if run.rescue.is_none() => run.root.clone(),
        (_, Some(_)) => doc.last_root.clone()?,
        (_, None) => doc.pool_path(&DatasetName::root()),
    };
    Some((root, path_there))
}

/// Why nothing stays in a storage: no dataset is mounted where it is.
pub fn storage_inactive(doc: &VpsDoc, storage: &TreePath) -> Option<String> {
    mount_of(doc, storage)
        .is_none()
        .then(|| format!("the storage {storage} is part of `/`: no other dataset is mounted there"))
}
