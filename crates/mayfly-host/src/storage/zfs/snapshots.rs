//! Snapshots: made for a group at once, listed, removed.
//!
//! Ours is one with a local `mayfly:snapshot`. Snapshots inherit the user properties of their dataset, so the mark of the
//! dataset says nothing of them.

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::names::{PoolPath, SnapshotName};
use mayfly_core::observed::Role;
use mayfly_core::ports::{HostError, HostResult, Outcome};
use mayfly_core::snapshots::{NewSnapshot, SnapshotMark, SnapshotOf, SnapshotSeen};
use serde::{Deserialize, Serialize};

use super::command::Trouble;
use super::listing::{self, Row, Source};
use super::pool::{ZfsPool, is_own};
use crate::storage::refusals::not_ours;

/// Whose a snapshot is: a [`SnapshotMark`] as JSON.
pub(super) const SNAPSHOT: &str = "mayfly:snapshot";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct SnapshotRecord {
    version: u32,
    mark: SnapshotMark,
}

/// The property that says whose a new snapshot is.
pub(super) fn written(mark: &SnapshotMark) -> HostResult<String> {
    let record = SnapshotRecord {
        version: VERSION,
        mark: mark.clone(),
    };
    let text = serde_json::to_string(&record)
        .map_err(|e| HostError::failed("writing the mark of a snapshot", e))?;
    Ok(format!("{SNAPSHOT}={text}"))
}

fn owner_in(row: &Row) -> SnapshotOf {
    let Some(property) = row.get(SNAPSHOT).filter(|p| p.source == Source::Local) else {
        return SnapshotOf::Foreign;
    };
    match serde_json::from_str::<SnapshotRecord>(&property.value) {
        Ok(record) if record.version == VERSION => SnapshotOf::Ours(record.mark),
        Ok(record) => SnapshotOf::Unreadable(format!(
            "its version is {}, known is {VERSION}",
            record.version
        )),
        Err(error) => SnapshotOf::Unreadable(error.to_string()),
    }
}

pub(super) fn refuse<T>(code: Code, message: String, hint: &str) -> HostResult<T> {
    Err(HostError::Refused(Refusal::new(code, message, hint)))
}

impl ZfsPool {
    /// The snapshots of a dataset that is there, oldest first.
    pub(super) fn seen_snapshots(&self, whole: &str) -> Result<Vec<SnapshotSeen>, LookFailed> {
        let object = format!("the snapshots of {whole}");
        let properties = format!("name,{SNAPSHOT},guid,used,createtxg");
        let out = self
            .zfs
            .run([
                "get",
                "-H",
                "-p",
                "-o",
                "name,property,value,source",
                "-d",
                "1",
                "-t",
                "snapshot",
                &properties,
                whole,
            ])
            .map_err(|failure| failure.of_look(&object))?;
        let look = |e| LookFailed::new(&object, e);
        let mut seen = Vec::new();
        for row in listing::from_table(&out.stdout).map_err(look)? {
            let Some((_, name)) = row.name.split_once('@') else {
                continue;
            };
            let one = SnapshotSeen {
                name: name.to_owned(),
                of: owner_in(&row),
                guid: row.number("guid").map_err(look)?,
                unique_bytes: row.number("used").map(Bytes).map_err(look)?,
            };
            seen.push((row.number("createtxg").map_err(look)?, one));
        }
        seen.sort_by_key(|(born, _)| *born);
        Ok(seen.into_iter().map(|(_, one)| one).collect())
    }

    fn check_snapshotted(&self, name: &PoolPath, mark: &SnapshotMark) -> HostResult<()> {
        let own = self.own_mark(&self.row_must(name)?)?;
        let same = own.owner.as_ref() == Some(&mark.owner) && mark.node == self.node;
        if !same || own.role != Role::Persistent || own.condemned_by.is_some() || name.is_grave() {
            return Err(not_ours(name, "it is no persistent dataset of this owner"));
        }
        Ok(())
    }

    /// How many of the datasets have this very snapshot already; refused where one has another of its name.
    fn snapshotted(&self, new: &NewSnapshot) -> HostResult<usize> {
        let mut there = 0;
        for name in &new.datasets {
            let all = self.seen_snapshots(&self.whole(name))?;
            match all.iter().find(|one| one.name == new.name.as_str()) {
                None => {}
                Some(one) if one.of == SnapshotOf::Ours(new.mark.clone()) => there += 1,
                Some(_) => {
                    return refuse(
                        Code::DatasetExists,
                        format!("there is another snapshot {} of dataset {name}", new.name),
                        "choose another name",
                    );
                }
            }
        }
        Ok(there)
    }

    pub(super) fn make_snapshots(&self, new: &NewSnapshot) -> HostResult<Outcome> {
        let bad = |why: &str| {
            refuse(
                Code::Invalid,
                format!("the snapshot {} is not made: {why}", new.name),
                "name each dataset once",
            )
        };
        if new.datasets.is_empty() {
            return bad("it is of nothing");
        }
        for (n, name) in new.datasets.iter().enumerate() {
            if new.datasets[..n].contains(name) {
                return bad("a dataset is named twice");
            }
            self.check_snapshotted(name, &new.mark)?;
        }
        match self.snapshotted(new)? {
            0 => {}
            there if there == new.datasets.len() => return Ok(Outcome::Unchanged),
            _ => {
                return refuse(
                    Code::DatasetExists,
                    format!("the snapshot {} is there in part", new.name),
                    "choose another name",
                );
            }
        }
        // One command: ZFS makes all of them in one transaction, or none.
        let mark = written(&new.mark)?;
        let names: Vec<String> = new
            .datasets
            .iter()
            .map(|name| format!("{}@{}", self.whole(name), new.name))
            .collect();
        let args = ["snapshot", "-o", &mark]
            .into_iter()
            .chain(names.iter().map(String::as_str));
        match self.zfs.run(args) {
            Ok(_) => Ok(Outcome::Changed),
            Err(failure) if failure.trouble() == Trouble::Taken => refuse(
                Code::DatasetExists,
                format!("somebody else has just made a snapshot {}", new.name),
                "choose another name",
            ),
            Err(failure) => {
                Err(failure.of_change(&format!("making the snapshot {}", new.name), &names[0]))
            }
        }
    }

    pub(super) fn list_snapshots(
        &self,
        dataset: &PoolPath,
    ) -> Result<Vec<SnapshotSeen>, LookFailed> {
        let whole = self.whole(dataset);
        if is_own(dataset) || self.row(&whole)?.is_none() {
            let what = format!("the snapshots of dataset {dataset}");
            return Err(LookFailed::new(what, "there is no such dataset"));
        }
        self.seen_snapshots(&whole)
    }

    pub(super) fn remove_own_snapshot(
        &self,
        dataset: &PoolPath,
        name: &SnapshotName,
        mark: &SnapshotMark,
    ) -> HostResult<Outcome> {
        let whole = self.whole(dataset);
        if is_own(dataset) || self.row(&whole)?.is_none() {
            return Ok(Outcome::Unchanged);
        }
        let all = self.seen_snapshots(&whole)?;
        let snapshot = format!("{whole}@{name}");
        match all
            .iter()
            .find(|one| one.name == name.as_str())
            .map(|one| &one.of)
        {
            None => return Ok(Outcome::Unchanged),
            Some(SnapshotOf::Ours(there)) if there == mark => {}
            Some(SnapshotOf::Unreadable(why)) => {
                return Err(LookFailed::new(format!("the mark of {snapshot}"), why).into());
            }
            Some(SnapshotOf::Ours(_) | SnapshotOf::Foreign) => {
                return Err(not_ours(&snapshot, "it bears another mark, or none"));
            }
        }
        match self.zfs.run(["destroy", &snapshot]) {
            Ok(_) => Ok(Outcome::Changed),
            Err(failure) if failure.trouble() == Trouble::Absent => Ok(Outcome::Unchanged),
            Err(failure) => Err(failure.of_change(&format!("removing {snapshot}"), &snapshot)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_ours_by_a_property_of_its_own_only() {
        let row = |value: &str, source: &str| {
            let line = format!("t@s\t{SNAPSHOT}\t{value}\t{source}\n");
            listing::from_table(line.as_bytes()).unwrap().remove(0)
        };
        let mark = SnapshotMark {
            node: mayfly_core::ids::NodeId::from_random([1; 8]),
            owner: (
                101.try_into().unwrap(),
                mayfly_core::ids::Incarnation::from_random([1; 16]),
            ),
            operation: mayfly_core::ids::OperationId::at(1, [1; 4]),
        };
        let property = written(&mark).unwrap();
        let value = property.split_once('=').unwrap().1;
        assert_eq!(owner_in(&row(value, "local")), SnapshotOf::Ours(mark));
        for source in ["received", "inherited from t"] {
            assert_eq!(owner_in(&row(value, source)), SnapshotOf::Foreign);
        }
        assert_eq!(owner_in(&row("-", "-")), SnapshotOf::Foreign);
        assert!(matches!(
            owner_in(&row("{", "local")),
            SnapshotOf::Unreadable(_)
        ));
    }
}
