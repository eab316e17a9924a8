//! What was placed at birth, so that it can be taken back at the end (SPEC P4).

use serde::{Deserialize, Serialize};

use super::path::TreePath;

/// The version of [`Record`] that is written.
pub const VERSION: u32 = 1;

/// Where the records of all runs lie, below the storage.
pub const DIRECTORY: &str = "/var/lib/mayfly/placed";

/// What was placed in one temporary root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which version this is.
    pub version: u32,
    /// The run whose root it is.
    pub run: String,
    /// Its files.
    pub files: Vec<Placed>,
}

/// One file: only what is recorded here is ever taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// In the root.
    pub path: TreePath,
    /// Where it lies, from the top.
    pub stored: TreePath,
    /// What lay in the root when the root was born: what the storage had, or else what the base has.
    pub content: Content,
}

/// What a path held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Content {
    /// Nothing.
    Absent,
    /// A regular file.
    File {
        /// Its length.
        size_bytes: u64,
        /// SHA-256 of it, in hex.
        sha256: String,
        /// Who owned it.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its mode.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: String,
    },
}

impl Content {
    /// Whether there is anything in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::File { size_bytes, .. } => *size_bytes == 0,
            Self::Link { .. } => false,
        }
    }
}

/// How a root came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Ending {
    /// In order: whatever there is was meant to be.
    InOrder,
    /// It crashed, or was killed: what was written a moment before may be half of something.
    Crashed {
        /// When, in milliseconds since 1970; where that is not known, the last moment at which it lived for certain.
        at_unix_ms: u64,
    },
}

/// What came of taking copies back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The files that were taken, the first [`limits::TOLD`](super::limits::TOLD) of them.
    #[serde(default)]
    pub files: Vec<String>,
    /// How many there were.
    #[serde(default)]
    pub count: usize,
    /// What never will be taken and why, such as a file that is too large; as many.
    #[serde(default)]
    pub refused: Vec<String>,
}

/// Why a file of a dead root is not taken back, or that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is as it was placed.
    Unchanged,
    /// The storage has the same already.
    Stored,
    /// It is not there: that deletes nothing.
    Absent,
    /// There is nothing in it: that deletes nothing.
    Empty,
    /// It was written to until a moment ago.
    Unsettled,
    /// It is to be taken.
    Take,
}

/// Judges one file: `placed` at birth, `found` now, `stored` in the storage. Pure.
pub fn judge(placed: &Content, found: &Content, stored: &Content, settled: bool) -> Verdict {
    if matches!(found, Content::Absent) {
        return Verdict::Absent;
    }
    if found == placed {
        return Verdict::Unchanged;
    }
    if found.is_empty() {
        return Verdict::Empty;
    }
    if found == stored {
        return Verdict::Stored;
    }
    if settled {
        Verdict::Take
    } else {
        Verdict::Unsettled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Content {
        Content::File {
            size_bytes: text.len() as u64,
            sha256: text.to_owned(),
            uid: 0,
            gid: 0,
            mode: 0o644,
        }
    }

    #[test]
    fn only_what_changed_and_says_something_is_taken() {
        let (a, b, nothing) = (file("a"), file("b"), Content::Absent);
        assert_eq!(judge(&a, &b, &a, true), Verdict::Take);
        assert_eq!(judge(&a, &b, &a, false), Verdict::Unsettled);
        assert_eq!(judge(&a, &a, &b, true), Verdict::Unchanged);
        assert_eq!(judge(&a, &b, &b, true), Verdict::Stored);
        assert_eq!(judge(&a, &nothing, &a, true), Verdict::Absent);
        assert_eq!(judge(&a, &file(""), &a, true), Verdict::Empty);
        assert_eq!(judge(&nothing, &a, &nothing, true), Verdict::Take);
        assert_eq!(judge(&nothing, &nothing, &nothing, true), Verdict::Absent);
        let link = Content::Link {
            target: "a".to_owned(),
        };
        assert_eq!(judge(&a, &link, &a, true), Verdict::Take);
    }
}
