//! The run's own mount namespace: the root, the datasets and the helper's files, and nothing else of the pool.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mayfly_core::run::{MountSource, RunSpec};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

use crate::run::features::create_devices;
use crate::run::lxc_config::{HANDOVER, handover};
use crate::run::paths::RunDir;
use crate::run::show::{Look, explained, show_dataset, show_directory, show_file};
use crate::sys::mount::{NO_DEV, NO_SUID, READ_ONLY};
use crate::sys::ns::unshare_mounts;

/// Enters a mount namespace of its own and mounts there what the guest will see.
///
/// The pool is mounted nosuid outside; a flag that is set when LXC copies a mount into the guest's user namespace
/// stays set for ever, so it is cleared here (sudo must work), and read-only is set here (so that it holds).
pub(super) fn enter(spec: &RunSpec, dir: &RunDir) -> io::Result<()> {
    unshare_mounts().map_err(|e| explained("cannot make a mount namespace", &e))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|e| explained("cannot make the mount namespace private", &e.into()))?;
    show_source(&spec.root, &dir.root(), false)?;
    for (index, mount) in spec.mounts.iter().enumerate() {
        show_source(&mount.source, &dir.dataset(index), mount.read_only)?;
    }
    create_devices(spec, dir)?;
    for name in handover(spec) {
        let source = match name {
            "guest" => PathBuf::from(&spec.guest_helper),
            "boot.json" => dir.boot_report(),
            "persistence.json" => dir.persistence(),
            _ => dir.report(),
        };
        let target = dir.handover(name);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&target)?;
        show_file(&source, &target, Look::with(READ_ONLY | NO_SUID | NO_DEV))?;
    }
    for point in &spec.detach {
        unmount(point.as_str(), UnmountFlags::DETACH).map_err(|e| {
            explained(
                &format!("cannot let go of {point} in the mount namespace"),
                &e.into(),
            )
        })?;
    }
    Ok(())
}

/// Lets go of all that [`enter`] mounted; what is not mounted any more is fine. Returns what stayed.
pub(super) fn leave(spec: &RunSpec, dir: &RunDir) -> Vec<String> {
    let datasets = (0..spec.mounts.len()).map(|index| dir.dataset(index));
    let handovers = HANDOVER.iter().map(|name| dir.handover(name));
    let mut stayed = Vec::new();
    for path in datasets.chain(handovers).chain([dir.devices(), dir.root()]) {
        match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(e) => stayed.push(format!("cannot unmount {}: {e}", path.display())),
        }
    }
    stayed
}

fn show_source(source: &MountSource, target: &Path, read_only: bool) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(target)?;
    let look = Look::with(NO_DEV | if read_only { READ_ONLY } else { 0 });
    match source {
        MountSource::Directory { path } => show_directory(Path::new(path), target, look),
        MountSource::Zfs { dataset } => show_dataset(dataset, target, look),
    }
}
