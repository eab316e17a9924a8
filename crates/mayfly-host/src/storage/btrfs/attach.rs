//! Mounting a pool in the mount namespace of this thread.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::ids::NodeId;
use mayfly_core::ports::{HostError, HostResult};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxFlags, flock, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use super::format::Allocation;
use super::pool::{BtrfsPool, PoolSource, read_record};
use crate::storage::contained::DIRECTORY;
use crate::sys::loopdev;

const FLAGS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOATIME);
/// How long another process may take to attach the same file.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// A mount that is taken away again unless it is kept.
pub(super) struct Mounted(Option<PathBuf>);

impl Mounted {
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            if let Err(errno) = unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                tracing::warn!(path = %path.display(), %errno, "a pool that cannot be used stays mounted");
            }
        }
    }
}

impl BtrfsPool {
    /// Mounts a pool at the directory `at` (made when it is not there), in the mount namespace of this thread, and
    /// opens it. A loop file that some process has attached already is not attached a second time.
    ///
    /// The mount is nosuid and nodev; whoever hands a dataset to a guest clears nosuid on the guest's own mount.
    pub fn attach(source: &PoolSource, node: &NodeId, at: &Path) -> HostResult<Self> {
        let (mounted, backing) = match source {
            PoolSource::Loop(file) => (mount_loop(file, at)?, Some(file.clone())),
            PoolSource::Directory(dir) => (mount_directory(dir, at)?, None),
        };
        let pool = Self::open_with(at, node, backing)?;
        if pool.record.allocation == Some(Allocation::Sparse) {
            give_back_blocks(at)?;
        }
        mounted.keep();
        Ok(pool)
    }

    /// Takes the pool out of this mount namespace. Others that hold it, such as those of running guests, keep it.
    pub fn unmount(self) -> HostResult<()> {
        let path = self.path.clone();
        drop(self);
        unmount(&path, UnmountFlags::NOFOLLOW).map_err(|errno| match errno {
            Errno::BUSY => HostError::Busy {
                object: path.display().to_string(),
                why: "a process uses it".to_owned(),
            },
            errno => HostError::failed(format!("unmounting {}", path.display()), errno),
        })
    }
}

/// Lets a sparse file shrink again. A file that was allocated whole is left whole, or its room would not be sure.
pub(super) fn give_back_blocks(at: &Path) -> HostResult<()> {
    mount_remount(at, FLAGS, "discard=async")
        .map_err(|e| HostError::failed(format!("turning discard on for {}", at.display()), e))
}

/// Mounts a file with a btrfs on it.
pub(super) fn mount_loop(file: &Path, at: &Path) -> HostResult<Mounted> {
    mount_point(at)?;
    let open = || File::options().read(true).write(true).open(file);
    let missing = |e: std::io::Error| cannot_mount(&file.display().to_string(), e);
    // A lock belongs to an open file, and the loop device keeps the one that it is given: hence two.
    let (lock, backing) = (open().map_err(missing)?, open().map_err(missing)?);
    lock_exclusively(&lock, file)?;
    let device =
        loopdev::attach(&backing).map_err(|e| cannot_mount(&file.display().to_string(), e))?;
    tracing::debug!(device = %device.path.display(), reused = device.was_there, "the pool's loop device");
    mount(&device.path, at, "btrfs", FLAGS, c"nodiscard")
        .map_err(|e| cannot_mount(&file.display().to_string(), e))?;
    Ok(Mounted(Some(at.to_owned())))
}

fn mount_directory(dir: &Path, at: &Path) -> HostResult<Mounted> {
    mount_point(at)?;
    let fd = rustix::fs::open(dir, DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| cannot_mount(&dir.display().to_string(), e))?;
    if read_record(&fd, dir)?.is_none() {
        return Err(cannot_mount(
            &dir.display().to_string(),
            "it has no pool record",
        ));
    }
    drop(fd);
    mount_bind(dir, at).map_err(|e| cannot_mount(&dir.display().to_string(), e))?;
    let mounted = Mounted(Some(at.to_owned()));
    mount_remount(at, FLAGS | MountFlags::BIND, "")
        .map_err(|e| cannot_mount(&dir.display().to_string(), e))?;
    Ok(mounted)
}

fn cannot_mount(what: &str, why: impl std::fmt::Display) -> HostError {
    HostError::Refused(Refusal::new(
        Code::PoolUnavailable,
        format!("the pool {what} cannot be mounted: {why}"),
        "check that it is there and whole",
    ))
}

/// Makes the directory where it is missing; refuses one on which something is mounted already.
fn mount_point(at: &Path) -> HostResult<()> {
    let failed =
        |e: std::io::Error| HostError::failed(format!("making the directory {}", at.display()), e);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(at)
        .map_err(failed)?;
    let look = |e: Errno| LookFailed::new(at.display().to_string(), e);
    let id = |path: &Path| {
        statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID).map(|s| s.stx_mnt_id)
    };
    let above = at.parent().unwrap_or(at);
    if id(at).map_err(look)? != id(above).map_err(look)? {
        return Err(HostError::Busy {
            object: at.display().to_string(),
            why: "something is mounted there".to_owned(),
        });
    }
    Ok(())
}

fn lock_exclusively(file: &File, path: &Path) -> HostResult<()> {
    let begun = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < LOCK_DEADLINE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                let why = "another process holds its lock".to_owned();
                return Err(HostError::Busy {
                    object: path.display().to_string(),
                    why,
                });
            }
            Err(errno) => {
                return Err(
                    LookFailed::new(format!("the lock of {}", path.display()), errno).into(),
                );
            }
        }
    }
}
