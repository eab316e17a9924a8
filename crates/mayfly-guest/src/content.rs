//! What a file holds, and how it is copied from one tree into another.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use mayfly_core::persist::limits;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::record::Content;
use rustix::fs::{FileType, OFlags, Stat, fstat, readlinkat};
use sha2::{Digest as _, Sha256};

use crate::tree::{self, Tree, kind, mode_of, name_of};

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

    /// The file.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
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
pub(crate) fn find(tree: &Tree, path: &TreePath) -> Result<Found, String> {
    let fd = match tree.open(path, OFlags::PATH) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => {
            return Ok(Found {
                content: Content::Absent,
                file: None,
                stat: None,
            });
        }
        Err(e) => return Err(tree.explain(path, e)),
    };
    let stat = fstat(&fd).map_err(|e| format!("{path}: {e}"))?;
    match kind(&stat) {
        FileType::Symlink => {
            let target = readlinkat(&fd, "", Vec::new()).map_err(|e| format!("{path}: {e}"))?;
            let target = target
                .into_string()
                .map_err(|_| format!("the link {path} leads to what is no text"))?;
            Ok(Found {
                content: Content::Link { target },
                file: None,
                stat: Some(stat),
            })
        }
        FileType::RegularFile => read(tree, path, &stat),
        other => Err(format!(
            "{path} is {}: only files and symbolic links are copied",
            name_of(other)
        )),
    }
}

fn read(tree: &Tree, path: &TreePath, looked: &Stat) -> Result<Found, String> {
    let fd = tree
        .open(path, OFlags::RDONLY | OFlags::NONBLOCK)
        .map_err(|e| tree.explain(path, e))?;
    let stat = fstat(&fd).map_err(|e| format!("{path}: {e}"))?;
    if !tree::same(&stat, looked) || kind(&stat) != FileType::RegularFile {
        return Err(format!("{path} was replaced while it was looked at"));
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

fn hash(file: &File, path: &TreePath) -> Result<(u64, String), String> {
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
) -> Result<(), String> {
    let mut piece = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        let read = { file }
            .read(&mut piece)
            .map_err(|e| format!("{path}: {e}"))?;
        if read == 0 {
            return Ok(());
        }
        total += read as u64;
        if total > limits::COPY_BYTES {
            return Err(format!(
                "{path} is larger than 16 MiB, which is the most that is copied"
            ));
        }
        take(&piece[..read]).map_err(|e| e.to_string())?;
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
    before: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let made = make(found, from, parent, sync)
        .and_then(|()| before())
        .and_then(|()| {
            tree::finish(parent, name).map_err(|e| format!("cannot put {name} into its place: {e}"))
        });
    if made.is_err() {
        tree::abandon(parent);
        return made;
    }
    if sync {
        tree::sync_directory(parent).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn make(found: &Found, from: &TreePath, parent: &OwnedFd, sync: bool) -> Result<(), String> {
    let (sha256, uid, gid, mode) = match &found.content {
        Content::Absent => return Err(format!("{from} is not there")),
        Content::Link { target } => {
            return tree::new_link(parent, target).map_err(|e| e.to_string());
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
        return Err(format!("{from} is not open"));
    };
    std::io::Seek::rewind(&mut { source }).map_err(|e| format!("{from}: {e}"))?;
    let new = tree::new_file(parent).map_err(|e| format!("cannot make a new file: {e}"))?;
    let mut sum = Sha256::new();
    each_piece(source, from, |piece| {
        sum.update(piece);
        { &new }.write_all(piece)
    })?;
    if hex(&sum.finalize()) != *sha256 {
        return Err(format!("{from} was written to while it was copied"));
    }
    // The owner first: a change of owner takes set-id bits away.
    tree::set_owner(&new, uid, gid)
        .and_then(|()| tree::set_mode(&new, mode))
        .map_err(|e| e.to_string())?;
    if sync {
        new.sync_all().map_err(|e| e.to_string())?;
    }
    Ok(())
}
