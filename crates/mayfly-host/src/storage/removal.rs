//! Destroying a directory that a guest has filled.
//!
//! It lies beside a dataset's `private`, where no guest reaches it any more, but its guest may have nested directories without
//! end, or made one of a million entries: what is held open is bounded, nothing is remembered of what was seen, and what lies
//! too deep is moved up into a directory of its own first. Cut off anywhere, the next call goes on.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, fstat, mkdirat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::contained::{DIRECTORY, open_below};
use crate::crash::crash_point;

/// Directories that are open at a time, one in the other.
const DEEP: usize = 100;

/// A directory, or the rest of one, in the platform's part of a dataset.
struct Removal<'a> {
    beside: BorrowedFd<'a>,
    /// Where what lies too deep is moved to.
    deep: String,
    device: u64,
}

struct Open {
    dir: Dir,
    name: CString,
    /// Whether something went since the listing began.
    changed: bool,
}

/// Destroys `name`, whatever is in it, and all that an earlier call left of it; whether there was anything. Something that lies
/// on another file system, or in another subvolume, stops it (`EXDEV`).
pub(super) fn remove_tree(beside: &OwnedFd, name: &str) -> rustix::io::Result<bool> {
    let removal = Removal {
        beside: beside.as_fd(),
        deep: format!("{name}.deep"),
        device: fstat(beside)?.st_dev,
    };
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let was_moved = removal.remove_deep()?;
    let was_there = is_there(beside, &name)?;
    if was_there {
        removal.remove(removal.beside, &name)?;
    }
    removal.remove_deep()?;
    Ok(was_there || was_moved)
}

/// Whether something of that name is there.
pub(super) fn is_there(dir: impl AsFd, name: &CStr) -> rustix::io::Result<bool> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The next entry of a directory that is not the directory itself or the one above.
pub(super) fn next_entry(dir: &mut Dir) -> rustix::io::Result<Option<rustix::fs::DirEntry>> {
    loop {
        match dir.read().transpose()? {
            Some(entry) if [c".", c".."].contains(&entry.file_name()) => {}
            entry => return Ok(entry),
        }
    }
}

impl Removal<'_> {
    fn remove_deep(&self) -> rustix::io::Result<bool> {
        let deep = match open_below(self.beside, self.deep.as_str(), DIRECTORY) {
            Ok(deep) => deep,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        loop {
            let mut found = false;
            let mut list = Dir::read_from(&deep)?;
            while let Some(entry) = next_entry(&mut list)? {
                self.remove(deep.as_fd(), entry.file_name())?;
                found = true;
            }
            if !found {
                break;
            }
        }
        unlinkat(self.beside, self.deep.as_str(), AtFlags::REMOVEDIR)?;
        Ok(true)
    }

    /// Moves a directory up.
    fn move_up(&self, from: BorrowedFd<'_>, name: &CStr, inode: u64) -> rustix::io::Result<()> {
        match mkdirat(self.beside, self.deep.as_str(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let deep = open_below(self.beside, self.deep.as_str(), DIRECTORY)?;
        // No two of them have one number while both are there.
        renameat(from, name, &deep, inode.to_string())?;
        crash_point("take_out.after_moving_up");
        Ok(())
    }

    fn open(&self, dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<(Open, u64)> {
        let opened = open_below(dir, name, DIRECTORY)?;
        let seen = fstat(&opened)?;
        if seen.st_dev != self.device {
            return Err(Errno::XDEV);
        }
        let open = Open {
            dir: Dir::new(opened)?,
            name: name.to_owned(),
            changed: false,
        };
        Ok((open, seen.st_ino))
    }

    fn remove(&self, above: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        if unlink_either(above, name)? {
            return Ok(());
        }
        let mut stack = vec![self.open(above, name)?.0];
        while let Some(open) = stack.last_mut() {
            let Some(entry) = next_entry(&mut open.dir)? else {
                self.close(above, &mut stack)?;
                continue;
            };
            open.changed = true;
            if unlink_either(open.dir.fd()?, entry.file_name())? {
                continue;
            }
            let (inner, inode) = self.open(open.dir.fd()?, entry.file_name())?;
            if stack.len() < DEEP {
                stack.push(inner);
            } else if let Some(open) = stack.last() {
                self.move_up(open.dir.fd()?, entry.file_name(), inode)?;
            }
        }
        Ok(())
    }

    /// Removes the innermost directory, or begins to list it anew where the listing left something out.
    fn close(&self, above: BorrowedFd<'_>, stack: &mut Vec<Open>) -> rustix::io::Result<()> {
        let Some(mut done) = stack.pop() else {
            return Ok(());
        };
        let outer = match stack.last() {
            Some(outer) => outer.dir.fd()?,
            None => above,
        };
        match unlinkat(outer, &done.name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if done.changed => {
                done.changed = false;
                done.dir.rewind();
                stack.push(done);
                Ok(())
            }
            removed => removed,
        }
    }
}

/// Removes anything but a directory that is not empty.
fn unlink_either(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<bool> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}
