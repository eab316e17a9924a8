//! The records of what was placed in which root: one file a run, in the storage.

use std::os::fd::AsFd as _;

use mayfly_core::persist::declare::Problems;
use mayfly_core::persist::limits;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::record::{DIRECTORY, Record, VERSION};
use rustix::fs::{AtFlags, Dir, OFlags, unlinkat};
use rustix::io::Errno;

use crate::tree::{Tree, Trouble, sync_directory, write};

/// What a record may be long, in bytes.
const RECORD_BYTES: usize = 8 << 20;

/// The record of `run`.
pub(crate) fn record_path(storage: &TreePath, run: &str) -> Result<TreePath, String> {
    storage
        .join(DIRECTORY)
        .and_then(|at| at.join(&format!("{run}.json")))
        .map_err(str::to_owned)
}

/// Reads the record of `run`; none where there is none.
pub(crate) fn read_record(
    tree: &Tree,
    at: &TreePath,
    run: &str,
) -> Result<Option<Record>, Trouble> {
    let Some(bytes) = tree.read(at, RECORD_BYTES)? else {
        return Ok(None);
    };
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|e| Trouble::lasting(format!("{at} is not understood: {e}")))?;
    if record.version != VERSION || record.run != run {
        return Err(Trouble::lasting(format!(
            "{at} is not the record of this run"
        )));
    }
    Ok(Some(record))
}

/// Writes a record so that it is whole or not there.
pub(crate) fn write_record(tree: &Tree, at: &TreePath, record: &Record) -> Result<(), String> {
    if let Some(directory) = at.parent() {
        tree.make_directories(&directory, 0o700)?;
    }
    let bytes = serde_json::to_vec(record).map_err(|e| e.to_string())?;
    write(tree, at, &bytes, 0o600)
}

/// Removes the record of a root from which nothing is to be taken any more.
pub(crate) fn remove_record(tree: &Tree, at: &TreePath) -> Result<(), String> {
    let remove = || {
        let directory = tree.directory(&at.parent().unwrap_or_else(TreePath::top))?;
        unlinkat(&directory, at.name(), AtFlags::empty())?;
        sync_directory(&directory)
    };
    match remove() {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(tree.explain(at, e)),
    }
}

/// Removes the records of all roots but that of `run`: what is placed from now on is newer than whatever they hold, and a
/// late harvest of one of them must not put that over it.
pub(super) fn prune_records(tree: &Tree, storage: &TreePath, run: &str, problems: &mut Problems) {
    let own = format!("{run}.json");
    let Ok(at) = storage.join(DIRECTORY) else {
        return;
    };
    let list = || -> rustix::io::Result<bool> {
        let directory = tree.open(&at, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut others = Vec::new();
        let mut names = Dir::read_from(&directory)?;
        // The directory itself and the one above are two more.
        for name in names.by_ref().take(limits::RECORDS + 2) {
            let name = name?.file_name().to_owned();
            if name.to_bytes().ends_with(b".json") && name.to_bytes() != own.as_bytes() {
                others.push(name);
            }
        }
        let all = names.next().is_none();
        let mut removed = Ok(all);
        for name in &others {
            if let Err(e) = unlinkat(directory.as_fd(), name, AtFlags::empty()) {
                removed = Err(e);
            }
        }
        if !others.is_empty() {
            sync_directory(&directory)?;
        }
        removed
    };
    match list() {
        Ok(true) | Err(Errno::NOENT) => {}
        Ok(false) => problems.warn(
            at.as_str(),
            format!(
                "there are more than {} names; records of older roots may be left",
                limits::RECORDS
            ),
        ),
        Err(e) => problems.warn(
            at.as_str(),
            format!(
                "records of older roots cannot be removed: {}",
                tree.explain(&at, e)
            ),
        ),
    }
}
