//! Receiving.
//!
//! **A new dataset** is received below `.mayfly/receiving`, apart from the staging area, which every start of the daemon
//! clears: what was interrupted there is gone on with days later. It gets its name when it is whole, as what is staged
//! does. **Changes** are received by the dataset itself; ZFS keeps what is not whole apart from it, and
//! `mayfly:receiving` says under which name it will appear, so that a call which was killed after that knows its own.
//!
//! Nothing that a stream says of properties counts: marks and mount point are set on receipt, and what would reach beyond
//! the dataset is left out.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use mayfly_core::error::{Code, LookFailed};
use mayfly_core::names::PoolPath;
use mayfly_core::observed::{MarkSeen, Role};
use mayfly_core::ports::{HostResult, NewDataset, Origin, Outcome};
use mayfly_core::snapshots::{Partial, ReceiveSpec, ResumeToken, SnapshotOf};

use super::command::{Failure, Trouble};
use super::create::parent_of;
use super::listing::Source;
use super::marks;
use super::mount::{mount_detached, open_private};
use super::pool::{ZfsPool, is_own};
use super::snapshots::{SNAPSHOT, refuse, written};
use crate::storage::names::{check_new, check_parent, staged_name};
use crate::storage::refusals::{not_ours, taken};

/// The name of the snapshot that a dataset is receiving.
const RECEIVING: &str = "mayfly:receiving";
const TOKEN: &str = "receive_resume_token";
/// Where new datasets are received.
const AREA: &str = ".mayfly/receiving";

/// What no stream sets: marks of ours, and what has a dataset mounted, shared, or taking room from others.
const LEFT_OUT: [&str; 15] = [
    marks::MARK,
    marks::CONDEMNED,
    marks::SHARED,
    marks::POOL,
    SNAPSHOT,
    RECEIVING,
    "canmount",
    "zoned",
    "sharenfs",
    "sharesmb",
    "readonly",
    "quota",
    "refquota",
    "reservation",
    "refreservation",
];

fn invalid<T>(name: &PoolPath, why: &str) -> HostResult<T> {
    refuse(
        Code::Invalid,
        format!("what was sent for dataset {name} is not taken: {why}"),
        "send it again from its beginning, or the changes since a snapshot that is here",
    )
}

/// Whether `zfs receive` says that the stream, not the pool or the transport, is at fault. Guessed from its text.
fn is_streams_fault(failure: &Failure) -> bool {
    const SAID: [&str; 12] = [
        "invalid stream",
        "invalid backup stream",
        "stream has unsupported feature",
        "does not match incremental source",
        "has been modified",
        "destination has snapshots",
        "does not exist",
        "must specify -F",
        "partially-complete state",
        "kernel modules must be upgraded",
        "resume",
        "is not a valid",
    ];
    let said = failure.why();
    SAID.iter().any(|text| said.contains(text))
}

impl ZfsPool {
    /// Where a new dataset is received.
    fn place(&self, name: &PoolPath) -> String {
        format!("{}/{AREA}/{}", self.dataset, staged_name(name))
    }

    fn token_of(&self, whole: &str) -> Result<Option<ResumeToken>, LookFailed> {
        let rows = self
            .zfs
            .get(&[], &["name", TOKEN], &[whole])
            .map_err(|failed| failed.of_look(whole))?;
        let row = rows
            .first()
            .ok_or_else(|| LookFailed::new(whole, "it is not in the answer"))?;
        Ok(row.get(TOKEN).map(|p| ResumeToken(p.value.clone())))
    }

    /// What lies in the receiving area under a name.
    fn partial_at(&self, place: &str) -> Result<Partial, LookFailed> {
        if self.row(place)?.is_none() {
            return Ok(Partial::None);
        }
        if let Some(token) = self.token_of(place)? {
            return Ok(Partial::Resumable(token));
        }
        Ok(if self.seen_snapshots(place)?.is_empty() {
            Partial::Stuck
        } else {
            Partial::Whole
        })
    }

    fn check_received(&self, spec: &ReceiveSpec) -> HostResult<NewDataset> {
        let new = NewDataset {
            name: spec.dataset.clone(),
            mark: spec.mark.clone(),
            quota: spec.quota,
            origin: Origin::Empty,
        };
        check_new(&new, &self.node, is_own(&new.name))?;
        let mark = &spec.snapshot_mark;
        if spec.mark.owner.as_ref() != Some(&mark.owner)
            || mark.node != self.node
            || spec.mark.role != Role::Persistent
        {
            return Err(not_ours(
                &spec.dataset,
                "it was to be received with marks that do not fit",
            ));
        }
        Ok(new)
    }

    /// Reads a stream into `target`, which had `before` of it.
    fn read_stream(
        &self,
        spec: &ReceiveSpec,
        target: &str,
        options: &[String],
        from: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<()> {
        let snapshot = format!("{target}@{}", spec.snapshot);
        let token = || -> Result<Option<ResumeToken>, LookFailed> {
            match self.row(target)? {
                None => Ok(None),
                Some(_) => self.token_of(target),
            }
        };
        let before = token()?;
        let mut args = vec!["receive", "-s", "-u"];
        for option in options {
            args.extend(["-o", option]);
        }
        for name in LEFT_OUT {
            if !options.iter().any(|option| option.starts_with(name)) {
                args.extend(["-x", name]);
            }
        }
        args.push(&snapshot);
        let read = self.zfs.run_on(&args, Some(from), None, limit);
        let Err(failure) = read else {
            return Ok(());
        };
        // What has gone on a little was a stream that belongs here, whatever it ended with.
        if is_streams_fault(&failure) && token()? == before {
            return invalid(&spec.dataset, &failure.why());
        }
        Err(failure.of_change(&format!("receiving dataset {}", spec.dataset), target))
    }

    fn receive_new(
        &self,
        spec: &ReceiveSpec,
        from: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<Outcome> {
        let action = format!("receiving dataset {}", spec.dataset);
        let area = format!("{}/{AREA}", self.dataset);
        if self.row(&area)?.is_none() {
            match self
                .zfs
                .run(["create", "-u", "-o", "mountpoint=legacy", &area])
            {
                Ok(_) => {}
                Err(failure) if failure.trouble() == Trouble::Taken => {}
                Err(failure) => return Err(failure.of_change(&action, &area)),
            }
        }
        let place = self.place(&spec.dataset);
        match self.partial_at(&place)? {
            Partial::Whole => {}
            Partial::None | Partial::Resumable(_) => {
                let options = ["mountpoint=legacy".to_owned(), marks::written(&spec.mark)?];
                self.read_stream(spec, &place, &options, from, limit)?;
            }
            Partial::Stuck => {
                return invalid(
                    &spec.dataset,
                    "an earlier stream left something that cannot be gone on with: abort that first",
                );
            }
        }
        self.finish_new(spec, &place, &action)
    }

    /// Gives what was received whole its marks, its quota and, at last, its name.
    fn finish_new(&self, spec: &ReceiveSpec, place: &str, action: &str) -> HostResult<Outcome> {
        let all = self.seen_snapshots(place)?;
        let [one] = &all[..] else {
            return invalid(&spec.dataset, "it has several snapshots");
        };
        if one.name != spec.snapshot.as_str() {
            return invalid(&spec.dataset, "it was received as another snapshot");
        }
        if mount_detached(place).and_then(open_private).is_err() {
            return invalid(&spec.dataset, "it is no dataset of Mayfly's");
        }
        let snapshot = format!("{place}@{}", spec.snapshot);
        self.zfs
            .run(["set", &written(&spec.snapshot_mark)?, &snapshot])
            .map_err(|f| f.of_change(action, &snapshot))?;
        let mut properties = vec!["mountpoint=legacy".to_owned(), marks::written(&spec.mark)?];
        properties.extend(spec.quota.map(|quota| format!("refquota={}", quota.0)));
        let args = ["set"]
            .into_iter()
            .chain(properties.iter().map(String::as_str))
            .chain([place]);
        if let Err(failure) = self.zfs.run(args) {
            if failure.why().contains("size is less than current used") {
                return refuse(
                    Code::DiskSpace,
                    format!("dataset {} holds more than its quota", spec.dataset),
                    "receive it with a larger quota; nothing is sent again",
                );
            }
            return Err(failure.of_change(action, place));
        }
        self.put_into_place(place, &spec.dataset)?;
        Ok(Outcome::Changed)
    }

    fn receive_changes(
        &self,
        spec: &ReceiveSpec,
        from: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<Outcome> {
        let whole = self.whole(&spec.dataset);
        let action = format!("receiving changes of dataset {}", spec.dataset);
        let receiving = format!("{RECEIVING}={}", spec.snapshot);
        self.zfs
            .run(["set", &receiving, &whole])
            .map_err(|f| f.of_change(&action, &whole))?;
        if let Err(error) = self.read_stream(spec, &whole, &[], from, limit) {
            if self.token_of(&whole)?.is_none() {
                self.is_not_receiving(&whole, &action)?;
            }
            return Err(error);
        }
        self.finish_changes(spec, &whole, &action)
    }

    fn finish_changes(&self, spec: &ReceiveSpec, whole: &str, action: &str) -> HostResult<Outcome> {
        let snapshot = format!("{whole}@{}", spec.snapshot);
        self.zfs
            .run(["set", &written(&spec.snapshot_mark)?, &snapshot])
            .map_err(|f| f.of_change(action, &snapshot))?;
        self.is_not_receiving(whole, action)?;
        Ok(Outcome::Changed)
    }

    fn is_not_receiving(&self, whole: &str, action: &str) -> HostResult<()> {
        let inherited = self.zfs.run(["inherit", RECEIVING, whole]);
        inherited
            .map(drop)
            .map_err(|failure| failure.of_change(action, whole))
    }

    /// The snapshot that a dataset has been receiving.
    fn receiving(&self, whole: &str) -> Result<Option<String>, LookFailed> {
        let rows = self
            .zfs
            .get(&[], &["name", RECEIVING], &[whole])
            .map_err(|failed| failed.of_look(whole))?;
        let property = rows.first().and_then(|row| row.get(RECEIVING));
        Ok(property
            .filter(|p| p.source == Source::Local)
            .map(|p| p.value.clone()))
    }

    fn abort_changes(&self, name: &PoolPath, action: &str) -> HostResult<Outcome> {
        let whole = self.whole(name);
        let Some(row) = self.row(&whole)? else {
            return Ok(Outcome::Unchanged);
        };
        if self.token_of(&whole)?.is_none() {
            return Ok(Outcome::Unchanged);
        }
        self.own_mark(&row)?;
        self.zfs
            .run(["receive", "-A", &whole])
            .map_err(|f| f.of_change(action, &whole))?;
        self.is_not_receiving(&whole, action)?;
        Ok(Outcome::Changed)
    }

    pub(super) fn receive_stream(
        &self,
        spec: &ReceiveSpec,
        from: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<Outcome> {
        let new = self.check_received(spec)?;
        let _claim = self.claims.claim(&staged_name(&spec.dataset))?;
        let whole = self.whole(&spec.dataset);
        let Some(there) = self.row(&whole)? else {
            if spec.from.is_some() {
                self.row_must(&spec.dataset)?;
            }
            if let Some(parent) = parent_of(&new)? {
                check_parent(&parent, &self.own_mark(&self.row_must(&parent)?)?, &new)?;
            }
            return self.receive_new(spec, from, limit);
        };
        match marks::mark_in(&there) {
            MarkSeen::Local(mark) if mark == spec.mark => {}
            MarkSeen::Unreadable(why) => {
                return Err(LookFailed::new(format!("the mark of {whole}"), why).into());
            }
            MarkSeen::Local(_) | MarkSeen::NotLocal | MarkSeen::Unset => {
                return Err(taken(&spec.dataset).into());
            }
        }
        let all = self.seen_snapshots(&whole)?;
        let found = all.iter().find(|one| one.name == spec.snapshot.as_str());
        match (found, &spec.from) {
            (Some(one), _) if one.of == SnapshotOf::Ours(spec.snapshot_mark.clone()) => {
                Ok(Outcome::Unchanged)
            }
            (Some(one), Some(_))
                if one.of == SnapshotOf::Foreign
                    && self.receiving(&whole)?.as_deref() == Some(spec.snapshot.as_str()) =>
            {
                let action = format!("receiving changes of dataset {}", spec.dataset);
                self.finish_changes(spec, &whole, &action)
            }
            (Some(_), _) | (None, None) => Err(taken(&spec.dataset).into()),
            (None, Some(base)) => match all.last() {
                Some(last) if last.name == base.as_str() => self.receive_changes(spec, from, limit),
                _ => invalid(
                    &spec.dataset,
                    &format!("its last snapshot is not {base}, where the changes begin"),
                ),
            },
        }
    }

    pub(super) fn look_at_partial(&self, dataset: &PoolPath) -> Result<Partial, LookFailed> {
        let new = self.partial_at(&self.place(dataset))?;
        if new != Partial::None {
            return Ok(new);
        }
        let whole = self.whole(dataset);
        if is_own(dataset) || self.row(&whole)?.is_none() {
            return Ok(Partial::None);
        }
        Ok(self
            .token_of(&whole)?
            .map_or(Partial::None, Partial::Resumable))
    }

    pub(super) fn abort_received(&self, dataset: &PoolPath) -> HostResult<Outcome> {
        if is_own(dataset) || dataset.is_grave() {
            return Err(not_ours(dataset, "nothing is received there"));
        }
        let action = format!("aborting the receipt of dataset {dataset}");
        let _claim = self.claims.claim(&staged_name(dataset))?;
        let place = self.place(dataset);
        match self.partial_at(&place)? {
            Partial::None => self.abort_changes(dataset, &action),
            Partial::Resumable(_) => {
                self.zfs
                    .run(["receive", "-A", &place])
                    .map_err(|f| f.of_change(&action, &place))?;
                Ok(Outcome::Changed)
            }
            Partial::Whole | Partial::Stuck => {
                // It is in the receiving area and bears this node's mark: no guest ever saw it.
                if let Some(row) = self.row(&place)? {
                    self.own_mark(&row)?;
                    self.destroy_one(&place)?;
                }
                Ok(Outcome::Changed)
            }
        }
    }
}
