//! An open pool.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::ids::NodeId;
use mayfly_core::mirror::MirrorKey;
use mayfly_core::names::{GuestPath, PoolPath};
use mayfly_core::observed::{DatasetSeen, InitSeen, Mark, MarkSeen, PoolSeen, Role};
use mayfly_core::ports::{
    Assembly, Cancel, HostError, HostResult, NewDataset, Outcome, Storage, TreePlan,
};
use mayfly_core::proof::{Burial, Condemned, Exchange};
use mayfly_core::run::MountSource;
use mayfly_core::trees::{TakeTo, TakenOut, TreeCopied, TreeCopy};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstat, fstatfs, statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::format::Allocation;
use super::quota::{self, Groups, QuotaMode};
use crate::storage::claims::{Claim, Claims, lock};
use crate::storage::contained::{DIRECTORY, open_below};
use crate::storage::identity::KernelIdentity;
use crate::storage::mirrors::Mirrors;
use crate::storage::probe::resolve_init;
use crate::storage::records::Records;
use crate::storage::refusals::{failed, not_ours, pool_full};
use crate::storage::tree::{put_into_tree, read_from_tree};
use crate::sys::btrfs as sys;

/// Where the platform keeps its own things in a pool.
pub(super) const OWN: &str = ".mayfly";
pub(super) const STAGING: &str = ".mayfly/staging";
pub(super) const MARKS: &str = ".mayfly/marks";
pub(super) const INTENTS: &str = ".mayfly/intents";
pub(super) const RECORD: &str = "pool.json";
pub(super) const TRASH: &str = "trash";
pub(super) const TEMPLATES: &str = "templates";
pub(super) use crate::storage::names::PRIVATE;
/// The version of `pool.json` and of the layout.
pub(super) const VERSION: u32 = 1;

/// Nothing is made in a pool with less room than this, so that deleting always works.
const FLOOR: u64 = 32 << 20;

/// What the cleaner thread takes for a dataset of ordinary size.
const CLEANER: std::time::Duration = std::time::Duration::from_millis(200);

/// What a pool lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolSource {
    /// A file with a btrfs of its own.
    Loop(PathBuf),
    /// A directory of a btrfs that was there before.
    Directory(PathBuf),
}

impl fmt::Display for PoolSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loop(path) => write!(f, "loop:{}", path.display()),
            Self::Directory(path) => write!(f, "btrfs:{}", path.display()),
        }
    }
}

/// `pool.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolRecord {
    pub(super) version: u32,
    pub(super) node: NodeId,
    /// How the file of a loop pool was made; none for a directory.
    pub(super) allocation: Option<Allocation>,
}

/// The uuid of a subvolume. A snapshot has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Uuid(pub(super) [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            let dash = if matches!(n, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A subvolume that was opened by its name in the pool.
pub(super) struct Subvolume {
    pub(super) fd: OwnedFd,
    pub(super) id: u64,
    pub(super) uuid: Uuid,
}

/// A pool of subvolumes that this process has mounted.
///
/// Every method blocks. What changes the shape of the pool is safe to call from several threads; two processes must not
/// have one pool open for changes (the lock of the state directory sees to that).
#[derive(Debug)]
pub struct BtrfsPool {
    pub(super) top: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) node: NodeId,
    pub(super) record: PoolRecord,
    pub(super) backing: Option<PathBuf>,
    pub(super) uuid: Uuid,
    /// The subvolume that the pool's top lies in, and the path of it there.
    pub(super) place: (u64, Vec<u8>),
    pub(super) identity: KernelIdentity,
    pub(super) staging: OwnedFd,
    pub(super) marks: Records,
    pub(super) intents: Records,
    pub(super) mirrors: Mirrors,
    /// Held over each rename and over each listing, so that a listing never misses what is being moved.
    shape: Mutex<()>,
    /// Names in the staging area that a call of this process is working on.
    claims: Claims,
    /// Subvolumes that this process destroyed and whose quota groups may still be there.
    dropped: Mutex<BTreeSet<u64>>,
}

impl BtrfsPool {
    /// Opens the pool that is mounted at `path`. Refused when it belongs to another node or quotas do not hold on it.
    pub fn open(path: &Path, node: &NodeId) -> HostResult<Self> {
        Self::open_with(path, node, None)
    }

    pub(super) fn open_with(
        path: &Path,
        node: &NodeId,
        backing: Option<PathBuf>,
    ) -> HostResult<Self> {
        let look = |e: Errno| LookFailed::new(format!("the pool at {}", path.display()), e);
        let top =
            rustix::fs::open(path, DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(look)?;
        if fstatfs(&top).map_err(look)?.f_type as u64 != sys::MAGIC {
            return Err(unavailable(path, "it is not on btrfs"));
        }
        let record =
            read_record(&top, path)?.ok_or_else(|| unavailable(path, "it has no pool record"))?;
        check_owner(backing.as_deref().unwrap_or(path), &record, node)?;
        let uuid = Uuid(sys::filesystem_uuid(&top).map_err(look)?);
        if quota::mode(&uuid)? != QuotaMode::Simple {
            return Err(unavailable(
                path,
                "simple quotas are not on, so no limit would hold",
            ));
        }
        let place = sys::place_of(&top, fstat(&top).map_err(look)?.st_ino).map_err(look)?;
        let directory = |name: &str| open_below(&top, name, DIRECTORY).map_err(look);
        Ok(Self {
            path: path.to_owned(),
            node: node.clone(),
            record,
            backing,
            uuid,
            place,
            identity: kernel_identity(&top, path)?,
            staging: directory(STAGING)?,
            marks: Records::new(directory(MARKS)?, "mark"),
            intents: Records::new(directory(INTENTS)?, "intent"),
            mirrors: Mirrors::open(directory(OWN)?)?,
            shape: Mutex::default(),
            claims: Claims::default(),
            dropped: Mutex::default(),
            top,
        })
    }

    /// Where the pool is mounted in this process's mount namespace.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the kernel names this pool in mountinfo.
    pub fn kernel_identity(&self) -> &KernelIdentity {
        &self.identity
    }

    /// Opens a dataset; `None` when it is certain that there is no subvolume of that name.
    pub(super) fn subvolume(&self, name: &PoolPath) -> Result<Option<Subvolume>, LookFailed> {
        if is_own(name) {
            return Ok(None);
        }
        open_subvolume(&self.top, name.as_str())
            .map_err(|e| LookFailed::new(format!("dataset {name}"), e))
    }

    pub(super) fn subvolume_must(&self, name: &PoolPath) -> HostResult<Subvolume> {
        self.subvolume(name)?.ok_or_else(|| {
            let message = format!("there is no dataset {name}");
            Refusal::new(
                Code::DatasetNotFound,
                message,
                "`mayfly pool show` lists what is there",
            )
            .into()
        })
    }

    /// A directory in a dataset, by default its `private`.
    pub(super) fn private(&self, name: &PoolPath) -> HostResult<OwnedFd> {
        let dataset = self.subvolume_must(name)?;
        open_below(&dataset.fd, PRIVATE, DIRECTORY)
            .map_err(|e| LookFailed::new(format!("the contents of dataset {name}"), e).into())
    }

    /// The mark of our own making, or a refusal.
    pub(super) fn own_mark(
        &self,
        name: &PoolPath,
        uuid: &Uuid,
    ) -> HostResult<mayfly_core::observed::Mark> {
        match self.marks.mark(uuid) {
            MarkSeen::Local(mark) if mark.node == self.node => Ok(mark),
            MarkSeen::Unreadable(why) => {
                Err(LookFailed::new(format!("the mark of {name}"), why).into())
            }
            MarkSeen::Local(_) | MarkSeen::NotLocal | MarkSeen::Unset => {
                Err(not_ours(name, "no mark of this node"))
            }
        }
    }

    pub(super) fn hold_shape(&self) -> MutexGuard<'_, ()> {
        lock(&self.shape)
    }

    pub(super) fn dropped(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        lock(&self.dropped)
    }

    pub(super) fn claim(&self, staged: &str) -> HostResult<Claim<'_>> {
        self.claims.claim(staged)
    }

    pub(super) fn check_room(&self, action: &str) -> HostResult<()> {
        if self.room()?.1.0 >= FLOOR {
            return Ok(());
        }
        // What was deleted lately counts as free only after a commit.
        self.sync()?;
        if self.room()?.1.0 < FLOOR {
            Err(pool_full(action))
        } else {
            Ok(())
        }
    }

    /// Size, and what can still be written. A sparse file cannot grow beyond what its own file system has.
    pub(super) fn room(&self) -> Result<(Bytes, Bytes), LookFailed> {
        let look = |e: Errno| LookFailed::new(format!("the room in {}", self.path.display()), e);
        let own = fstatfs(&self.top).map_err(look)?;
        let block = own.f_bsize as u64;
        let mut free = own.f_bavail * block;
        if let (Some(file), Some(Allocation::Sparse)) = (&self.backing, self.record.allocation) {
            let below = rustix::fs::statvfs(file.as_path()).map_err(look)?;
            free = free.min(below.f_bavail * below.f_frsize);
        }
        Ok((Bytes(own.f_blocks * block), Bytes(free)))
    }

    /// Writes all that was changed to the device.
    pub(super) fn sync(&self) -> HostResult<()> {
        rustix::fs::syncfs(&self.top)
            .map_err(|e| failed(format!("syncing {}", self.path.display()), e))
    }
}

/// Whether a name lies in the platform's own corner, which no dataset may.
pub(super) fn is_own(name: &PoolPath) -> bool {
    name.as_str() == OWN || name.as_str().starts_with(".mayfly/")
}

/// Opens a subvolume by its path below `dir`; `None` where there is none.
pub(super) fn open_subvolume(dir: impl AsFd, path: &str) -> rustix::io::Result<Option<Subvolume>> {
    let fd = match open_below(dir, path, DIRECTORY) {
        Ok(fd) => fd,
        // A file or a symlink is no dataset either.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    if fstat(&fd)?.st_ino != sys::FIRST_FREE {
        return Ok(None);
    }
    let (id, uuid) = sys::subvolume_of(&fd)?;
    Ok(Some(Subvolume {
        fd,
        id,
        uuid: Uuid(uuid),
    }))
}

fn unavailable(path: &Path, why: &str) -> HostError {
    HostError::Refused(Refusal::new(
        Code::PoolUnavailable,
        format!("the pool at {} cannot be used: {why}", path.display()),
        "look at its `.mayfly` directory",
    ))
}

/// The record of a pool's directory; `None` when there is none.
pub(super) fn read_record(top: impl AsFd, path: &Path) -> Result<Option<PoolRecord>, LookFailed> {
    let look =
        |why: String| LookFailed::new(format!("the record of the pool at {}", path.display()), why);
    let name = format!("{OWN}/{RECORD}");
    let fd = match open_below(
        top,
        &name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK,
    ) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(look(errno.to_string())),
    };
    let text = std::io::read_to_string(std::fs::File::from(fd)).map_err(|e| look(e.to_string()))?;
    let record: PoolRecord = serde_json::from_str(&text).map_err(|e| look(e.to_string()))?;
    if record.version != VERSION {
        return Err(look(format!(
            "its version is {}, known is {VERSION}",
            record.version
        )));
    }
    Ok(Some(record))
}

/// Refuses a pool of another node.
pub(super) fn check_owner(path: &Path, record: &PoolRecord, node: &NodeId) -> HostResult<()> {
    if record.node == *node {
        return Ok(());
    }
    Err(HostError::Refused(Refusal::new(
        Code::PoolForeign,
        format!(
            "the pool {} belongs to the node {}, this is {node}",
            path.display(),
            record.node
        ),
        "use that node's state directory, or give another pool",
    )))
}

fn kernel_identity(top: impl AsFd, path: &Path) -> Result<KernelIdentity, LookFailed> {
    let look = |why: String| LookFailed::new(format!("the mount of {}", path.display()), why);
    let seen =
        statx(top, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_err(|e| look(e.to_string()))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| look(e.to_string()))?;
    parse_identity(&table, seen.stx_mnt_id)
        .ok_or_else(|| look(format!("no mount {} in mountinfo", seen.stx_mnt_id)))
}

fn parse_identity(table: &str, mount: u64) -> Option<KernelIdentity> {
    table.lines().find_map(|line| {
        let mut fields = line.split(' ');
        if fields.next()?.parse() != Ok(mount) {
            return None;
        }
        let device = fields.nth(1)?.to_owned();
        Some(KernelIdentity::FileSystem {
            device,
            root: fields.next()?.to_owned(),
        })
    })
}

impl Storage for BtrfsPool {
    fn observe(&self) -> Result<PoolSeen, LookFailed> {
        self.observe_pool()
    }

    fn look(&self, name: &PoolPath) -> Result<Option<DatasetSeen>, LookFailed> {
        let Some(found) = self.subvolume(name)? else {
            return Ok(None);
        };
        self.seen(&Groups::open(&self.uuid)?, found.id, &found.uuid)
            .map(Some)
    }

    fn create_dataset(&self, new: &NewDataset) -> HostResult<Outcome> {
        self.create(new)
    }

    fn set_quota(&self, name: &PoolPath, quota: Bytes) -> HostResult<Outcome> {
        self.change_quota(name, quota)
    }

    fn bury(&self, burial: &Burial, grave: &PoolPath) -> HostResult<Outcome> {
        self.move_to_grave(burial, grave)
    }

    fn exchange(&self, exchange: &Exchange) -> HostResult<Outcome> {
        self.exchange_contents(exchange)
    }

    fn mark_harvested(&self, root: &PoolPath) -> HostResult<Outcome> {
        let dataset = self.subvolume_must(root)?;
        let mark = self.own_mark(root, &dataset.uuid)?;
        if !mark.unharvested {
            return Ok(Outcome::Unchanged);
        }
        let mark = Mark {
            unharvested: false,
            ..mark
        };
        self.marks.write_mark(&dataset.uuid, &mark)?;
        Ok(Outcome::Changed)
    }

    fn read_file(
        &self,
        name: &PoolPath,
        path: &GuestPath,
        limit: usize,
    ) -> HostResult<Option<Vec<u8>>> {
        read_from_tree(name, &self.private(name)?, path, limit)
    }

    fn reap(&self, condemned: &Condemned) -> HostResult<Outcome> {
        self.destroy_condemned(condemned)
    }

    fn hurry_space(&self) -> HostResult<()> {
        // The commit lets the cleaner begin, which has little to do for a single subvolume; the next one frees.
        self.sync()?;
        std::thread::sleep(CLEANER);
        self.sync()
    }

    fn clear_staging(&self) -> HostResult<Vec<String>> {
        self.clear_cut_off()
    }

    fn staging(&self) -> Result<Vec<String>, LookFailed> {
        self.unclaimed_staged()
    }

    fn put_mirror(&self, key: &MirrorKey, text: &str) -> HostResult<Outcome> {
        self.mirrors.put(key, text)
    }

    fn remove_mirror(&self, key: &MirrorKey) -> HostResult<Outcome> {
        self.mirrors.remove(key)
    }

    fn mirrors(&self) -> Result<BTreeMap<MirrorKey, Result<String, String>>, LookFailed> {
        self.mirrors.all()
    }

    fn generation(&self) -> Result<Option<u64>, LookFailed> {
        self.mirrors.generation()
    }

    fn raise_generation(&self, to: u64) -> HostResult<Outcome> {
        self.mirrors.raise_generation(to)
    }

    fn prepare_tree(&self, name: &PoolPath, tree: &TreePlan) -> HostResult<Outcome> {
        let dataset = self.subvolume_must(name)?;
        let keep_safe = self.own_mark(name, &dataset.uuid)?.role != Role::Temporary;
        put_into_tree(name, self.private(name)?, keep_safe, tree)
    }

    fn copy_tree(
        &self,
        copy: &TreeCopy,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<TreeCopied> {
        self.copy(copy, cancel, progress)
    }

    fn take_out(&self, what: &TakenOut, to: TakeTo) -> HostResult<Outcome> {
        self.take(what, to)
    }

    fn probe_init(&self, assembly: &Assembly, init: &GuestPath) -> Result<InitSeen, LookFailed> {
        resolve_init(|name| self.private(name), assembly, init)
    }

    fn mount_source(&self, name: &PoolPath) -> MountSource {
        let path = self.path.join(name.as_str()).join(PRIVATE);
        MountSource::Directory {
            path: path.to_string_lossy().into_owned(),
        }
    }

    fn detach(&self) -> Vec<String> {
        vec![self.path.to_string_lossy().into_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_found_in_a_mount_table_by_its_mount() {
        let table = "30 25 0:27 / /dev/shm rw - tmpfs tmpfs rw\n\
                     77 25 0:45 /@/pool /p rw,nosuid - btrfs /dev/loop0 rw\n";
        let want = KernelIdentity::FileSystem {
            device: "0:45".into(),
            root: "/@/pool".into(),
        };
        assert_eq!(parse_identity(table, 77), Some(want));
        assert_eq!(parse_identity(table, 7), None);
    }
}
