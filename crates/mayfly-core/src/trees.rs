//! Whole directories of datasets, copied into a new one or taken out of a guest's reach: what a conversion moves.

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::error::{Code, Refusal};
use crate::ids::{Incarnation, OperationId, VpsId};
use crate::names::{GuestPath, PoolPath};
use crate::observed::{Mark, Role};
use crate::ports::Outcome;

/// Contents that a new dataset of a VPS gets from another one of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeCopy {
    /// Whose both are.
    pub owner: (VpsId, Incarnation),
    /// The dataset that is read.
    pub from: PoolPath,
    /// The directory of it whose contents are copied; the top for all of it.
    pub below: GuestPath,
    /// The dataset that gets them: one that was made for it and has held nothing yet.
    pub to: PoolPath,
    /// What is left out, by its path in `from`: of a directory the contents (it is there afterwards, empty), of anything else all.
    pub without: Vec<GuestPath>,
}

/// What a copy came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeCopied {
    /// Whether there was anything to do.
    pub outcome: Outcome,
    /// Bytes of files that were written anew.
    pub copied: Bytes,
    /// Bytes of files that take no room of their own, because their blocks are those of the files that they were copied from.
    pub shared: Bytes,
}

/// A directory of a VPS's persistent dataset that a conversion takes out of the guest's tree: it lies beside `private` then, in
/// the same dataset, where no guest can see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOut {
    /// Whose it is.
    pub owner: (VpsId, Incarnation),
    /// The dataset.
    pub dataset: PoolPath,
    /// The directory, by its path in the dataset.
    pub path: GuestPath,
    /// The conversion; no other one's is touched.
    pub by: OperationId,
}

/// What becomes of such a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TakeTo {
    /// Out of the guest's reach.
    Aside,
    /// Back to where it was.
    Back,
    /// Nowhere: it is destroyed, as what was copied elsewhere first.
    Nothing,
}

impl TreeCopy {
    /// Refuses a dataset that must not be read: one that is not the VPS's own lasting one, or was given up.
    pub fn check_from(&self, mark: &Mark) -> Result<(), Refusal> {
        let role = matches!(mark.role, Role::Persistent | Role::Replaced | Role::Base);
        check(&self.owner, &self.from, mark, role)
    }

    /// Refuses a dataset that must not be filled.
    pub fn check_to(&self, mark: &Mark) -> Result<(), Refusal> {
        let role = matches!(mark.role, Role::Persistent | Role::Base) && self.to != self.from;
        check(&self.owner, &self.to, mark, role)
    }

    /// What is left out, by its path in what is copied. Refused where nothing would be left to copy.
    pub fn left_out(&self) -> Result<Vec<String>, Refusal> {
        let mut out = Vec::new();
        for path in &self.without {
            if self.below.below(path).is_some() {
                return Err(Refusal::new(
                    Code::Invalid,
                    format!(
                        "nothing of {} of dataset {} would be copied without {path}",
                        self.below, self.from
                    ),
                    "leave out less",
                ));
            }
            out.extend(path.below(&self.below).map(str::to_owned));
        }
        Ok(out)
    }

    /// What is answered where the new dataset has something in it that is not this copy.
    pub fn filled(&self) -> Refusal {
        Refusal::new(
            Code::DatasetExists,
            format!(
                "there is something in dataset {} already that is no copy of {} of dataset {}",
                self.to, self.below, self.from
            ),
            "look at what is in it, and move it elsewhere",
        )
    }

    /// What is answered where the copy does not fit into the new dataset.
    pub fn too_large(&self) -> Refusal {
        Refusal::new(
            Code::DiskSpace,
            format!(
                "the copy of {} of dataset {} does not fit into the quota of dataset {}",
                self.below, self.from, self.to
            ),
            "give it more disk space",
        )
    }
}

impl TakenOut {
    /// Refuses a dataset whose tree must not be changed.
    pub fn check(&self, mark: &Mark) -> Result<(), Refusal> {
        check(
            &self.owner,
            &self.dataset,
            mark,
            mark.role == Role::Persistent,
        )?;
        if self.path.is_top() {
            let message = format!("dataset {} as a whole is not taken out", self.dataset);
            return Err(Refusal::new(
                Code::Invalid,
                message,
                "name a directory of it",
            ));
        }
        Ok(())
    }

    /// What is answered for a directory that is not there, for one that is none of the dataset's own, and where it cannot go
    /// back; `why` is a clause about the path.
    pub fn refusal(&self, code: Code, why: &str) -> Refusal {
        Refusal::new(
            code,
            format!("{} of dataset {} {why}", self.path, self.dataset),
            format!("look at what is at {} of the VPS", self.path),
        )
    }
}

fn check(
    owner: &(VpsId, Incarnation),
    name: &PoolPath,
    mark: &Mark,
    role: bool,
) -> Result<(), Refusal> {
    let owned = mark.owner.as_ref() == Some(owner) && mark.made_as == *name;
    if role && owned && mark.condemned_by.is_none() {
        return Ok(());
    }
    Err(Refusal::new(
        Code::NotOurs,
        format!(
            "dataset {name} is left alone: its mark is not that of a lasting dataset of VPS {}",
            owner.0
        ),
        "see `mayfly pool show`",
    ))
}
