//! The network of the node, a lasting goal: what the documents call for is made, looked at again every few seconds, and put
//! right where somebody changed it. Who needs it for a run has it made at once, or is refused with the reason.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use mayfly_core::documents::{NodeDoc, Request, VpsDoc};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::network::{
    Forward, NetworkPlan, NetworkTrace, NodeNetwork, free_network, needs_address, network_plan,
};
use mayfly_core::ports::Outcome;

use crate::engine::Engine;
use crate::keys;
use crate::store::{Condition, Txn, TxnOutcome, TypedStore, Write};

/// How often the host is looked at where nothing has changed.
const PAUSE: Duration = Duration::from_secs(3);

/// What is known of the network. Whoever only asks does not wait for who makes it.
pub(crate) struct NetworkState {
    /// What it is; none where the node has none (any more).
    now: Mutex<Option<NodeNetwork>>,
    /// What the host was last made to be. Held while it is made or removed.
    applied: Mutex<Option<NetworkPlan>>,
    /// Why it could not be made.
    trouble: Mutex<Option<Refusal>>,
}

impl NetworkState {
    pub(crate) fn of(node: &NodeDoc) -> Self {
        Self {
            now: Mutex::new(node.network.clone()),
            applied: Mutex::default(),
            trouble: Mutex::default(),
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().expect("no thread panics with it")
}

impl Engine {
    /// The network of the node.
    pub fn network(&self) -> Option<NodeNetwork> {
        lock(&self.inner.network.now).clone()
    }

    /// Why the network is not as it should be, where it is not.
    pub fn network_trouble(&self) -> Option<Refusal> {
        lock(&self.inner.network.trouble).clone()
    }

    /// Makes the network what the documents call for, for a run or a change that needs it. What was made already is not
    /// looked at again: that is for the thread that keeps it.
    pub(crate) fn ensure_network(&self) -> Result<(), Refusal> {
        let mut applied = lock(&self.inner.network.applied);
        let plan = self.network_plan()?.ok_or_else(absent)?;
        if applied.as_ref() == Some(&plan) {
            return Ok(());
        }
        self.make_network(&mut applied, plan)
    }

    /// Looks at the host, whatever was made before, and puts right what is not.
    pub fn look_after_network(&self) -> Result<(), Refusal> {
        let mut applied = lock(&self.inner.network.applied);
        match self.network_plan()? {
            None => Ok(()),
            Some(plan) => self.make_network(&mut applied, plan),
        }
    }

    fn network_plan(&self) -> Result<Option<NetworkPlan>, Refusal> {
        let Some(network) = self.network() else {
            return Ok(None);
        };
        // The card of one whose document cannot be read is in no set, and may say nothing; the others are not its hostages.
        let vpses = self.vpses()?;
        Ok(Some(network_plan(&self.node().id, &network, &vpses)))
    }

    fn make_network(
        &self,
        applied: &mut Option<NetworkPlan>,
        plan: NetworkPlan,
    ) -> Result<(), Refusal> {
        let made = self.deps().network.apply(&plan);
        let mut trouble = lock(&self.inner.network.trouble);
        match made {
            Ok(outcome) => {
                if outcome == Outcome::Changed || trouble.is_some() {
                    tracing::info!(bridge = %plan.bridge, "the network is as it should be");
                }
                *applied = Some(plan);
                *trouble = None;
                Ok(())
            }
            Err(error) => {
                let why = unavailable(error.into());
                if trouble.as_ref() != Some(&why) {
                    tracing::error!(%why, hint = why.hint, "the network is not as it should be");
                }
                *applied = None;
                *trouble = Some(why.clone());
                Err(why)
            }
        }
    }

    /// The thread that keeps the network.
    pub(crate) fn keep_network(&self) {
        let (flag, moved) = &self.inner.network_moved;
        while !self.stopping() {
            // A state that is older than the pool says nothing of what should be.
            if self.held().is_none() {
                // What went wrong is kept, told by `status`, and tried again.
                let _ = self.look_after_network();
            }
            let woken = flag.lock().expect("no thread panics with it");
            let (mut woken, _) = moved
                .wait_timeout_while(woken, PAUSE, |woken| !*woken)
                .expect("no thread panics with it");
            *woken = false;
        }
    }

    pub(crate) fn wake_network(&self) {
        let (flag, moved) = &self.inner.network_moved;
        *flag.lock().expect("no thread panics with it") = true;
        moved.notify_all();
    }

    /// After the document of a VPS has changed. What cannot be made now is tried again, and told meanwhile.
    pub(crate) fn settle_network_of(&self, before: Option<&VpsDoc>, now: Option<&VpsDoc>) {
        let of = |doc: Option<&VpsDoc>| doc.and_then(|doc| doc.network.clone());
        match (of(before), of(now)) {
            (before, now) if before == now => {}
            (Some(_), Some(_)) => drop(self.ensure_network()),
            _ => self.wake_network(),
        }
    }

    /// Gives a place in the network to each VPS that has none in it. For the start of the daemon, before anything is
    /// carried out: nobody else writes documents then. Answers with what could not be done.
    pub(crate) fn give_addresses(&self) -> Result<Vec<String>, Refusal> {
        let Some(network) = self.network() else {
            return Ok(Vec::new());
        };
        let mut reports = Vec::new();
        for mut doc in self.vpses()? {
            if !needs_address(&network, &doc) {
                continue;
            }
            let node = &self.node().id;
            let Some(mut place) = free_network(node, &network, doc.id, &self.every_vps()?) else {
                reports.push(format!(
                    "VPS {} has no address: every one of {} is taken",
                    doc.title(),
                    network.subnet
                ));
                continue;
            };
            if let Some(old) = doc.network.take() {
                place.ports = old.ports;
            }
            doc.network = Some(place);
            let key = keys::vps(doc.id);
            let Some(found) = self.deps().store.get_doc::<VpsDoc>(&key)? else {
                continue;
            };
            let txn = Txn {
                conditions: vec![Condition::AtRevision(key.clone(), found.mod_revision)],
                writes: vec![Write::put_doc(key.clone(), &doc)?],
            };
            if let TxnOutcome::Conflict { key } = self.commit(txn)? {
                reports.push(format!("{key} was changed meanwhile; it gets no address"));
            }
        }
        Ok(reports)
    }

    /// Removes the network from the host and from the node. VPSes keep their addresses in their documents.
    pub fn remove_network(&self) -> Result<Outcome, Refusal> {
        self.refuse_if_held()?;
        let mut applied = lock(&self.inner.network.applied);
        let Some(network) = self.network() else {
            return Ok(Outcome::Unchanged);
        };
        // A run that is to be launched is in its document before it asks for the network.
        let plugged = |doc: &&VpsDoc| doc.run.is_some() && doc.network.is_some();
        if let Some(doc) = self.every_vps()?.iter().find(plugged) {
            return Err(Refusal::new(
                Code::NetworkInUse,
                format!(
                    "VPS {} runs, and is plugged into {}",
                    doc.title(),
                    network.bridge
                ),
                format!("stop it first: mayfly stop {}", doc.id),
            ));
        }
        let trace = NetworkTrace::of(&self.node().id, &network);
        self.deps().network.remove(&trace)?;
        (self.deps().keep_node)(&self.node().without_network())?;
        *lock(&self.inner.network.now) = None;
        *lock(&self.inner.network.trouble) = None;
        *applied = None;
        tracing::info!(bridge = %trace.bridge, "the network is removed");
        Ok(Outcome::Changed)
    }

    /// Refuses a port of the host that leads somewhere already, or is to by a change under way. Called while no other
    /// change is accepted.
    pub(crate) fn refuse_taken_port(&self, wanted: Forward) -> Result<(), Refusal> {
        let is_it =
            |it: &Forward| (it.host_port, it.protocol) == (wanted.host_port, wanted.protocol);
        for doc in self.every_vps()? {
            if doc.network.iter().any(|own| own.ports.iter().any(is_it)) {
                return Err(port_taken(wanted, &format!("VPS {}", doc.title())));
            }
        }
        for op in self.operations()? {
            match &op.request {
                Request::PortAdd { forward } if !op.state.is_over() && is_it(forward) => {
                    return Err(port_taken(wanted, &format!("operation {}", op.id)));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn port_taken(wanted: Forward, by: &str) -> Refusal {
    Refusal::new(
        Code::PortTaken,
        format!(
            "port {}/{} of the host is taken by {by}",
            wanted.host_port, wanted.protocol
        ),
        "choose another port, or remove that one: mayfly port remove",
    )
}

fn absent() -> Refusal {
    Refusal::new(
        Code::NetworkAbsent,
        "the node has no network any more",
        "start the VPS again: it starts without one",
    )
}

/// The reason and the cure as they are, under one code.
fn unavailable(why: Refusal) -> Refusal {
    Refusal {
        code: Code::NetworkUnavailable,
        message: format!("the network of the node cannot be made: {}", why.message),
        hint: why.hint,
    }
}
