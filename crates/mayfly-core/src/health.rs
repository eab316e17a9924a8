//! How a guest is, by what its systemd says of its units. It is the guest's word, and only ever about itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// So many units are told of each kind; a guest with more is as bad.
pub const MAX_UNITS: usize = 200;

/// Units that are not as they ought to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Units that failed.
    pub failed: BTreeSet<String>,
    /// Units with jobs that wait or run.
    pub queued: BTreeSet<String>,
}

/// What that means beside how the guest was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing is queued, and nothing failed that had not failed before.
    Well,
    /// It is still on its way.
    Unsettled {
        /// Units with jobs.
        queued: BTreeSet<String>,
    },
    /// Nothing is queued, and these failed that had not.
    Worse {
        /// The units.
        failed: BTreeSet<String>,
    },
}

impl Health {
    /// Judges a guest beside the units that had failed before.
    pub fn beside(&self, before: &BTreeSet<String>) -> Judgement {
        if !self.queued.is_empty() {
            return Judgement::Unsettled {
                queued: self.queued.clone(),
            };
        }
        let failed: BTreeSet<_> = self.failed.difference(before).cloned().collect();
        match failed.is_empty() {
            true => Judgement::Well,
            false => Judgement::Worse { failed },
        }
    }

    /// What `systemctl list-units --failed` and `systemctl list-jobs` print, without legend and in plain text: a unit stands
    /// first in a line of the one, and second in one of the other.
    pub fn read(failed: &str, jobs: &str) -> Self {
        let failed = failed.lines().filter_map(|l| l.split_whitespace().next());
        // A job has a number; that there is none is said in words by some.
        let queued = jobs.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next()?.parse::<u32>().ok()?;
            words.next()
        });
        Self {
            failed: failed.take(MAX_UNITS).map(shown).collect(),
            queued: queued.take(MAX_UNITS).map(shown).collect(),
        }
    }
}

/// A name as the guest gave it, fit to be shown.
fn shown(name: &str) -> String {
    name.chars()
        .take(100)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn a_guest_is_well_when_nothing_waits_and_nothing_failed_anew() {
        let before = units(&["old.service"]);
        let seen = |failed: &[&str], queued: &[&str]| Health {
            failed: units(failed),
            queued: units(queued),
        };
        assert_eq!(seen(&["old.service"], &[]).beside(&before), Judgement::Well);
        assert_eq!(seen(&[], &[]).beside(&before), Judgement::Well);
        assert_eq!(
            seen(&["old.service", "new.service"], &[]).beside(&before),
            Judgement::Worse {
                failed: units(&["new.service"])
            }
        );
        // What failed may be tried again by a job that waits.
        assert!(matches!(
            seen(&["new.service"], &["new.service"]).beside(&before),
            Judgement::Unsettled { .. }
        ));
    }

    #[test]
    fn what_systemctl_prints_is_read_and_bounded() {
        let failed = "sys-kernel-debug.mount loaded failed failed Kernel Debug File System\n";
        let jobs = "1 graphical.target start waiting\n97 long.service start running\n";
        let read = Health::read(failed, jobs);
        assert_eq!(read.failed, units(&["sys-kernel-debug.mount"]));
        assert_eq!(read.queued, units(&["graphical.target", "long.service"]));
        assert_eq!(Health::read("\n", ""), Health::default());
        assert_eq!(Health::read("", "No jobs listed.\n"), Health::default());
        let many: String = (0..10_000).map(|n| format!("u{n}.service x\n")).collect();
        assert_eq!(Health::read(&many, "").failed.len(), MAX_UNITS);
        let hostile = format!("{}\u{1b}[2J x\n", "a".repeat(10_000));
        assert!(
            Health::read(&hostile, "")
                .failed
                .iter()
                .all(|n| n.len() <= 600 && !n.contains('\u{1b}'))
        );
    }
}
