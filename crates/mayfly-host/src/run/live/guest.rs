//! A guest as it is reached from outside: descriptors of its init, opened when that is certainly the one of the run.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use mayfly_core::names::GuestPath;
use mayfly_core::run::IdRange;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::order::Order;
use super::table::{Entry, mounts_at};

/// The files of `/proc` that are read of it are short.
const LIMIT: u64 = 64 << 10;

/// A living guest.
pub(super) struct Guest {
    pub(super) users: OwnedFd,
    pub(super) mounts: OwnedFd,
    /// Its `/`.
    root: OwnedFd,
    table: File,
}

/// Where a path of a guest led.
pub(super) enum Way {
    /// To a directory.
    To(OwnedFd),
    /// Nowhere, and why.
    Barred(String),
}

impl Guest {
    /// None: it is over. All that is opened comes from one entry of `/proc`, which is one process for ever.
    pub(super) fn open(order: &Order) -> io::Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = match openat(CWD, format!("/proc/{}", order.init), flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            opened => opened?,
        };
        match Self::open_of(&process, order) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
            done => done,
        }
    }

    fn open_of(process: &OwnedFd, order: &Order) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = |name: &str, more| openat(process, name, flags | more, Mode::empty());
        let text = |name: &str| -> io::Result<String> {
            let mut bytes = Vec::new();
            let file = File::from(file(name, OFlags::empty())?);
            file.take(LIMIT).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        if !is_init(&text("status")?) || !is_in_cgroup(&text("cgroup")?, &order.cgroup) {
            return Ok(None);
        }
        if !is_mapped(&text("uid_map")?, order.ids) {
            return Err(io::Error::other(
                "the guest's first process has left the user namespace that it was given",
            ));
        }
        let guest = Self {
            users: file("ns/user", OFlags::empty())?,
            mounts: file("ns/mnt", OFlags::empty())?,
            root: file("root", OFlags::PATH | OFlags::DIRECTORY)?,
            table: File::from(file("mountinfo", OFlags::empty())?),
        };
        // A process that has ended meanwhile has no namespaces any more, and nothing above would have been opened.
        Ok(Some(guest))
    }

    /// What it has mounted at exactly this path, lowest first.
    pub(super) fn mounts_at(&mut self, target: &GuestPath) -> io::Result<Vec<Entry>> {
        mounts_at(&mut self.table, Path::new(target.as_str()))
    }

    /// Goes to a directory of the guest with the guest's rights, in its mount namespace, one component at a time and through
    /// no symlink; with `make`, what is absent is made.
    pub(super) fn walk(&self, target: &GuestPath, make: bool) -> io::Result<Way> {
        let mut at = self.root.try_clone()?;
        let mut shown = String::new();
        for part in target.relative().split('/') {
            shown = format!("{shown}/{part}");
            at = match step(&at, part, make) {
                Ok(next) => next,
                Err(Errno::LOOP) => return Ok(Way::Barred(format!("{shown} is a symlink"))),
                Err(Errno::NOTDIR) => return Ok(Way::Barred(format!("{shown} is no directory"))),
                Err(Errno::NOENT) => return Ok(Way::Barred(format!("{shown} is not there"))),
                Err(Errno::ROFS) => {
                    let why = "is not there, and cannot be made on a read-only file system";
                    return Ok(Way::Barred(format!("{shown} {why}")));
                }
                Err(Errno::DQUOT | Errno::NOSPC) => {
                    let why = "is not there, and there is no space left to make it";
                    return Ok(Way::Barred(format!("{shown} {why}")));
                }
                Err(e) => return Ok(Way::Barred(format!("{shown} cannot be reached: {e}"))),
            };
        }
        Ok(Way::To(at))
    }
}

/// How often a name that comes and goes is tried.
const TRIES: u32 = 8;

fn step(at: &OwnedFd, part: &str, make: bool) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        .union(ResolveFlags::NO_SYMLINKS)
        .union(ResolveFlags::NO_MAGICLINKS);
    let mut tries = 0;
    loop {
        tries += 1;
        match openat2(at.as_fd(), part, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => {}
            Err(Errno::NOENT) if make && tries < TRIES => {
                match mkdirat(at.as_fd(), part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
            }
            Err(e) => return Err(e),
            Ok(opened) => {
                return match FileType::from_raw_mode(fstat(&opened)?.st_mode) {
                    FileType::Directory => Ok(opened),
                    FileType::Symlink => Err(Errno::LOOP),
                    _ => Err(Errno::NOTDIR),
                };
            }
        }
    }
}

/// Whether a status says that this is process 1 of a process namespace right below the one that looks.
fn is_init(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let ids: Vec<&str> = ids.unwrap_or_default().split_whitespace().collect();
    ids.len() == 2 && ids[1] == "1"
}

/// Whether a process is in this cgroup, or below it, in some hierarchy.
fn is_in_cgroup(text: &str, cgroup: &str) -> bool {
    text.lines().any(|line| {
        let after = line.split_once(cgroup).map(|(_, after)| after);
        after.is_some_and(|after| after.is_empty() || after.starts_with('/'))
    })
}

fn is_mapped(map: &str, ids: IdRange) -> bool {
    let map: Vec<&str> = map.split_whitespace().collect();
    map == ["0", &ids.first.to_string(), &ids.count.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_init_of_that_very_run_is_taken_for_it() {
        assert!(is_init("Name:\tsystemd\nNSpid:\t4711\t1\n"));
        for other in [
            "NSpid:\t4711\n",
            "NSpid:\t4711\t2\n",
            "NSpid:\t4711\t9\t1\n",
            "",
        ] {
            assert!(!is_init(other), "{other}");
        }
        let cgroup = "/mayfly-x/11327.c5a8b7/payload";
        let lines = "3:cpu:/\n2:pids:/a/mayfly-x/11327.c5a8b7/payload/init.scope\n";
        assert!(is_in_cgroup(lines, cgroup));
        assert!(is_in_cgroup("0::/mayfly-x/11327.c5a8b7/payload\n", cgroup));
        assert!(!is_in_cgroup(
            "0::/mayfly-x/11327.c5a8b7/payload-1\n",
            cgroup
        ));
        assert!(!is_in_cgroup("0::/mayfly-x/11327.c5a8b8/payload\n", cgroup));
        let ids = IdRange {
            first: 1 << 20,
            count: IdRange::SIZE,
        };
        assert!(is_mapped("         0    1048576     262144\n", ids));
        assert!(!is_mapped("0 1048577 262143\n", ids));
        assert!(!is_mapped("0 1048576 1\n1 1048577 262143\n", ids));
    }
}
