//! Snapshots, and streams of them, where storage has them.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::given::{code, life, operation, persistent, vps};
use super::rig::{Can, Thing};
use super::scene::Scene;
use crate::bytes::Bytes;
use crate::error::Code;
use crate::names::{PoolPath, SnapshotName};
use crate::observed::MarkSeen;
use crate::ports::{HostError, HostResult, NewDataset, Outcome, Snapshots, Storage};
use crate::snapshots::{
    NewSnapshot, Partial, ReceiveSpec, ResumeToken, SendSpec, SnapshotMark, SnapshotOf,
    SnapshotSeen,
};

const LIMIT: Duration = Duration::from_secs(300);

fn named(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

fn mark(scene: &Scene<'_>, id: u32, by: u8) -> SnapshotMark {
    SnapshotMark {
        node: scene.node(),
        owner: (vps(id), life(1)),
        operation: operation(by),
    }
}

fn group(scene: &Scene<'_>, id: u32, of: &[&NewDataset], name: &str) -> NewSnapshot {
    NewSnapshot {
        datasets: of.iter().map(|one| one.name.clone()).collect(),
        name: named(name),
        mark: mark(scene, id, 1),
    }
}

/// Where a stream lies between sender and receiver.
struct Spool(File);

impl Spool {
    fn new(scene: &Scene<'_>) -> Self {
        Self(scene.rig.spool())
    }

    fn length(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    /// From its beginning.
    fn rewound(&mut self) -> &File {
        self.0.rewind().unwrap();
        &self.0
    }

    /// The first half of it.
    fn half(&self, scene: &Scene<'_>) -> Self {
        let mut half = Self::new(scene);
        let mut whole = &self.0;
        whole.rewind().unwrap();
        let mut head = vec![0; usize::try_from(self.length() / 2).unwrap()];
        whole.read_exact(&mut head).unwrap();
        half.0.write_all(&head).unwrap();
        half
    }
}

/// A VPS that sends, with something to send.
struct Sender<'a> {
    scene: &'a Scene<'a>,
    port: Arc<dyn Snapshots>,
    id: u32,
    data: NewDataset,
}

impl<'a> Sender<'a> {
    fn new(scene: &'a Scene<'a>, id: u32) -> Can<Self> {
        let port = scene.rig.snapshots()?;
        let data = scene.data(id, "");
        scene.put(&data.name, "/kept", &Thing::Text("on purpose".into()))?;
        scene.put(&data.name, "/gone", &Thing::Text("for now".into()))?;
        scene.put(&data.name, "/big", &Thing::Filled(Bytes::mib(8)))?;
        Ok(Self {
            scene,
            port,
            id,
            data,
        })
    }

    #[track_caller]
    fn snapshot(&self, name: &str) {
        let new = group(self.scene, self.id, &[&self.data], name);
        assert_eq!(self.port.snapshot(&new), Ok(Outcome::Changed));
    }

    /// Changes a little of it.
    #[track_caller]
    fn change(&self) -> Can<()> {
        let name = &self.data.name;
        self.scene
            .put(name, "/kept", &Thing::Text("changed".into()))?;
        self.scene.rig.remove(name, "/gone").unwrap();
        self.scene.put(name, "/more", &Thing::Filled(Bytes::mib(4)))
    }

    fn spec(&self, snapshot: &str, from: Option<&str>) -> SendSpec {
        SendSpec {
            dataset: self.data.name.clone(),
            snapshot: named(snapshot),
            from: from.map(named),
        }
    }

    #[track_caller]
    fn sent(&self, snapshot: &str, from: Option<&str>) -> Spool {
        let spool = Spool::new(self.scene);
        let sent = self
            .port
            .send(&self.spec(snapshot, from), spool.0.as_fd(), LIMIT);
        assert_eq!(sent, Ok(()));
        assert!(spool.length() > 0);
        spool
    }

    /// What it becomes elsewhere: a dataset of the next VPS.
    fn target(&self, snapshot: &str, from: Option<&str>) -> ReceiveSpec {
        let new = persistent(&self.scene.node(), self.id + 1, "", Bytes::mib(64));
        ReceiveSpec {
            dataset: new.name,
            mark: new.mark,
            quota: new.quota,
            snapshot: named(snapshot),
            snapshot_mark: mark(self.scene, self.id + 1, 2),
            from: from.map(named),
        }
    }

    fn receive(&self, spec: &ReceiveSpec, spool: &mut Spool) -> HostResult<Outcome> {
        self.port.receive(spec, spool.rewound().as_fd(), LIMIT)
    }

    /// What was received is whole: with its own marks, as that snapshot of the sender, and nothing left over.
    #[track_caller]
    fn arrived(&self, spec: &ReceiveSpec) {
        let seen = self.scene.seen(&spec.dataset);
        assert_eq!(seen.mark, MarkSeen::Local(spec.mark.clone()));
        assert_eq!(seen.quota, spec.quota);
        let name = spec.snapshot.as_str();
        let there = one(&*self.port, &spec.dataset, name);
        assert_eq!(there.of, SnapshotOf::Ours(spec.snapshot_mark.clone()));
        let source = one(&*self.port, &self.data.name, name);
        assert_eq!(there.guid, source.guid);
        assert_eq!(self.port.partial(&spec.dataset), Ok(Partial::None));
        assert_eq!(
            self.port.abort_receive(&spec.dataset),
            Ok(Outcome::Unchanged)
        );
        // Nothing is read for what is there already.
        let mut nothing = Spool::new(self.scene);
        assert_eq!(self.receive(spec, &mut nothing), Ok(Outcome::Unchanged));
    }

    #[track_caller]
    fn token(&self, dataset: &PoolPath) -> ResumeToken {
        match self.port.partial(dataset) {
            Ok(Partial::Resumable(token)) => token,
            other => panic!("{dataset} cannot be gone on with: {other:?}"),
        }
    }

    /// Has a receive end early.
    #[track_caller]
    fn interrupted(&self, spec: &ReceiveSpec, whole: &Spool) -> ResumeToken {
        let mut half = whole.half(self.scene);
        let cut = self.receive(spec, &mut half);
        assert!(matches!(cut, Err(HostError::Failed { .. })), "{cut:?}");
        self.token(&spec.dataset)
    }

    #[track_caller]
    fn resumed(&self, sent: &SendSpec, spec: &ReceiveSpec, token: &ResumeToken) {
        let mut rest = Spool::new(self.scene);
        let rest_sent = self.port.send_rest(sent, token, rest.0.as_fd(), LIMIT);
        assert_eq!(rest_sent, Ok(()));
        assert_eq!(self.receive(spec, &mut rest), Ok(Outcome::Changed));
        self.arrived(spec);
    }

    fn read(&self, dataset: &PoolPath, path: &str) -> Option<String> {
        self.scene.rig.read(dataset, path)
    }
}

#[track_caller]
fn one(port: &dyn Snapshots, dataset: &PoolPath, name: &str) -> SnapshotSeen {
    let all = port.snapshots(dataset).unwrap();
    let found = all.iter().find(|one| one.name == name);
    found
        .cloned()
        .unwrap_or_else(|| panic!("no {name} of {dataset} in {all:?}"))
}

fn names(port: &dyn Snapshots, dataset: &PoolPath) -> Vec<String> {
    let all = port.snapshots(dataset).unwrap().into_iter();
    all.map(|one| one.name).collect()
}

pub(super) fn a_group_is_snapshotted_at_once_or_not_at_all(scene: &Scene<'_>) -> Can<()> {
    let port = scene.rig.snapshots()?;
    let all = ["", "nix", "srv"].map(|name| scene.data(191, name));
    let group = |of: &[&NewDataset], name: &str| group(scene, 191, of, name);
    let two = group(&[&all[0], &all[1]], "first");
    assert_eq!(port.snapshot(&two), Ok(Outcome::Changed));
    assert_eq!(port.snapshot(&two), Ok(Outcome::Unchanged));
    for dataset in &two.datasets {
        let seen = one(&*port, dataset, "first");
        assert_eq!(seen.of, SnapshotOf::Ours(two.mark.clone()));
        assert_eq!(scene.seen(dataset).snapshots, ["first"]);
    }
    assert_eq!(names(&*port, &all[2].name), Vec::<String>::new());

    // Part of a group, another mark, what is not there, not a VPS's or another VPS's: nothing is made.
    let three = group(&[&all[0], &all[1], &all[2]], "first");
    assert_eq!(code(port.snapshot(&three)), Code::DatasetExists);
    let mut other = two.clone();
    other.mark.operation = operation(9);
    assert_eq!(code(port.snapshot(&other)), Code::DatasetExists);
    let mut absent = group(&[&all[2]], "second");
    absent.datasets.push(super::given::in_pool("191/absent"));
    assert_eq!(code(port.snapshot(&absent)), Code::DatasetNotFound);
    let root = scene.root(191, 1);
    assert_eq!(
        code(port.snapshot(&group(&[&all[2], &root], "second"))),
        Code::NotOurs
    );
    let stranger = scene.data(192, "");
    assert_eq!(
        code(port.snapshot(&group(&[&all[2], &stranger], "second"))),
        Code::NotOurs
    );
    assert_eq!(
        code(port.snapshot(&group(&[&all[2], &all[2]], "second"))),
        Code::Invalid
    );
    assert_eq!(code(port.snapshot(&group(&[], "second"))), Code::Invalid);
    assert_eq!(names(&*port, &all[2].name), Vec::<String>::new());
    assert!(
        port.snapshots(&super::given::in_pool("191/absent"))
            .is_err()
    );

    // Oldest first, whatever they are called.
    for name in ["z", "a", "2026-11-22T21:00:00"] {
        let new = group(&[&all[2]], name);
        assert_eq!(port.snapshot(&new), Ok(Outcome::Changed));
    }
    assert_eq!(
        names(&*port, &all[2].name),
        ["z", "a", "2026-11-22T21:00:00"]
    );
    Ok(())
}

pub(super) fn a_snapshot_stays_as_it_was(scene: &Scene<'_>) -> Can<()> {
    let sender = Sender::new(scene, 193)?;
    sender.snapshot("before");
    sender.change()?;
    let mut spool = sender.sent("before", None);
    let spec = sender.target("before", None);
    assert_eq!(sender.receive(&spec, &mut spool), Ok(Outcome::Changed));
    let read = |path: &str| sender.read(&spec.dataset, path);
    assert_eq!(read("/kept").as_deref(), Some("on purpose"));
    assert_eq!(read("/gone").as_deref(), Some("for now"));
    // A burial takes them along; they are no reason not to reap.
    let grave = scene.bury_data(&sender.data, 1);
    scene.reap(&grave);
    Ok(())
}

pub(super) fn only_snapshots_of_our_own_are_removed(scene: &Scene<'_>) -> Can<()> {
    let port = scene.rig.snapshots()?;
    let data = scene.data(195, "");
    let new = group(scene, 195, &[&data], "ours");
    port.snapshot(&new).unwrap();
    scene.rig.foreign_snapshot(&data.name, "theirs")?;
    assert_eq!(one(&*port, &data.name, "theirs").of, SnapshotOf::Foreign);
    let remove =
        |name: &str, mark: &SnapshotMark| port.remove_snapshot(&data.name, &named(name), mark);
    assert_eq!(code(remove("theirs", &new.mark)), Code::NotOurs);
    let mut other = new.mark.clone();
    other.operation = operation(9);
    assert_eq!(code(remove("ours", &other)), Code::NotOurs);
    assert_eq!(names(&*port, &data.name), ["ours", "theirs"]);
    assert_eq!(remove("ours", &new.mark), Ok(Outcome::Changed));
    assert_eq!(remove("ours", &new.mark), Ok(Outcome::Unchanged));
    assert_eq!(remove("absent", &new.mark), Ok(Outcome::Unchanged));
    assert_eq!(names(&*port, &data.name), ["theirs"]);
    let absent = super::given::in_pool("999");
    let removed = port.remove_snapshot(&absent, &named("x"), &new.mark);
    assert_eq!(removed, Ok(Outcome::Unchanged));
    // A name that others took is not ours to take.
    let taken = group(scene, 195, &[&data], "theirs");
    assert_eq!(code(port.snapshot(&taken)), Code::DatasetExists);
    Ok(())
}

pub(super) fn a_stream_becomes_a_dataset_and_follows_its_changes(scene: &Scene<'_>) -> Can<()> {
    let sender = Sender::new(scene, 201)?;
    sender.snapshot("one");
    let mut whole = sender.sent("one", None);
    let spec = sender.target("one", None);
    assert_eq!(sender.receive(&spec, &mut whole), Ok(Outcome::Changed));
    sender.arrived(&spec);
    let read = |path: &str| sender.read(&spec.dataset, path);
    assert_eq!(read("/gone").as_deref(), Some("for now"));
    if let Ok(itself) = scene.rig.mounts_itself(&spec.dataset) {
        assert!(!itself, "{} would be mounted", spec.dataset);
    }
    scene.rig.settle();
    assert!(scene.seen(&spec.dataset).used.unwrap() >= Bytes::mib(8));

    sender.change()?;
    sender.snapshot("two");
    let mut changes = sender.sent("two", Some("one"));
    let next = sender.target("two", Some("one"));
    assert_eq!(sender.receive(&next, &mut changes), Ok(Outcome::Changed));
    sender.arrived(&next);
    assert_eq!(read("/kept").as_deref(), Some("changed"));
    assert_eq!(read("/gone"), None);
    assert_eq!(names(&*sender.port, &next.dataset), ["one", "two"]);
    Ok(())
}

pub(super) fn what_the_receiver_wrote_is_not_overwritten(scene: &Scene<'_>) -> Can<()> {
    let sender = Sender::new(scene, 203)?;
    sender.snapshot("one");
    let spec = sender.target("one", None);
    let mut whole = sender.sent("one", None);
    sender.receive(&spec, &mut whole).unwrap();
    scene.put(&spec.dataset, "/kept", &Thing::Text("elsewhere".into()))?;
    sender.change()?;
    sender.snapshot("two");
    let mut changes = sender.sent("two", Some("one"));
    let next = sender.target("two", Some("one"));
    assert_eq!(code(sender.receive(&next, &mut changes)), Code::Invalid);
    assert_eq!(
        sender.read(&spec.dataset, "/kept").as_deref(),
        Some("elsewhere")
    );
    assert_eq!(names(&*sender.port, &spec.dataset), ["one"]);
    assert_eq!(sender.port.partial(&spec.dataset), Ok(Partial::None));
    Ok(())
}

pub(super) fn a_stream_goes_where_it_belongs(scene: &Scene<'_>) -> Can<()> {
    let sender = Sender::new(scene, 205)?;
    sender.snapshot("one");
    sender.change()?;
    sender.snapshot("two");
    let (mut whole, mut changes) = (sender.sent("one", None), sender.sent("two", Some("one")));
    // Changes of nothing; changes taken for a whole.
    let next = sender.target("two", Some("one"));
    assert_eq!(
        code(sender.receive(&next, &mut changes)),
        Code::DatasetNotFound
    );
    let taken_for_whole = sender.target("two", None);
    assert_eq!(
        code(sender.receive(&taken_for_whole, &mut changes)),
        Code::Invalid
    );
    scene.is_absent(&next.dataset);
    // A name that is taken, marks that do not fit.
    let spec = sender.target("one", None);
    let mut other = spec.clone();
    other.mark.made_as = sender.data.name.clone();
    assert_eq!(code(sender.receive(&other, &mut whole)), Code::NotOurs);
    let mut other = spec.clone();
    other.snapshot_mark.owner = (vps(999), life(1));
    assert_eq!(code(sender.receive(&other, &mut whole)), Code::NotOurs);
    scene.is_absent(&spec.dataset);
    let taken = scene.data(206, "");
    assert_eq!(code(sender.receive(&spec, &mut whole)), Code::DatasetExists);
    assert_eq!(scene.seen(&taken.name).mark, MarkSeen::Local(taken.mark));
    Ok(())
}

pub(super) fn what_is_no_stream_is_refused(scene: &Scene<'_>) -> Can<()> {
    let sender = Sender::new(scene, 207)?;
    let spec = sender.target("one", None);
    let mut junk = Spool::new(scene);
    junk.0.write_all(&[b'x'; 100_000]).unwrap();
    assert_eq!(code(sender.receive(&spec, &mut junk)), Code::Invalid);
    scene.is_absent(&spec.dataset);
    assert_eq!(sender.port.partial(&spec.dataset), Ok(Partial::None));
    let mut nothing = Spool::new(scene);
    assert!(sender.receive(&spec, &mut nothing).is_err());
    scene.is_absent(&spec.dataset);
    assert_eq!(sender.port.partial(&spec.dataset), Ok(Partial::None));
    Ok(())
}

pub(super) fn an_interrupted_stream_is_gone_on_with(scene: &Scene<'_>) -> Can<()> {
    let sender = Sender::new(scene, 209)?;
    sender.snapshot("one");
    let whole = sender.sent("one", None);
    let spec = sender.target("one", None);
    let token = sender.interrupted(&spec, &whole);
    // No dataset, and nothing that a restart of the daemon clears away.
    scene.is_absent(&spec.dataset);
    assert_eq!(scene.storage().clear_staging(), Ok(Vec::new()));
    assert_eq!(scene.storage().observe().unwrap().datasets.len(), 1);
    assert_eq!(sender.token(&spec.dataset), token);
    sender.resumed(&sender.spec("one", None), &spec, &token);
    assert_eq!(
        sender.read(&spec.dataset, "/kept").as_deref(),
        Some("on purpose")
    );

    sender.change()?;
    sender.snapshot("two");
    let changes = sender.sent("two", Some("one"));
    let next = sender.target("two", Some("one"));
    let token = sender.interrupted(&next, &changes);
    assert_eq!(
        sender.read(&spec.dataset, "/kept").as_deref(),
        Some("on purpose")
    );
    sender.resumed(&sender.spec("two", Some("one")), &next, &token);
    assert_eq!(
        sender.read(&spec.dataset, "/kept").as_deref(),
        Some("changed")
    );
    Ok(())
}

pub(super) fn an_aborted_receive_leaves_nothing(scene: &Scene<'_>) -> Can<()> {
    let sender = Sender::new(scene, 211)?;
    sender.snapshot("one");
    let mut whole = sender.sent("one", None);
    let spec = sender.target("one", None);
    let abort = || sender.port.abort_receive(&spec.dataset);
    let gone = || {
        assert_eq!(abort(), Ok(Outcome::Changed));
        assert_eq!(abort(), Ok(Outcome::Unchanged));
        assert_eq!(sender.port.partial(&spec.dataset), Ok(Partial::None));
    };
    sender.interrupted(&spec, &whole);
    gone();
    scene.is_absent(&spec.dataset);
    assert_eq!(sender.receive(&spec, &mut whole), Ok(Outcome::Changed));

    sender.change()?;
    sender.snapshot("two");
    let mut changes = sender.sent("two", Some("one"));
    let next = sender.target("two", Some("one"));
    sender.interrupted(&next, &changes);
    gone();
    // As it was before, and ready for the changes.
    sender.arrived(&spec);
    assert_eq!(sender.receive(&next, &mut changes), Ok(Outcome::Changed));
    sender.arrived(&next);
    Ok(())
}

pub(super) fn only_our_own_snapshots_are_sent(scene: &Scene<'_>) -> Can<()> {
    let sender = Sender::new(scene, 213)?;
    sender.snapshot("one");
    scene.rig.foreign_snapshot(&sender.data.name, "theirs")?;
    sender.snapshot("two");
    let send = |snapshot: &str, from: Option<&str>| {
        let spool = Spool::new(scene);
        let spec = sender.spec(snapshot, from);
        let sent = sender.port.send(&spec, spool.0.as_fd(), LIMIT);
        assert_eq!(spool.length(), 0, "something was sent");
        sent
    };
    assert_eq!(code(send("theirs", None)), Code::NotOurs);
    assert_eq!(code(send("two", Some("theirs"))), Code::NotOurs);
    assert_eq!(code(send("absent", None)), Code::DatasetNotFound);
    assert_eq!(code(send("two", Some("absent"))), Code::DatasetNotFound);
    assert_eq!(code(send("one", Some("two"))), Code::Invalid);
    // A token goes with its own snapshot only, and is a token.
    let spec = sender.target("two", None);
    let token = sender.interrupted(&spec, &sender.sent("two", None));
    for (what, token) in [
        (sender.spec("one", None), token),
        (sender.spec("two", None), ResumeToken("-n".into())),
        (sender.spec("two", None), ResumeToken("1-junk".into())),
    ] {
        let spool = Spool::new(scene);
        let sent = sender.port.send_rest(&what, &token, spool.0.as_fd(), LIMIT);
        assert_eq!(code(sent), Code::Invalid);
        assert_eq!(spool.length(), 0, "something was sent");
    }
    let aborted = sender.port.abort_receive(&spec.dataset);
    assert_eq!(aborted, Ok(Outcome::Changed));
    Ok(())
}

pub(super) fn a_sender_without_a_reader_fails(scene: &Scene<'_>) -> Can<()> {
    let sender = Sender::new(scene, 215)?;
    sender.snapshot("one");
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(reader);
    let begun = Instant::now();
    let sent = sender
        .port
        .send(&sender.spec("one", None), writer.as_fd(), LIMIT);
    assert!(matches!(sent, Err(HostError::Failed { .. })), "{sent:?}");
    assert!(begun.elapsed() < LIMIT / 4, "it waits for a reader");
    Ok(())
}

pub(super) fn nothing_of_a_mark_comes_from_a_stream(scene: &Scene<'_>) -> Can<()> {
    let sender = Sender::new(scene, 217)?;
    let spec = sender.target("one", None);
    let mut claimed = spec.mark.clone();
    claimed.owner = Some((vps(999), life(9)));
    claimed.condemned_by = Some(operation(9));
    let mut spool = Spool::new(scene);
    scene.rig.tainted_stream(&claimed, &spool.0)?;
    assert_eq!(sender.receive(&spec, &mut spool), Ok(Outcome::Changed));
    assert_eq!(
        scene.seen(&spec.dataset).mark,
        MarkSeen::Local(spec.mark.clone())
    );
    let there = one(&*sender.port, &spec.dataset, "one");
    assert_eq!(there.of, SnapshotOf::Ours(spec.snapshot_mark.clone()));
    assert!(!scene.rig.mounts_itself(&spec.dataset)?);
    Ok(())
}
