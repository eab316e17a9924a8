//! A tree that its owner may have prepared: every path in it is opened beneath its top and follows no link.
//!
//! What is opened is a descriptor of exactly that file, and everything else is done through descriptors: to open once
//! more what was looked at is to ask for another answer.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use mayfly_core::persist::path::TreePath;
use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, StatxFlags, Uid,
};
use rustix::io::{Errno, Result};

/// A directory or file that is being made has this name until it is whole.
const NEW: &str = ".mayfly-new";
/// How often the kernel may ask for another try because somebody renames at that moment.
const TRIES: usize = 16;

/// Why something in a tree cannot be read or written.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// For a person.
    pub(crate) what: String,
    /// Whether it will be the same whenever it is tried.
    pub(crate) is_lasting: bool,
}

impl Trouble {
    /// What will be the same at each try.
    pub(crate) fn lasting(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            is_lasting: true,
        }
    }

    /// What may go well later.
    pub(crate) fn passing(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            is_lasting: false,
        }
    }

    /// What the kernel said. Lasting is what a guest can make of its files: nothing that waits for it must wait for ever.
    /// All else passes, want of room above all; what nobody expects is not taken for a reason to give something up.
    pub(crate) fn of(at: impl std::fmt::Display, error: impl Into<std::io::Error>) -> Self {
        let error = error.into();
        let is_lasting = matches!(
            error.raw_os_error(),
            Some(
                libc::ELOOP
                    | libc::ENOTDIR
                    | libc::EISDIR
                    | libc::ENOENT
                    | libc::EEXIST
                    | libc::ENOTEMPTY
                    | libc::ENAMETOOLONG
                    | libc::EMLINK
                    | libc::EACCES
                    | libc::EPERM
                    | libc::ENXIO
            )
        );
        Self {
            what: format!("{at}: {error}"),
            is_lasting,
        }
    }
}

impl From<Trouble> for String {
    fn from(trouble: Trouble) -> Self {
        trouble.what
    }
}

/// The top of a tree.
pub(crate) struct Tree {
    top: OwnedFd,
}

impl Tree {
    /// The tree below `path`, which is the caller's own word and may have links in it.
    pub(crate) fn at(path: &std::path::Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            top: fs::open(path, flags, Mode::empty())?,
        })
    }

    /// Opens `path` as it is: a link in the way is `ELOOP`, whatever it leads to.
    pub(crate) fn open(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd> {
        let relative = if path.is_top() { "." } else { path.relative() };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if !flags.contains(OFlags::PATH) {
            flags |= OFlags::NOCTTY;
        }
        for _ in 0..TRIES {
            match fs::openat2(&self.top, relative, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A directory, to make and look up names in.
    pub(crate) fn directory(&self, path: &TreePath) -> Result<OwnedFd> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// What is at `path`; none where nothing is.
    pub(crate) fn look(&self, path: &TreePath) -> Result<Option<Stat>> {
        match self.open(path, OFlags::PATH) {
            Ok(fd) => Ok(Some(fs::fstat(fd)?)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Why `path` cannot be opened, and whether that stays so.
    pub(crate) fn trouble(&self, path: &TreePath, error: Errno) -> Trouble {
        Trouble {
            what: self.explain(path, error),
            ..Trouble::of(path, error)
        }
    }

    /// Why `path` cannot be opened, for a person: a link is named.
    pub(crate) fn explain(&self, path: &TreePath, error: Errno) -> String {
        if matches!(error, Errno::LOOP | Errno::NOTDIR) {
            for part in path.parents().iter().chain([path]) {
                match self.look(part) {
                    Err(Errno::LOOP) => return format!("the symbolic link {part} is in the way"),
                    Ok(Some(stat)) => match kind(&stat) {
                        FileType::Directory => {}
                        FileType::Symlink => {
                            return format!("the symbolic link {part} is in the way");
                        }
                        _ if part == path && error == Errno::LOOP => {}
                        other => return format!("{part} is in the way: it is {}", name_of(other)),
                    },
                    _ => break,
                }
            }
        }
        format!("{path}: {error}")
    }

    /// Makes `path` and what is missing above it, root's and 0755, or `mode` for the last one.
    pub(crate) fn make_directories(
        &self,
        path: &TreePath,
        mode: u32,
    ) -> std::result::Result<(), String> {
        for part in path.parents().iter().chain([path]) {
            match self.directory(part) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    let parent = part.parent().unwrap_or_else(TreePath::top);
                    let mode = if part == path { mode } else { 0o755 };
                    let parent = self
                        .directory(&parent)
                        .map_err(|e| self.explain(&parent, e))?;
                    make_directory(&parent, part.name(), 0, 0, mode)
                        .map_err(|e| format!("{part}: {e}"))?;
                }
                Err(e) => return Err(self.explain(part, e)),
            }
        }
        Ok(())
    }

    /// Reads a regular file of `limit` bytes at most; none where nothing is.
    pub(crate) fn read(
        &self,
        path: &TreePath,
        limit: usize,
    ) -> std::result::Result<Option<Vec<u8>>, Trouble> {
        let looked = self.look(path).map_err(|e| self.trouble(path, e))?;
        let Some(looked) = looked else {
            return Ok(None);
        };
        if kind(&looked) != FileType::RegularFile {
            return Err(Trouble::lasting(format!(
                "{path} is {}",
                name_of(kind(&looked))
            )));
        }
        let fd = self
            .open(path, OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(|e| self.trouble(path, e))?;
        let stat = fs::fstat(&fd).map_err(|e| Trouble::of(path, e))?;
        if !same(&stat, &looked) {
            let what = format!("{path} was replaced while it was looked at");
            return Err(Trouble::passing(what));
        }
        let mut bytes = Vec::new();
        let reader = std::io::Read::take(std::fs::File::from(fd), limit as u64 + 1);
        let mut reader = std::io::BufReader::new(reader);
        std::io::Read::read_to_end(&mut reader, &mut bytes).map_err(|e| Trouble::of(path, e))?;
        if bytes.len() > limit {
            return Err(Trouble::lasting(format!(
                "{path} is larger than {limit} bytes, and not read"
            )));
        }
        Ok(Some(bytes))
    }
}

/// The type of what was looked at.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The bits of a mode that `chmod` sets.
pub(crate) fn mode_of(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

/// What a file is, for a person.
pub(crate) fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "of an unknown type",
    }
}

/// Whether both are the same file.
pub(crate) fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// The mount that a descriptor is on, and whether it is the top of that mount.
pub(crate) fn mount_of(fd: BorrowedFd<'_>) -> Result<(u64, bool)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let seen = fs::statx(fd, c"", flags, StatxFlags::MNT_ID)?;
    let top = fs::StatxAttributes::MOUNT_ROOT;
    Ok((seen.stx_mnt_id, seen.stx_attributes.contains(top)))
}

/// Makes a directory that appears with its owner and mode, or not at all: one that a crash left half made would be taken
/// for the owner's wish at the next boot.
///
/// As with `mkdir`, one in a directory whose group is inherited inherits that too; [`make_directory_exactly`] does not.
pub(crate) fn make_directory(
    parent: &OwnedFd,
    name: &str,
    uid: u32,
    gid: u32,
    mode: u32,
) -> Result<()> {
    begin_directory(parent)?;
    finish_directory(parent, name, || {
        let fd = open_new(parent)?;
        let inherited = fs::fstat(&fd)?.st_mode & 0o2000;
        set_owner(&fd, uid, gid)?;
        set_mode(&fd, mode | inherited)
    })
}

/// Makes a directory of the temporary root, with no other bits than those of `mode`. What a crash leaves half made goes
/// with the root, so it has its name at once, and mostly its owner and mode too: `apply` has no umask.
pub(crate) fn make_directory_exactly(
    parent: &OwnedFd,
    name: &str,
    uid: u32,
    gid: u32,
    mode: u32,
) -> Result<OwnedFd> {
    fs::mkdirat(parent, name, Mode::from_raw_mode(mode & 0o1777))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(parent, name, flags, Mode::empty())?;
    let stat = fs::fstat(&fd)?;
    if (stat.st_uid, stat.st_gid, mode_of(&stat)) != (uid, gid, mode) {
        let fd = reopen_directory(&fd)?;
        set_owner(&fd, uid, gid)?;
        set_mode(&fd, mode)?;
    }
    Ok(fd)
}

fn begin_directory(parent: &OwnedFd) -> Result<()> {
    match fs::mkdirat(parent, NEW, Mode::RWXU) {
        Err(Errno::EXIST) => {
            fs::unlinkat(parent, NEW, AtFlags::REMOVEDIR)?;
            fs::mkdirat(parent, NEW, Mode::RWXU)
        }
        other => other,
    }
}

fn finish_directory(parent: &OwnedFd, name: &str, own: impl FnOnce() -> Result<()>) -> Result<()> {
    let made = own().and_then(|()| appear(parent, NEW, name));
    if made.is_err() {
        let _ = fs::unlinkat(parent, NEW, AtFlags::REMOVEDIR);
    }
    made
}

fn open_new(parent: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, NEW, flags, Mode::empty())
}

/// Renames where nothing is; file systems that do not know how to refuse get the plain call, after a look.
fn appear(parent: &OwnedFd, from: &str, to: &str) -> Result<()> {
    match fs::renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            match fs::statat(parent, to, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => fs::renameat(parent, from, parent, to),
                Ok(_) => Err(Errno::EXIST),
                Err(e) => Err(e),
            }
        }
        other => other,
    }
}

/// Changes owner and group.
pub(crate) fn set_owner(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Changes the mode.
pub(crate) fn set_mode(fd: impl AsFd, mode: u32) -> Result<()> {
    fs::fchmod(fd, Mode::from_raw_mode(mode))
}

/// Binds the file or directory of one descriptor over that of the other, without what is mounted below it.
///
/// By `mount` and not by `move_mount`: the AppArmor profiles of LXC know only the former. Both paths are of this process's
/// own descriptors.
pub(crate) fn bind(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    match rustix::mount::mount_bind(path(from), path(to)) {
        // There is no /proc here.
        Err(Errno::NOENT) => {
            use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            let tree = open_tree(from, c"", flags)?;
            let flags =
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            move_mount(&tree, c"", to, c"", flags)
        }
        other => other,
    }
}

/// Writes a file under its final name at once, root's own and synced. One that was there is replaced.
pub(crate) fn write(
    tree: &Tree,
    path: &TreePath,
    bytes: &[u8],
    mode: u32,
) -> std::result::Result<(), String> {
    let parent = path.parent().unwrap_or_else(TreePath::top);
    let parent_fd = tree
        .directory(&parent)
        .map_err(|e| tree.explain(&parent, e))?;
    let write = || -> std::io::Result<()> {
        let file = new_file(&parent_fd)?;
        std::io::Write::write_all(&mut &file, bytes)?;
        set_mode(&file, mode)?;
        file.sync_all()?;
        finish(&parent_fd, path.name())?;
        sync_directory(&parent_fd)?;
        Ok(())
    };
    write().map_err(|e| format!("{path}: {e}"))
}

/// A new file without a name that anybody looks for; [`finish`] gives it its own.
pub(crate) fn new_file(parent: &OwnedFd) -> Result<std::fs::File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let fd = match fs::openat(parent, NEW, flags, mode) {
        Err(Errno::EXIST) => {
            fs::unlinkat(parent, NEW, AtFlags::empty())?;
            fs::openat(parent, NEW, flags, mode)?
        }
        other => other?,
    };
    Ok(fd.into())
}

/// The same for a symbolic link.
pub(crate) fn new_link(parent: &OwnedFd, target: &str) -> Result<()> {
    match fs::symlinkat(target, parent, NEW) {
        Err(Errno::EXIST) => {
            fs::unlinkat(parent, NEW, AtFlags::empty())?;
            fs::symlinkat(target, parent, NEW)
        }
        other => other,
    }
}

/// Gives what was made its name, in the place of what had it.
pub(crate) fn finish(parent: &OwnedFd, name: &str) -> Result<()> {
    fs::renameat(parent, NEW, parent, name)
}

/// Removes what was begun.
pub(crate) fn abandon(parent: &OwnedFd) {
    let _ = fs::unlinkat(parent, NEW, AtFlags::empty());
}

/// Makes a rename in `parent` survive a power failure.
pub(crate) fn sync_directory(parent: &OwnedFd) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::fsync(fs::openat(parent, ".", flags, Mode::empty())?)
}

/// The extended attribute of an own descriptor, by way of which an `O_PATH` one can be asked too.
pub(crate) fn attribute_path(fd: &OwnedFd) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// Opens an `O_PATH` directory for `fchmod` and the like.
pub(crate) fn reopen_directory(fd: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat(fd, ".", flags, Mode::empty())
}
