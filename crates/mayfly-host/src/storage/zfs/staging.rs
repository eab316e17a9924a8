//! The staging area: what is not finished.

use std::collections::BTreeSet;

use mayfly_core::error::LookFailed;
use mayfly_core::ports::HostResult;

use super::pool::{STAGING, ZfsPool};
use crate::storage::refusals::not_ours;

impl ZfsPool {
    /// Removes what lies in the staging area under a recorded name, and then the record. The caller has claimed it.
    pub(super) fn remove_staged(&self, staged: &str) -> HostResult<()> {
        let whole = self.staged(staged);
        let there = self.row(&whole)?.is_some();
        match (self.intents.intent(staged)?, there) {
            (None, false) => Ok(()),
            (None, true) => Err(not_ours(whole, "there is no record of it")),
            (Some(intent), _) if intent.node != self.node => {
                Err(not_ours(whole, "its record names another node"))
            }
            (Some(_), true) => {
                for row in self.tree(&whole)?.iter().flatten().rev() {
                    self.destroy_one(&row.name)?;
                }
                self.intents.remove(staged)
            }
            (Some(_), false) => self.intents.remove(staged),
        }
    }

    /// What lies there or is announced, and is in no call's hands.
    pub(super) fn unclaimed_staged(&self) -> Result<Vec<String>, LookFailed> {
        let mut all: BTreeSet<String> = self.all_staged()?.into_iter().collect();
        all.extend(self.intents.all_names()?);
        all.retain(|staged| self.claims.claim(staged).is_ok());
        let mut left = Vec::new();
        for staged in all {
            // A call that was at it ended before it was claimed here.
            let announced = self
                .intents
                .has(&staged)
                .map_err(|e| LookFailed::new(STAGING, e))?;
            if announced || self.row(&self.staged(&staged))?.is_some() {
                left.push(staged);
            }
        }
        Ok(left)
    }

    pub(super) fn clear_cut_off(&self) -> HostResult<Vec<String>> {
        let mut told = Vec::new();
        for staged in self.intents.names()? {
            // A claimed one is being made at this moment.
            let Ok(claim) = self.claims.claim(&staged) else {
                continue;
            };
            if let Err(why) = self.remove_staged(&claim.staged) {
                told.push(format!("{STAGING}/{staged}: {why}"));
            }
        }
        for staged in self.all_staged()? {
            let Ok(_claim) = self.claims.claim(&staged) else {
                continue;
            };
            // The call that made it may have ended between the listing and the claim.
            let there = self.row(&self.staged(&staged))?.is_some();
            if there && matches!(self.intents.intent(&staged), Ok(None)) {
                told.push(format!(
                    "{STAGING}/{staged} is left alone: there is no record of it"
                ));
            }
        }
        told.sort();
        Ok(told)
    }

    fn all_staged(&self) -> Result<Vec<String>, LookFailed> {
        let area = format!("{}/{STAGING}", self.dataset);
        let how = ["-d", "1", "-t", "filesystem,volume"];
        let rows = self
            .zfs
            .get(&how, &["name"], &[&area])
            .map_err(|failed| failed.of_look(&area))?;
        let inner = |name: &str| Some(name.strip_prefix(&area)?.strip_prefix('/')?.to_owned());
        Ok(rows.iter().filter_map(|row| inner(&row.name)).collect())
    }
}
