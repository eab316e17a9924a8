//! A persistent dataset and contents that lie aside change places.
//!
//! ZFS renames one dataset at a time, and what lies below goes along. So one of the two is out of the way for a moment, under
//! a name that no mark was made for, which keeps everybody from it; what lies below the dataset is moved over next, and the
//! marks come last. Whichever of the three names the two have, the marks say whose contents are whose: a call that was cut
//! off is finished, or undone, from any of these states.

use mayfly_core::names::PoolPath;
use mayfly_core::observed::Mark;
use mayfly_core::ports::{HostError, HostResult, Outcome};
use mayfly_core::proof::Exchange;

use super::marks;
use super::pool::{ZfsPool, is_own};
use crate::crash::crash_point;
use crate::storage::refusals::not_ours;

/// One of the two: its name at present, its mark, and what lies directly below it.
struct Found {
    name: PoolPath,
    mark: Mark,
    below: Vec<PoolPath>,
}

impl ZfsPool {
    pub(super) fn exchange_contents(&self, exchange: &Exchange) -> HostResult<Outcome> {
        let (name, aside) = (exchange.dataset(), exchange.aside());
        let way = aside.on_the_way();
        let mut found = Vec::new();
        for at in [name, aside, &way] {
            found.extend(self.one_of_two(exchange, at)?);
        }
        let Ok([one, other]) = <[Found; 2]>::try_from(found) else {
            return Err(exchange.not_these().into());
        };
        let (mut wanted, mut left) = match (
            exchange.is_wanted(&one.mark),
            exchange.is_wanted(&other.mark),
        ) {
            (true, false) => (one, other),
            (false, true) => (other, one),
            _ => return Err(exchange.not_these().into()),
        };
        let settled = |found: &Found| exchange.settled(&found.mark) == found.mark;
        if wanted.name == *name
            && left.name == *aside
            && left.below.is_empty()
            && settled(&wanted)
            && settled(&left)
        {
            return Ok(Outcome::Unchanged);
        }
        if left.name == *name {
            let free = if wanted.name == *aside { &way } else { aside };
            self.moves(&mut left, free)?;
            crash_point("exchange.after_first");
        }
        if wanted.name != *name {
            self.moves(&mut wanted, name)?;
            crash_point("exchange.after_swap");
        }
        for lower in std::mem::take(&mut left.below) {
            let to = lower
                .moved(&left.name, name)
                .ok_or_else(|| HostError::failed(format!("moving {lower}"), "it lies elsewhere"))?;
            self.rename(&self.whole(&lower), &to, &format!("moving {lower} to {to}"))?;
            crash_point("exchange.after_one_below");
        }
        if left.name != *aside {
            self.moves(&mut left, aside)?;
        }
        for one in [&wanted, &left] {
            let mark = marks::written(&exchange.settled(&one.mark))?;
            let whole = self.whole(&one.name);
            self.zfs
                .run(["set", &mark, &whole])
                .map_err(|f| f.of_change(&format!("marking {}", one.name), &whole))?;
            crash_point("exchange.after_mark");
        }
        Ok(Outcome::Changed)
    }

    fn one_of_two(&self, exchange: &Exchange, name: &PoolPath) -> HostResult<Option<Found>> {
        if is_own(name) || name.is_grave() {
            return Err(not_ours(name, "no dataset of a VPS has such a name"));
        }
        let Some(rows) = self.tree(&self.whole(name))? else {
            return Ok(None);
        };
        let mark = self.own_mark(&rows[0])?;
        exchange.check(name, &mark)?;
        let mut below = Vec::new();
        for row in &rows[1..] {
            exchange.check_below(&row.name, &self.own_mark(row)?)?;
            let path = self.relative(&row.name).and_then(PoolPath::from_pool);
            let path = path.ok_or_else(|| not_ours(&row.name, "it has no plain name"))?;
            let rest = path.as_str().strip_prefix(name.as_str());
            if rest.is_some_and(|rest| rest.matches('/').count() == 1) {
                below.push(path);
            }
        }
        Ok(Some(Found {
            name: name.clone(),
            mark,
            below,
        }))
    }

    fn moves(&self, one: &mut Found, to: &PoolPath) -> HostResult<()> {
        let from = std::mem::replace(&mut one.name, to.clone());
        self.rename(&self.whole(&from), to, &format!("moving {from} to {to}"))?;
        one.below = std::mem::take(&mut one.below)
            .iter()
            .filter_map(|lower| lower.moved(&from, to))
            .collect();
        Ok(())
    }
}
