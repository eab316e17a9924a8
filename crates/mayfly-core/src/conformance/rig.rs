//! What the suite needs of an implementation's test.

use std::fs::File;
use std::sync::Arc;

use crate::bytes::Bytes;
use crate::ids::{Digest, NodeId};
use crate::names::{PoolPath, TemplatePart};
use crate::observed::Mark;
use crate::ports::{Snapshots, Storage};

/// An implementation, or its rig, has no such thing; the reason is for the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cannot(pub &'static str);

/// What a rig that need not be able to do something answers.
pub type Can<T> = Result<T, Cannot>;

/// Something in a guest's tree.
#[derive(Clone, Debug)]
pub enum Thing {
    /// A directory.
    Directory,
    /// A file that no one can execute.
    Text(String),
    /// A file that everyone can execute.
    Program,
    /// A file of this many bytes that no file system makes smaller.
    Filled(Bytes),
    /// A symlink.
    Link(String),
    /// A named pipe.
    Pipe,
    /// A character device.
    Device,
}

/// What a guest gets instead of its write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutError {
    /// The quota is used up (EDQUOT; ENOSPC where only the quota can be the reason).
    Quota,
    /// The pool is full (ENOSPC).
    NoSpace,
    /// There are no such things here.
    Cannot(Cannot),
    /// Anything else.
    Failed(String),
}

/// How a dataset that the platform did not make is marked.
#[derive(Clone, Debug)]
pub enum Planted {
    /// Not at all.
    Unmarked,
    /// With a mark that came with the data (received, or inherited).
    CameWithData(Mark),
    /// With something in the mark's place that cannot be read.
    Unreadable,
    /// With this mark, in its place, as if the platform had written it.
    Local(Mark),
}

/// Who something in a tree belongs to, and what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// User id, as stored in the dataset.
    pub uid: u32,
    /// Group id, as stored in the dataset.
    pub gid: u32,
    /// The lower twelve bits of the mode.
    pub mode: u32,
}

/// What becomes of a clone when the template that it was made from goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clones {
    /// The template cannot go before its clones.
    NeedTheirOrigin,
    /// Nothing: a clone stands alone.
    StandAlone,
}

/// Keeps a dataset in use; dropped, it lets go.
pub trait Held {}

/// An empty pool with a node, and the hands of an administrator and of a guest.
///
/// Where a method does not answer [`Can`], every implementation has such a thing; it panics where its tools fail.
pub trait Rig {
    /// The port. Asked for anew after [`Rig::cut`].
    fn storage(&self) -> Arc<dyn Storage>;

    /// The port of snapshots, where the storage has it.
    fn snapshots(&self) -> Can<Arc<dyn Snapshots>>;

    /// A file of nobody's, for a stream to lie in.
    fn spool(&self) -> File;

    /// A stream of a whole dataset that claims to have this mark, and a place in the host's tree to be mounted at.
    fn tainted_stream(&self, mark: &Mark, into: &File) -> Can<()>;

    /// Whether the properties of a dataset have it mounted somewhere by themselves.
    fn mounts_itself(&self, dataset: &PoolPath) -> Can<bool>;

    /// A case begins; `again` is with every changing call done twice.
    fn begins(&self, _case: &str, _again: bool) {}

    /// The node whose pool it is.
    fn node(&self) -> NodeId;

    /// Builds a template of these parts and their contents, parents before children.
    fn template(&self, digest: &Digest, parts: &[(TemplatePart, Vec<(&str, Thing)>)]);

    /// Puts something into a dataset as its guest would: what is there under the path is replaced, where it is no
    /// directory; the directories above it are there.
    fn put(&self, dataset: &PoolPath, path: &str, thing: &Thing) -> Result<(), PutError>;

    /// What a regular file of text holds; none where there is no such file. No link is followed.
    fn read(&self, dataset: &PoolPath, path: &str) -> Option<String>;

    /// Removes a file as the guest would.
    fn remove(&self, dataset: &PoolPath, path: &str) -> Result<(), PutError>;

    /// Who something belongs to; `/` is the top of the guest's tree.
    fn rights(&self, dataset: &PoolPath, path: &str) -> Can<Rights>;

    /// Waits until all that was written counts, and what was removed does not.
    fn settle(&self);

    /// Someone makes a dataset by hand, also below another one or in the graveyard.
    fn plant(&self, name: &PoolPath, planted: &Planted) -> Can<()>;

    /// Someone removes what [`Rig::plant`] made, with its mark.
    fn uproot(&self, name: &PoolPath);

    /// Someone makes a dataset in the staging area.
    fn litter(&self, name: &str);

    /// Someone removes what [`Rig::litter`] made.
    fn clean(&self, name: &str);

    /// Has a dataset in use, as a guest would that has it mounted, until the answer is dropped.
    fn hold(&self, name: &PoolPath) -> Can<Box<dyn Held + '_>>;

    /// Whether the backend refuses to destroy what is in use.
    fn refuses_what_is_in_use(&self) -> Can<()>;

    /// What becomes of clones without their template.
    fn clones(&self) -> Clones;

    /// Someone makes a snapshot of a dataset that is not the platform's.
    fn foreign_snapshot(&self, name: &PoolPath, snapshot: &str) -> Can<()>;

    /// Has the daemon die in the middle of this changing call; the next daemon is there when this returns.
    fn cut(&self, call: &dyn Fn(&dyn Storage)) -> Can<()>;
}
