//! What a file has besides its contents: owner, mode, extended attributes, times. The numbers are those that the dataset holds,
//! which are the guest's.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Mode, Stat, Timespec, Timestamps, XattrFlags, chmodat, chownat, fchmod, fchown,
    fgetxattr, flistxattr, fsetxattr, futimens, lgetxattr, llistxattr, lsetxattr, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// The kernel's limit for the list of a file's extended attributes, and for the value of one.
const LIMIT: usize = 65_536;

/// Attributes that are a file's own; the rest is the file system's.
const OWN: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Copies attributes, in buffers that are made once.
pub(super) struct Attributes {
    names: Vec<u8>,
    value: Vec<u8>,
}

/// A file whose extended attributes are read or written.
enum Place<'a> {
    Open(BorrowedFd<'a>),
    /// By a path that ends in its own name, which is not followed: for what is not opened, such as a symlink.
    Named(CString),
}

impl Place<'_> {
    fn named(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Self> {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        CString::new(path)
            .map(Self::Named)
            .map_err(|_| Errno::INVAL)
    }

    fn list(&self, names: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(fd) => flistxattr(fd, names),
            Self::Named(path) => llistxattr(path.as_c_str(), names),
        }
    }

    fn get(&self, name: &CStr, value: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(fd) => fgetxattr(fd, name, value),
            Self::Named(path) => lgetxattr(path.as_c_str(), name, value),
        }
    }

    fn set(&self, name: &CStr, value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Named(path) => lsetxattr(path.as_c_str(), name, value, XattrFlags::empty()),
        }
    }
}

impl Attributes {
    pub(super) fn new() -> Self {
        Self {
            names: vec![0; LIMIT],
            value: vec![0; LIMIT],
        }
    }

    /// Gives an open file, or a directory, what the other one has. Contents come before it: a write takes capabilities away.
    pub(super) fn of_open(
        &mut self,
        seen: &Stat,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
    ) -> rustix::io::Result<()> {
        // A change of owner takes setuid and capabilities away, so it comes first.
        fchown(
            to,
            Some(Uid::from_raw(seen.st_uid)),
            Some(Gid::from_raw(seen.st_gid)),
        )?;
        fchmod(to, Mode::from_raw_mode(seen.st_mode))?;
        self.extended(&Place::Open(from), &Place::Open(to))?;
        futimens(to, &times(seen))
    }

    /// The same for what is not opened: `name` in one directory and in the other. A symlink has no mode.
    pub(super) fn of_named(
        &mut self,
        seen: &Stat,
        (from, to): (BorrowedFd<'_>, BorrowedFd<'_>),
        name: &CStr,
        has_mode: bool,
    ) -> rustix::io::Result<()> {
        let owner = (Uid::from_raw(seen.st_uid), Gid::from_raw(seen.st_gid));
        let itself = AtFlags::SYMLINK_NOFOLLOW;
        chownat(to, name, Some(owner.0), Some(owner.1), itself)?;
        if has_mode {
            // It was made a moment ago and is no symlink.
            chmodat(
                to,
                name,
                Mode::from_raw_mode(seen.st_mode),
                AtFlags::empty(),
            )?;
        }
        self.extended(&Place::named(from, name)?, &Place::named(to, name)?)?;
        utimensat(to, name, &times(seen), itself)
    }

    fn extended(&mut self, from: &Place<'_>, to: &Place<'_>) -> rustix::io::Result<()> {
        let length = match from.list(&mut self.names) {
            Ok(length) => length,
            // A file system without them has none to copy.
            Err(Errno::OPNOTSUPP) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        for name in self.names[..length].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                return Err(Errno::IO);
            };
            let bytes = name.to_bytes();
            if OWN.iter().any(|own| bytes.starts_with(own)) || ACLS.contains(&bytes) {
                let length = from.get(name, &mut self.value)?;
                to.set(name, &self.value[..length])?;
            }
        }
        Ok(())
    }
}

fn times(seen: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as i64,
    };
    Timestamps {
        last_access: time(seen.st_atime, seen.st_atime_nsec),
        last_modification: time(seen.st_mtime, seen.st_mtime_nsec),
    }
}
