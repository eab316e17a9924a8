//! Opening things below a directory without ever leaving it: what a guest planted is not followed.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, fchmod, fchown, mkdirat, openat2};
use rustix::io::Errno;
use rustix::path::Arg;
use rustix::process::{Gid, Uid};

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW);
const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Opens a path below `dir` that must not leave it, nor go through a symlink or another mount.
pub(crate) fn open_below(
    dir: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    loop {
        match openat2(
            dir.as_fd(),
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            CONFINED,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

/// The entries of a directory of the platform; names that are no UTF-8 are not ours and come out replaced.
pub(super) fn names_in(dir: impl AsFd) -> rustix::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Makes a directory of mode 0755 that belongs to the guest's root, whatever the umask is.
pub(super) fn make_directory(dir: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    mkdirat(&dir, name, Mode::from_raw_mode(0o755))?;
    let made = open_below(&dir, name, DIRECTORY)?;
    fchown(&made, Some(Uid::ROOT), Some(Gid::ROOT))?;
    fchmod(&made, Mode::from_raw_mode(0o755))?;
    Ok(made)
}
