//! Snapshots of a fake host, as OpenZFS has them, and streams of them.
//!
//! This part of the fake reads and writes the descriptors that it is given: a stream is nothing else.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::storage::{not_there, refuse};
use super::tree::{Node, Tree};
use super::world::{Dataset, Snapshot, World};
use super::{Backend, FakeHost, Reach};
use crate::bytes::Bytes;
use crate::error::{Code, LookFailed};
use crate::names::{PoolPath, SnapshotName};
use crate::observed::{MarkSeen, Role};
use crate::ports::{HostError, HostResult, NewDataset, Origin, Outcome, Snapshots};
use crate::snapshots::{
    NewSnapshot, Partial, ReceiveSpec, ResumeToken, SendSpec, SnapshotMark, SnapshotOf,
    SnapshotSeen,
};

/// What was received of a stream before it ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    head: Head,
    got: Vec<u8>,
}

/// The first line of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// The snapshot that it ends with, by its identity.
    guid: u64,
    /// The one that it begins at.
    from: Option<u64>,
    /// How many bytes follow the line in a whole stream.
    length: usize,
    /// How many of them are left out in this one.
    skipped: usize,
}

/// What a stream carries: all of a tree, or what to change in it.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    there: BTreeMap<String, Node>,
    gone: Vec<String>,
}

fn invalid<T>(why: &str) -> HostResult<T> {
    refuse(Code::Invalid, format!("the stream is not taken: {why}"))
}

/// A tree without the knowledge of whom its bytes are charged to.
fn plain(tree: &Tree) -> Tree {
    tree.shared()
}

impl World {
    fn check_has_snapshots(&self) -> HostResult<()> {
        if self.backend == Backend::Zfs {
            return Ok(());
        }
        refuse(
            Code::FeatureUnavailable,
            "there are no snapshots on this storage".into(),
        )
    }

    /// A persistent dataset of this node that may be written about.
    fn of_owner(&self, name: &PoolPath, mark: &SnapshotMark) -> HostResult<&Dataset> {
        let own = self.own_mark(name)?;
        let same = own.owner.as_ref() == Some(&mark.owner) && mark.node == self.node;
        if !same || own.role != Role::Persistent || own.condemned_by.is_some() || name.is_grave() {
            return refuse(
                Code::NotOurs,
                format!("dataset {name} is no persistent one of this owner"),
            );
        }
        Ok(&self.datasets[name])
    }

    fn take_snapshot(&mut self, new: &NewSnapshot) -> HostResult<Outcome> {
        self.check_has_snapshots()?;
        let mut there = 0;
        for (n, name) in new.datasets.iter().enumerate() {
            if new.datasets[..n].contains(name) {
                return refuse(Code::Invalid, format!("dataset {name} is named twice"));
            }
            let dataset = self.of_owner(name, &new.mark)?;
            let taken = dataset
                .snapshots
                .iter()
                .find(|one| one.name == new.name.as_str());
            match taken.map(|one| &one.of) {
                None => {}
                Some(SnapshotOf::Ours(mark)) if *mark == new.mark => there += 1,
                Some(_) => {
                    return refuse(
                        Code::DatasetExists,
                        format!("there is another snapshot {} of {name}", new.name),
                    );
                }
            }
        }
        if new.datasets.is_empty() {
            return refuse(Code::Invalid, "a snapshot of nothing".into());
        }
        match there {
            0 => {}
            n if n == new.datasets.len() => return Ok(Outcome::Unchanged),
            _ => {
                return refuse(
                    Code::DatasetExists,
                    format!("the snapshot {} is there in part", new.name),
                );
            }
        }
        for name in &new.datasets {
            let guid = self.new_uid();
            if let Some(dataset) = self.datasets.get_mut(name) {
                dataset.snapshots.push(Snapshot {
                    name: new.name.to_string(),
                    of: SnapshotOf::Ours(new.mark.clone()),
                    guid,
                    tree: dataset.tree.clone(),
                });
            }
        }
        Ok(Outcome::Changed)
    }

    fn drop_snapshot(
        &mut self,
        dataset: &PoolPath,
        name: &SnapshotName,
        mark: &SnapshotMark,
    ) -> HostResult<Outcome> {
        self.check_has_snapshots()?;
        let Some(found) = self.datasets.get_mut(dataset) else {
            return Ok(Outcome::Unchanged);
        };
        let Some(at) = found.snapshots.iter().position(|s| s.name == name.as_str()) else {
            return Ok(Outcome::Unchanged);
        };
        match &found.snapshots[at].of {
            SnapshotOf::Ours(there) if there == mark => {}
            SnapshotOf::Unreadable(why) => {
                let what = format!("the mark of the snapshot {name} of {dataset}");
                return Err(LookFailed::new(what, why).into());
            }
            SnapshotOf::Ours(_) | SnapshotOf::Foreign => {
                return refuse(
                    Code::NotOurs,
                    format!("the snapshot {name} of {dataset} bears another mark"),
                );
            }
        }
        found.snapshots.remove(at);
        Ok(Outcome::Changed)
    }

    fn sendable(&self, dataset: &PoolPath, name: &SnapshotName) -> HostResult<(usize, &Snapshot)> {
        let own = self.own_mark(dataset)?;
        let all = &self.datasets[dataset].snapshots;
        let Some(at) = all.iter().position(|one| one.name == name.as_str()) else {
            return not_there(
                &PoolPath::from_pool(&format!("{dataset}@{name}"))
                    .unwrap_or_else(|| dataset.clone()),
            );
        };
        match &all[at].of {
            SnapshotOf::Ours(mark)
                if mark.node == self.node && own.owner.as_ref() == Some(&mark.owner) =>
            {
                Ok((at, &all[at]))
            }
            _ => refuse(
                Code::NotOurs,
                format!("the snapshot {name} of {dataset} is not this node's"),
            ),
        }
    }

    /// The whole of a stream: its first line, and what follows.
    fn stream(&self, what: &SendSpec) -> HostResult<(Head, Vec<u8>)> {
        self.check_has_snapshots()?;
        let (at, to) = self.sendable(&what.dataset, &what.snapshot)?;
        let from = match &what.from {
            None => None,
            Some(name) => {
                let (before, from) = self.sendable(&what.dataset, name)?;
                if before >= at {
                    return refuse(
                        Code::Invalid,
                        format!("{name} is not earlier than {}", what.snapshot),
                    );
                }
                Some(from)
            }
        };
        let (now, then) = (
            plain(&to.tree),
            from.map(|from| plain(&from.tree)).unwrap_or_default(),
        );
        let new = |(path, node): &(&String, &Node)| then.0.get(*path) != Some(node);
        let copied = |(path, node): (&String, &Node)| (path.clone(), node.clone());
        let contents = Contents {
            there: now.0.iter().filter(new).map(copied).collect(),
            gone: then
                .0
                .keys()
                .filter(|path| !now.0.contains_key(*path))
                .cloned()
                .collect(),
        };
        let bytes = serde_json::to_vec(&contents)
            .map_err(|e| HostError::failed(format!("sending {}", what.dataset), e))?;
        let head = Head {
            guid: to.guid,
            from: from.map(|from| from.guid),
            length: bytes.len(),
            skipped: 0,
        };
        Ok((head, bytes))
    }

    fn check_received_name(&self, spec: &ReceiveSpec) -> HostResult<()> {
        let mark = &spec.snapshot_mark;
        if spec.mark.owner.as_ref() != Some(&mark.owner)
            || mark.node != self.node
            || spec.mark.role != Role::Persistent
        {
            return refuse(
                Code::NotOurs,
                format!(
                    "{} was to be received with marks that do not fit",
                    spec.dataset
                ),
            );
        }
        let new = NewDataset {
            name: spec.dataset.clone(),
            mark: spec.mark.clone(),
            quota: spec.quota,
            origin: Origin::Empty,
        };
        self.check_new(&new)
    }

    /// Whether there is nothing to do, before anything is read; refused where it cannot be done.
    fn received_before(&self, spec: &ReceiveSpec) -> HostResult<bool> {
        self.check_has_snapshots()?;
        self.can_look(&format!("dataset {}", spec.dataset))?;
        self.check_received_name(spec)?;
        let Some(there) = self.datasets.get(&spec.dataset) else {
            return match &spec.from {
                None => self.check_parent(&spec.dataset, &spec.mark).map(|()| false),
                Some(_) => not_there(&spec.dataset),
            };
        };
        let own = self.own_mark(&spec.dataset);
        if own.as_ref() != Ok(&spec.mark) {
            own?;
            return refuse(
                Code::DatasetExists,
                format!("there is something else under the name {}", spec.dataset),
            );
        }
        let named = |name: &SnapshotName| there.snapshots.iter().find(|s| s.name == name.as_str());
        match (named(&spec.snapshot), &spec.from) {
            (Some(has), _) if has.of == SnapshotOf::Ours(spec.snapshot_mark.clone()) => Ok(true),
            (Some(_), _) | (None, None) => refuse(
                Code::DatasetExists,
                format!("{} is there, and not of this stream", spec.dataset),
            ),
            (None, Some(from)) => {
                let last = there.snapshots.last();
                match last {
                    Some(last)
                        if last.name == from.as_str()
                            && plain(&last.tree) == plain(&there.tree) =>
                    {
                        Ok(false)
                    }
                    _ => invalid("what is there is not as the snapshot that it begins at"),
                }
            }
        }
    }

    fn take_stream(
        &mut self,
        spec: &ReceiveSpec,
        stream: &[u8],
        reach: Reach,
    ) -> HostResult<Outcome> {
        if self.received_before(spec)? {
            return Ok(Outcome::Unchanged);
        }
        let mut received = self.receiving.get(&spec.dataset).cloned();
        if received
            .as_ref()
            .is_none_or(|r| r.got.len() < r.head.length)
        {
            received = self.read_stream(spec, stream, reach)?;
        }
        let Some(received) = received else {
            return Err(HostError::failed(
                format!("receiving {}", spec.dataset),
                "the stream ended early",
            ));
        };
        self.put_into_place(spec, &received)
    }

    /// Takes what is there of a stream; none where it ended early.
    fn read_stream(
        &mut self,
        spec: &ReceiveSpec,
        stream: &[u8],
        reach: Reach,
    ) -> HostResult<Option<Received>> {
        let Some(end) = stream.iter().position(|b| *b == b'\n') else {
            // Nothing that could be gone on with.
            return if stream.len() < 200 && stream.first().is_none_or(|b| *b == b'{') {
                Ok(None)
            } else {
                invalid("it is none")
            };
        };
        let Ok(mut head) = serde_json::from_slice::<Head>(&stream[..end]) else {
            return invalid("it is none");
        };
        let from = match &spec.from {
            None => None,
            Some(_) => self.datasets[&spec.dataset]
                .snapshots
                .last()
                .map(|s| s.guid),
        };
        if head.from != from {
            return invalid("it does not begin where it should");
        }
        let mut got = Vec::new();
        if let Some(earlier) = self.receiving.get(&spec.dataset) {
            let goes_on = head.skipped == earlier.got.len()
                && (head.guid, head.from, head.length)
                    == (earlier.head.guid, earlier.head.from, earlier.head.length);
            if !goes_on {
                return invalid("it does not go on where the last one ended");
            }
            got = earlier.got.clone();
        } else if head.skipped != 0 {
            return invalid("its beginning is missing");
        }
        let mut rest = &stream[end + 1..];
        if reach == Reach::HalfWay {
            rest = &rest[..rest.len() / 2];
        }
        got.extend_from_slice(rest);
        head.skipped = 0;
        let received = Received { head, got };
        let whole = received.got.len() >= received.head.length;
        self.receiving
            .insert(spec.dataset.clone(), received.clone());
        Ok(whole.then_some(received))
    }

    fn put_into_place(&mut self, spec: &ReceiveSpec, received: &Received) -> HostResult<Outcome> {
        let Ok(contents) = serde_json::from_slice::<Contents>(&received.got) else {
            self.receiving.remove(&spec.dataset);
            return invalid("it makes no sense");
        };
        let before = self.datasets.get(&spec.dataset).map(|d| d.tree.clone());
        let mut tree = before.unwrap_or_default();
        tree.0.retain(|path, _| !contents.gone.contains(path));
        for (path, mut node) in contents.there {
            if let Node::File { own, .. } = &mut node {
                *own = true;
            }
            tree.0.insert(path, node);
        }
        let quota = match self.datasets.get(&spec.dataset) {
            Some(there) => there.quota,
            None => spec.quota,
        };
        if quota.is_some_and(|quota| tree.used() > quota) {
            return refuse(
                Code::DiskSpace,
                format!("{} holds more than its quota", spec.dataset),
            );
        }
        self.receiving.remove(&spec.dataset);
        if !self.datasets.contains_key(&spec.dataset) {
            let uid = self.new_uid();
            let dataset = Dataset {
                uid,
                mark: MarkSeen::Local(spec.mark.clone()),
                quota,
                tree: Tree::default(),
                origin: None,
                by_hand: false,
                lived_in: None,
                snapshots: Vec::new(),
                beside: Default::default(),
            };
            self.datasets.insert(spec.dataset.clone(), dataset);
        }
        if let Some(dataset) = self.datasets.get_mut(&spec.dataset) {
            dataset.tree = tree.clone();
            dataset.snapshots.push(Snapshot {
                name: spec.snapshot.to_string(),
                of: SnapshotOf::Ours(spec.snapshot_mark.clone()),
                guid: received.head.guid,
                tree,
            });
        }
        Ok(Outcome::Changed)
    }

    fn partial(&self, dataset: &PoolPath) -> Partial {
        match self.receiving.get(dataset) {
            None => Partial::None,
            Some(received) if received.got.len() >= received.head.length => Partial::Whole,
            Some(received) => {
                let mut head = received.head.clone();
                head.skipped = received.got.len();
                // A line of four plain numbers is always written.
                serde_json::to_string(&head)
                    .map_or(Partial::Stuck, |text| Partial::Resumable(ResumeToken(text)))
            }
        }
    }
}

fn write_out(into: BorrowedFd<'_>, head: &Head, bytes: &[u8]) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(head)?;
    line.push(b'\n');
    let mut file = std::fs::File::from(into.try_clone_to_owned()?);
    file.write_all(&line)?;
    file.write_all(&bytes[head.skipped..])
}

fn read_in(from: BorrowedFd<'_>) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    std::fs::File::from(from.try_clone_to_owned()?).read_to_end(&mut all)?;
    Ok(all)
}

impl Snapshots for FakeHost {
    fn snapshot(&self, new: &NewSnapshot) -> HostResult<Outcome> {
        self.mutate(format!("snapshot {}", new.name), |world, _| {
            world.take_snapshot(new)
        })
    }

    fn snapshots(&self, dataset: &PoolPath) -> Result<Vec<SnapshotSeen>, LookFailed> {
        let what = format!("the snapshots of dataset {dataset}");
        self.look_at(what.clone(), |world| {
            let Some(there) = world.datasets.get(dataset) else {
                return Err(LookFailed::new(what, "there is no such dataset"));
            };
            let seen = |one: &Snapshot| SnapshotSeen {
                name: one.name.clone(),
                of: one.of.clone(),
                guid: one.guid,
                unique_bytes: Bytes(0),
            };
            Ok(there.snapshots.iter().map(seen).collect())
        })?
    }

    fn remove_snapshot(
        &self,
        dataset: &PoolPath,
        name: &SnapshotName,
        mark: &SnapshotMark,
    ) -> HostResult<Outcome> {
        self.mutate(
            format!("remove snapshot {name} of {dataset}"),
            |world, _| world.drop_snapshot(dataset, name, mark),
        )
    }

    fn send(&self, what: &SendSpec, into: BorrowedFd<'_>, _limit: Duration) -> HostResult<()> {
        let action = format!("sending dataset {}", what.dataset);
        let (head, bytes) = self.look_at(action.clone(), |world| world.stream(what))??;
        write_out(into, &head, &bytes).map_err(|e| HostError::failed(action, e))
    }

    fn send_rest(
        &self,
        what: &SendSpec,
        token: &ResumeToken,
        into: BorrowedFd<'_>,
        _limit: Duration,
    ) -> HostResult<()> {
        let action = format!("sending the rest of dataset {}", what.dataset);
        let (mut head, bytes) = self.look_at(action.clone(), |world| world.stream(what))??;
        let Ok(wanted) = serde_json::from_str::<Head>(&token.0) else {
            return refuse(Code::Invalid, "the resume token is none".into());
        };
        head.skipped = wanted.skipped;
        if head != wanted || wanted.skipped > bytes.len() {
            return refuse(
                Code::Invalid,
                format!(
                    "the resume token is not for this snapshot of {}",
                    what.dataset
                ),
            );
        }
        write_out(into, &head, &bytes).map_err(|e| HostError::failed(action, e))
    }

    fn receive(
        &self,
        spec: &ReceiveSpec,
        from: BorrowedFd<'_>,
        _limit: Duration,
    ) -> HostResult<Outcome> {
        let action = format!("receive dataset {}", spec.dataset);
        let needs_stream = self.look_at(action.clone(), |world| {
            let whole = world.partial(&spec.dataset) == Partial::Whole;
            world.received_before(spec).map(|before| !before && !whole)
        })??;
        // Not under the lock: the sender may be this very host.
        let stream = if needs_stream {
            read_in(from).map_err(|e| HostError::failed(action.clone(), e))?
        } else {
            Vec::new()
        };
        self.mutate(action, |world, reach| {
            world.take_stream(spec, &stream, reach)
        })
    }

    fn partial(&self, dataset: &PoolPath) -> Result<Partial, LookFailed> {
        let what = format!("what was received of dataset {dataset}");
        self.look_at(what, |world| world.partial(dataset))
    }

    fn abort_receive(&self, dataset: &PoolPath) -> HostResult<Outcome> {
        self.mutate(format!("abort receiving {dataset}"), |world, _| {
            world.check_has_snapshots()?;
            Ok(match world.receiving.remove(dataset) {
                None => Outcome::Unchanged,
                Some(_) => Outcome::Changed,
            })
        })
    }
}
