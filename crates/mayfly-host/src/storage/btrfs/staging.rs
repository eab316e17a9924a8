//! The staging area: what is not finished.

use std::collections::BTreeSet;

use mayfly_core::error::LookFailed;
use mayfly_core::ports::HostResult;
use rustix::fs::{AtFlags, statat};

use super::destroy::Proof;
use super::pool::{BtrfsPool, STAGING, Uuid, open_subvolume};
use crate::storage::contained::names_in;
use crate::storage::refusals::not_ours;
use crate::sys::btrfs as sys;

impl BtrfsPool {
    /// Removes what lies in the staging area under a recorded name, and then the record. The caller has claimed it.
    pub(super) fn remove_staged(&self, staged: &str) -> HostResult<()> {
        let path = format!("{STAGING}/{staged}");
        let found = open_subvolume(&self.staging, staged).map_err(|e| LookFailed::new(&path, e))?;
        match (self.intents.intent(staged)?, found) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(not_ours(path, "there is no record of it")),
            (Some(intent), Some(found)) => {
                self.destroy(&path, &found, &Proof::Staged(&intent))?;
                self.intents.remove(staged)
            }
            (Some(_), None) => self.intents.remove(staged),
        }
    }

    /// What lies there or is announced, and is in no call's hands.
    pub(super) fn unclaimed_staged(&self) -> Result<Vec<String>, LookFailed> {
        let look = |e| LookFailed::new(STAGING, e);
        let mut all: BTreeSet<String> =
            names_in(&self.staging).map_err(look)?.into_iter().collect();
        all.extend(self.intents.all_names()?);
        all.retain(|staged| self.claim(staged).is_ok());
        // A call that was at it ended before it was claimed here.
        let there = |staged: &String| {
            let announced = self.intents.has(staged).map_err(look)?;
            Ok(announced || statat(&self.staging, staged, AtFlags::SYMLINK_NOFOLLOW).is_ok())
        };
        let mut left = Vec::new();
        for staged in all {
            if there(&staged)? {
                left.push(staged);
            }
        }
        Ok(left)
    }

    pub(super) fn clear_cut_off(&self) -> HostResult<Vec<String>> {
        let mut told = Vec::new();
        // Marks are listed before subvolumes: a mark is written after its subvolume was made, so one whose subvolume
        // is not in the later list has lost it.
        let marks = self.marks.names()?;
        for staged in self.intents.names()? {
            // A claimed one is being made at this moment.
            let Ok(claim) = self.claim(&staged) else {
                continue;
            };
            if let Err(why) = self.remove_staged(&claim.staged) {
                told.push(format!("{STAGING}/{staged}: {why}"));
            }
        }
        for staged in names_in(&self.staging).map_err(|e| LookFailed::new(STAGING, e))? {
            let Ok(_claim) = self.claim(&staged) else {
                continue;
            };
            // The call that made it may have ended between the listing and the claim.
            let there = statat(&self.staging, &staged, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            if there && matches!(self.intents.intent(&staged), Ok(None)) {
                told.push(format!(
                    "{STAGING}/{staged} is left alone: there is no record of it"
                ));
            }
        }
        told.extend(self.clear_marks(marks)?);
        told.sort();
        Ok(told)
    }

    fn clear_marks(&self, marks: BTreeSet<String>) -> HostResult<Vec<String>> {
        let there = {
            let _still = self.hold_shape();
            sys::all_subvolumes(&self.top).map_err(|e| LookFailed::new("all subvolumes", e))?
        };
        let there: BTreeSet<String> = there
            .iter()
            .map(|(_, uuid)| Uuid(*uuid).to_string())
            .collect();
        let mut told = Vec::new();
        for mark in marks.iter().filter(|mark| !there.contains(*mark)) {
            if is_uuid(mark) {
                self.marks.remove(mark)?;
            } else {
                told.push(format!(
                    "the mark `{}` is left alone: it is named after no dataset",
                    mark.escape_debug()
                ));
            }
        }
        Ok(told)
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(n, b)| match n {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
}
