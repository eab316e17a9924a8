//! Records that appear and are replaced in one system call: symlinks whose target is JSON.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use mayfly_core::error::LookFailed;
use mayfly_core::ids::NodeId;
use mayfly_core::names::PoolPath;
use mayfly_core::ports::{HostError, HostResult};
use rustix::fs::{AtFlags, readlinkat, renameat, statat, symlinkat, unlinkat};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::contained::names_in;
use super::refusals::failed;

/// The version of every record.
pub(super) const VERSION: u32 = 1;
const REPLACEMENT: &str = ".new";

/// What something in the staging area is going to be, written before it is made.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Intent {
    version: u32,
    /// The node that makes it.
    pub(super) node: NodeId,
    /// The name that it will get, where that is known.
    pub(super) name: Option<PoolPath>,
}

impl Intent {
    pub(super) fn new(node: NodeId, name: Option<PoolPath>) -> Self {
        Self {
            version: VERSION,
            node,
            name,
        }
    }
}

fn unlink(dir: impl AsFd, name: &str) -> rustix::io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// A directory of records.
#[derive(Debug)]
pub(super) struct Records {
    dir: OwnedFd,
    what: &'static str,
}

impl Records {
    pub(super) fn new(dir: OwnedFd, what: &'static str) -> Self {
        Self { dir, what }
    }

    /// `Ok(None)` when there is no record of this name; the inner error when there is one that makes no sense.
    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let text = match readlinkat(&self.dir, name, Vec::with_capacity(1024)) {
            Ok(text) => text,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::INVAL) => return Err("it is not a record of this program".to_owned()),
            Err(errno) => return Err(errno.to_string()),
        };
        serde_json::from_slice(text.as_bytes())
            .map(Some)
            .map_err(|e| e.to_string())
    }

    pub(super) fn write<T: Serialize>(&self, name: &str, record: &T) -> HostResult<()> {
        let action = || format!("writing the {} {name}", self.what);
        let text = serde_json::to_string(record).map_err(|e| HostError::failed(action(), e))?;
        match symlinkat(&text, &self.dir, name) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self
                .replace(name, &text)
                .map_err(|errno| failed(action(), errno)),
            Err(errno) => Err(failed(action(), errno)),
        }
    }

    /// What a kill leaves of it is overwritten by the next attempt and goes with the record.
    fn replace(&self, name: &str, text: &str) -> rustix::io::Result<()> {
        let new = format!("{name}{REPLACEMENT}");
        unlink(&self.dir, &new)?;
        symlinkat(text, &self.dir, &new)?;
        renameat(&self.dir, &new, &self.dir, name)
    }

    pub(super) fn remove(&self, name: &str) -> HostResult<()> {
        unlink(&self.dir, name)
            .and_then(|()| unlink(&self.dir, &format!("{name}{REPLACEMENT}")))
            .map_err(|errno| failed(format!("removing the {} {name}", self.what), errno))
    }

    /// The names of all records; a replacement that a kill cut off goes by the name of its record.
    pub(super) fn names(&self) -> HostResult<BTreeSet<String>> {
        Ok(self.all_names()?)
    }

    pub(super) fn all_names(&self) -> Result<BTreeSet<String>, LookFailed> {
        let names =
            names_in(&self.dir).map_err(|e| LookFailed::new(format!("the {}s", self.what), e))?;
        Ok(names
            .iter()
            .map(|name| name.strip_suffix(REPLACEMENT).unwrap_or(name).to_owned())
            .collect())
    }

    /// Whether there is a record of this name, whatever it says, or a replacement of it.
    pub(super) fn has(&self, name: &str) -> rustix::io::Result<bool> {
        for name in [name, &format!("{name}{REPLACEMENT}")] {
            match statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => return Ok(true),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(false)
    }

    pub(super) fn intent(&self, staged: &str) -> Result<Option<Intent>, LookFailed> {
        let failed = |why: String| LookFailed::new(format!("the intent {staged}"), why);
        match self.read::<Intent>(staged).map_err(failed)? {
            Some(intent) if intent.version != VERSION => Err(failed(format!(
                "its version is {}, known is {VERSION}",
                intent.version
            ))),
            seen => Ok(seen),
        }
    }

    pub(super) fn write_intent(&self, staged: &str, intent: &Intent) -> HostResult<()> {
        self.write(staged, intent)
    }
}
