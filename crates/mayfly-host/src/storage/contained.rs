//! Opening things below a directory without ever leaving it: what a guest planted is not followed.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{
    Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, fchown, fstat, mkdirat, open, openat2,
};
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

/// Opens a regular file below `dir` for reading, or says what is there instead. It is looked at first, because to open a FIFO or a
/// device is to do something to it; then the very thing that was looked at is opened, whatever has its name by then.
pub(crate) fn open_regular(
    dir: impl AsFd,
    path: impl Arg + Copy,
) -> rustix::io::Result<Result<File, FileType>> {
    let looked = open_below(dir, path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let kind = FileType::from_raw_mode(fstat(&looked)?.st_mode);
    if kind != FileType::RegularFile {
        return Ok(Err(kind));
    }
    let it = format!("/proc/self/fd/{}", looked.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(Ok(File::from(open(it, flags, Mode::empty())?)))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use std::io::Read as _;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{CWD, mknodat};

    use super::*;

    #[test]
    fn only_a_regular_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "text").unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        symlink("file", dir.path().join("link")).unwrap();
        mknodat(CWD, dir.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let top = File::open(dir.path()).unwrap();
        let kind = |name: &str| open_regular(&top, name).map(|found| found.err());
        assert_eq!(kind("file"), Ok(None));
        assert_eq!(kind("dir"), Ok(Some(FileType::Directory)));
        assert_eq!(kind("link"), Ok(Some(FileType::Symlink)));
        assert_eq!(kind("fifo"), Ok(Some(FileType::Fifo)));
        assert_eq!(kind("absent"), Err(Errno::NOENT));
        assert_eq!(kind("link/below"), Err(Errno::LOOP));
        assert_eq!(kind("../file"), Err(Errno::XDEV));
    }

    #[test]
    fn a_file_that_is_replaced_all_the_time_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (new, file) = (dir.path().join("new"), dir.path().join("file"));
        let replace = |text: &str| {
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &file).unwrap();
        };
        replace("text");
        let top = File::open(dir.path()).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    replace("text");
                }
            });
            for _ in 0..2000 {
                let mut text = String::new();
                let mut found = open_regular(&top, "file").unwrap().unwrap();
                found.read_to_string(&mut text).unwrap();
                assert_eq!(text, "text");
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
