//! The engine as callers see it: questions answered from documents and from the host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};

use mayfly_core::bytes::Bytes;
use mayfly_core::documents::{NodeDoc, OperationDoc, Request, TemplateDoc, VpsDoc};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::features::{Feature, FeatureSeen};
use mayfly_core::ids::{OperationId, VpsId};
use mayfly_core::names::PoolPath;
use mayfly_core::observed::{Observed, PoolSeen};
use mayfly_core::plan::{
    Busy, Leftovers, PlanContext, needed_features, needed_probe, promised, reinstall_probe,
    sort_leftovers,
};
use mayfly_core::run::RunState;

use crate::autostart::BootQueue;
use crate::deps::Deps;
use crate::doing::AllDoing;
use crate::keys;
use crate::lanes::Lanes;
use crate::mirrors::Mirrored;
use crate::network::NetworkState;
use crate::reaper::Graves;
use crate::store::{BadDoc, Change, Revision, TypedStore};

/// One node's engine. Clones share it.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) deps: Deps,
    pub(crate) lanes: Lanes,
    pub(crate) doing: AllDoing,
    /// Counts changes of operations; waiters look again when it moves.
    pub(crate) moved: (Mutex<u64>, Condvar),
    /// Held while a new VPS is given its number, name and host ids.
    pub(crate) accepting: Mutex<()>,
    /// Read while a plan is made and journalled, written while a template is buried: what a plan counts on is there, or
    /// the burial sees the plan.
    pub(crate) bases: RwLock<()>,
    /// Held while a plan that makes the pool promise more is made and journalled.
    pub(crate) promises: Mutex<()>,
    /// Why nothing is changed, where the state cannot be trusted over the pool.
    pub(crate) held: Mutex<Option<Refusal>>,
    /// The network, and what is known of it.
    pub(crate) network: NetworkState,
    /// Set when the network is to be looked at at once.
    pub(crate) network_moved: (Mutex<bool>, Condvar),
    /// What of the documents is mirrored in the pool.
    pub(crate) mirrored: Mirrored,
    /// Set when a document has changed.
    pub(crate) mirror: (Mutex<bool>, Condvar),
    /// Set when the reaper has something to look at.
    pub(crate) reap: (Mutex<bool>, Condvar),
    /// Graves that the reaper has tried in vain.
    pub(crate) graves: Mutex<Graves>,
    /// VPSes whose due could not be asked for.
    pub(crate) missed: Mutex<BTreeSet<VpsId>>,
    /// What is started because a daemon, or the host, has just started.
    pub(crate) boot: Mutex<BootQueue>,
    pub(crate) stopping: AtomicBool,
    /// Whether there was an operation that could not be read: nobody knows whose work it was in the middle of.
    pub(crate) unknown_work: AtomicBool,
    /// Operations that came to their end in this daemon.
    pub(crate) ended: AtomicUsize,
}

/// The pool as `mayfly pool show` tells it.
#[derive(Clone, Debug)]
pub struct PoolReport {
    /// What is there.
    pub seen: PoolSeen,
    /// The quotas of all persistent datasets together.
    pub promised: Bytes,
    /// What is left alone, and why.
    pub reports: Vec<String>,
    /// Graves that wait to be destroyed.
    pub waiting: Vec<PoolPath>,
}

impl Engine {
    /// An engine at rest: nothing is carried out before [`Engine::recover`] and [`Engine::start_threads`], or
    /// [`Engine::drain`].
    pub fn new(deps: Deps) -> Self {
        let network = NetworkState::of(&deps.node);
        Self {
            inner: Arc::new(Inner {
                deps,
                lanes: Lanes::default(),
                doing: AllDoing::default(),
                moved: Default::default(),
                accepting: Mutex::new(()),
                bases: RwLock::new(()),
                promises: Mutex::new(()),
                held: Mutex::default(),
                network,
                network_moved: Default::default(),
                mirrored: Mirrored::default(),
                mirror: Default::default(),
                reap: Default::default(),
                graves: Mutex::default(),
                missed: Mutex::default(),
                boot: Mutex::default(),
                stopping: AtomicBool::new(false),
                unknown_work: AtomicBool::new(false),
                ended: AtomicUsize::new(0),
            }),
        }
    }

    pub(crate) fn deps(&self) -> &Deps {
        &self.inner.deps
    }

    /// The node.
    pub fn node(&self) -> &NodeDoc {
        &self.deps().node
    }

    /// All VPSes, by number.
    pub fn vpses(&self) -> Result<Vec<VpsDoc>, Refusal> {
        let mut all: Vec<VpsDoc> = self.documents(keys::VPSES)?;
        all.sort_by_key(|v| v.id);
        Ok(all)
    }

    /// VPSes and templates whose documents cannot be used: their keys, and why. What they speak of is disabled, and nothing else.
    pub fn bad_documents(&self) -> Result<Vec<BadDoc>, Refusal> {
        let mut bad = Vec::new();
        bad.extend(self.deps().store.list_docs::<VpsDoc>(keys::VPSES)?.bad);
        bad.extend(
            self.deps()
                .store
                .list_docs::<TemplateDoc>(keys::TEMPLATES)?
                .bad,
        );
        Ok(bad)
    }

    /// All documents below a prefix; refused where one of them cannot be used.
    pub(crate) fn all_or_none<T: serde::de::DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<T>, Refusal> {
        let listed = self.deps().store.list_docs::<T>(prefix)?;
        match listed.bad.first() {
            Some(bad) => Err(bad.refusal()),
            None => Ok(listed.docs.into_iter().map(|found| found.doc).collect()),
        }
    }

    /// Every VPS of which there is a document, for whoever must not take a name, an id or a template that is in use. Where
    /// the document cannot be used its mirror stands for it; without one this is refused.
    pub(crate) fn every_vps(&self) -> Result<Vec<VpsDoc>, Refusal> {
        let listed = self.deps().store.list_docs::<VpsDoc>(keys::VPSES)?;
        let mut all: Vec<VpsDoc> = listed.docs.into_iter().map(|found| found.doc).collect();
        for bad in listed.bad {
            all.push(self.mirrored_vps(&bad.key)?.ok_or_else(|| bad.refusal())?);
        }
        all.sort_by_key(|v| v.id);
        Ok(all)
    }

    /// One VPS, by number or host name.
    pub fn vps(&self, which: &str) -> Result<VpsDoc, Refusal> {
        let found = match which.parse::<VpsId>() {
            Ok(id) => self.vps_by_id(id)?,
            Err(_) => self
                .vpses()?
                .into_iter()
                .find(|v| v.hostname.as_str() == which),
        };
        found.ok_or_else(|| {
            let which: String = which
                .chars()
                .take(64)
                .flat_map(char::escape_debug)
                .collect();
            Refusal::new(
                Code::VpsNotFound,
                format!("there is no VPS {which}"),
                "see `mayfly list`",
            )
        })
    }

    pub(crate) fn vps_by_id(&self, id: VpsId) -> Result<Option<VpsDoc>, Refusal> {
        Ok(self
            .deps()
            .store
            .get_doc(&keys::vps(id))?
            .map(|found| found.doc))
    }

    fn documents<T: serde::de::DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, Refusal> {
        Ok(self
            .deps()
            .store
            .list_docs(prefix)?
            .docs
            .into_iter()
            .map(|found| found.doc)
            .collect())
    }

    /// What the supervisor of the present run last said.
    pub fn run_state(&self, doc: &VpsDoc) -> Result<Option<RunState>, Refusal> {
        match &doc.run {
            None => Ok(None),
            Some(run) => Ok(self.deps().runtime.state(doc.id, &run.run)?),
        }
    }

    /// All templates, by name.
    pub fn templates(&self) -> Result<Vec<TemplateDoc>, Refusal> {
        self.documents(keys::TEMPLATES)
    }

    /// All operations that are remembered, the oldest first.
    pub fn operations(&self) -> Result<Vec<OperationDoc>, Refusal> {
        self.documents(keys::OPERATIONS)
    }

    /// One operation, by its id or the beginning of it.
    pub fn operation(&self, id: &str) -> Result<OperationDoc, Refusal> {
        if let Ok(id) = id.parse::<OperationId>() {
            return self.operation_by_id(&id);
        }
        let plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit());
        let mut found = self.operations()?;
        found.retain(|op| plain && op.id.as_str().starts_with(id));
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(no_such_operation(id)),
            _ => Err(Refusal::new(
                Code::OperationNotFound,
                format!("{} operations begin with {id}", found.len()),
                "give more digits",
            )),
        }
    }

    pub(crate) fn operation_by_id(&self, id: &OperationId) -> Result<OperationDoc, Refusal> {
        let found = self.deps().store.get_doc(&keys::operation(id))?;
        found
            .map(|found| found.doc)
            .ok_or_else(|| no_such_operation(id.as_str()))
    }

    /// The pool, what waits to be destroyed, and what is left alone.
    pub fn pool(&self) -> Result<PoolReport, Refusal> {
        let (seen, leftovers) = self.leftovers(&self.fresh_operation_id())?;
        let promised = promised(&seen);
        let mut reports = leftovers.reports;
        reports.extend(self.why_graves_wait(&leftovers.graves));
        Ok(PoolReport {
            seen,
            promised,
            reports,
            waiting: leftovers.graves,
        })
    }

    /// What is in the pool, and what of it no document speaks of. Burials are for the operation `id`.
    pub(crate) fn leftovers(&self, id: &OperationId) -> Result<(PoolSeen, Leftovers), Refusal> {
        let seen = self.deps().storage.observe()?;
        // In this order: a root that is in `seen` was made by a lane that is busy now, or that has recorded it.
        let busy = self.inner.lanes.busy();
        let (vpses, templates) = (self.vpses()?, self.templates()?);
        let bad = self.bad_documents()?;
        let mut busy = with_unusable(busy, &bad);
        busy.all |= self.inner.unknown_work.load(Ordering::SeqCst);
        let spared = self.spared()?;
        let mut leftovers = sort_leftovers(
            &seen,
            &vpses,
            &templates,
            &busy,
            &spared,
            &self.node().id,
            id,
        );
        leftovers.reports.extend(bad.iter().map(BadDoc::told));
        if let Some(held) = self.held() {
            let kept = leftovers
                .burials
                .drain(..)
                .map(|step| format!("left alone: {step}"));
            leftovers.reports.extend(kept);
            leftovers.reports.insert(0, held.message);
        }
        leftovers.reports.extend(self.mirror_trouble());
        Ok((seen, leftovers))
    }

    /// Waits until an operation is over, or for `timeout`; answers with its present state.
    pub fn wait(&self, id: &OperationId, timeout: Duration) -> Result<OperationDoc, Refusal> {
        let deadline = Instant::now() + timeout;
        let (count, moved) = &self.inner.moved;
        loop {
            let before = *count.lock().expect("no thread panics with it");
            let op = self.operation_by_id(id)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if op.state.is_over() || left.is_zero() {
                return Ok(op);
            }
            let guard = count.lock().expect("no thread panics with it");
            let _ = moved
                .wait_timeout_while(guard, left, |now| *now == before)
                .expect("no thread panics with it");
        }
    }

    /// Changes of documents after revision `since`, no more than a store gives at once; waits for one at most `timeout`.
    /// Answers with the revision to go on from.
    pub fn changes(&self, since: u64, timeout: Duration) -> Result<(u64, Vec<Change>), Refusal> {
        let watched = self.deps().store.watch("/", Revision(since), timeout)?;
        Ok((watched.revision.0, watched.changes))
    }

    /// The revision of the store, to follow [`Engine::changes`] from.
    pub fn revision(&self) -> Result<u64, Refusal> {
        Ok(self.deps().store.range(keys::VPSES)?.revision.0)
    }

    /// What the host has for features at this moment.
    pub fn host_features(&self) -> Result<BTreeMap<Feature, FeatureSeen>, Refusal> {
        Ok(self.deps().runtime.features(&Feature::ALL.into())?)
    }

    /// All that a plan for this VPS may depend on.
    pub(crate) fn observe(&self, request: &Request, doc: &VpsDoc) -> Result<Observed, Refusal> {
        let pool = self.deps().storage.observe()?;
        let evidence = self.deps().runtime.evidence(doc.id)?;
        let probe = match request {
            Request::Reinstall { .. } | Request::ReinstallUndo { .. } => {
                reinstall_probe(request, doc, &pool, &self.templates()?)
            }
            _ => needed_probe(request, doc),
        };
        let init = match probe {
            None => None,
            Some((assembly, init)) => Some(self.deps().storage.probe_init(&assembly, &init)?),
        };
        Ok(Observed {
            health: self.health_for(request, doc),
            pending: self.pending_promises(request, &pool)?,
            declared: self.declared_for(request, doc)?,
            pool,
            features: self
                .deps()
                .runtime
                .features(&needed_features(request, doc))?,
            evidence,
            init,
        })
    }

    pub(crate) fn context(&self, operation: &OperationId) -> Result<PlanContext, Refusal> {
        Ok(PlanContext {
            node: self.node().id.clone(),
            operation: operation.clone(),
            now_unix_ms: self.deps().clock.unix_ms(),
            boot_id: self.deps().clock.boot_id(),
            templates: self.templates()?,
            network: self.network(),
        })
    }

    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.deps().clock.random(&mut bytes);
        bytes
    }

    pub(crate) fn fresh_operation_id(&self) -> OperationId {
        OperationId::at(self.deps().clock.unix_ms(), self.random())
    }

    pub(crate) fn tell_waiters(&self) {
        let (count, moved) = &self.inner.moved;
        *count.lock().expect("no thread panics with it") += 1;
        moved.notify_all();
    }
}

/// What a document that cannot be used speaks of is nobody's to clear away: of its VPS, of its template, and of whatever
/// an unknown base or an unknown step may need.
fn with_unusable(mut busy: Busy, bad: &[BadDoc]) -> Busy {
    for one in bad {
        busy.vpses.extend(keys::vps_of(&one.key));
        busy.templates = true;
    }
    busy
}

fn no_such_operation(id: &str) -> Refusal {
    let id: String = id.chars().take(40).flat_map(char::escape_debug).collect();
    Refusal::new(
        Code::OperationNotFound,
        format!("there is no operation {id}"),
        "see `mayfly operation list`",
    )
}
