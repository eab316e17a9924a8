//! Moving datasets to the graveyard, and destroying what lies there.

use mayfly_core::error::LookFailed;
use mayfly_core::names::PoolPath;
use mayfly_core::ports::{HostError, HostResult, Outcome};
use mayfly_core::proof::{Burial, Condemned};

use super::command::Trouble;
use super::listing::Row;
use super::marks::CONDEMNED;
use super::pool::{ZfsPool, is_own};
use crate::crash::crash_point;
use crate::storage::names::check_goes_along;
use crate::storage::refusals::not_ours;

impl ZfsPool {
    pub(super) fn move_to_grave(&self, burial: &Burial, grave: &PoolPath) -> HostResult<Outcome> {
        let name = burial.dataset();
        if !grave.is_grave() || name.is_grave() || is_own(name) {
            return Err(not_ours(
                name,
                "a dataset is buried from its place, and in the graveyard",
            ));
        }
        let whole = self.whole(name);
        let Some(rows) = self.tree(&whole)? else {
            return self.buried_before(burial, grave);
        };
        let above = self.own_mark(&rows[0])?;
        let mut uncondemned = Vec::new();
        for row in &rows {
            let mark = self.own_mark(row)?;
            check_goes_along(&above, &mark, &row.name)?;
            if mark.condemned_by.as_ref() != Some(burial.by()) {
                uncondemned.push(row.name.as_str());
            }
        }
        if !uncondemned.is_empty() {
            let condemned = format!("{CONDEMNED}={}", burial.by());
            let args = ["set", &condemned].into_iter().chain(uncondemned);
            self.zfs
                .run(args)
                .map_err(|f| f.of_change(&format!("condemning {name}"), &whole))?;
        }
        crash_point("bury.after_marks");
        self.rename(&whole, grave, &format!("moving {name} to {grave}"))?;
        crash_point("bury.after_rename");
        Ok(Outcome::Changed)
    }

    fn buried_before(&self, burial: &Burial, grave: &PoolPath) -> HostResult<Outcome> {
        if let Some(buried) = self.row(&self.whole(grave))? {
            let mark = self.own_mark(&buried)?;
            if mark.made_as == *burial.dataset() && mark.condemned_by.as_ref() == Some(burial.by())
            {
                return Ok(Outcome::Unchanged);
            }
        }
        self.row_must(burial.dataset()).map(|_| Outcome::Unchanged)
    }

    /// A dataset and all below it, parents before children; none when it is certain that there is none.
    pub(super) fn tree(&self, whole: &str) -> Result<Option<Vec<Row>>, LookFailed> {
        self.listed(whole, &["-r", "-t", "filesystem,volume"])
    }

    pub(super) fn destroy_condemned(&self, condemned: &Condemned) -> HostResult<Outcome> {
        let whole = self.whole(condemned.dataset());
        let Some(rows) = self.tree(&whole)? else {
            return Ok(Outcome::Unchanged);
        };
        for row in &rows {
            if self.own_mark(row)?.condemned_by.is_none() {
                return Err(not_ours(&row.name, "no operation condemned it"));
            }
        }
        // Children first: cut off anywhere, what is left of a grave is still a grave with its proof.
        for row in rows.iter().rev() {
            self.destroy_one(&row.name)?;
            crash_point("reap.after_one_subvolume");
        }
        crash_point("reap.after_subvolumes");
        Ok(Outcome::Changed)
    }

    /// Destroys one dataset with its snapshots, whoever made them, and nothing below it. The only place that does it.
    pub(super) fn destroy_one(&self, whole: &str) -> HostResult<()> {
        let action = || format!("destroying {whole}");
        match self.zfs.run(["destroy", whole]) {
            Ok(_) => return Ok(()),
            Err(failure) => match failure.trouble() {
                Trouble::Absent => {
                    return self
                        .row(whole)
                        .map_err(HostError::from)
                        .and_then(|left| match left {
                            None => Ok(()),
                            Some(_) => Err(failure.of_change(&action(), whole)),
                        });
                }
                Trouble::HasChildren => {}
                _ => return Err(failure.of_change(&action(), whole)),
            },
        }
        if !self.snapshots(whole)?.is_empty() {
            // All of this one dataset; one with a hold or a clone stays, and says so.
            self.zfs
                .run(["destroy", &format!("{whole}@%")])
                .map_err(|f| f.of_change(&action(), whole))?;
        }
        self.zfs
            .run(["destroy", whole])
            .map_err(|f| f.of_change(&action(), whole))?;
        Ok(())
    }
}
