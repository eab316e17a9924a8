//! The network of a fake host: the plan that was made last, or what keeps the host from making one.

use super::FakeHost;
use crate::error::Refusal;
use crate::network::{Network, NetworkPlan, NetworkTrace};
use crate::ports::{HostResult, Outcome};

impl Network for FakeHost {
    /// Made whole or not at all: the next call finishes one that was cut off.
    fn apply(&self, plan: &NetworkPlan) -> HostResult<Outcome> {
        self.mutate("apply the network".into(), |world, _| {
            if let Some(fault) = &world.network_fault {
                return Err(fault.clone().into());
            }
            if world.network.as_ref() == Some(plan) {
                return Ok(Outcome::Unchanged);
            }
            world.network = Some(plan.clone());
            Ok(Outcome::Changed)
        })
    }

    fn remove(&self, of: &NetworkTrace) -> HostResult<Outcome> {
        self.mutate(
            format!("remove the network on {}", of.bridge),
            |world, _| match world.network.take() {
                None => Ok(Outcome::Unchanged),
                Some(_) => Ok(Outcome::Changed),
            },
        )
    }
}

impl FakeHost {
    /// The network as it is.
    pub fn network(&self) -> Option<NetworkPlan> {
        self.world().network.clone()
    }

    /// From now on the network cannot be made, for that reason; or (with none) it can.
    pub fn break_network(&self, why: Option<Refusal>) {
        self.world().network_fault = why;
    }

    /// Someone takes the network down by hand.
    pub fn tear_network_down(&self) {
        self.world().network = None;
    }
}
