//! The ports: what the engine asks of a host. `mayfly-host` implements them with the real thing, `mayfly_core::fake` with
//! a fake that has the same semantics; the contract tests run on both.
//!
//! Every call is idempotent: called again after it was done, or after it was cut off anywhere, it finishes and says
//! [`Outcome::Unchanged`] or [`Outcome::Changed`].

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::error::{Code, LookFailed, Refusal};
use crate::features::{Feature, FeatureSeen, Features};
use crate::health::Health;
use crate::ids::{Digest, RunId, VpsId};
use crate::mirror::MirrorKey;
use crate::names::{DatasetName, GuestPath, PoolPath, SnapshotName};
use crate::observed::{DatasetSeen, Evidence, InitSeen, Mark, PoolSeen};
use crate::persist::record::Taken;
use crate::proof::{Burial, Condemned, Exchange};
use crate::run::{IdRange, Limits, MountSource, RunEnd, RunMount, RunSpec, RunState};
use crate::snapshots::{
    NewSnapshot, Partial, ReceiveSpec, ResumeToken, SendSpec, SnapshotMark, SnapshotSeen,
};
use crate::trees::{TakeTo, TakenOut, TreeCopied, TreeCopy};

/// Whether a call had anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was so already.
    Unchanged,
    /// It is so now.
    Changed,
}

/// Why a host did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// A look failed, so nothing was done.
    #[error(transparent)]
    Look(#[from] LookFailed),
    /// It was refused for a reason that the caller can name.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something holds it at present; trying again later may do.
    #[error("{object} is busy: {why}")]
    Busy {
        /// What is busy.
        object: String,
        /// What holds it.
        why: String,
    },
    /// It was tried and failed.
    #[error("{action} failed: {why}")]
    Failed {
        /// What was tried, with its object.
        action: String,
        /// What went wrong.
        why: String,
    },
}

impl HostError {
    /// A failure of an action.
    pub fn failed(action: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Failed {
            action: action.into(),
            why: why.to_string(),
        }
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Self {
        let message = error.to_string();
        match error {
            HostError::Look(failed) => failed.into(),
            HostError::Refused(refusal) => refusal,
            HostError::Busy { .. } => {
                Self::new(Code::DatasetInUse, message, "try again when it is free")
            }
            HostError::Failed { .. } => Self::new(
                Code::HostFailed,
                message,
                "the daemon's log has the details; what was changed has been put back",
            ),
        }
    }
}

/// What a port answers.
pub type HostResult<T> = Result<T, HostError>;

/// What a new dataset starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nothing: an empty `private`, owned by the guest's root, mode 0755.
    Empty,
    /// The contents of another dataset, shared with it in O(1).
    Clone(PoolPath),
}

/// A dataset to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDataset {
    /// Its name.
    pub name: PoolPath,
    /// The mark that it bears from the first moment on.
    pub mark: Mark,
    /// Its quota.
    pub quota: Option<Bytes>,
    /// What it starts with.
    pub origin: Origin,
}

/// Things that must be in a dataset's tree before a start. All of it belongs to the guest's root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreePlan {
    /// Directories, parents before children; one that is there stays as it is. Anything else in the way, a symlink
    /// above all, is a refusal.
    pub directories: Vec<GuestPath>,
    /// Symlinks, made only where nothing is.
    pub links: Vec<(GuestPath, String)>,
    /// Files (mode 0644), replaced by rename; their directories must be real directories.
    pub files: Vec<(GuestPath, String)>,
    /// Files of the guest's own that are changed: replaced by rename, with the rights that they have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<FileEdit>,
}

/// A change of a file that somebody else may be changing too. Done where the file has the text that was read, and refused
/// with [`Code::PersistChanged`] where it has another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEdit {
    /// The file.
    pub path: GuestPath,
    /// The digest of what was read; none where there was no file.
    pub before: Option<Digest>,
    /// What it is to be.
    pub after: String,
    /// What that changes, in words.
    pub what: String,
}

impl FileEdit {
    /// Whether a file is what it is to be already: none where it is neither that nor what was read.
    pub fn is_done(&self, found: Option<&[u8]>) -> Option<bool> {
        if found == Some(self.after.as_bytes()) {
            return Some(true);
        }
        (found.map(Digest::of) == self.before).then_some(false)
    }

    /// What is answered where the file is another one.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(
            Code::PersistChanged,
            format!(
                "{} was changed by somebody else meanwhile, and is left as it is",
                self.path
            ),
            "ask for it again",
        )
    }
}

/// Datasets put together as a guest would see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assembly {
    /// What is at `/`; none for the skeleton of an empty root.
    pub root: Option<PoolPath>,
    /// Datasets at paths, parents before children.
    pub mounts: Vec<(PoolPath, GuestPath)>,
}

/// Datasets. A dataset's contents are its `private`; what lies beside that is the platform's.
pub trait Storage: Send + Sync {
    /// Everything in the pool.
    fn observe(&self) -> Result<PoolSeen, LookFailed>;

    /// One dataset; `None` when it is certain that there is none of that name.
    fn look(&self, name: &PoolPath) -> Result<Option<DatasetSeen>, LookFailed>;

    /// Makes a dataset with mark and quota. One that is there with the same mark is finished and left alone; one with
    /// another mark, or none, is a refusal. Cut off anywhere, it leaves nothing under the name, and what it leaves in
    /// the staging area is finished by the next call or removed by [`Storage::clear_staging`].
    fn create_dataset(&self, new: &NewDataset) -> HostResult<Outcome>;

    /// Changes a quota. Below what is used it is refused with [`Code::QuotaBelowUse`].
    fn set_quota(&self, name: &PoolPath, quota: Bytes) -> HostResult<Outcome>;

    /// Lets a persistent dataset and contents that lie aside change places, in O(1), so that the one which is wanted has the
    /// dataset's name and the mark of a persistent dataset. What lies below the dataset stays below it. Done where it is so
    /// already; cut off anywhere, the next call, the opposite one as well, comes to its end.
    fn exchange(&self, exchange: &Exchange) -> HostResult<Outcome>;

    /// Writes the condemnation into the marks of the dataset and of those below it, then moves it to the graveyard in
    /// O(1). A dataset below it that has no mark of the same owner is a refusal.
    fn bury(&self, burial: &Burial, grave: &PoolPath) -> HostResult<Outcome>;

    /// Says in the mark of a temporary root that nothing is left in it to be taken back.
    fn mark_harvested(&self, root: &PoolPath) -> HostResult<Outcome>;

    /// Reads a file of a dataset's tree without following anything that a guest planted there; none where nothing is.
    /// Refused is what is no regular file, or longer than `limit` bytes.
    fn read_file(
        &self,
        name: &PoolPath,
        path: &GuestPath,
        limit: usize,
    ) -> HostResult<Option<Vec<u8>>>;

    /// Destroys what lies in a grave, all condemned datasets below it included, and then their marks.
    fn reap(&self, condemned: &Condemned) -> HostResult<Outcome>;

    /// Has the space of what was reaped come back now, not when the file system gets round to it. It commits the whole
    /// file system, so it is for someone who waits for the space, not for the reaper.
    fn hurry_space(&self) -> HostResult<()>;

    /// Removes what cut-off calls left in the staging area, with the proof of its own records; tells of the rest.
    fn clear_staging(&self) -> HostResult<Vec<String>>;

    /// What lies in the staging area and in no call's hands at this moment, by name.
    fn staging(&self) -> Result<Vec<String>, LookFailed>;

    /// Keeps a [mirror](crate::mirror) of a document, durably, where no guest can write. Cut off, the one before is there.
    fn put_mirror(&self, key: &MirrorKey, text: &str) -> HostResult<Outcome>;

    /// Removes a mirror. One that is not there is removed.
    fn remove_mirror(&self, key: &MirrorKey) -> HostResult<Outcome>;

    /// All mirrors as they were read: text that nobody has checked, or why there is none.
    fn mirrors(&self) -> Result<BTreeMap<MirrorKey, Result<String, String>>, LookFailed>;

    /// The pool's generation; `None` where it never had one.
    fn generation(&self) -> Result<Option<u64>, LookFailed>;

    /// Raises the generation; one that is as high or higher stays. It is not waited for until it is on the disk, but
    /// what is changed in the pool later is not there without it.
    fn raise_generation(&self, to: u64) -> HostResult<Outcome>;

    /// Puts things into a dataset's tree without following anything that a guest planted there.
    fn prepare_tree(&self, name: &PoolPath, tree: &TreePlan) -> HostResult<Outcome>;

    /// Copies a directory with all that is in it: owners, modes, times, links, holes, extended attributes; blocks are shared
    /// where the quotas of both datasets stay true. Nothing of the VPS may be alive. What takes long tells how far it is, and
    /// ends early, as failed, when it is not wanted any more. Until the copy is whole the new dataset is empty to everybody;
    /// one that is a [base](crate::observed::Role::Base) does not change any more from then on, and can be cloned. Refused is
    /// a new dataset in which there is something already that is no copy, and a file that cannot be copied, by its name.
    fn copy_tree(
        &self,
        copy: &TreeCopy,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<TreeCopied>;

    /// Takes a directory out of a dataset's tree, in O(1), puts it back, or destroys it. Nothing of the VPS may be alive where
    /// the tree changes. Back it goes to where nothing is, or an empty directory. A directory that is not there is a refusal
    /// only for whoever wants it aside.
    fn take_out(&self, what: &TakenOut, to: TakeTo) -> HostResult<Outcome>;

    /// Resolves `init` inside the assembled datasets, as the guest would.
    fn probe_init(&self, assembly: &Assembly, init: &GuestPath) -> Result<InitSeen, LookFailed>;

    /// Where a supervisor finds the contents.
    fn mount_source(&self, name: &PoolPath) -> MountSource;

    /// Mount points of the daemon that a supervisor must let go of.
    fn detach(&self) -> Vec<String>;
}

/// Snapshots of persistent datasets, and streams of them. Storage that has this implements it beside [`Storage`].
///
/// Streams go through file descriptors and never through memory as a whole. What they consist of is the storage's own:
/// only the same kind of storage can receive them. A stream says nothing of whom it comes from; the caller has seen to that.
pub trait Snapshots: Send + Sync {
    /// Makes one snapshot of each dataset, at one moment: all of them or none, also when it is cut off. Those that are
    /// there with the same mark are the ones that were asked for, where all of them are; one with another mark, or of
    /// somebody else, is refused with [`Code::DatasetExists`], as is a group that is there in part. Refused for a
    /// dataset that is no persistent one of this owner.
    fn snapshot(&self, new: &NewSnapshot) -> HostResult<Outcome>;

    /// The snapshots of a dataset, whoever made them, oldest first. A dataset that is not there is a failed look.
    fn snapshots(&self, dataset: &PoolPath) -> Result<Vec<SnapshotSeen>, LookFailed>;

    /// Removes a snapshot that bears exactly this mark, and no other ([`Code::NotOurs`]). Busy while something was
    /// cloned from it or holds it. One that is not there is removed.
    fn remove_snapshot(
        &self,
        dataset: &PoolPath,
        name: &SnapshotName,
        mark: &SnapshotMark,
    ) -> HostResult<Outcome>;

    /// Writes a stream into a descriptor. Only snapshots of this node's own datasets and making are sent. Nothing is
    /// changed by it; cut off, or killed for taking longer than `limit`, it leaves a stream that ends early.
    fn send(&self, what: &SendSpec, into: BorrowedFd<'_>, limit: Duration) -> HostResult<()>;

    /// Writes what is missing of a stream that the receiver has in part. The token must be for a snapshot that
    /// [`Snapshots::send`] would send, of this very dataset.
    fn send_rest(
        &self,
        what: &SendSpec,
        token: &ResumeToken,
        into: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<()>;

    /// Reads a stream to its end and makes a dataset of it, or brings one up to date. One that has the snapshot already,
    /// with the same marks, is left alone and nothing is read. The dataset cannot be mounted through properties of its
    /// own, wherever the stream comes from, and appears under its name with mark and quota when it is whole.
    ///
    /// A stream that ends early leaves a part of it, which is no dataset: the next call goes on with what
    /// [`Snapshots::send_rest`] writes. So does a call that was killed. Refused with [`Code::Invalid`] is a stream that
    /// is none, or does not belong to what is there.
    fn receive(
        &self,
        spec: &ReceiveSpec,
        from: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<Outcome>;

    /// What an interrupted receive left for this name.
    fn partial(&self, dataset: &PoolPath) -> Result<Partial, LookFailed>;

    /// Removes what an interrupted receive left, and nothing else: a dataset that was to be brought up to date is as
    /// it was.
    fn abort_receive(&self, dataset: &PoolPath) -> HostResult<Outcome>;
}

/// A root from which copies of declared files are to be taken back, and what is needed for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HarvestOrder {
    /// The VPS.
    pub vps: VpsId,
    /// The run whose root it is.
    pub run: RunId,
    /// The root.
    pub root: MountSource,
    /// The datasets, parents before children: one of them holds the storage.
    pub mounts: Vec<RunMount>,
    /// Host ids of the guest.
    pub ids: IdRange,
    /// Where declared paths really live.
    pub storage: GuestPath,
}

/// Runs. At most one run of a VPS exists at a time; the implementation refuses to make a second.
pub trait Runtime: Send + Sync {
    /// Signs of life of one VPS, whatever records there are or are not, what was buried of it included; and who of the host
    /// holds its datasets.
    fn evidence(&self, vps: VpsId) -> Result<Vec<Evidence>, LookFailed>;

    /// Who has any of these datasets mounted, or something that lies below them; all of them are looked for in one look.
    /// Not every file system refuses to destroy what is mounted somewhere, so this is asked first. Who keeps a mount
    /// without being in its namespace (an open file, a namespace that is only bound somewhere) is seen by the kernel alone.
    fn holders(
        &self,
        datasets: &[PoolPath],
    ) -> Result<BTreeMap<PoolPath, Vec<Evidence>>, LookFailed>;

    /// All VPSes of this node of which there is any sign on the host.
    fn vpses_with_evidence(&self) -> Result<Vec<VpsId>, LookFailed>;

    /// All runs of this node of which there is a record or a cgroup, ended ones included.
    fn records(&self) -> Result<Vec<(VpsId, RunId)>, LookFailed>;

    /// What the supervisor of a run last wrote; `None` when there is no such record.
    fn state(&self, vps: VpsId, run: &RunId) -> Result<Option<RunState>, LookFailed>;

    /// What the host has at this moment for a feature.
    fn feature(&self, feature: Feature) -> Result<FeatureSeen, LookFailed>;

    /// The same for several.
    fn features(&self, which: &Features) -> Result<BTreeMap<Feature, FeatureSeen>, LookFailed> {
        let look = |feature: &Feature| Ok((*feature, self.feature(*feature)?));
        which.iter().map(look).collect()
    }

    /// A start was asked for: what a launch will have to wait for may begin. Returns at once, and changes nothing that can be
    /// seen; a launch does not depend on it.
    fn expect_launch(&self) {}

    /// Starts a supervisor. Refused with [`Code::StillAlive`] while anything of the VPS but this very run is alive.
    fn launch(&self, spec: &RunSpec) -> HostResult<Outcome>;

    /// Changes the limits of a run, all of them or, where one cannot be set, none. Memory below what the guest cannot give
    /// up is refused with [`Code::LimitBelowUse`], and nothing is killed for it. A run that is over has no limits.
    fn set_limits(&self, vps: VpsId, run: &RunId, limits: &Limits) -> HostResult<Outcome>;

    /// Shows a dataset in a run that goes on, as a start would have: with the guest's ids, read-only that holds, at a directory
    /// that is made where there is none and never through a symlink. What is in the way is refused with
    /// [`Code::MountPointRefused`]. One that is shown there is left alone; a run that is over shows nothing.
    fn show_mount(&self, vps: VpsId, run: &RunId, mount: &RunMount) -> HostResult<Outcome>;

    /// Takes it off that path again, open or not, and what the guest has mounted over it or in it; what is open stays so until
    /// it is closed. Copies that the guest has made of the mount elsewhere are its own.
    fn hide_mount(&self, vps: VpsId, run: &RunId, mount: &RunMount) -> HostResult<Outcome>;

    /// What says that persistent data of a VPS is in use: of its root dataset every sign of life there is; of another dataset,
    /// who has it mounted, since a guest may run on without it.
    fn in_use(&self, vps: VpsId, dataset: &PoolPath) -> Result<Vec<Evidence>, LookFailed> {
        if !dataset.is_below(&PoolPath::dataset(vps, &DatasetName::root())) {
            return self.evidence(vps);
        }
        let mut holders = self.holders(std::slice::from_ref(dataset))?;
        Ok(holders.remove(dataset).unwrap_or_default())
    }

    /// Waits until the guest's init was executed and has stayed alive for a moment, or has powered itself off or rebooted.
    fn await_init(&self, vps: VpsId, run: &RunId, deadline: Duration) -> HostResult<Outcome>;

    /// How the guest is, as its systemd says. A guest without one, or one that does not answer, is a failed look; so is a run
    /// that is over.
    fn health(&self, vps: VpsId, run: &RunId) -> Result<Health, LookFailed>;

    /// Asks the guest to halt, kills it after `timeout` (at once with `force`), and waits until the run is over.
    fn stop(&self, vps: VpsId, run: &RunId, timeout: Duration, force: bool) -> HostResult<Outcome>;

    /// Ends everything of a VPS that is alive in any form and removes its cgroups; afterwards nothing in
    /// [`Runtime::evidence`] is alive. An error means that this could not be proven.
    fn sweep(&self, vps: VpsId) -> HostResult<Outcome>;

    /// Removes the records of ended runs, all but `keep`; with `console`, the console's ring too.
    fn forget(&self, vps: VpsId, keep: Option<&RunId>, console: bool) -> HostResult<Outcome>;

    /// Takes back what has changed of the copies that were placed in the root of a run that is over, in a process that sees
    /// nothing of the host. It reads when and how the run ended off the run's record. Nothing of that run may be alive. What
    /// was taken is not taken again; an error means that something could not be taken now and may be later.
    fn harvest(&self, order: &HarvestOrder) -> HostResult<Taken>;

    /// Waits for the end of any run that was launched here or given to [`Runtime::watch`].
    fn next_end(&self, timeout: Duration) -> Option<(VpsId, RunId, RunEnd)>;

    /// Watches a run that an earlier daemon launched.
    fn watch(&self, vps: VpsId, run: &RunId) -> HostResult<()>;
}

/// A template as it was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltTemplate {
    /// The sha256 of its canonical archive.
    pub digest: Digest,
    /// The bytes of its files.
    pub size_bytes: Bytes,
    /// The manifest that came with the recipe.
    pub manifest: crate::template::Manifest,
}

/// What a template is imported from: files on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportSource {
    /// The archive of the tree, by its absolute path.
    pub archive: String,
    /// What says what it is, by its absolute path: a manifest, or the metadata archive of an LXC or Incus pair.
    pub metadata: Option<String>,
    /// What the digest of all files together must be.
    pub digest: Option<Digest>,
}

/// Tells long work that it is not wanted any more. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// It is not wanted any more.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it is not wanted any more.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Templates on their way into the pool.
pub trait Templates: Send + Sync {
    /// Builds `recipe` (the name of a built-in one, or the absolute path of a file) and puts its parts into the pool
    /// as marked datasets, cut off nowhere half-way: either all parts are there or none. Work that is not wanted any more
    /// ends before long, as failed.
    fn build(
        &self,
        recipe: &str,
        mirror: Option<&str>,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate>;

    /// The same from archives that somebody else made. A bad one is refused with [`Code::TemplateBadArchive`] before
    /// anything of it is a template; of what was cut off, only the staging area knows.
    fn import(
        &self,
        source: &ImportSource,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate>;

    /// Downloads a server's image, held against the sizes and sums that the server told before, and imports it. What was
    /// downloaded is gone when this comes back, and after a crash when the next daemon starts.
    fn pull(
        &self,
        source: &crate::remote::PullSource,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<BuiltTemplate>;
}

/// Time and randomness.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970. It may jump.
    fn unix_ms(&self) -> u64;

    /// Milliseconds since the host booted. It never jumps.
    fn boot_ms(&self) -> u64;

    /// The kernel's id of this boot.
    fn boot_id(&self) -> String;

    /// Random bytes.
    fn random(&self, into: &mut [u8]);
}
