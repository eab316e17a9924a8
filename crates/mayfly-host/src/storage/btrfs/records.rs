//! Records that appear and are replaced in one system call: symlinks whose target is JSON.

use std::os::fd::OwnedFd;

use mayfly_core::error::LookFailed;
use mayfly_core::ids::NodeId;
use mayfly_core::names::PoolPath;
use mayfly_core::observed::{Mark, MarkSeen};
use mayfly_core::ports::{HostError, HostResult};
use rustix::fs::{AtFlags, readlinkat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::pool::{Uuid, names_in};

const VERSION: u32 = 1;
const REPLACEMENT: &str = ".new";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkRecord {
    version: u32,
    uuid: String,
    mark: Mark,
}

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
        Self { version: VERSION, node, name }
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
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let text = match readlinkat(&self.dir, name, Vec::with_capacity(1024)) {
            Ok(text) => text,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::INVAL) => return Err("it is not a record of this program".to_owned()),
            Err(errno) => return Err(errno.to_string()),
        };
        serde_json::from_slice(text.as_bytes()).map(Some).map_err(|e| e.to_string())
    }

    fn write<T: Serialize>(&self, name: &str, record: &T) -> HostResult<()> {
        let action = || format!("writing the {} {name}", self.what);
        let text = serde_json::to_string(record).map_err(|e| HostError::failed(action(), e))?;
        let new = format!("{name}{REPLACEMENT}");
        match unlinkat(&self.dir, &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(super::pool::failed(action(), errno)),
        }
        symlinkat(&text, &self.dir, &new)
            .and_then(|()| renameat(&self.dir, &new, &self.dir, name))
            .map_err(|errno| super::pool::failed(action(), errno))
    }

    pub(super) fn remove(&self, name: &str) -> HostResult<()> {
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(super::pool::failed(format!("removing the {} {name}", self.what), errno)),
        }
    }

    /// The names of all records; replacements that a kill cut off are removed on the way.
    pub(super) fn names(&self) -> HostResult<Vec<String>> {
        let names = names_in(&self.dir).map_err(|e| LookFailed::new(format!("the {}s", self.what), e))?;
        let (cut_off, names): (Vec<_>, _) = names.into_iter().partition(|name| name.ends_with(REPLACEMENT));
        cut_off.iter().try_for_each(|name| self.remove(name))?;
        Ok(names)
    }

    pub(super) fn mark(&self, uuid: &Uuid) -> MarkSeen {
        match self.read::<MarkRecord>(&uuid.to_string()) {
            Ok(None) => MarkSeen::Unset,
            Ok(Some(record)) if record.version != VERSION => {
                MarkSeen::Unreadable(format!("its version is {}, known is {VERSION}", record.version))
            }
            Ok(Some(record)) if record.uuid != uuid.to_string() => {
                MarkSeen::Unreadable("it was written for another dataset".to_owned())
            }
            Ok(Some(record)) => MarkSeen::Local(record.mark),
            Err(why) => MarkSeen::Unreadable(why),
        }
    }

    pub(super) fn write_mark(&self, uuid: &Uuid, mark: &Mark) -> HostResult<()> {
        let uuid = uuid.to_string();
        self.write(&uuid.clone(), &MarkRecord { version: VERSION, uuid, mark: mark.clone() })
    }

    pub(super) fn intent(&self, staged: &str) -> Result<Option<Intent>, LookFailed> {
        let failed = |why: String| LookFailed::new(format!("the intent {staged}"), why);
        match self.read::<Intent>(staged).map_err(failed)? {
            Some(intent) if intent.version != VERSION => {
                Err(failed(format!("its version is {}, known is {VERSION}", intent.version)))
            }
            seen => Ok(seen),
        }
    }

    pub(super) fn write_intent(&self, staged: &str, intent: &Intent) -> HostResult<()> {
        self.write(staged, intent)
    }
}
