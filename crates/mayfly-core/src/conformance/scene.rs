//! One case on one pool.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::rig::{Can, Cannot, PutError, Rig, Thing};
use super::{CASES, given};
use crate::bytes::Bytes;
use crate::error::LookFailed;
use crate::ids::{Digest, NodeId};
use crate::mirror::MirrorKey;
use crate::names::{GuestPath, PoolPath, TemplatePart};
use crate::observed::{DatasetSeen, InitSeen, MarkSeen, PoolSeen, Role};
use crate::ports::{
    Assembly, Cancel, HostError, HostResult, NewDataset, Origin, Outcome, Storage, TreePlan,
};
use crate::proof::{Burial, Condemned, Exchange};
use crate::run::MountSource;
use crate::trees::{TakeTo, TakenOut, TreeCopied, TreeCopy};

pub(super) type Case = fn(&Scene<'_>) -> Can<()>;

/// What a run of the suite did not do, and why.
#[must_use = "a case that was skipped must be told of"]
#[derive(Clone, Debug)]
pub struct Report {
    cases: Vec<&'static str>,
    skipped: Vec<(&'static str, Cannot)>,
}

impl Report {
    /// The skipped cases are these and no others, in any order; of those that belong to another part, nothing is known.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub fn assert_skipped(&self, expected: &[&str]) {
        let mut names: Vec<&str> = self.skipped.iter().map(|(name, _)| *name).collect();
        let elsewhere = |name: &str| {
            let is_case = CASES.iter().any(|(case, _)| *case == name);
            is_case && !self.cases.contains(&name)
        };
        let mut expected = expected.to_vec();
        expected.retain(|name| !elsewhere(name));
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected, "other cases were skipped\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Cannot(why)) in &self.skipped {
            writeln!(f, "skipped: {name}: {why}")?;
        }
        let cases = self.cases.len();
        let passed = cases - self.skipped.len();
        writeln!(f, "{passed} of {cases} cases passed, each twice")
    }
}

pub(super) fn run(rig: &dyn Rig, cases: &[(&'static str, Case)], passes: &[bool]) -> Report {
    let mut skipped = Vec::new();
    let before = rig.storage().observe().unwrap().datasets;
    assert!(before.is_empty(), "before it began: {before:#?}");
    for (name, case) in cases {
        for &twice in passes {
            rig.begins(name, twice);
            let scene = Scene { rig, twice };
            let told = Told { name, twice };
            let done = case(&scene);
            scene.clear();
            std::mem::forget(told);
            if let (Err(cannot), true) = (done, passes.first() == Some(&twice)) {
                skipped.push((*name, cannot));
            }
        }
    }
    Report {
        cases: cases.iter().map(|(name, _)| *name).collect(),
        skipped,
    }
}

/// Names the case that panicked: forgotten by one that did not.
struct Told<'a> {
    name: &'a str,
    twice: bool,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let how = if self.twice {
            " with every call done twice"
        } else {
            ""
        };
        eprintln!("conformance: failed in {}{how}", self.name);
    }
}

/// What a case works with.
pub(super) struct Scene<'a> {
    pub(super) rig: &'a dyn Rig,
    twice: bool,
}

impl Scene<'_> {
    pub(super) fn storage(&self) -> Calls {
        Calls {
            inner: self.rig.storage(),
            twice: self.twice,
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.rig.node()
    }

    /// A persistent dataset with a quota of 64 MiB that is there.
    #[track_caller]
    pub(super) fn data(&self, id: u32, name: &str) -> NewDataset {
        let new = given::persistent(&self.node(), id, name, Bytes::mib(64));
        self.create(&new);
        new
    }

    /// An empty temporary root that is there.
    #[track_caller]
    pub(super) fn root(&self, id: u32, run: u8) -> NewDataset {
        let new = given::root(&self.node(), id, run, Origin::Empty);
        self.create(&new);
        new
    }

    #[track_caller]
    pub(super) fn create(&self, new: &NewDataset) {
        assert_eq!(self.storage().create_dataset(new), Ok(Outcome::Changed));
    }

    #[track_caller]
    pub(super) fn seen(&self, name: &PoolPath) -> DatasetSeen {
        match self.storage().look(name) {
            Ok(Some(seen)) => seen,
            other => panic!("{name} is not there: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn is_absent(&self, name: &PoolPath) {
        assert_eq!(self.storage().look(name), Ok(None), "{name} is there");
    }

    #[track_caller]
    pub(super) fn bury_data(&self, data: &NewDataset, by: u8) -> PoolPath {
        let storage = self.storage();
        let burial = given::burial_of_data(&storage, &self.node(), data, by);
        self.bury(&burial, by)
    }

    #[track_caller]
    pub(super) fn bury_root(&self, root: &NewDataset, by: u8) -> PoolPath {
        let burial = given::burial_of_root(&self.storage(), &self.node(), root, by);
        self.bury(&burial, by)
    }

    #[track_caller]
    pub(super) fn bury(&self, burial: &Burial, by: u8) -> PoolPath {
        let grave = PoolPath::grave(&format!("case-{by}"));
        assert_eq!(self.storage().bury(burial, &grave), Ok(Outcome::Changed));
        grave
    }

    #[track_caller]
    pub(super) fn condemned(&self, grave: &PoolPath) -> Condemned {
        given::condemned(&self.storage(), &self.node(), grave)
    }

    /// A template of the first digest with one part; answers its name.
    pub(super) fn template(&self, contents: Vec<(&str, Thing)>) -> PoolPath {
        let digest = given::digest(1);
        self.rig
            .template(&digest, &[(TemplatePart::Base, contents)]);
        self.rig.settle();
        template_part(&digest, &TemplatePart::Base)
    }

    /// Puts something into a dataset where nothing may be in the way.
    #[track_caller]
    pub(super) fn put(&self, name: &PoolPath, path: &str, thing: &Thing) -> Can<()> {
        match self.rig.put(name, path, thing) {
            Ok(()) => Ok(()),
            Err(PutError::Cannot(cannot)) => Err(cannot),
            Err(error) => panic!("putting {path} into {name}: {error:?}"),
        }
    }

    /// Buries and reaps all that the case left, through the port. Clones go before what they were made from.
    fn clear(&self) {
        // That these calls may be done twice is for the cases about them to show.
        let once = Scene {
            twice: false,
            ..*self
        };
        let (storage, node) = (once.storage(), once.node());
        // Looking at everything takes some storages long, so that is done again only where something went.
        let mut left = storage.observe().unwrap().datasets;
        for role in [
            Role::Temporary,
            Role::Persistent,
            Role::Replaced,
            Role::Base,
            Role::Template,
        ] {
            let of_another = |seen: &DatasetSeen| matches!(&seen.mark, MarkSeen::Local(mark) if mark.role != role);
            if left.values().all(of_another) {
                continue;
            }
            for (name, seen) in left {
                let MarkSeen::Local(mark) = seen.mark else {
                    panic!("a case left {name}, which is nobody's")
                };
                let highest = match role {
                    Role::Template => name.as_str().matches('/').count() == 1,
                    Role::Temporary | Role::Persistent | Role::Replaced | Role::Base => {
                        !name.as_str().contains('/')
                    }
                };
                if mark.role != role || name.is_grave() || !highest {
                    continue;
                }
                let new = NewDataset {
                    name: name.clone(),
                    mark,
                    quota: None,
                    origin: Origin::Empty,
                };
                let burial = match role {
                    Role::Temporary => given::burial_of_root(&storage, &node, &new, 99),
                    Role::Persistent | Role::Replaced | Role::Base => {
                        given::burial_of_data(&storage, &node, &new, 99)
                    }
                    Role::Template => given::burial_of_template(&storage, &node, &name, 99),
                };
                let grave = PoolPath::grave(&format!("end-{}", name.as_str().replace('/', "-")));
                assert_eq!(storage.bury(&burial, &grave), Ok(Outcome::Changed));
                once.destroy(&grave);
            }
            left = storage.observe().unwrap().datasets;
            let is_grave = |(name, seen): &(&PoolPath, &DatasetSeen)| {
                let of_role = !of_another(seen);
                of_role && name.is_grave() && name.as_str().matches('/').count() == 1
            };
            let graves: Vec<_> = left
                .iter()
                .filter(is_grave)
                .map(|(name, _)| name.clone())
                .collect();
            for grave in &graves {
                once.destroy(grave);
            }
            if !graves.is_empty() {
                left = storage.observe().unwrap().datasets;
            }
        }
        assert!(
            left.is_empty(),
            "after all was buried and reaped: {left:#?}"
        );
        assert_eq!(storage.clear_staging(), Ok(Vec::new()));
    }

    #[track_caller]
    pub(super) fn reap(&self, grave: &PoolPath) {
        self.destroy(grave);
        self.is_absent(grave);
    }

    /// The same without a look afterwards.
    #[track_caller]
    fn destroy(&self, grave: &PoolPath) {
        let proof = self.condemned(grave);
        assert_eq!(self.storage().reap(&proof), Ok(Outcome::Changed));
    }
}

pub(super) fn template_part(digest: &Digest, part: &TemplatePart) -> PoolPath {
    PoolPath::template(digest, part)
}

/// The port, which does every changing call a second time where it was told to.
pub(super) struct Calls {
    inner: Arc<dyn Storage>,
    twice: bool,
}

impl Calls {
    #[track_caller]
    fn again(&self, what: &str, call: impl Fn() -> HostResult<Outcome>) -> HostResult<Outcome> {
        let first = call();
        if self.twice {
            match (&first, call()) {
                (Ok(_), Ok(Outcome::Unchanged)) => {}
                (Err(HostError::Refused(one)), Err(HostError::Refused(two)))
                    if one.code == two.code => {}
                (Err(HostError::Look(_)), Err(HostError::Look(_)))
                | (Err(HostError::Busy { .. }), Err(HostError::Busy { .. })) => {}
                (first, second) => panic!("{what}: first {first:?}, then {second:?}"),
            }
        }
        first
    }
}

impl Storage for Calls {
    fn observe(&self) -> Result<PoolSeen, LookFailed> {
        self.inner.observe()
    }

    fn look(&self, name: &PoolPath) -> Result<Option<DatasetSeen>, LookFailed> {
        self.inner.look(name)
    }

    fn create_dataset(&self, new: &NewDataset) -> HostResult<Outcome> {
        self.again("create", || self.inner.create_dataset(new))
    }

    fn set_quota(&self, name: &PoolPath, quota: Bytes) -> HostResult<Outcome> {
        self.again("set quota", || self.inner.set_quota(name, quota))
    }

    fn bury(&self, burial: &Burial, grave: &PoolPath) -> HostResult<Outcome> {
        self.again("bury", || self.inner.bury(burial, grave))
    }

    fn exchange(&self, exchange: &Exchange) -> HostResult<Outcome> {
        self.again("exchange", || self.inner.exchange(exchange))
    }

    fn mark_harvested(&self, root: &PoolPath) -> HostResult<Outcome> {
        self.again("mark as harvested", || self.inner.mark_harvested(root))
    }

    fn read_file(
        &self,
        name: &PoolPath,
        path: &GuestPath,
        limit: usize,
    ) -> HostResult<Option<Vec<u8>>> {
        self.inner.read_file(name, path, limit)
    }

    fn reap(&self, condemned: &Condemned) -> HostResult<Outcome> {
        self.again("reap", || self.inner.reap(condemned))
    }

    fn hurry_space(&self) -> HostResult<()> {
        self.inner.hurry_space()
    }

    fn clear_staging(&self) -> HostResult<Vec<String>> {
        let told = self.inner.clear_staging();
        if self.twice {
            assert_eq!(self.inner.clear_staging(), told);
        }
        told
    }

    fn staging(&self) -> Result<Vec<String>, LookFailed> {
        self.inner.staging()
    }

    fn put_mirror(&self, key: &MirrorKey, text: &str) -> HostResult<Outcome> {
        self.again("put a mirror", || self.inner.put_mirror(key, text))
    }

    fn remove_mirror(&self, key: &MirrorKey) -> HostResult<Outcome> {
        self.again("remove a mirror", || self.inner.remove_mirror(key))
    }

    fn mirrors(&self) -> Result<BTreeMap<MirrorKey, Result<String, String>>, LookFailed> {
        self.inner.mirrors()
    }

    fn generation(&self) -> Result<Option<u64>, LookFailed> {
        self.inner.generation()
    }

    fn raise_generation(&self, to: u64) -> HostResult<Outcome> {
        self.again("raise the generation", || self.inner.raise_generation(to))
    }

    fn prepare_tree(&self, name: &PoolPath, tree: &TreePlan) -> HostResult<Outcome> {
        self.again("prepare a tree", || self.inner.prepare_tree(name, tree))
    }

    fn copy_tree(
        &self,
        copy: &TreeCopy,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<TreeCopied> {
        let first = self.inner.copy_tree(copy, cancel, progress);
        if self.twice {
            let second = self.inner.copy_tree(copy, cancel, progress);
            match (&first, &second) {
                (Ok(_), Ok(done)) if done.outcome == Outcome::Unchanged => {}
                (Err(HostError::Refused(one)), Err(HostError::Refused(two)))
                    if one.code == two.code => {}
                (Err(HostError::Failed { .. }), Err(HostError::Failed { .. })) => {}
                (first, second) => panic!("copy a tree: first {first:?}, then {second:?}"),
            }
        }
        first
    }

    fn take_out(&self, what: &TakenOut, to: TakeTo) -> HostResult<Outcome> {
        self.again("take out", || self.inner.take_out(what, to))
    }

    fn probe_init(&self, assembly: &Assembly, init: &GuestPath) -> Result<InitSeen, LookFailed> {
        self.inner.probe_init(assembly, init)
    }

    fn mount_source(&self, name: &PoolPath) -> MountSource {
        self.inner.mount_source(name)
    }

    fn detach(&self) -> Vec<String> {
        self.inner.detach()
    }
}
