//! Going through a cgroup and all below it. Guests make cgroups there, as many and as deep as their memory allows, with
//! names that need be no text: so no path is ever put together, and one descriptor is held at a time.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use super::LookError;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Calls `visit` with every cgroup, parents first. One that goes meanwhile is passed over; where there is none at `top`
/// nothing is called.
pub(super) fn for_each(
    top: &Path,
    mut visit: impl FnMut(&OwnedFd) -> io::Result<()>,
) -> Result<(), LookError> {
    walk(top, &mut visit, &mut |_, _| Ok(())).map_err(|e| LookError::at(top, &e))
}

/// Removes a cgroup and all below it. Fails where one has a member.
pub(super) fn remove(top: &Path) -> io::Result<()> {
    walk(top, &mut |_| Ok(()), &mut |parent, name| {
        passed_over(unlinkat(parent, name, AtFlags::REMOVEDIR)).map(drop)
    })?;
    passed_over(unlinkat(CWD, top, AtFlags::REMOVEDIR)).map(drop)
}

/// Reads a file of a cgroup; none where the cgroup is gone, or keeps no such file.
pub(super) fn read(cgroup: &OwnedFd, file: &str) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Some(opened) = passed_over(openat(cgroup, file, flags, Mode::empty()))? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    match io::Read::read_to_end(&mut std::fs::File::from(opened), &mut bytes) {
        Ok(_) => Ok(Some(bytes)),
        // A threaded cgroup of v2 has no list of processes: they are in that of an ancestor.
        Err(e) if super::gone(&e) || e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a file of a cgroup.
pub(super) fn write(cgroup: &OwnedFd, file: &str, word: &str) -> io::Result<()> {
    let opened = openat(
        cgroup,
        file,
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::io::write(opened, word.as_bytes())?;
    Ok(())
}

/// Depth first, by names and `..`: nobody can move a cgroup to another parent.
fn walk(
    top: &Path,
    visit: &mut dyn FnMut(&OwnedFd) -> io::Result<()>,
    leave: &mut dyn FnMut(&OwnedFd, &CString) -> io::Result<()>,
) -> io::Result<()> {
    let Some(mut here) = passed_over(openat(CWD, top, DIRECTORY, Mode::empty()))? else {
        return Ok(());
    };
    visit(&here)?;
    // The cgroups that were entered, each with what is left to enter beside it.
    let mut way: Vec<(CString, Vec<CString>)> = Vec::new();
    let mut left = children(&here)?;
    loop {
        if let Some(name) = left.pop() {
            let opened = openat(&here, &name, DIRECTORY, Mode::empty());
            if let Some(below) = passed_over(opened)? {
                visit(&below)?;
                let inner = children(&below)?;
                way.push((name, std::mem::replace(&mut left, inner)));
                here = below;
            }
        } else if let Some((name, beside)) = way.pop() {
            here = openat(&here, "..", DIRECTORY, Mode::empty())?;
            left = beside;
            leave(&here, &name)?;
        } else {
            return Ok(());
        }
    }
}

fn children(cgroup: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(&cgroup)? {
        let Some(entry) = passed_over(entry)? else {
            break;
        };
        let name = entry.file_name();
        let is_directory = match entry.file_type() {
            FileType::Unknown => statat(&cgroup, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|seen| FileType::from_raw_mode(seen.st_mode) == FileType::Directory),
            kind => kind == FileType::Directory,
        };
        if is_directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// None where a cgroup is gone.
fn passed_over<T>(done: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(Errno::NOENT | Errno::NODEV) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    /// `depth` directories with long names, one in the other; more than a path can name.
    fn deep(top: &Path, depth: usize) {
        let name = "d".repeat(200);
        let mut at = openat(CWD, top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = openat(&at, &name, DIRECTORY, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn what_has_no_name_in_text_or_no_path_is_seen_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        let odd = top.join(std::ffi::OsStr::from_bytes(b"odd\xff\n"));
        std::fs::create_dir_all(odd.join("inner")).unwrap();
        deep(&top, 100);
        let mut seen = 0;
        for_each(&top, |_| {
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 1 + 2 + 100);
        remove(&top).unwrap();
        assert!(!top.try_exists().unwrap());
    }

    #[test]
    fn one_that_cannot_be_removed_is_an_error_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (top, other) = (dir.path().join("top"), dir.path().join("other"));
        std::fs::create_dir_all(top.join("a")).unwrap();
        std::fs::create_dir(&other).unwrap();
        symlink(&other, top.join("link")).unwrap();
        let mut seen = 0;
        for_each(&top, |_| {
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 2);
        assert!(remove(&top).is_err());
        assert!(other.try_exists().unwrap());
        for_each(&dir.path().join("absent"), |_| unreachable!()).unwrap();
        remove(&dir.path().join("absent")).unwrap();
    }
}
