//! The verbs `put` and `get`: one file into a VPS, or out of it. They run inside the VPS, with its rights and under its
//! limits: what a hostile tree makes of them it does to itself.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use mayfly_core::files::{FileHead, FilePut, Ground};
use rustix::fs::{AtFlags, CWD, linkat};

/// As many links as the kernel follows.
const LINKS: usize = 40;

/// Why nothing was done; whoever asked is told apart by the status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing is there.
    Absent(String),
    /// Anything else.
    Other(String),
}

/// What a new file is like. What is not said stays as it is, or is root's with mode 0644.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rights {
    /// Its mode, whether it was there or not.
    pub(crate) mode: Option<u32>,
    /// Its mode where it was not.
    pub(crate) mode_if_new: Option<u32>,
    /// User and group.
    pub(crate) owner: Option<(u32, u32)>,
}

/// Puts what comes from `from` into the file at `path`, whole or not at all; into a directory under `name`. A file that a
/// mount is bound over cannot be replaced, and is written over.
pub(crate) fn put(
    path: &Path,
    name: Option<&str>,
    rights: Rights,
    mut from: impl Read,
) -> Result<FilePut, Trouble> {
    let at = resolve(path, name)?;
    let shown = at.display();
    let other = |e: io::Error| Trouble::Other(format!("{shown}: {e}"));
    let before = match fs::symlink_metadata(&at) {
        Ok(seen) if seen.is_file() => Some(seen),
        Ok(seen) => return Err(Trouble::Other(format!("{shown} is {}", kind(&seen)))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(other(e)),
    };
    let directory = at.parent().unwrap_or(Path::new("/"));
    // Without a name until it is whole: nothing is left of one that was cut off.
    let mut new = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(directory)
        .map_err(|e| {
            Trouble::Other(format!(
                "nothing can be written in {}: {e}",
                directory.display()
            ))
        })?;
    let bytes = io::copy(&mut from, &mut new).map_err(other)?;
    let (uid, gid) = rights
        .owner
        .or(before.as_ref().map(|seen| (seen.uid(), seen.gid())))
        .unwrap_or((0, 0));
    let mode = rights
        .mode
        .or(before.as_ref().map(|seen| seen.mode() & 0o7777))
        .or(rights.mode_if_new)
        .unwrap_or(0o644);
    fchown(&new, Some(uid), Some(gid)).map_err(other)?;
    new.set_permissions(Permissions::from_mode(mode))
        .map_err(other)?;
    new.sync_all().map_err(other)?;
    match replace(&new, directory, &at) {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            write_over(&mut new, &at).map_err(other)?
        }
        done => done.map_err(other)?,
    }
    Ok(FilePut {
        ground: ground(&at).map_err(other)?,
        path: at.display().to_string(),
        bytes,
    })
}

/// What comes in pieces, each with its length before it (four bytes, the lowest first), and ends with an empty one. Whatever
/// ends without that was cut off.
pub(crate) struct Pieces<R> {
    from: R,
    left: u32,
    over: bool,
}

impl<R> Pieces<R> {
    pub(crate) fn new(from: R) -> Self {
        Self {
            from,
            left: 0,
            over: false,
        }
    }
}

impl<R: Read> Read for Pieces<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.over {
            let mut length = [0; 4];
            self.from.read_exact(&mut length)?;
            self.left = u32::from_le_bytes(length);
            self.over = self.left == 0;
        }
        if self.over || into.is_empty() {
            return Ok(0);
        }
        let room = into
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        match self.from.read(&mut into[..room])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.left -= u32::try_from(n).unwrap_or(self.left);
                Ok(n)
            }
        }
    }
}

/// Writes the file at `path` into `into`: a line of JSON that says how long it is, then it.
pub(crate) fn get(path: &Path, mut into: impl Write) -> Result<(), Trouble> {
    let at = resolve(path, None)?;
    let shown = at.display();
    let other = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Trouble::Absent(format!("there is no file {shown}")),
        _ => Trouble::Other(format!("{shown}: {e}")),
    };
    // A FIFO must not keep anybody waiting.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(&at)
        .map_err(other)?;
    let seen = file.metadata().map_err(other)?;
    if !seen.is_file() {
        return Err(Trouble::Other(format!("{shown} is {}", kind(&seen))));
    }
    // What the kernel makes as it is read has no length beforehand.
    let (bytes, text) = match seen.len() {
        0 => {
            let mut text = Vec::new();
            (&file)
                .take(1 << 20)
                .read_to_end(&mut text)
                .map_err(other)?;
            (text.len() as u64, text)
        }
        bytes => (bytes, Vec::new()),
    };
    let head = FileHead {
        bytes,
        mode: seen.mode() & 0o7777,
    };
    let head = serde_json::to_string(&head).map_err(|e| Trouble::Other(e.to_string()))?;
    let told = writeln!(into, "{head}")
        .and_then(|()| into.write_all(&text))
        .and_then(|()| io::copy(&mut file.take(bytes), &mut into))
        .and_then(|_| into.flush());
    told.map_err(|e| Trouble::Other(format!("{shown}: {e}")))
}

/// Where the file really is, or would be: links are followed, also one that leads to nothing yet.
fn resolve(path: &Path, name: Option<&str>) -> Result<PathBuf, Trouble> {
    let mut at = path.to_path_buf();
    if let (Some(name), true) = (name, at.is_dir()) {
        at.push(name);
    }
    for _ in 0..LINKS {
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
            return Err(Trouble::Other(format!("{} names no file", path.display())));
        };
        let parent = parent.canonicalize().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Trouble::Absent(format!("there is no directory {}", parent.display()))
            }
            _ => Trouble::Other(format!("{}: {e}", parent.display())),
        })?;
        let here = parent.join(name);
        match fs::read_link(&here) {
            Ok(target) => at = parent.join(target),
            Err(_) => return Ok(here),
        }
    }
    Err(Trouble::Other(format!(
        "{}: too many links lead on",
        path.display()
    )))
}

/// Gives a file without a name the name of another, in one step.
fn replace(new: &File, directory: &Path, at: &Path) -> io::Result<()> {
    let unnamed = format!("/proc/self/fd/{}", new.as_raw_fd());
    let beside = directory.join(format!(".mayfly-{}", std::process::id()));
    linkat(CWD, unnamed, CWD, &beside, AtFlags::SYMLINK_FOLLOW)?;
    let renamed = fs::rename(&beside, at);
    if renamed.is_err() {
        // The reason of the failure is the one that matters.
        let _ = fs::remove_file(&beside);
    }
    renamed?;
    File::open(directory)?.sync_all()
}

fn write_over(new: &mut File, at: &Path) -> io::Result<()> {
    use std::io::Seek as _;
    new.rewind()?;
    let mut old = OpenOptions::new().write(true).truncate(true).open(at)?;
    io::copy(new, &mut old)?;
    let seen = new.metadata()?;
    fchown(&old, Some(seen.uid()), Some(seen.gid()))?;
    old.set_permissions(seen.permissions())?;
    old.sync_all()
}

/// What a file lies on.
fn ground(at: &Path) -> io::Result<Ground> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(at)?.f_type;
    Ok(if matches!(kind, TMPFS | RAMFS) {
        Ground::Memory
    } else if fs::metadata(at)?.dev() == fs::metadata("/")?.dev() {
        Ground::Root
    } else {
        Ground::Elsewhere
    })
}

fn kind(seen: &fs::Metadata) -> &'static str {
    if seen.is_dir() {
        "a directory"
    } else {
        "no regular file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_goes_in_whole_and_comes_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let file = top.join("file");
        let mine = Rights {
            mode_if_new: Some(0o640),
            owner: Some((
                rustix::process::getuid().as_raw(),
                rustix::process::getgid().as_raw(),
            )),
            ..Rights::default()
        };
        let done = put(&top, Some("file"), mine, &b"first"[..]).unwrap();
        assert_eq!(
            (done.path.as_str(), done.bytes),
            (file.to_str().unwrap(), 5)
        );
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        // The rights of one that is there stay; a link is written through, also one that leads nowhere yet.
        symlink("file", top.join("link")).unwrap();
        let other = Rights {
            mode_if_new: Some(0o600),
            ..mine
        };
        assert_eq!(
            put(&top.join("link"), None, other, &b"second"[..])
                .unwrap()
                .path,
            done.path
        );
        assert_eq!(fs::read(&file).unwrap(), b"second");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        symlink("new", top.join("ahead")).unwrap();
        put(&top.join("ahead"), None, mine, &b"x"[..]).unwrap();
        assert_eq!(fs::read(top.join("new")).unwrap(), b"x");
        let mut out = Vec::new();
        get(&top.join("link"), &mut out).unwrap();
        assert_eq!(out, b"{\"bytes\":6,\"mode\":416}\nsecond");
        // Nothing is left beside them.
        assert_eq!(fs::read_dir(&top).unwrap().count(), 4);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        symlink("loop", top.join("loop")).unwrap();
        let nothing = || io::empty();
        for (path, absent) in [("", false), ("loop", false), ("no/file", true)] {
            let why = put(&top.join(path), None, Rights::default(), nothing()).unwrap_err();
            assert_eq!(matches!(why, Trouble::Absent(_)), absent, "{why:?}");
        }
        let why = get(&top.join("none"), io::sink()).unwrap_err();
        assert!(matches!(why, Trouble::Absent(_)), "{why:?}");
        let why = get(top, io::sink()).unwrap_err();
        assert!(matches!(why, Trouble::Other(_)), "{why:?}");
        // What is cut off leaves nothing.
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("it broke"))
            }
        }
        put(&top.join("new"), None, Rights::default(), Broken).unwrap_err();
        assert_eq!(fs::read_dir(top).unwrap().count(), 1);
    }

    #[test]
    fn only_what_came_to_its_end_is_whole() {
        let whole = b"\x03\0\0\0abc\x02\0\0\0de\0\0\0\0and more";
        let read = |bytes: &[u8]| {
            let mut text = Vec::new();
            Pieces::new(bytes).read_to_end(&mut text).map(|_| text)
        };
        assert_eq!(read(whole).unwrap(), b"abcde");
        for end in 0..17 {
            let why = read(&whole[..end]).unwrap_err();
            assert_eq!(why.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
    }

    #[test]
    fn what_has_no_length_is_read_to_its_end() {
        let mut out = Vec::new();
        get(Path::new("/proc/self/status"), &mut out).unwrap();
        let at = out.iter().position(|byte| *byte == b'\n').unwrap();
        let head: FileHead = serde_json::from_slice(&out[..at]).unwrap();
        assert_eq!(head.bytes, (out.len() - at - 1) as u64);
        assert!(head.bytes > 100);
    }
}
