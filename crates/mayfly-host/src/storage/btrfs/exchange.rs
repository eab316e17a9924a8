//! A persistent dataset and contents that lie aside change places.
//!
//! One rename exchanges the two, so that there is something under both names at every moment. What lies below the dataset
//! goes along with it and is put back next; the marks come last. Between them the marks speak of other names, which keeps
//! everybody from either dataset, and say whose contents are whose to the next call.

use mayfly_core::names::PoolPath;
use mayfly_core::observed::Mark;
use mayfly_core::ports::{HostError, HostResult, Outcome};
use mayfly_core::proof::Exchange;
use rustix::fs::{RenameFlags, renameat_with};

use super::pool::{BtrfsPool, Subvolume};
use crate::crash::crash_point;
use crate::storage::refusals::failed;

impl BtrfsPool {
    pub(super) fn exchange_contents(&self, exchange: &Exchange) -> HostResult<Outcome> {
        let (name, aside) = (exchange.dataset(), exchange.aside());
        let (there, mark) = self.one_of_two(exchange, name)?;
        let (lies, mark_aside) = self.one_of_two(exchange, aside)?;
        let swaps = match (exchange.is_wanted(&mark), exchange.is_wanted(&mark_aside)) {
            (true, false) => false,
            (false, true) => true,
            _ => return Err(exchange.not_these().into()),
        };
        // All that may go along is looked at before anything is moved.
        self.directly_below(exchange, &there, name)?;
        let below_aside = self.directly_below(exchange, &lies, aside)?;
        let settled =
            exchange.settled(&mark) == mark && exchange.settled(&mark_aside) == mark_aside;
        if !swaps && settled && below_aside.is_empty() {
            return Ok(Outcome::Unchanged);
        }
        if swaps {
            self.swap(name, aside)?;
            crash_point("exchange.after_swap");
        }
        let left = if swaps { &there } else { &lies };
        for lower in self.directly_below(exchange, left, aside)? {
            let to = lower
                .moved(aside, name)
                .ok_or_else(|| HostError::failed(format!("moving {lower}"), "it lies elsewhere"))?;
            self.rename(&lower, &to)?;
            crash_point("exchange.after_one_below");
        }
        for (uuid, mark) in [(&there.uuid, mark), (&lies.uuid, mark_aside)] {
            self.marks.write_mark(uuid, &exchange.settled(&mark))?;
            crash_point("exchange.after_mark");
        }
        self.sync()?;
        Ok(Outcome::Changed)
    }

    fn one_of_two(&self, exchange: &Exchange, name: &PoolPath) -> HostResult<(Subvolume, Mark)> {
        let found = self.subvolume_must(name)?;
        let mark = self.own_mark(name, &found.uuid)?;
        exchange.check(name, &mark)?;
        Ok((found, mark))
    }

    /// What lies in `dataset`, which is called `name`, and not deeper; all that lies below it is the VPS's own.
    fn directly_below(
        &self,
        exchange: &Exchange,
        dataset: &Subvolume,
        name: &PoolPath,
    ) -> HostResult<Vec<PoolPath>> {
        let mut found = Vec::new();
        for lower in self.below(dataset.id, name.as_str())? {
            let path = PoolPath::from_pool(&lower.path).ok_or_else(|| {
                HostError::failed(format!("looking at {}", lower.path), "no plain name")
            })?;
            exchange.check_below(path.as_str(), &self.own_mark(&path, &lower.uuid)?)?;
            let rest = path.as_str().strip_prefix(name.as_str());
            if rest.is_some_and(|rest| rest.matches('/').count() == 1) {
                found.push(path);
            }
        }
        Ok(found)
    }

    fn swap(&self, one: &PoolPath, other: &PoolPath) -> HostResult<()> {
        let (first, first_name) = self.holder(one)?;
        let (second, second_name) = self.holder(other)?;
        let _still = self.hold_shape();
        renameat_with(
            &first,
            first_name,
            &second,
            second_name,
            RenameFlags::EXCHANGE,
        )
        .map_err(|errno| failed(format!("exchanging {one} and {other}"), errno))
    }
}
