//! Contents that change places, as the drivers do it: names first, then what lies below, then marks.

use super::Reach;
use super::world::World;
use crate::names::PoolPath;
use crate::observed::MarkSeen;
use crate::ports::{HostResult, Outcome};
use crate::proof::Exchange;

impl World {
    pub(super) fn exchange(&mut self, exchange: &Exchange, reach: Reach) -> HostResult<Outcome> {
        let (name, aside) = (exchange.dataset(), exchange.aside());
        let (there, lies) = (self.own_mark(name)?, self.own_mark(aside)?);
        exchange.check(name, &there)?;
        exchange.check(aside, &lies)?;
        let wanted = (exchange.is_wanted(&there), exchange.is_wanted(&lies));
        let swaps = match wanted {
            (true, false) => false,
            (false, true) => true,
            _ => return Err(exchange.not_these().into()),
        };
        for one in self.below(name).iter().chain(&self.below(aside)) {
            exchange.check_below(one.as_str(), &self.own_mark(one)?)?;
        }
        let settled = exchange.settled(&there) == there && exchange.settled(&lies) == lies;
        if !swaps && settled && self.below(aside).is_empty() {
            return Ok(Outcome::Unchanged);
        }
        self.note_if_in_use(name, "put aside");
        self.note_if_in_use(aside, "given another name");
        if swaps {
            let way = aside.on_the_way();
            self.move_tree(name, &way);
            self.move_tree(aside, name);
            self.move_tree(&way, aside);
        }
        if reach == Reach::HalfWay {
            return Ok(Outcome::Changed);
        }
        for one in self.below(aside) {
            if let Some(to) = one.moved(aside, name) {
                self.move_tree(&one, &to);
            }
        }
        for one in [name, aside] {
            if let Some(dataset) = self.datasets.get_mut(one) {
                if let MarkSeen::Local(mark) = &mut dataset.mark {
                    *mark = exchange.settled(mark);
                }
            }
        }
        Ok(Outcome::Changed)
    }

    fn move_tree(&mut self, from: &PoolPath, to: &PoolPath) {
        for one in self.below(from).iter().chain([from]) {
            let moved = one.moved(from, to);
            if let (Some(to), Some(dataset)) = (moved, self.datasets.remove(one)) {
                if let Some(deposit) = self.ledger.get_mut(&dataset.uid) {
                    deposit.name = to.clone();
                }
                self.datasets.insert(to, dataset);
            }
        }
    }
}
