//! The limits and features of runs of a fake host.

use super::world::World;
use super::{FakeHost, Reach};
use crate::bytes::Bytes;
use crate::error::{Code, Refusal};
use crate::features::{Feature, FeatureSeen, Features};
use crate::ids::{RunId, VpsId};
use crate::ports::{HostError, HostResult, Outcome};
use crate::run::Limits;

impl World {
    /// The files of a run's cgroup are written one after the other, memory first.
    pub(super) fn set_limits(
        &mut self,
        key: &(VpsId, RunId),
        limits: &Limits,
        reach: Reach,
    ) -> HostResult<Outcome> {
        let vps = key.0;
        let used = self.used_memory.get(key).copied().unwrap_or_default();
        let Some(run) = self.runs.get_mut(key).filter(|run| run.cgroup) else {
            return Ok(Outcome::Unchanged);
        };
        if run.spec.limits == *limits {
            return Ok(Outcome::Unchanged);
        }
        if limits.memory_bytes.is_some_and(|memory| memory < used) {
            return Err(Refusal::new(
                Code::LimitBelowUse,
                format!("VPS {vps} uses {used} of memory"),
                format!("ask for memory={}M at least", used.0.div_ceil(1 << 20)),
            )
            .into());
        }
        if self.unlimitable.contains(&vps) {
            let action = format!("setting the limit of processes of VPS {vps}");
            return Err(HostError::failed(action, "Input/output error"));
        }
        run.spec.limits.memory_bytes = limits.memory_bytes;
        if reach == Reach::Whole {
            run.spec.limits = limits.clone();
        }
        Ok(Outcome::Changed)
    }
}

impl FakeHost {
    /// The limits that hold for the living guest of a VPS.
    pub fn limits_of(&self, vps: VpsId) -> Option<Limits> {
        let world = self.world();
        let run = world.runs.values().find(|r| r.vps == vps && r.guest)?;
        Some(run.spec.limits.clone())
    }

    /// From now on the guest of a VPS uses so much memory, and gives none of it up.
    pub fn use_memory(&self, vps: VpsId, used: Bytes) {
        self.change_run(vps, |world, run| {
            world.used_memory.insert((vps, run.run.clone()), used);
        });
    }

    /// From now on the kernel does not take limits of this VPS, or it does again.
    pub fn refuse_limits(&self, vps: VpsId, refuse: bool) {
        let mut world = self.world();
        if refuse {
            world.unlimitable.insert(vps);
        } else {
            world.unlimitable.remove(&vps);
        }
    }

    /// The features of the living guest of a VPS.
    pub fn features_of(&self, vps: VpsId) -> Option<Features> {
        let world = self.world();
        let run = world.runs.values().find(|r| r.vps == vps && r.guest)?;
        Some(run.spec.features.clone())
    }

    /// From now on this is what the host has for a feature.
    pub fn set_feature(&self, feature: Feature, seen: FeatureSeen) {
        self.world().features.insert(feature, seen);
    }
}
