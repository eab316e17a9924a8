//! How the guests of a fake host are.

use super::FakeHost;
use super::world::World;
use crate::error::LookFailed;
use crate::health::Health;
use crate::ids::{RunId, VpsId};

impl World {
    pub(super) fn health(&self, key: &(VpsId, RunId), what: &str) -> Result<Health, LookFailed> {
        let Some(run) = self.runs.get(key).filter(|run| run.guest) else {
            return Err(LookFailed::new(what, "it is over"));
        };
        let temporary = run
            .spec
            .persistence
            .as_ref()
            .is_some_and(|spec| spec.temporary_root);
        let health = match temporary {
            true => self.healths_of_roots.get(&key.0),
            false => None,
        };
        let usual = || self.healths.get(&key.0).cloned().unwrap_or_default();
        Ok(health.cloned().unwrap_or_else(usual))
    }
}

impl FakeHost {
    /// From now on the guests of a VPS are like this; without it they are well.
    pub fn set_health(&self, vps: VpsId, health: Health) {
        self.world().healths.insert(vps, health);
    }

    /// The same for those whose root is a temporary one.
    pub fn set_health_of_roots(&self, vps: VpsId, health: Health) {
        self.world().healths_of_roots.insert(vps, health);
    }
}
