//! The verb `harvest`: changed copies are taken back into the storage, from a root that is dead or from a running one.
//!
//! Only what this root's record says was placed is looked at, and only what differs from what was placed is taken
//! ([`judge`]). The storage's version before stays beside it as `.prev`. A file that is absent, empty, not a file, too
//! large, or in the middle of being written changes nothing; the report says so.
//!
//! Record and files are a guest's. What it can make of them is refused for good, so that no root has to be kept for it;
//! what has other reasons may go well later, and the harvest is incomplete until then.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mayfly_core::persist::limits;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::record::{
    Content, HarvestState, Harvested, Placed, Record, Verdict, judge,
};
use rustix::fs::{AtFlags, StatVfsMountFlags, fstatvfs, linkat, renameat, unlinkat};
use rustix::io::Errno;

use crate::apply::{read_record, record_path, remove_record, write_record};
use crate::content::{Found, find, put, size_of};
use crate::sys;
use crate::tree::{Tree, Trouble};

/// How long a file has to have been left alone.
const SETTLE: Duration = Duration::from_secs(1);
/// A link to the storage's version, until it has its name.
const PREVIOUS: &str = ".mayfly-previous";
/// As many files as a record has: declarations, and the accounts.
const FILES: usize = limits::DECLARATIONS + 16;

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

/// Harvests one root. Idempotent: what was taken is not taken again. Of a dead root that is done with the record is
/// removed.
pub(crate) fn harvest(plan: &Harvest<'_>) -> Harvested {
    let at = match record_path(&plan.storage, &plan.run) {
        Ok(at) => at,
        Err(why) => return Harvested::new(HarvestState::Incomplete, Some(why)),
    };
    let (tree, in_tree) = plan.locate(&at);
    let mut told = match read_record(tree, &in_tree, &plan.run) {
        Ok(Some(record)) => plan.take_all(record, tree, &in_tree),
        Ok(None) => {
            let why = Some("nothing was placed in this root".to_owned());
            return Harvested::new(HarvestState::None, why);
        }
        Err(trouble) if trouble.is_lasting => {
            let why = "what was placed is not known, and nothing is taken";
            let mut told = Harvested::new(HarvestState::Done, Some(why.to_owned()));
            told.refuse(at.as_str(), &trouble.what);
            told
        }
        Err(trouble) => return Harvested::new(HarvestState::Incomplete, Some(trouble.what)),
    };
    if told.state == HarvestState::Done && plan.when != When::Running {
        if let Err(why) = remove_record(tree, &in_tree) {
            // Without meaning, now that all of it is in the storage; the next birth removes it.
            told.why
                .get_or_insert_with(|| format!("the record is left: {why}"));
        }
    }
    told
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unchanged => "unchanged",
        Verdict::Stored => "stored",
        Verdict::Absent => "absent",
        Verdict::Empty => "empty",
        Verdict::Unsettled => "unsettled",
        Verdict::Take => "taken",
    }
}

/// How much one harvest has read.
#[derive(Default)]
struct Read {
    root: u64,
    storage: u64,
}

impl Harvest<'_> {
    /// Takes what the record names. What was taken is placed from then on; of a dead root nobody has to know.
    fn take_all(&self, mut record: Record, tree: &Tree, at: &TreePath) -> Harvested {
        let mut told = Harvested::new(HarvestState::Done, None);
        let (mut read, mut changed) = (Read::default(), false);
        for placed in record.files.iter_mut().take(FILES) {
            let path = placed.path.to_string();
            match self.take(placed, tree, &mut read) {
                Ok((verdict, content)) => {
                    if verdict == Verdict::Take {
                        placed.content = content;
                        changed = true;
                    }
                    if verdict == Verdict::Unsettled && self.when == When::Running {
                        told.state = HarvestState::Incomplete;
                    }
                    told.add(&path, word(verdict), None);
                }
                Err(trouble) if trouble.is_lasting => {
                    told.add(&path, "refused", Some(trouble.what));
                }
                Err(trouble) => told.add(&path, "failed", Some(trouble.what)),
            }
        }
        if record.files.len() > FILES {
            let why = format!("it names more than {FILES} files: the others are not looked at");
            told.refuse(at.as_str(), &why);
        }
        let needed = self.when == When::Running || told.state != HarvestState::Done;
        if changed && needed {
            if let Err(why) = write_record(tree, at, &record) {
                told.state = HarvestState::Incomplete;
                told.why = Some(why);
            }
        }
        told
    }

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

    /// Takes one file. `records` has the record, and shows whether anything can be written at all.
    fn take(
        &self,
        placed: &Placed,
        records: &Tree,
        read: &mut Read,
    ) -> Result<(Verdict, Content), Trouble> {
        let found = find_within(self.root, &placed.path, &mut read.root)?;
        // Most files are as they were placed: then nobody asks what is stored.
        let early = judge(&placed.content, &found.content, &Content::Absent, true);
        if early != Verdict::Take {
            return Ok((early, found.content));
        }
        let (tree, at) = self.locate(&placed.stored);
        let stored = find_within(tree, &at, &mut read.storage)?;
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
            .map_err(|e| tree.trouble(&parent, e))?;
        if is_read_only(&parent)? && !is_read_only(&top(records)?)? {
            let what = format!("{} lies where nothing can be written", placed.stored);
            return Err(Trouble::lasting(what));
        }
        let has_previous = stored.content != Content::Absent;
        put(&found, &placed.path, &parent, at.name(), true, || {
            if self.when == When::Running && !self.is_settled(&found) {
                let what = format!("{} is being written to", placed.path);
                return Err(Trouble::passing(what));
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
                .is_none_or(|(file, owner)| !sys::is_open_for_writing(file, owner))
    }
}

/// Finds what lies at `path`, as long as all of it together is no more than a harvest reads.
fn find_within(tree: &Tree, path: &TreePath, read: &mut u64) -> Result<Found, Trouble> {
    let size = match tree.look(path) {
        Ok(Some(stat)) => size_of(&stat).min(limits::COPY_BYTES),
        // What is wrong with it is said by who opens it.
        Ok(None) | Err(_) => 0,
    };
    if *read + size > limits::HARVEST_BYTES {
        return Err(Trouble::lasting(
            "all copies together are larger than 256 MiB, and this one finds no room in that",
        ));
    }
    *read += size;
    find(tree, path)
}

fn top(tree: &Tree) -> Result<OwnedFd, Trouble> {
    let top = TreePath::top();
    tree.directory(&top).map_err(|e| tree.trouble(&top, e))
}

fn is_read_only(directory: &OwnedFd) -> Result<bool, Trouble> {
    let seen = fstatvfs(directory).map_err(|e| Trouble::of("the storage", e))?;
    Ok(seen.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Gives the storage's version a second name, and by that name the place of the one before it. The file itself is never
/// missing.
fn keep_previous(parent: &OwnedFd, name: &str) -> Result<(), Trouble> {
    let link = || linkat(parent, name, parent, PREVIOUS, AtFlags::empty());
    let linked = link().or_else(|e| match e {
        Errno::EXIST => unlinkat(parent, PREVIOUS, AtFlags::empty()).and_then(|()| link()),
        e => Err(e),
    });
    let previous = format!("{name}.prev");
    let kept = linked.and_then(|()| renameat(parent, PREVIOUS, parent, &previous));
    // Where both are one file already, rename leaves both names.
    let _ = unlinkat(parent, PREVIOUS, AtFlags::empty());
    let at = format!("the version before cannot be kept as {previous}");
    kept.map_err(|e| Trouble::of(at, e))
}
