//! What has been declared so far, kept in the storage for whoever asks later what of it is stale.

use std::time::{SystemTime, UNIX_EPOCH};

use mayfly_core::persist::declare::Problems;
use mayfly_core::persist::history::{FILE, History};
use mayfly_core::persist::limits;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::unite::Wanted;
use rustix::fs::renameat;

use crate::tree::{Tree, write};

/// Brings the history up to date, if it is not. Trouble with it is told, and keeps nothing from staying.
pub(super) fn keep(tree: &Tree, storage: &TreePath, wanted: &Wanted, problems: &mut Problems) {
    let Ok(at) = storage.join(FILE) else {
        return;
    };
    let old = match tree.read(&at, limits::HISTORY_BYTES) {
        Ok(old) => old.map(|bytes| History::parse(&bytes)),
        Err(trouble) if trouble.is_lasting => Some(Err(trouble.what)),
        Err(trouble) => return problems.warn(at.as_str(), trouble.what),
    };
    let old = match old {
        None => History::default(),
        Some(Ok(history)) => history,
        Some(Err(why)) => match put_aside(tree, &at) {
            Ok(previous) => {
                let what = format!("{why}; it is kept as {previous}, and a new one is begun");
                problems.warn(at.as_str(), what);
                History::default()
            }
            Err(e) => return problems.warn(at.as_str(), format!("{why}; {e}")),
        },
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let Some(new) = old.with(wanted, now) else {
        return;
    };
    let written = serde_json::to_vec(&new)
        .map_err(|e| e.to_string())
        .and_then(|bytes| {
            tree.make_directories(&at.parent().unwrap_or_else(TreePath::top), 0o755)?;
            write(tree, &at, &bytes, 0o600)
        });
    if let Err(why) = written {
        problems.warn(at.as_str(), why);
    }
}

/// Renames what is no history, whatever it is, and says to what.
fn put_aside(tree: &Tree, at: &TreePath) -> Result<String, String> {
    let previous = format!("{}.prev", at.name());
    let rename = || {
        let directory = tree.directory(&at.parent().unwrap_or_else(TreePath::top))?;
        renameat(&directory, at.name(), &directory, &previous)
    };
    match rename() {
        Ok(()) => Ok(previous),
        Err(e) => Err(tree.explain(at, e)),
    }
}
