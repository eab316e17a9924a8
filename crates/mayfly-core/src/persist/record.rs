//! What was placed at birth, so that it can be taken back at the end (SPEC P4).

use serde::{Deserialize, Serialize};

use super::declare::cut;
use super::limits;
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
    /// The files that were taken, the first [`limits::TOLD`] of them.
    #[serde(default)]
    pub files: Vec<String>,
    /// How many there were.
    #[serde(default)]
    pub count: usize,
    /// What never will be taken and why, such as a file that is too large; as many.
    #[serde(default)]
    pub refused: Vec<String>,
}

/// How taking copies back from one root went, as the helper tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harvested {
    /// Which version this is.
    pub version: u32,
    /// Whether all was looked at.
    pub state: HarvestState,
    /// Why not, or what else there is to say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// The files that were taken, the first [`limits::TOLD`] of them.
    pub taken: Vec<String>,
    /// How many there were.
    pub taken_count: usize,
    /// What never will be taken and why; as many.
    pub refused: Vec<String>,
    /// All files, as far as there is room.
    pub files: Vec<HarvestLine>,
    /// How many more there are.
    pub omitted: usize,
}

/// Whether a harvest has to be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HarvestState {
    /// All that ever can be taken was taken.
    Done,
    /// Something may be taken later.
    Incomplete,
    /// There is no record: nothing was placed.
    None,
}

/// One file of a harvest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HarvestLine {
    /// In the root.
    pub path: String,
    /// `taken`, `unchanged`, `stored`, `absent`, `empty`, `unsettled`, `refused` (for good) or `failed` (perhaps later).
    pub what: String,
    /// Why it is refused or failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

impl Harvested {
    /// A harvest of nothing yet.
    pub fn new(state: HarvestState, why: Option<String>) -> Self {
        Self {
            version: VERSION,
            state,
            why: why.as_deref().map(cut),
            taken: Vec::new(),
            taken_count: 0,
            refused: Vec::new(),
            files: Vec::new(),
            omitted: 0,
        }
    }

    /// Adds what became of one file. A guest can make a record of very many: only so much is told.
    pub fn add(&mut self, path: &str, what: &str, why: Option<String>) {
        let why = why.as_deref().map(cut);
        match (what, &why) {
            ("taken", _) => {
                self.taken_count += 1;
                if self.taken.len() < limits::TOLD {
                    self.taken.push(path.to_owned());
                }
            }
            ("refused", Some(why)) => self.refuse(path, why),
            ("failed", _) => self.state = HarvestState::Incomplete,
            _ => {}
        }
        let room = if why.is_some() {
            limits::TOLD_FILES
        } else {
            limits::TOLD_FILES / 2
        };
        if self.files.len() < room {
            self.files.push(HarvestLine {
                path: path.to_owned(),
                what: what.to_owned(),
                why,
            });
        } else {
            self.omitted += 1;
        }
    }

    /// Adds what never will be taken.
    pub fn refuse(&mut self, path: &str, why: &str) {
        if self.refused.len() < limits::TOLD {
            self.refused.push(cut(&format!("{path}: {why}")));
        }
    }
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
    #[test]
    fn a_harvest_of_very_many_files_is_told_in_bounds() {
        let mut told = Harvested::new(HarvestState::Done, None);
        let path = format!("/{}", "\"".repeat(1_000));
        for what in ["taken", "refused", "unchanged"] {
            for _ in 0..20_000 {
                let why = (what == "refused").then(|| "\u{1}".repeat(2_000));
                told.add(&path, what, why);
            }
        }
        assert_eq!((told.taken.len(), told.taken_count), (64, 20_000));
        assert_eq!((told.refused.len(), told.files.len()), (64, 128));
        assert_eq!(told.omitted, 59_872);
        assert_eq!(told.state, HarvestState::Done);
        told.add("/a", "failed", Some("no space".to_owned()));
        assert_eq!(told.state, HarvestState::Incomplete);
        assert!(serde_json::to_vec(&told).unwrap().len() < limits::HARVESTED_BYTES);
    }
}
