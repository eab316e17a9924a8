//! Copies are taken back while the guest runs, so that little is lost where it comes to a bad end.
//!
//! A run with nothing placed costs nothing. Else the placed files are looked at once a second, by what the kernel tells of
//! them: nothing of the guest's is opened for reading but the record of what was placed, once. Where one has changed and
//! then stood still from one look to the next, the confined harvester is started; the loop of events goes on meanwhile.
//! Each look leaves a time on the run's lock: where nobody is left to write when the guest died, it was alive then.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_core::names::GuestPath;
use mayfly_core::persist::path::TreePath;
use mayfly_core::run::RunSpec;
use rustix::fs::{
    AtFlags, CWD, OFlags, Stat, StatxAttributes, StatxFlags, Timespec, Timestamps, fstat, statx,
    utimensat,
};
use rustix::io::Errno;
use serde::Deserialize;

use crate::crash::crash_point;
use crate::run::harvest::child::Harvester;
use crate::run::harvest::order::{Dataset, Order, Source, When, innermost, record_path};
use crate::run::paths::RunDir;
use crate::run::show::open;
use crate::storage::{open_below, open_regular};

/// From one look to the next.
const LOOK: Duration = Duration::from_secs(1);
/// The longest that what could not be taken is left alone; the first time it is [`LOOK`].
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// After a harvest there is none for so many times as long as it took.
const SHARE: u32 = 50;
/// A longer record is not read here, and of its files no more are looked at: the end of the run takes back all of them.
const RECORD_BYTES: u64 = 256 << 10;
const WATCHED: usize = 256;
/// So many troubles are told of one run.
const TROUBLES: u32 = 20;
/// This very program, also where another one has its name by now.
const PROGRAM: &str = "/proc/self/exe";

/// Whether a dataset is still mounted where the start had put it; one that cannot be looked at is for the harvester to tell.
fn is_shown(source: &Source) -> bool {
    let (Source::Directory { path } | Source::Mapped { path }) = source else {
        return true;
    };
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE).map_or(true, |seen| {
        seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    })
}

/// What was placed in the root of a run, and how it has been doing.
pub(super) struct Settle {
    order: Order,
    lock: PathBuf,
    root: OwnedFd,
    files: Vec<Watched>,
    pace: Pace,
    harvester: Option<(Harvester, Instant)>,
    trouble: String,
    troubles: u32,
}

impl Settle {
    /// Looks what was placed, when the guest's init is about to live. None: nothing was.
    pub(super) fn begin(spec: &RunSpec, dir: &RunDir) -> Option<Self> {
        let persistence = spec.persistence.as_ref().filter(|one| one.temporary_root)?;
        let storage: GuestPath = persistence.storage.as_ref()?.as_str().parse().ok()?;
        let record = record_path(&storage, &spec.run)?;
        let targets = spec.mounts.iter().map(|mount| &mount.target).enumerate();
        let (index, below) = innermost(targets, &record)?;
        let begun = read_record(&dir.dataset(index), below).transpose()?;
        let late = |e| complain!("copies are taken back at the end only: {e}");
        let placed = begun.map_err(late).unwrap_or_default();
        let root = open(&dir.root(), OFlags::DIRECTORY).map_err(late).ok()?;
        let source = |path: PathBuf| path.display().to_string();
        let datasets = spec
            .mounts
            .iter()
            .enumerate()
            .map(|(index, mount)| Dataset {
                source: Source::Directory {
                    path: source(dir.dataset(index)),
                },
                target: mount.target.clone(),
                read_only: mount.read_only,
            });
        let order = Order::new(
            Source::Mapped {
                path: source(dir.root()),
            },
            datasets.collect(),
            spec.ids,
            (storage, spec.run.clone()),
            When::Running,
            source(dir.handover("guest")),
        );
        let mut settle = Self {
            order,
            lock: dir.lock(),
            root,
            files: Vec::new(),
            pace: Pace::new(Instant::now()),
            harvester: None,
            trouble: String::new(),
            troubles: 0,
        };
        settle.files = placed.watch(|path| Stamp::observe(settle.root.as_fd(), path));
        settle.touch();
        Some(settle)
    }

    /// No more looks. A harvest under way is killed, and given back because it may not be dead yet.
    pub(super) fn end(self) -> Option<Harvester> {
        let (harvester, _) = self.harvester?;
        harvester.kill();
        Some(harvester)
    }

    /// When [`Settle::on_time`] is to be called.
    pub(super) fn deadline(&self) -> Instant {
        let late = self.harvester.as_ref().and_then(|(one, _)| one.deadline());
        late.map_or(self.pace.look, |late| late.min(self.pace.look))
    }

    /// Readable when a harvest has ended; none where there is none.
    pub(super) fn interest(&self) -> Option<BorrowedFd<'_>> {
        self.harvester.as_ref().map(|(one, _)| one.end())
    }

    /// Looks at the files where it is time to, and starts a harvest where one is due.
    pub(super) fn on_time(&mut self, now: Instant) {
        if let Some((harvester, _)) = &mut self.harvester {
            harvester.on_time(now);
        }
        if now < self.pace.look {
            return;
        }
        self.touch();
        let quiet = self.look_at_all();
        if self.pace.is_due(now, quiet) && self.harvester.is_none() {
            self.start(now);
        }
    }

    fn start(&mut self, now: Instant) {
        for file in &mut self.files {
            file.is_due = false;
        }
        // What the guest has lost meanwhile is not mounted here any more either.
        self.order.datasets.retain(|one| is_shown(&one.source));
        crash_point("supervise.before_settle");
        match Harvester::start(Path::new(PROGRAM), &self.order) {
            Ok(harvester) => self.harvester = Some((harvester, now)),
            Err(e) => self.on_done(now, now, Some(e.to_string())),
        }
    }

    /// A harvest has ended.
    pub(super) fn on_harvested(&mut self) {
        let Some((harvester, began)) = self.harvester.take() else {
            return;
        };
        let trouble = match harvester.finish() {
            Ok(report) => report.incomplete,
            Err(failed) => Some(failed.to_string()),
        };
        self.on_done(began, Instant::now(), trouble);
        crash_point("supervise.after_settle");
    }

    fn on_done(&mut self, began: Instant, now: Instant, trouble: Option<String>) {
        self.pace.on_done(began, now, trouble.is_none());
        match trouble {
            None => self.trouble.clear(),
            Some(why) => self.tell(format!("not all copies could be taken back yet: {why}")),
        }
    }

    /// Says what is wrong, once until it is right, and not without end.
    fn tell(&mut self, trouble: String) {
        if trouble != self.trouble && self.troubles < TROUBLES {
            self.troubles += 1;
            complain!("{trouble}");
        }
        self.trouble = trouble;
    }

    /// Looks at all files: whether one that had changed has stood still since the last look.
    fn look_at_all(&mut self) -> bool {
        let root = self.root.as_fd();
        let mut quiet = false;
        for file in &mut self.files {
            let stamp = Stamp::observe(root, file.path.relative());
            quiet |= file.note(stamp);
        }
        quiet
    }

    fn touch(&mut self) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        if let Err(e) = utimensat(CWD, &self.lock, &times, AtFlags::SYMLINK_NOFOLLOW) {
            self.tell(format!("cannot touch {}: {e}", self.lock.display()));
        }
    }
}

/// One placed file.
#[derive(Debug)]
struct Watched {
    path: TreePath,
    seen: Option<Stamp>,
    /// It has changed, and was not taken since.
    is_due: bool,
}

impl Watched {
    /// Notes how it is now. True: it is due, and as it was at the last look.
    fn note(&mut self, stamp: Option<Stamp>) -> bool {
        if stamp == self.seen {
            return self.is_due;
        }
        self.seen = stamp;
        // What is gone deletes nothing.
        self.is_due = stamp.is_some();
        false
    }
}

/// What the kernel tells of a file: which it is, and when it was last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    changed: (i64, i64),
}

impl Stamp {
    /// None where nothing is, or nothing that can be reached.
    fn observe(root: BorrowedFd<'_>, path: &str) -> Option<Self> {
        let file = open_below(root, path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        let seen = fstat(&file).ok()?;
        Some(Self {
            inode: (seen.st_dev, seen.st_ino),
            changed: changed_of(&seen),
        })
    }
}

/// Seconds and nanoseconds. The guest can set the time of the last write, not this one.
fn changed_of(seen: &Stat) -> (i64, i64) {
    (seen.st_ctime, seen.st_ctime_nsec.try_into().unwrap_or(0))
}

/// When to look and when to harvest. Pure.
#[derive(Debug)]
struct Pace {
    look: Instant,
    /// Not before this.
    earliest: Instant,
    /// Something was left: it is tried again without a new change.
    again: bool,
    pause: Duration,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            look: now + LOOK,
            earliest: now,
            again: false,
            pause: LOOK,
        }
    }

    /// A look was taken, and there was something `quiet` to take.
    fn is_due(&mut self, now: Instant, quiet: bool) -> bool {
        self.look = now + LOOK;
        (quiet || self.again) && now >= self.earliest
    }

    fn on_done(&mut self, began: Instant, now: Instant, complete: bool) {
        self.again = !complete;
        self.earliest = now + now.saturating_duration_since(began) * SHARE;
        if complete {
            self.pause = LOOK;
        } else {
            self.earliest = self.earliest.max(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What was placed, and when that was over.
#[derive(Debug, Default)]
struct Placed {
    paths: Vec<TreePath>,
    changed: (i64, i64),
}

impl Placed {
    /// What is newer than the record of it has changed already.
    fn watch(self, observe: impl Fn(&str) -> Option<Stamp>) -> Vec<Watched> {
        let watched = |path: TreePath| {
            let seen = observe(path.relative());
            Watched {
                path,
                seen,
                is_due: seen.is_some_and(|stamp| stamp.changed > self.changed),
            }
        };
        self.paths.into_iter().map(watched).collect()
    }
}

/// Reads which files were placed. None: there is no record.
fn read_record(dataset: &Path, below: &str) -> io::Result<Option<Placed>> {
    #[derive(Deserialize)]
    struct Record {
        files: Vec<Line>,
    }
    #[derive(Deserialize)]
    struct Line {
        path: TreePath,
    }
    let top = open(dataset, OFlags::DIRECTORY)?;
    let wrong = |what: &str| io::Error::other(format!("the record of what was placed {what}"));
    let file = match open_regular(&top, below) {
        Ok(Ok(file)) => file,
        Ok(Err(_)) => return Err(wrong("is no file")),
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let seen = fstat(&file)?;
    let mut text = Vec::new();
    file.take(RECORD_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > RECORD_BYTES {
        return Err(wrong("is too long to be read here"));
    }
    let record: Record = serde_json::from_slice(&text).map_err(|_| wrong("is not understood"))?;
    let paths = record.files.into_iter().take(WATCHED).map(|file| file.path);
    Ok(Some(Placed {
        paths: paths.collect(),
        changed: changed_of(&seen),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(changed: i64) -> Option<Stamp> {
        Some(Stamp {
            inode: (1, 2),
            changed: (changed, 0),
        })
    }

    #[test]
    fn a_file_is_due_when_it_has_changed_and_then_stood_still() {
        let mut file = Watched {
            path: TreePath::parse("/etc/a").unwrap(),
            seen: stamp(1),
            is_due: false,
        };
        let mut see = |stamp| file.note(stamp);
        assert!(!see(stamp(1)));
        assert!(!see(stamp(2)) && !see(stamp(3)), "it changes");
        assert!(see(stamp(3)) && see(stamp(3)), "it stands still");
        assert!(!see(None) && !see(None), "what is gone is not taken");
        assert!(!see(stamp(3)) && see(stamp(3)), "it came back");
    }

    #[test]
    fn what_is_left_is_tried_again_less_and_less_often_and_never_all_the_time() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut harvests = Vec::new();
        let began = now;
        for _ in 0..60 {
            now = pace.look;
            if pace.is_due(now, harvests.is_empty()) {
                harvests.push((now - began).as_secs());
                pace.on_done(now, now + Duration::from_millis(10), false);
            }
        }
        assert_eq!(harvests, [1, 3, 6, 11, 20, 37, 54]);
        pace.on_done(now, now, true);
        now = pace.look;
        assert!(!pace.is_due(now, false), "nothing is left");
        assert!(pace.is_due(now, true));
        pace.on_done(now, now + Duration::from_secs(2), true);
        now += Duration::from_secs(100);
        assert!(!pace.is_due(now, true), "it takes its share and no more");
        assert!(pace.is_due(now + Duration::from_secs(3), true));
    }

    #[test]
    fn a_record_is_read_in_bounds_and_by_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let read = |name: &str| read_record(dir.path(), name);
        assert!(read("absent").unwrap().is_none());
        let many = |count: usize| {
            let files = vec![r#"{"path": "/etc/a", "more": 1}"#; count];
            format!(r#"{{"files": [{}]}}"#, files.join(","))
        };
        std::fs::write(at("good"), many(2 * WATCHED)).unwrap();
        let placed = read("good").unwrap().unwrap();
        assert_eq!(placed.paths.len(), WATCHED);
        let (seconds, nanos) = placed.changed;
        assert!(seconds > 0);
        let newer = Stamp {
            inode: (1, 2),
            changed: (seconds, nanos + 1),
        };
        let watched = placed.watch(|_| Some(newer));
        assert!(
            watched.iter().all(|file| file.is_due),
            "it has changed already"
        );
        std::fs::write(at("long"), many(1 << 14)).unwrap();
        std::fs::write(at("leads-out"), r#"{"files": [{"path": "/../etc"}]}"#).unwrap();
        std::os::unix::fs::symlink("good", at("link")).unwrap();
        rustix::fs::mkfifoat(CWD, at("pipe"), rustix::fs::Mode::RUSR).unwrap();
        for wrong in ["long", "leads-out", "link", "pipe", "good/below"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
