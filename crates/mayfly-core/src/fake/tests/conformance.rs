//! The fake keeps the contract of the ports that it fakes.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::tree::Node;
use super::super::world::Dataset;
use super::super::{Backend, FakeHost, GuestError};
use crate::bytes::Bytes;
use crate::conformance::{
    Can, Cannot, Clones, Held, OF_SNAPSHOTS, Planted, PutError, Rig, Rights, Thing, check,
};
use crate::ids::{Digest, NodeId, VpsId};
use crate::names::{PoolPath, TemplatePart};
use crate::observed::{Mark, MarkSeen, Role};
use crate::ports::{Snapshots, Storage};

struct Fake(Mutex<FakeHost>);

impl Fake {
    fn new(backend: Backend) -> Self {
        Self(Mutex::new(FakeHost::with(backend, Bytes::gib(1))))
    }

    fn host(&self) -> FakeHost {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn is_zfs(&self) -> bool {
        self.host().world().backend == Backend::Zfs
    }
}

/// Lets go of a dataset by its identity: its name may be another one by then.
struct Mounted(FakeHost, u64);

impl Held for Mounted {}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.0.world().strays.retain(|(_, uid)| *uid != self.1);
    }
}

fn node_of(thing: &Thing) -> Can<Node> {
    Ok(match thing {
        Thing::Directory => Node::Directory,
        Thing::Text(text) => Node::file(text),
        Thing::Program => Node::program(),
        Thing::Filled(size) => Node::File {
            text: "…".into(),
            size: *size,
            executable: false,
            own: true,
        },
        Thing::Link(to) => Node::Link(to.clone()),
        Thing::Pipe | Thing::Device => {
            return Err(Cannot("the trees of the fake hold no such things"));
        }
    })
}

impl Rig for Fake {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.host())
    }

    fn snapshots(&self) -> Can<Arc<dyn Snapshots>> {
        if !self.is_zfs() {
            return Err(Cannot("snapshots of btrfs are not driven yet"));
        }
        Ok(Arc::new(self.host()))
    }

    fn spool(&self) -> File {
        tempfile::tempfile().unwrap()
    }

    fn tainted_stream(&self, _: &Mark, _: &File) -> Can<()> {
        Err(Cannot("the streams of the fake carry no properties"))
    }

    fn mounts_itself(&self, _: &PoolPath) -> Can<bool> {
        Err(Cannot("the datasets of the fake have no properties"))
    }

    fn node(&self) -> NodeId {
        self.host().node()
    }

    fn template(&self, digest: &Digest, parts: &[(TemplatePart, Vec<(&str, Thing)>)]) {
        let host = self.host();
        let mut world = host.world();
        for (part, contents) in parts {
            let name = PoolPath::template(digest, part);
            let mark = Mark {
                node: world.node.clone(),
                owner: None,
                role: Role::Template,
                run: None,
                made_as: name.clone(),
                condemned_by: None,
                unharvested: false,
                contents: None,
            };
            let uid = world.new_uid();
            let mut dataset = Dataset {
                uid,
                mark: MarkSeen::Local(mark),
                quota: None,
                tree: Default::default(),
                origin: None,
                by_hand: false,
                lived_in: None,
                snapshots: Vec::new(),
                beside: Default::default(),
            };
            for (path, thing) in contents {
                dataset.tree.put(path, node_of(thing).unwrap());
            }
            world.datasets.insert(name, dataset);
        }
    }

    fn put(&self, dataset: &PoolPath, path: &str, thing: &Thing) -> Result<(), PutError> {
        let node = node_of(thing).map_err(PutError::Cannot)?;
        let host = self.host();
        let mut world = host.world();
        let (uid, quota) = {
            let dataset = &world.datasets[dataset];
            (dataset.uid, dataset.quota.unwrap_or_default())
        };
        let put = world.put_into(uid, path, node);
        if let (Err(GuestError::QuotaExceeded), Thing::Filled(_)) = (put, thing) {
            // As much of it as there was room for.
            let room = quota.saturating_sub(world.datasets[dataset].used());
            let part = node_of(&Thing::Filled(room)).map_err(PutError::Cannot)?;
            world.put_into(uid, path, part).unwrap();
        }
        put.map_err(|error| match error {
            GuestError::QuotaExceeded => PutError::Quota,
            GuestError::NoSpace => PutError::NoSpace,
            other => PutError::Failed(format!("{other:?}")),
        })
    }

    fn read(&self, dataset: &PoolPath, path: &str) -> Option<String> {
        self.host().read(dataset, path)
    }

    fn remove(&self, dataset: &PoolPath, path: &str) -> Result<(), PutError> {
        let host = self.host();
        let mut world = host.world();
        let gone = world
            .datasets
            .get_mut(dataset)
            .and_then(|d| d.tree.0.remove(path));
        match gone {
            Some(_) => Ok(()),
            None => Err(PutError::Failed(format!("no {path}"))),
        }
    }

    fn rights(&self, _: &PoolPath, _: &str) -> Can<Rights> {
        Err(Cannot("the trees of the fake have no owners and no modes"))
    }

    fn settle(&self) {
        self.host().settle();
    }

    fn plant(&self, name: &PoolPath, planted: &Planted) -> Can<()> {
        let host = self.host();
        let mark = match planted {
            Planted::Unmarked => None,
            Planted::CameWithData(_) if !self.is_zfs() => {
                return Err(Cannot("on btrfs no mark comes with the data"));
            }
            Planted::CameWithData(_) => Some(MarkSeen::NotLocal),
            Planted::Unreadable => Some(MarkSeen::Unreadable("it makes no sense".into())),
            Planted::Local(mark) => Some(MarkSeen::Local(mark.clone())),
        };
        host.make_by_hand(name);
        if let Some(mark) = mark {
            host.set_mark(name, mark);
        }
        Ok(())
    }

    fn uproot(&self, name: &PoolPath) {
        self.host().destroy_by_hand(name);
    }

    fn litter(&self, name: &str) {
        self.host().litter_staging(name);
    }

    fn clean(&self, name: &str) {
        self.host().clean_staging(name);
    }

    fn hold(&self, name: &PoolPath) -> Can<Box<dyn Held + '_>> {
        let host = self.host();
        let uid = host.world().datasets[name].uid;
        let vps: VpsId = 999.try_into().unwrap();
        host.stray_mount(vps, name);
        Ok(Box::new(Mounted(host, uid)))
    }

    fn refuses_what_is_in_use(&self) -> Can<()> {
        if self.is_zfs() {
            Ok(())
        } else {
            Err(Cannot("btrfs destroys a subvolume that is in use"))
        }
    }

    fn clones(&self) -> Clones {
        if self.is_zfs() {
            Clones::NeedTheirOrigin
        } else {
            Clones::StandAlone
        }
    }

    fn foreign_snapshot(&self, name: &PoolPath, snapshot: &str) -> Can<()> {
        if !self.is_zfs() {
            return Err(Cannot("btrfs keeps snapshots as datasets"));
        }
        self.host().snapshot_by_hand(name, snapshot);
        Ok(())
    }

    fn cut(&self, call: &dyn Fn(&dyn Storage)) -> Can<()> {
        let host = self.host();
        call(&host.crash_half_way(1));
        assert!(host.crashed(), "the call changes nothing");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = host.restart_daemon();
        Ok(())
    }
}

const NO_TREES: [&str; 3] = [
    "what_is_made_belongs_to_the_guests_root",
    "devices_and_pipes_are_not_touched",
    "a_pipe_is_no_init",
];

#[test]
fn it_keeps_the_contract_as_btrfs() {
    let report = check(&Fake::new(Backend::Btrfs));
    eprint!("{report}");
    let none_here = [
        "a_mark_that_came_with_the_data_proves_nothing",
        "foreign_snapshots_do_not_keep_a_root",
        "something_in_use_below_keeps_the_whole_grave",
        "what_is_in_use_is_busy_and_stays_provable",
    ];
    report.assert_skipped(&[&NO_TREES[..], &none_here[..], &OF_SNAPSHOTS[..]].concat());
}

#[test]
fn it_keeps_the_contract_as_zfs() {
    let report = check(&Fake::new(Backend::Zfs));
    eprint!("{report}");
    let none_here = ["nothing_of_a_mark_comes_from_a_stream"];
    report.assert_skipped(&[&NO_TREES[..], &none_here[..]].concat());
}
