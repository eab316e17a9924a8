//! What has been declared so far, and since when it is not any more: of what lies in a storage only what was declared once
//! and is not now can be told as stale.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::limits;
use super::path::TreePath;
use super::unite::Wanted;

/// The version of [`History`] that is written and understood.
pub const VERSION: u32 = 1;

/// Where it lies, below the storage.
pub const FILE: &str = "/var/lib/mayfly/declared.json";

/// All that was ever declared, so far as there is room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Which version this is.
    pub version: u32,
    /// One entry a path, kind and storage, sorted.
    pub entries: Vec<Entry>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path in the root.
    pub path: TreePath,
    /// Whether it is declared as a directory.
    pub directory: bool,
    /// Where it is kept.
    pub storage: TreePath,
    /// When it was seen first, in milliseconds since 1970.
    pub first_unix_ms: u64,
    /// Since when it has not been declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_unix_ms: Option<u64>,
}

type Key = (TreePath, bool, TreePath);

impl Entry {
    fn key(&self) -> Key {
        (self.path.clone(), self.directory, self.storage.clone())
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            version: VERSION,
            entries: Vec::new(),
        }
    }
}

impl History {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let history: Self =
            serde_json::from_slice(text).map_err(|e| format!("it is not understood: {e}"))?;
        match history.version {
            VERSION => Ok(history),
            other => Err(format!("it has version {other}, and {VERSION} is known")),
        }
    }

    /// The history with what is `wanted` now; none where it says so already. Where the declarations could not all be read
    /// nothing is taken for gone: what is stored for it is somebody's.
    pub fn with(&self, wanted: &Wanted, now_unix_ms: u64) -> Option<Self> {
        let mut entries: BTreeMap<Key, Entry> = self
            .entries
            .iter()
            .map(|entry| (entry.key(), entry.clone()))
            .collect();
        let declared: BTreeMap<Key, Entry> = wanted
            .declarations
            .iter()
            .map(|declaration| {
                let entry = Entry {
                    path: declaration.path.clone(),
                    directory: declaration.kind.is_directory(),
                    storage: declaration.storage.clone(),
                    first_unix_ms: now_unix_ms,
                    gone_unix_ms: None,
                };
                (entry.key(), entry)
            })
            .collect();
        if !wanted.problems.any_error() {
            for (key, entry) in &mut entries {
                if !declared.contains_key(key) {
                    entry.gone_unix_ms.get_or_insert(now_unix_ms);
                }
            }
        }
        for (key, entry) in declared {
            entries.entry(key).or_insert(entry).gone_unix_ms = None;
        }
        let mut entries: Vec<Entry> = entries.into_values().collect();
        forget(&mut entries);
        (entries != self.entries).then_some(Self {
            version: VERSION,
            entries,
        })
    }
}

/// Makes room: what has been gone for longest is forgotten first, which only means that it is never told as stale.
fn forget(entries: &mut Vec<Entry>) {
    let Some(over @ 1..) = entries.len().checked_sub(limits::HISTORY) else {
        return;
    };
    let numbered = entries.iter().enumerate();
    let mut gone: Vec<(u64, usize)> = numbered
        .filter_map(|(n, e)| e.gone_unix_ms.map(|at| (at, n)))
        .collect();
    gone.sort_unstable();
    let goes: BTreeSet<usize> = gone.into_iter().take(over).map(|(_, n)| n).collect();
    let mut number = 0..;
    entries.retain(|_| number.next().is_none_or(|n| !goes.contains(&n)));
    entries.truncate(limits::HISTORY);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persist::people::People;
    use crate::persist::read::parse_toml;
    use crate::persist::unite::unite;

    fn wanted(text: &str) -> Wanted {
        unite(&parse_toml(""), &parse_toml(text), &People::new())
    }

    fn told(history: &History) -> Vec<(&str, bool, u64, Option<u64>)> {
        let entries = history.entries.iter();
        entries
            .map(|e| {
                (
                    e.path.as_str(),
                    e.directory,
                    e.first_unix_ms,
                    e.gone_unix_ms,
                )
            })
            .collect()
    }

    #[test]
    fn what_is_declared_no_more_is_gone_and_may_come_back() {
        let (both, one) = (
            "[\"/p\"]\ndirectories = [\"/a\"]\nfiles = [\"/b\"]",
            "[\"/p\"]\ndirectories = [\"/a\"]",
        );
        let first = History::default().with(&wanted(both), 10).unwrap();
        assert_eq!(
            told(&first),
            [("/a", true, 10, None), ("/b", false, 10, None)]
        );
        assert_eq!(first.with(&wanted(both), 20), None);
        let second = first.with(&wanted(one), 30).unwrap();
        assert_eq!(
            told(&second),
            [("/a", true, 10, None), ("/b", false, 10, Some(30))]
        );
        assert_eq!(second.with(&wanted(one), 40), None);
        let third = second.with(&wanted(both), 50).unwrap();
        assert_eq!(third, first);
        let text = serde_json::to_vec(&second).unwrap();
        assert_eq!(History::parse(&text), Ok(second));
        assert_eq!(History::default().with(&wanted("[\"/p\"]"), 1), None);
    }

    #[test]
    fn what_could_not_be_read_is_not_gone() {
        let all = "[\"/p\"]\ndirectories = [\"/a\", \"/b\"]";
        let first = History::default().with(&wanted(all), 10).unwrap();
        for broken in [
            "no TOML",
            "[\"/p\"]\ndirectories = [\"/a\", 7]",
            "[\"/p\"]\ndirectories = \"/a\"",
        ] {
            assert_eq!(first.with(&wanted(broken), 20), None, "{broken}");
        }
        let text = "[\"/p\"]\ndirectories = [\"/c\", 7]";
        let more = first.with(&wanted(text), 20).unwrap();
        assert!(more.entries.iter().all(|e| e.gone_unix_ms.is_none()));
        assert_eq!(more.entries.len(), 3);
    }

    #[test]
    fn what_is_declared_is_never_forgotten() {
        let text = |from: usize| {
            let paths: Vec<_> = (from..from + 3_000).map(|n| format!("\"/{n}\"")).collect();
            format!("[\"/p\"]\ndirectories = [{}]", paths.join(","))
        };
        let mut history = History::default();
        for (at, from) in [(1, 0), (2, 3_000), (3, 6_000)] {
            history = history.with(&wanted(&text(from)), at).unwrap();
        }
        assert_eq!(history.entries.len(), limits::HISTORY);
        let here = history.entries.iter().filter(|e| e.gone_unix_ms.is_none());
        assert_eq!(here.count(), 3_000);
        let oldest = history.entries.iter().filter_map(|e| e.gone_unix_ms).min();
        assert_eq!(oldest, Some(3));
    }

    #[test]
    fn what_is_no_history_says_why() {
        assert!(History::parse(b"{").unwrap_err().contains("not understood"));
        let other = br#"{"version": 2, "entries": []}"#;
        assert!(History::parse(other).unwrap_err().contains("version 2"));
        let up = br#"{"version": 1, "entries": [{"path": "/../a", "directory": true, "storage": "/p", "first_unix_ms": 1}]}"#;
        assert!(History::parse(up).is_err());
    }
}
