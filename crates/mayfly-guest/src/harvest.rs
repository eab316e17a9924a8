//! The verb `harvest`: changed copies are taken back into the storage, from a root that is dead or from a running one.
//!
//! Only what this root's record says was placed is looked at, and only what differs from what was placed is taken
//! ([`judge`]). The storage's version before stays beside it as `.prev`. A file that is absent, empty, not a file, too
//! large, or in the middle of being written changes nothing; the report says so.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::record::{Content, Placed, Verdict, judge};
use rustix::fs::{AtFlags, linkat, renameat, unlinkat};
use rustix::io::Errno;
use serde::Serialize;

use crate::apply::{read_record, record_path, write_record};
use crate::content::{Found, find, put};
use crate::sys;
use crate::tree::Tree;

/// How long a file has to have been left alone.
const SETTLE: Duration = Duration::from_secs(1);
/// A link to the storage's version, until it has its name.
const PREVIOUS: &str = ".mayfly-previous";

/// What is harvested, and how.
pub(crate) struct Harvest<'a> {
    /// The root whose files are looked at.
    pub(crate) root: &'a Tree,
    /// Where storages are, by what they are called in the root; others are looked for in it.
    pub(crate) storages: BTreeMap<TreePath, Tree>,
    /// The storage that has the record.
    pub(crate) storage: TreePath,
    /// The run.
    pub(crate) run: String,
    /// How the root stands.
    pub(crate) when: When,
}

/// How a root stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Its run goes on: files that are open for writing or were written a moment ago are left for the next time.
    Running,
    /// Its run ended in order.
    Ended,
    /// Its run crashed at that time, as time since the epoch: what was written a moment before may be half of something.
    Crashed(Duration),
}

/// One file.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    path: String,
    /// `taken`, a verdict, or `failed`.
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// All files.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: u32,
    /// `done`, `incomplete`, or `none` without a record.
    pub(crate) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    files: Vec<Line>,
}

impl Report {
    /// A report of nothing, because of `why`.
    pub(crate) fn failed(why: String) -> Self {
        Self {
            version: 1,
            state: "incomplete",
            why: Some(why),
            files: Vec::new(),
        }
    }
}

/// Harvests one root. Idempotent: what was taken is not taken again.
pub(crate) fn harvest(plan: &Harvest<'_>) -> Report {
    let at = match record_path(&plan.storage, &plan.run) {
        Ok(at) => at,
        Err(why) => return Report::failed(why),
    };
    let (tree, in_tree) = plan.locate(&at);
    let mut record = match read_record(tree, &in_tree, &plan.run) {
        Ok(Some(record)) => record,
        Ok(None) => {
            let why = Some("nothing was placed in this root".to_owned());
            return Report {
                version: 1,
                state: "none",
                why,
                files: Vec::new(),
            };
        }
        Err(why) => return Report::failed(why),
    };
    let mut files = Vec::new();
    let (mut complete, mut changed) = (true, false);
    for placed in &mut record.files {
        let line = match plan.take(placed) {
            Ok((Verdict::Take, content)) => {
                placed.content = content;
                changed = true;
                Line {
                    path: placed.path.to_string(),
                    what: "taken",
                    why: None,
                }
            }
            Ok((verdict, _)) => {
                complete &= verdict != Verdict::Unsettled || plan.when != When::Running;
                Line {
                    path: placed.path.to_string(),
                    what: told(verdict),
                    why: None,
                }
            }
            Err(why) => {
                complete = false;
                Line {
                    path: placed.path.to_string(),
                    what: "failed",
                    why: Some(why),
                }
            }
        };
        files.push(line);
    }
    let mut why = None;
    if changed && let_write(tree, &in_tree, &record, &mut why).is_none() {
        complete = false;
    }
    Report {
        version: 1,
        state: if complete { "done" } else { "incomplete" },
        why,
        files,
    }
}

fn let_write(
    tree: &Tree,
    at: &TreePath,
    record: &mayfly_core::persist::record::Record,
    why: &mut Option<String>,
) -> Option<()> {
    match write_record(tree, at, record) {
        Ok(()) => Some(()),
        Err(e) => {
            *why = Some(e);
            None
        }
    }
}

fn told(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unchanged => "unchanged",
        Verdict::Stored => "stored",
        Verdict::Absent => "absent",
        Verdict::Empty => "empty",
        Verdict::Unsettled => "unsettled",
        Verdict::Take => "taken",
    }
}

impl Harvest<'_> {
    /// The tree that has `path`, and what it is called there.
    fn locate(&self, path: &TreePath) -> (&Tree, TreePath) {
        let holds = |(storage, _): &(&TreePath, &Tree)| path.is_in(storage);
        match self
            .storages
            .iter()
            .filter(holds)
            .max_by_key(|(storage, _)| storage.as_str().len())
        {
            Some((storage, tree)) => {
                let rest = path
                    .as_str()
                    .strip_prefix(storage.as_str())
                    .unwrap_or_default();
                (tree, TreePath::parse(rest).unwrap_or_else(|_| path.clone()))
            }
            None => (self.root, path.clone()),
        }
    }

    fn take(&self, placed: &Placed) -> Result<(Verdict, Content), String> {
        let found = find(self.root, &placed.path)?;
        let (tree, at) = self.locate(&placed.stored);
        let stored = find(tree, &at)?;
        let verdict = judge(
            &placed.content,
            &found.content,
            &stored.content,
            self.is_settled(&found),
        );
        if verdict != Verdict::Take {
            return Ok((verdict, found.content));
        }
        let parent = at.parent().unwrap_or_else(TreePath::top);
        let parent = tree
            .directory(&parent)
            .map_err(|e| tree.explain(&parent, e))?;
        let has_previous = stored.content != Content::Absent;
        put(&found, &placed.path, &parent, at.name(), true, || {
            if self.when == When::Running && !self.is_settled(&found) {
                return Err(format!("{} is being written to", placed.path));
            }
            if has_previous {
                keep_previous(&parent, at.name())
            } else {
                Ok(())
            }
        })?;
        Ok((Verdict::Take, found.content))
    }

    fn is_settled(&self, found: &Found) -> bool {
        let end = match self.when {
            When::Ended => return true,
            When::Crashed(at) => at,
            When::Running => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        };
        let Some((seconds, nanoseconds)) = found.changed() else {
            return true;
        };
        let changed = Duration::new(
            u64::try_from(seconds).unwrap_or(0),
            u32::try_from(nanoseconds).unwrap_or(0),
        );
        // Of a running root a time in the future proves nothing; of a crashed one it was set by hand.
        if changed + SETTLE > end {
            return false;
        }
        self.when != When::Running
            || found
                .file()
                .is_none_or(|file| !sys::is_open_for_writing(file))
    }
}

/// Gives the storage's version a second name, and by that name the place of the one before it. The file itself is never
/// missing.
fn keep_previous(parent: &OwnedFd, name: &str) -> Result<(), String> {
    let link = || linkat(parent, name, parent, PREVIOUS, AtFlags::empty());
    let linked = link().or_else(|e| match e {
        Errno::EXIST => unlinkat(parent, PREVIOUS, AtFlags::empty()).and_then(|()| link()),
        e => Err(e),
    });
    let previous = format!("{name}.prev");
    let kept = linked.and_then(|()| renameat(parent, PREVIOUS, parent, &previous));
    // Where both are one file already, rename leaves both names.
    let _ = unlinkat(parent, PREVIOUS, AtFlags::empty());
    kept.map_err(|e| format!("the version before cannot be kept as {previous}: {e}"))
}
