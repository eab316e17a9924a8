//! From what a caller asks for to a request with everything drawn, and into the lane of its VPS.

use mayfly_core::documents::{
    BY_ITSELF, OperationDoc, OperationState, Request, SCHEMA, TemplateDoc, VpsDoc,
};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::{Incarnation, OperationId, RunId, VpsId};
use mayfly_core::names::TemplateName;
use mayfly_core::plan::{
    Plan, plan_run_ended, plan_template_build, plan_template_import, plan_template_pull,
    plan_template_remove, plan_vps, resolve_new_vps,
};
use mayfly_core::run::RunEnd;

use crate::engine::Engine;
use crate::intent::{IfBusy, Intent};
use crate::keys;
use crate::lanes::Lane;
use crate::store::{Condition, Txn, TxnOutcome, TypedStore, Write};

impl Engine {
    /// Accepts a change. What can be refused without a look at the host is refused here; the rest is refused by the
    /// operation when it has its turn, before its first step.
    pub fn submit(
        &self,
        vps: Option<VpsId>,
        intent: Intent,
        by: &str,
    ) -> Result<OperationDoc, Refusal> {
        self.submit_when(vps, intent, by, IfBusy::Wait)
    }

    /// The same, and what happens where the VPS, or the templates, are busy with another change. A stop by force makes
    /// starts, stops and restarts before it make way.
    pub fn submit_when(
        &self,
        vps: Option<VpsId>,
        intent: Intent,
        by: &str,
        if_busy: IfBusy,
    ) -> Result<OperationDoc, Refusal> {
        self.refuse_if_held()?;
        let is_forced_stop = matches!(intent, Intent::Stop { force: true, .. });
        let op = {
            let _accepting = self
                .inner
                .accepting
                .lock()
                .expect("no thread panics with it");
            let (vps, request) = self.draw(vps, intent)?;
            let lane = Lane::of(vps);
            self.refuse_behind_overdue(lane)?;
            if if_busy == IfBusy::Refuse {
                self.refuse_busy(lane)?;
            }
            self.accept(vps, request, by)?
        };
        if is_forced_stop {
            self.preempt(Lane::of(op.vps), &op.id);
        }
        Ok(op)
    }

    /// Asks for the start that a lasting goal wants after the operation `after`, unless somebody has asked for a stop
    /// meanwhile: the end of that one leads here again.
    pub(crate) fn start_again(&self, vps: VpsId, after: &OperationId) -> Result<(), Refusal> {
        self.refuse_if_held()?;
        // A stop is either seen here, or comes behind the start.
        let _accepting = self
            .inner
            .accepting
            .lock()
            .expect("no thread panics with it");
        let lane = Lane::Vps(vps);
        let waiting = self.inner.lanes.waiting(lane).into_iter();
        let mut waiting = waiting.filter_map(|one| self.operation_by_id(&one).ok());
        let is_to_rest = waiting.any(|one| {
            one.id != *after
                && one.request.is_a_rest()
                && one.cancelled_by.is_none()
                && !one.state.is_over()
        });
        if !is_to_rest {
            let (vps, request) = self.draw(Some(vps), Intent::Start)?;
            self.refuse_behind_overdue(lane)?;
            self.accept(vps, request, BY_ITSELF)?;
        }
        Ok(())
    }

    fn refuse_busy(&self, lane: Lane) -> Result<(), Refusal> {
        let Some(first) = self.inner.lanes.front(lane) else {
            return Ok(());
        };
        let (verb, by) = match self.operation_by_id(&first) {
            Ok(op) => (op.request.verb(), op.by),
            Err(_) => ("?", "?".to_owned()),
        };
        let what = match lane {
            Lane::Vps(id) => format!("VPS {id} is"),
            Lane::Templates => "templates are".to_owned(),
        };
        Err(Refusal::new(
            Code::VpsBusy,
            format!("{what} busy with operation {first} ({verb}, asked for by {by})"),
            format!(
                "wait for it: mayfly operation watch {first}; or: mayfly operation cancel {first}"
            ),
        ))
    }

    /// Decides what a change would do, and does nothing.
    pub fn dry_run(&self, vps: Option<VpsId>, intent: Intent) -> Result<Plan, Refusal> {
        let (_, request) = self.draw(vps, intent)?;
        let doc = match (&request, vps) {
            (Request::Create { new, .. }, _) => Some(new.doc.clone()),
            (_, Some(id)) => Some(self.vps_that_is_there(id)?),
            (_, None) => None,
        };
        self.plan(
            &request,
            doc.as_ref(),
            &self.context(&self.fresh_operation_id())?,
        )
    }

    pub(crate) fn plan(
        &self,
        request: &Request,
        doc: Option<&VpsDoc>,
        ctx: &mayfly_core::plan::PlanContext,
    ) -> Result<Plan, Refusal> {
        match (request, doc) {
            (
                Request::TemplateBuild {
                    recipe,
                    name,
                    mirror,
                    replace,
                },
                _,
            ) => plan_template_build(recipe, name, mirror.as_deref(), *replace, &ctx.templates),
            (
                Request::TemplateImport {
                    source,
                    name,
                    replace,
                },
                _,
            ) => plan_template_import(source, name, *replace, &ctx.templates),
            (
                Request::TemplatePull {
                    source,
                    name,
                    replace,
                },
                _,
            ) => plan_template_pull(source, name, *replace, &ctx.templates),
            (Request::TemplateRemove { name }, _) => {
                let pool = self.deps().storage.observe()?;
                plan_template_remove(name, &ctx.templates, &self.every_vps()?, &pool, ctx)
            }
            // Settling the end of a run needs no look at the pool, and may not fail for want of one.
            (
                Request::RunEnded {
                    run, end, boot_ms, ..
                },
                Some(doc),
            ) => Ok(plan_run_ended(doc, run, end, *boot_ms, &ctx.boot_id)),
            (_, Some(doc)) => plan_vps(request, doc, &self.observe(request, doc)?, ctx),
            (_, None) => Err(Refusal::new(
                Code::VpsNotFound,
                "the VPS is gone",
                "see `mayfly list`",
            )),
        }
    }

    /// Settles the end of a run. Called by the monitor, and at the start of the daemon.
    pub(crate) fn submit_run_ended(
        &self,
        vps: VpsId,
        run: RunId,
        end: RunEnd,
    ) -> Result<OperationDoc, Refusal> {
        let _accepting = self
            .inner
            .accepting
            .lock()
            .expect("no thread panics with it");
        let next = RunId::from_random(self.random());
        let boot_ms = self.deps().clock.boot_ms();
        self.accept(
            Some(vps),
            Request::RunEnded {
                run,
                end,
                next,
                boot_ms,
            },
            BY_ITSELF,
        )
    }

    fn vps_that_is_there(&self, id: VpsId) -> Result<VpsDoc, Refusal> {
        self.vps(&id.to_string())
    }

    fn template(&self, name: &TemplateName) -> Result<TemplateDoc, Refusal> {
        let found = self.deps().store.get_doc(&keys::template(name))?;
        found.map(|found| found.doc).ok_or_else(|| {
            Refusal::new(
                Code::TemplateNotFound,
                format!("there is no template {name}"),
                format!("see `mayfly template list`, or build it: mayfly template build {name}"),
            )
        })
    }

    fn draw(
        &self,
        vps: Option<VpsId>,
        intent: Intent,
    ) -> Result<(Option<VpsId>, Request), Refusal> {
        let run = || RunId::from_random(self.random());
        if let Intent::Create {
            input,
            template,
            start,
        } = intent
        {
            let template = self.template(&template)?;
            let incarnation = Incarnation::from_random(self.random());
            let (node, network) = (self.node().id.clone(), self.network());
            let new = resolve_new_vps(
                &input,
                &template,
                &self.every_vps()?,
                &self.deps().reserved,
                (&node, network.as_ref()),
                incarnation,
            )?;
            let id = new.doc.id;
            return Ok((
                Some(id),
                Request::Create {
                    new: Box::new(new),
                    start: start.then(run),
                },
            ));
        }
        if let Intent::TemplateBuild {
            recipe,
            name,
            mirror,
            replace,
        } = intent
        {
            return Ok((
                None,
                Request::TemplateBuild {
                    recipe,
                    name,
                    mirror,
                    replace,
                },
            ));
        }
        if let Intent::TemplateImport {
            source,
            name,
            replace,
        } = intent
        {
            return Ok((
                None,
                Request::TemplateImport {
                    source,
                    name,
                    replace,
                },
            ));
        }
        if let Intent::TemplatePull {
            source,
            name,
            replace,
        } = intent
        {
            return Ok((
                None,
                Request::TemplatePull {
                    source,
                    name,
                    replace,
                },
            ));
        }
        if let Intent::TemplateRemove { name } = intent {
            return Ok((None, Request::TemplateRemove { name }));
        }
        check_timeout(&intent)?;
        let Some(id) = vps else {
            return Err(Refusal::new(
                Code::Invalid,
                "this change needs a VPS",
                "name one by id or host name",
            ));
        };
        let doc = self.vps_that_is_there(id)?;
        let request = match intent {
            Intent::Start => Request::Start { run: run() },
            Intent::Stop {
                timeout_ms,
                force,
                discard,
            } => Request::Stop {
                timeout_ms,
                force,
                discard,
            },
            Intent::Restart { timeout_ms, force } => Request::Restart {
                run: run(),
                timeout_ms,
                force,
            },
            Intent::Rescue { template, root_at } => Request::Rescue {
                run: run(),
                template,
                root_at,
            },
            Intent::Reinstall { template, scope } => Request::Reinstall {
                run: run(),
                template,
                scope,
                boot_ms: self.deps().clock.boot_ms(),
            },
            Intent::ReinstallUndo { by, force } => Request::ReinstallUndo {
                by,
                force,
                run: run(),
            },
            Intent::ReinstallForget { by, force } => Request::ReinstallForget { by, force },
            Intent::Destroy { now } => Request::Destroy { now },
            Intent::DatasetCreate { name, quota, mount } => Request::DatasetCreate {
                name,
                quota_bytes: quota,
                mount,
            },
            Intent::DatasetSet { name, quota } => Request::DatasetSet {
                name,
                quota_bytes: quota,
            },
            Intent::DatasetDestroy { name, force } => Request::DatasetDestroy { name, force },
            Intent::MountAdd { mount } => Request::MountAdd { mount },
            Intent::PortAdd { forward } => {
                if let Some(trouble) = self.network_trouble() {
                    return Err(trouble);
                }
                self.refuse_taken_port(forward)?;
                Request::PortAdd { forward }
            }
            Intent::PortRemove {
                host_port,
                protocol,
            } => Request::PortRemove {
                host_port,
                protocol,
            },
            Intent::MountRemove { path } => Request::MountRemove { path },
            Intent::Convert(asked) => Request::Convert {
                want: Box::new(asked.resolve(&doc)),
                run: run(),
            },
            Intent::Revert => Request::Revert { run: run() },
            Intent::SetFeatures { wish } => Request::SetFeatures {
                change: wish.of(&doc),
                run: run(),
            },
            Intent::PersistChange { change } => Request::PersistChange { change },
            Intent::Set { change } => Request::Set { change },
            Intent::Create { .. }
            | Intent::TemplateBuild { .. }
            | Intent::TemplateImport { .. }
            | Intent::TemplatePull { .. }
            | Intent::TemplateRemove { .. } => {
                return Err(Refusal::new(
                    Code::Internal,
                    "taken care of above",
                    "please report it",
                ));
            }
        };
        Ok((Some(id), request))
    }

    pub(crate) fn accept(
        &self,
        vps: Option<VpsId>,
        request: Request,
        by: &str,
    ) -> Result<OperationDoc, Refusal> {
        let op = OperationDoc {
            schema: SCHEMA,
            id: self.fresh_operation_id(),
            vps,
            request,
            by: by.to_owned(),
            state: OperationState::Queued,
            created_unix_ms: self.deps().clock.unix_ms(),
            ended_unix_ms: None,
            plan: None,
            steps_done: 0,
            undo_down_to: 0,
            steps_ms: Vec::new(),
            cancelled_by: None,
            notes: Vec::new(),
            progress: "waiting for its turn".into(),
            error: None,
        };
        let mut txn = Txn {
            conditions: vec![Condition::Absent(keys::operation(&op.id))],
            writes: vec![Write::put_doc(keys::operation(&op.id), &op)?],
        };
        if let Request::Create { new, .. } = &op.request {
            // From here on the number, the name and the host ids are taken.
            txn.conditions
                .push(Condition::Absent(keys::vps(new.doc.id)));
            txn.writes
                .push(Write::put_doc(keys::vps(new.doc.id), &new.doc)?);
            // A template that is removed at this moment is removed before, and this fails, or sees this VPS.
            txn.conditions.push(self.still_there(&new.doc)?);
        }
        match self.commit(txn)? {
            TxnOutcome::Committed(_) => {}
            TxnOutcome::Conflict { key } => {
                return Err(Refusal::new(
                    if key.starts_with(keys::TEMPLATES) {
                        Code::TemplateNotFound
                    } else {
                        Code::VpsIdTaken
                    },
                    format!("{key} was taken or changed by another request at the same time"),
                    "try again",
                ));
            }
        }
        self.enqueue(Lane::of(op.vps), op.id.clone());
        Ok(op)
    }
}

/// Whoever waits longer than that waits for nothing.
const LONGEST_HALT_MS: u64 = 24 * 3600 * 1000;

fn check_timeout(intent: &Intent) -> Result<(), Refusal> {
    let (Intent::Stop { timeout_ms, .. } | Intent::Restart { timeout_ms, .. }) = intent else {
        return Ok(());
    };
    if *timeout_ms <= LONGEST_HALT_MS {
        return Ok(());
    }
    Err(Refusal::new(
        Code::Invalid,
        "a guest is given a day at most to halt",
        "say --timeout 60s, or --force to kill it at once",
    ))
}
