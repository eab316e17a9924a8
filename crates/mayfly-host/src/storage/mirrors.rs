//! Mirrors of documents, and the pool's generation, in a directory of the platform's own corner of the pool.
//!
//! A mirror is a file that is on the disk before it takes its name. The generation is a symlink, made and renamed without
//! waiting for the disk: the file system keeps it in order with what is changed in the pool after it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use mayfly_core::error::LookFailed;
use mayfly_core::mirror::MirrorKey;
use mayfly_core::ports::{HostResult, Outcome};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fstat, fsync, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::contained::{DIRECTORY, names_in, open_below};
use super::records::Records;
use super::refusals::failed;
use crate::crash::crash_point;

const DIR: &str = "mirrors";
const GENERATION: &str = "generation";
/// What is being written. No key has such a name.
const NEW: &str = ".new";
/// A document is a few kilobytes.
const LARGEST: u64 = 4 << 20;

/// The mirrors of an open pool.
#[derive(Debug)]
pub(super) struct Mirrors {
    dir: OwnedFd,
    /// In the corner itself: what is in [`DIR`] are mirrors.
    generation: Records,
    /// Held while it is raised: of two that raise it at the same time the lower one may not be the last.
    raising: Mutex<()>,
}

impl Mirrors {
    /// Those in the platform's own corner; a pool of an earlier version gets the directory here.
    pub(super) fn open(own: OwnedFd) -> HostResult<Self> {
        match mkdirat(&own, DIR, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("making the directory of the mirrors", errno)),
        }
        let dir =
            open_below(&own, DIR, DIRECTORY).map_err(|e| LookFailed::new("the mirrors", e))?;
        Ok(Self {
            dir,
            generation: Records::new(own, GENERATION),
            raising: Mutex::new(()),
        })
    }

    pub(super) fn put(&self, key: &MirrorKey, text: &str) -> HostResult<Outcome> {
        let name = key.file_name();
        if matches!(read(&self.dir, &name), Ok(Some(there)) if there == text) {
            return Ok(Outcome::Unchanged);
        }
        let new = format!("{NEW}:{name}");
        let write = || -> rustix::io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
            let mode = Mode::RUSR | Mode::WUSR;
            let mut file = File::from(openat(&self.dir, &new, flags | OFlags::CLOEXEC, mode)?);
            file.write_all(text.as_bytes())
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            fsync(&file)?;
            crash_point("mirror.after_write");
            renameat(&self.dir, &new, &self.dir, &name)?;
            crash_point("mirror.after_rename");
            fsync(&self.dir)
        };
        write().map_err(|errno| {
            let _ = unlinkat(&self.dir, &new, AtFlags::empty());
            failed(format!("writing the mirror of {key}"), errno)
        })?;
        Ok(Outcome::Changed)
    }

    pub(super) fn remove(&self, key: &MirrorKey) -> HostResult<Outcome> {
        match unlinkat(&self.dir, key.file_name(), AtFlags::empty()) {
            Ok(()) => Ok(Outcome::Changed),
            Err(Errno::NOENT) => Ok(Outcome::Unchanged),
            Err(errno) => Err(failed(format!("removing the mirror of {key}"), errno)),
        }
    }

    pub(super) fn all(&self) -> Result<BTreeMap<MirrorKey, Result<String, String>>, LookFailed> {
        let names = names_in(&self.dir).map_err(|e| LookFailed::new("the mirrors", e))?;
        let mut all = BTreeMap::new();
        for name in names {
            let Some(key) = MirrorKey::from_file_name(&name) else {
                continue;
            };
            match read(&self.dir, &name) {
                Ok(Some(text)) => drop(all.insert(key, Ok(text))),
                // Removed since it was listed.
                Ok(None) => {}
                Err(why) => drop(all.insert(key, Err(why))),
            }
        }
        Ok(all)
    }

    pub(super) fn generation(&self) -> Result<Option<u64>, LookFailed> {
        self.generation
            .read(GENERATION)
            .map_err(|why| LookFailed::new("the generation of the pool", why))
    }

    pub(super) fn raise_generation(&self, to: u64) -> HostResult<Outcome> {
        // It guards nothing that a panic could have spoiled.
        let _alone = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation()? >= Some(to) {
            return Ok(Outcome::Unchanged);
        }
        self.generation.write(GENERATION, &to)?;
        crash_point("generation.after_rename");
        Ok(Outcome::Changed)
    }
}

/// The text of a file; `None` where there is none.
fn read(dir: impl AsFd, name: &str) -> Result<Option<String>, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match open_below(dir, name, flags) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.to_string()),
    };
    let seen = fstat(&file).map_err(|e| e.to_string())?;
    if FileType::from_raw_mode(seen.st_mode) != FileType::RegularFile {
        return Err("it is no file".to_owned());
    }
    let mut text = String::new();
    File::from(file)
        .take(LARGEST)
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_raises_the_generation_last_does_not_lower_it() {
        let dir = tempfile::tempdir().unwrap();
        let own = File::open(dir.path()).unwrap().into();
        let mirrors = Mirrors::open(own).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let mirrors = &mirrors;
                scope.spawn(move || {
                    for n in 0..200 {
                        mirrors.raise_generation(n * 8 + thread).unwrap();
                    }
                });
            }
        });
        assert_eq!(mirrors.generation(), Ok(Some(199 * 8 + 7)));
    }
}
