//! What a file holds, and how it is copied from one tree into another.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use mayfly_core::persist::limits;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::record::Content;
use rustix::fs::{FileType, OFlags, Stat, fstat, readlinkat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::attributes;
use crate::tree::{self, Tree, Trouble, kind, mode_of, name_of};

/// What lies at a path, open for reading where it is a file.
pub(crate) struct Found {
    /// What it holds.
    pub(crate) content: Content,
    /// The file, read to its end.
    file: Option<File>,
    stat: Option<Stat>,
}

impl Found {
    /// When it was last changed, in any way, as seconds and nanoseconds; none where nothing is.
    pub(crate) fn changed(&self) -> Option<(i64, i64)> {
        self.stat.map(|s| {
            let (data, all) = (
                (s.st_mtime, s.st_mtime_nsec as i64),
                (s.st_ctime, s.st_ctime_nsec as i64),
            );
            data.max(all)
        })
    }

    /// The file, and who owns it.
    pub(crate) fn file(&self) -> Option<(&File, u32)> {
        let owner = self.stat.as_ref()?.st_uid;
        self.file.as_ref().map(|file| (file, owner))
    }

    /// Its length.
    pub(crate) fn size(&self) -> u64 {
        match self.content {
            Content::File { size_bytes, .. } => size_bytes,
            _ => 0,
        }
    }
}

/// Looks at `path` and hashes it. Everything that is neither a regular file of a sensible size nor a link is refused, and
/// opened only to be looked at.
pub(crate) fn find(tree: &Tree, path: &TreePath) -> Result<Found, Trouble> {
    let fd = match tree.open(path, OFlags::PATH) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => {
            return Ok(Found {
                content: Content::Absent,
                file: None,
                stat: None,
            });
        }
        Err(e) => return Err(tree.trouble(path, e)),
    };
    let stat = fstat(&fd).map_err(|e| Trouble::of(path, e))?;
    match kind(&stat) {
        FileType::Symlink => {
            let target = readlinkat(&fd, "", Vec::new()).map_err(|e| Trouble::of(path, e))?;
            let target = target
                .into_string()
                .map_err(|_| Trouble::lasting(format!("the link {path} leads to no text")))?;
            Ok(Found {
                content: Content::Link { target },
                file: None,
                stat: Some(stat),
            })
        }
        FileType::RegularFile if size_of(&stat) > limits::COPY_BYTES => Err(too_large(path)),
        FileType::RegularFile => read(tree, path, &stat),
        other => Err(Trouble::lasting(format!(
            "{path} is {}: only files and symbolic links are copied",
            name_of(other)
        ))),
    }
}

/// The length of what was looked at.
pub(crate) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn too_large(path: &TreePath) -> Trouble {
    Trouble::lasting(format!(
        "{path} is larger than 16 MiB, which is the most that is copied"
    ))
}

fn read(tree: &Tree, path: &TreePath, looked: &Stat) -> Result<Found, Trouble> {
    let fd = tree
        .open(path, OFlags::RDONLY | OFlags::NONBLOCK)
        .map_err(|e| tree.trouble(path, e))?;
    let stat = fstat(&fd).map_err(|e| Trouble::of(path, e))?;
    if !tree::same(&stat, looked) || kind(&stat) != FileType::RegularFile {
        let what = format!("{path} was replaced while it was looked at");
        return Err(Trouble::passing(what));
    }
    let file = File::from(fd);
    let (size_bytes, sha256) = hash(&file, path)?;
    let content = Content::File {
        size_bytes,
        sha256,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: mode_of(&stat),
    };
    Ok(Found {
        content,
        file: Some(file),
        stat: Some(stat),
    })
}

fn hash(file: &File, path: &TreePath) -> Result<(u64, String), Trouble> {
    let mut sum = Sha256::new();
    let mut size = 0;
    each_piece(file, path, |piece| {
        sum.update(piece);
        size += piece.len() as u64;
        Ok(())
    })?;
    Ok((size, hex(&sum.finalize())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn each_piece(
    file: &File,
    path: &TreePath,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), Trouble> {
    let mut piece = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        let read = { file }
            .read(&mut piece)
            .map_err(|e| Trouble::of(path, e))?;
        if read == 0 {
            return Ok(());
        }
        total += read as u64;
        if total > limits::COPY_BYTES {
            return Err(too_large(path));
        }
        take(&piece[..read]).map_err(|e| Trouble::of("a new file", e))?;
    }
}

/// Puts what was found under `name` into `parent`, in the place of what had that name, and says whether it was the same
/// to its end. With `sync` it survives a power failure, or was never there.
pub(crate) fn put(
    found: &Found,
    from: &TreePath,
    parent: &OwnedFd,
    name: &str,
    sync: bool,
    before: impl FnOnce() -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let made = make(found, from, parent, sync)
        .and_then(|()| before())
        .and_then(|()| {
            let at = format!("{name} cannot be put into its place");
            tree::finish(parent, name).map_err(|e| Trouble::of(at, e))
        });
    if made.is_err() {
        tree::abandon(parent);
        return made;
    }
    if sync {
        tree::sync_directory(parent).map_err(|e| Trouble::of(name, e))?;
    }
    Ok(())
}

fn make(found: &Found, from: &TreePath, parent: &OwnedFd, sync: bool) -> Result<(), Trouble> {
    let failed = |e: Errno| Trouble::of(format!("a copy of {from} cannot be made"), e);
    let (sha256, uid, gid, mode) = match &found.content {
        Content::Absent => return Err(Trouble::lasting(format!("{from} is not there"))),
        Content::Link { target } => {
            return tree::new_link(parent, target).map_err(failed);
        }
        Content::File {
            sha256,
            uid,
            gid,
            mode,
            ..
        } => (sha256, *uid, *gid, *mode),
    };
    let Some(source) = &found.file else {
        return Err(Trouble::lasting(format!("{from} is not open")));
    };
    std::io::Seek::rewind(&mut { source }).map_err(|e| Trouble::of(from, e))?;
    let new = tree::new_file(parent).map_err(failed)?;
    let mut sum = Sha256::new();
    each_piece(source, from, |piece| {
        sum.update(piece);
        { &new }.write_all(piece)
    })?;
    if hex(&sum.finalize()) != *sha256 {
        let what = format!("{from} was written to while it was copied");
        return Err(Trouble::passing(what));
    }
    // The owner first: a change of owner takes set-id bits away.
    tree::set_owner(&new, uid, gid)
        .and_then(|()| tree::set_mode(&new, mode))
        .map_err(failed)?;
    attributes::copy(source, from, &new)?;
    if sync {
        new.sync_all().map_err(|e| Trouble::of("a new file", e))?;
    }
    Ok(())
}
