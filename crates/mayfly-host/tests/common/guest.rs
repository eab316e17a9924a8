//! What guests do to the trees of their datasets, done to a directory.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use mayfly_core::bytes::Bytes;
use mayfly_core::conformance::{PutError, Rights, Thing};
use mayfly_core::ids::Digest;
use mayfly_core::names::TemplatePart;
use mayfly_core::ports::Outcome;
use mayfly_host::storage::TemplatePool;

const PIECE: usize = 1 << 20;

fn place(top: &Path, path: &str) -> PathBuf {
    top.join(path.trim_start_matches('/'))
}

fn put_error(error: &io::Error) -> PutError {
    match error.kind() {
        io::ErrorKind::QuotaExceeded => PutError::Quota,
        io::ErrorKind::StorageFull => PutError::NoSpace,
        _ => PutError::Failed(error.to_string()),
    }
}

pub(crate) fn put(top: &Path, path: &str, thing: &Thing) -> Result<(), PutError> {
    let at = place(top, path);
    match fs::symlink_metadata(&at) {
        Ok(there) if !there.is_dir() => fs::remove_file(&at).map_err(|e| put_error(&e))?,
        Ok(_) | Err(_) => {}
    }
    let made = |kind: &[&str]| {
        let status = Command::new("mknod").arg(&at).args(kind).status().unwrap();
        assert!(status.success(), "mknod {path}: {status}");
        Ok(())
    };
    let done = match thing {
        Thing::Directory => fs::create_dir(&at),
        Thing::Text(text) => fs::write(&at, text),
        Thing::Program => fs::write(&at, "#!/bin/sh\n")
            .and_then(|()| fs::set_permissions(&at, fs::Permissions::from_mode(0o755))),
        Thing::Filled(size) => fill(&at, *size),
        Thing::Link(to) => symlink(to, &at),
        Thing::Pipe => made(&["p"]),
        Thing::Device => made(&["c", "1", "3"]),
    };
    done.map_err(|e| put_error(&e))
}

/// Writes what no file system makes smaller, and has it written out now and then, as quotas of OpenZFS hold from one
/// transaction to the next.
fn fill(at: &Path, size: Bytes) -> io::Result<()> {
    let mut file = fs::File::create(at)?;
    let mut seed = u64::from_ne_bytes(rand_bytes());
    let mut piece = vec![0; PIECE];
    let mut left = usize::try_from(size.0).unwrap();
    while left > 0 {
        for chunk in piece.chunks_exact_mut(8) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            chunk.copy_from_slice(&seed.to_ne_bytes());
        }
        let length = left.min(PIECE);
        file.write_all(&piece[..length])?;
        left -= length;
        if left % (2 * PIECE) == 0 {
            file.sync_data()?;
        }
    }
    file.sync_all()
}

/// Not zero.
fn rand_bytes() -> [u8; 8] {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    bytes[0] |= 1;
    bytes
}

pub(crate) fn read(top: &Path, path: &str) -> Option<String> {
    let at = place(top, path);
    let there = fs::symlink_metadata(&at).ok()?;
    there.is_file().then(|| fs::read_to_string(&at).unwrap())
}

pub(crate) fn remove(top: &Path, path: &str) -> Result<(), PutError> {
    fs::remove_file(place(top, path)).map_err(|e| put_error(&e))
}

pub(crate) fn rights(top: &Path, path: &str) -> Rights {
    let seen = fs::symlink_metadata(place(top, path)).unwrap();
    Rights {
        uid: seen.uid(),
        gid: seen.gid(),
        mode: seen.mode() & 0o7777,
    }
}

/// Builds a template whose parts have these contents.
pub(crate) fn build(
    pool: &dyn TemplatePool,
    digest: &Digest,
    parts: &[(TemplatePart, Vec<(&str, Thing)>)],
) {
    let mut staging = pool.begin_template(&"built".parse().unwrap()).unwrap();
    for (part, contents) in parts {
        let top = staging.part(part).unwrap();
        for (path, thing) in contents {
            put(&top, path, thing).unwrap();
        }
    }
    assert_eq!(staging.publish(digest), Ok(Outcome::Changed));
}
