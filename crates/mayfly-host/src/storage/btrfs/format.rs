//! Making a pool.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::ids::NodeId;
use mayfly_core::ports::{HostError, HostResult};
use rustix::fs::{
    CWD, FallocateFlags, Mode, OFlags, RenameFlags, fallocate, fchmod, fstatfs, fsync, ftruncate,
    mkdirat, openat, renameat, renameat_with, syncfs,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::attach::{give_back_blocks, mount_loop};
use super::pool::{
    BtrfsPool, INTENTS, MARKS, OWN, PoolRecord, PoolSource, RECORD, STAGING, TEMPLATES, TRASH,
    Uuid, VERSION, check_owner, read_record,
};
use super::quota::{self, QuotaMode};
use crate::crash::crash_point;
use crate::runner::{Command, Runner, Tool};
use crate::storage::contained::{DIRECTORY, names_in, open_below};
use crate::sys::btrfs as sys;
use crate::sys::loopdev;

/// Smaller than this, metadata leaves no room for data.
const SMALLEST: Bytes = Bytes::mib(256);
const UNFINISHED: &str = ".mayfly-unfinished";

/// How the file of a loop pool is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allocation {
    /// All blocks at once: the pool can never run dry because of what else lies beside its file.
    Full,
    /// As they are written; freed ones are given back.
    Sparse,
}

/// A pool to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewPool {
    /// A file with a btrfs of its own.
    Loop {
        /// The file; absolute.
        file: PathBuf,
        /// Its size.
        size: Bytes,
        /// How it is made.
        allocation: Allocation,
    },
    /// A directory on a btrfs that is there.
    Directory {
        /// The directory: absolute; one that is not there is made as a subvolume.
        dir: PathBuf,
    },
}

impl NewPool {
    /// What [`BtrfsPool::attach`] takes later.
    pub fn source(&self) -> PoolSource {
        match self {
            Self::Loop { file, .. } => PoolSource::Loop(file.clone()),
            Self::Directory { dir } => PoolSource::Directory(dir.clone()),
        }
    }
}

impl FromStr for NewPool {
    type Err = Refusal;

    /// `loop:FILE,size=20G[,full]` or `btrfs:DIR`.
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let bad = |why: String| {
            let shown = text.escape_debug();
            Refusal::new(
                Code::Invalid,
                format!("`{shown}` is not a pool: {why}"),
                "write loop:FILE,size=20G or btrfs:DIR",
            )
        };
        let absolute = |path: &str| match Path::new(path) {
            path if path.is_absolute() && path.file_name().is_some() => Ok(path.to_owned()),
            _ => Err(bad("its path must be absolute".to_owned())),
        };
        if let Some(dir) = text.strip_prefix("btrfs:") {
            return Ok(Self::Directory {
                dir: absolute(dir)?,
            });
        }
        let rest = text
            .strip_prefix("loop:")
            .ok_or_else(|| bad("its kind is not known".to_owned()))?;
        let (file, options) = rest
            .split_once(',')
            .ok_or_else(|| bad("it has no size".to_owned()))?;
        let (mut size, mut allocation) = (None, Allocation::Sparse);
        for option in options.split(',') {
            match option.split_once('=') {
                Some(("size", value)) => {
                    size = Some(value.parse().map_err(|e| bad(format!("{e}")))?)
                }
                None if option == "full" => allocation = Allocation::Full,
                _ => return Err(bad(format!("there is no option `{option}`"))),
            }
        }
        let size = size.ok_or_else(|| bad("it has no size".to_owned()))?;
        Ok(Self::Loop {
            file: absolute(file)?,
            size,
            allocation,
        })
    }
}

impl BtrfsPool {
    /// Makes a pool and mounts it at `at` in the mount namespace of this thread. One that is there and belongs to
    /// `node` is only attached. Cut off, it leaves a file with an ending of its own or a directory without a record,
    /// which the next call replaces or completes.
    pub fn format(runner: &Runner, new: &NewPool, node: &NodeId, at: &Path) -> HostResult<Self> {
        match new {
            NewPool::Loop {
                file,
                size,
                allocation,
            } => {
                let there = file
                    .try_exists()
                    .map_err(|e| LookFailed::new(file.display().to_string(), e))?;
                if !there {
                    make_file(runner, file, *size, *allocation, node, at)?;
                }
            }
            NewPool::Directory { dir } => make_directory(dir, node)?,
        }
        Self::attach(&new.source(), node, at)
    }
}

fn unsuitable(message: String, hint: &str) -> HostError {
    HostError::Refused(Refusal::new(Code::HostUnsuitable, message, hint))
}

/// A file that is removed unless it was finished.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        match rustix::fs::unlink(&self.0) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                tracing::warn!(file = %self.0.display(), %errno, "an unfinished pool is left")
            }
        }
    }
}

fn make_file(
    runner: &Runner,
    file: &Path,
    size: Bytes,
    allocation: Allocation,
    node: &NodeId,
    at: &Path,
) -> HostResult<()> {
    if size < SMALLEST {
        let message = format!("a pool of {size} is too small");
        return Err(Refusal::new(
            Code::Invalid,
            message,
            format!("give it {SMALLEST} at least"),
        )
        .into());
    }
    let mkfs =
        Tool::find("mkfs.btrfs").map_err(|e| unsuitable(e.to_string(), "install btrfs-progs"))?;
    let mut name = file.as_os_str().to_owned();
    name.push(UNFINISHED);
    let unfinished = Unfinished(name.into());
    let path = unfinished.0.as_path();
    allocate(path, size, allocation)?;
    crash_point("format.after_file");
    let command = Command::new(&mkfs)
        .args(["-q", "-K", "-L", "mayfly"])
        .arg(path)
        .deadline(Duration::from_secs(120));
    runner
        .run(&command)
        .map_err(|e| HostError::failed(format!("formatting {}", file.display()), e))?;
    let mounted = mount_loop(path, at)?;
    crash_point("format.after_mount");
    if allocation == Allocation::Sparse {
        give_back_blocks(at)?;
    }
    let top = rustix::fs::open(at, DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| LookFailed::new(at.display().to_string(), e))?;
    lay_out(&top, at, node, Some(allocation))?;
    crash_point("format.after_pool_record");
    drop((top, mounted));
    let renamed = renameat_with(CWD, path, CWD, file, RenameFlags::NOREPLACE);
    renamed.map_err(|e| HostError::failed(format!("moving the new pool to {}", file.display()), e))
}

fn allocate(path: &Path, size: Bytes, allocation: Allocation) -> HostResult<()> {
    let action = || format!("making a file of {size} at {}", path.display());
    match File::open(path) {
        Ok(old) => {
            let used = loopdev::find(&old).map_err(|e| LookFailed::new("loop devices", e))?;
            if let Some(device) = used {
                let why = format!(
                    "an earlier attempt to make it is still attached to {}",
                    device.path.display()
                );
                return Err(HostError::Busy {
                    object: path.display().to_string(),
                    why,
                });
            }
            rustix::fs::unlink(path).map_err(|e| HostError::failed(action(), e))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(LookFailed::new(path.display().to_string(), error).into()),
    }
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let file = file.map_err(|e| HostError::failed(action(), e))?;
    let done = match allocation {
        Allocation::Full => fallocate(&file, FallocateFlags::empty(), 0, size.0),
        Allocation::Sparse => ftruncate(&file, size.0),
    };
    done.map_err(|errno| match errno {
        Errno::NOSPC | Errno::FBIG => unsuitable(
            format!("{}: the file system has no room for it", action()),
            "ask for a smaller pool, or put it elsewhere",
        ),
        errno => HostError::failed(action(), errno),
    })
}

fn make_directory(dir: &Path, node: &NodeId) -> HostResult<()> {
    let failed = |e: Errno| HostError::failed(format!("making a pool of {}", dir.display()), e);
    let (Some(above), Some(leaf)) = (dir.parent(), dir.file_name().and_then(|name| name.to_str()))
    else {
        return Err(Refusal::new(
            Code::Invalid,
            "a pool needs a directory of its own",
            "name another directory",
        )
        .into());
    };
    let top = match rustix::fs::open(dir, DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => {
            let above = rustix::fs::open(above, DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(failed)?;
            check_btrfs(&above, dir)?;
            sys::create_subvolume(&above, leaf).map_err(failed)?;
            open_below(&above, leaf, DIRECTORY).map_err(failed)?
        }
        Err(errno) => return Err(failed(errno)),
    };
    check_btrfs(&top, dir)?;
    if let Some(record) = read_record(&top, dir)? {
        return check_owner(dir, &record, node);
    }
    let names = names_in(&top).map_err(|e| LookFailed::new(dir.display().to_string(), e))?;
    if let Some(name) = names
        .iter()
        .find(|name| ![OWN, TRASH, TEMPLATES].contains(&name.as_str()))
    {
        let message = format!(
            "{} is not empty: it has {}",
            dir.display(),
            name.escape_debug()
        );
        return Err(unsuitable(
            message,
            "name an empty directory, or one that is not there",
        ));
    }
    lay_out(&top, dir, node, None)
}

fn check_btrfs(fd: impl AsFd, dir: &Path) -> HostResult<()> {
    let seen = fstatfs(fd).map_err(|e| LookFailed::new(dir.display().to_string(), e))?;
    if seen.f_type as u64 == sys::MAGIC {
        return Ok(());
    }
    Err(unsuitable(
        format!("{} is not on btrfs", dir.display()),
        "use a pool in a file instead: loop:FILE,size=20G",
    ))
}

/// Quotas, directories, and at last the record that makes it a pool.
fn lay_out(
    top: &OwnedFd,
    path: &Path,
    node: &NodeId,
    allocation: Option<Allocation>,
) -> HostResult<()> {
    let failed =
        |e: Errno| HostError::failed(format!("laying out the pool at {}", path.display()), e);
    ensure_quotas(top, path)?;
    fchmod(top, Mode::RWXU).map_err(failed)?;
    for name in [OWN, MARKS, INTENTS, STAGING, TRASH, TEMPLATES] {
        match mkdirat(top, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    let own = open_below(top, OWN, DIRECTORY).map_err(failed)?;
    let record = PoolRecord {
        version: VERSION,
        node: node.clone(),
        allocation,
    };
    let text = serde_json::to_string_pretty(&record)
        .map_err(|e| HostError::failed("writing the pool record", e))?;
    let new = format!("{RECORD}.new");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&own, &new, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?);
    file.write_all(text.as_bytes())
        .map_err(|e| HostError::failed("writing the pool record", e))?;
    fsync(&file).map_err(failed)?;
    renameat(&own, &new, &own, RECORD).map_err(failed)?;
    syncfs(top).map_err(failed)
}

fn ensure_quotas(top: &OwnedFd, path: &Path) -> HostResult<()> {
    let look = |e: Errno| LookFailed::new(format!("the file system at {}", path.display()), e);
    let uuid = Uuid(sys::filesystem_uuid(top).map_err(look)?);
    if quota::mode(&uuid)? == QuotaMode::Off {
        match sys::enable_simple_quotas(top) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOTTY | Errno::OPNOTSUPP) => {
                return Err(unsuitable(
                    "this kernel has no simple quotas for btrfs, so no quota would hold".to_owned(),
                    "boot Linux 6.7 or newer (Debian 13, or linux-image-amd64 from bookworm-backports)",
                ));
            }
            Err(errno) => {
                return Err(HostError::failed(
                    format!("turning quotas on for {}", path.display()),
                    errno,
                ));
            }
        }
    }
    match quota::mode(&uuid)? {
        QuotaMode::Simple => Ok(()),
        QuotaMode::Full | QuotaMode::Off => {
            let shown = path.display();
            let message = format!(
                "the file system at {shown} has quotas of the other kind (qgroups), which do not hold"
            );
            Err(unsuitable(
                message,
                &format!("if nothing else needs them: btrfs quota disable {shown}; then try again"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_named_by_kind_path_and_size() {
        let sparse = "loop:/srv/pool.img,size=20G".parse::<NewPool>().unwrap();
        let want = NewPool::Loop {
            file: "/srv/pool.img".into(),
            size: Bytes::gib(20),
            allocation: Allocation::Sparse,
        };
        assert_eq!(sparse, want);
        assert_eq!(sparse.source(), PoolSource::Loop("/srv/pool.img".into()));
        assert_eq!(
            "btrfs:/srv/p".parse(),
            Ok(NewPool::Directory {
                dir: "/srv/p".into()
            })
        );
        for bad in [
            "",
            "loop:/x",
            "loop:x,size=1G",
            "loop:/x,size=1X",
            "btrfs:",
            "btrfs:/",
            "zfs:a",
            "loop:/x,size=1G,y",
        ] {
            assert!(bad.parse::<NewPool>().is_err(), "{bad} was taken");
        }
    }
}
