//! A small executor: it does steps through the ports as the real one does, with proofs from what is read back at that
//! moment, and keeps documents in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bytes::Bytes;
use crate::documents::{Impermanence, NewVps, Request, SCHEMA, TemplateDoc, VpsDoc};
use crate::error::{Code, Refusal};
use crate::fake::FakeHost;
use crate::features::{Features, FeaturesChange};
use crate::health::Judgement;
use crate::ids::{Incarnation, OperationId, RunId, VpsId};
use crate::names::{PoolPath, TemplateName};
use crate::observed::{InitSeen, MarkSeen, Observed};
use crate::plan::{
    Busy, CreateInput, Plan, PlanContext, Step, Undo, needed_features, needed_probe, needs_health,
    plan_template_build, plan_template_import, plan_template_pull, plan_template_remove, plan_vps,
    reinstall_probe, resolve_new_vps, run_mount, sort_leftovers,
};
use crate::ports::{BuiltTemplate, Cancel, Clock as _, Runtime as _, Storage as _, Templates as _};
use crate::proof::{Burial, Condemned, ConfirmedDestroy, EphemeralRoot, Exchange};

/// A host with documents and somebody who carries plans out.
pub(super) struct Hands {
    pub(super) host: FakeHost,
    pub(super) vpses: BTreeMap<VpsId, VpsDoc>,
    pub(super) templates: BTreeMap<TemplateName, TemplateDoc>,
    operations: u32,
    /// The node's network.
    pub(super) network: Option<crate::network::NodeNetwork>,
    /// Whether each step is done a second time at once, as after a crash before the journal was written.
    pub(super) twice: bool,
    /// The step that fails, once it is done.
    pub(super) fails_at: Option<usize>,
    /// Whether the host goes down with a daemon that dies.
    pub(super) reboots: bool,
}

impl Hands {
    /// A host with the built-in templates.
    pub(super) fn new() -> Self {
        Self::on(FakeHost::new())
    }

    /// The same on a host of the test's choice.
    pub(super) fn on(host: FakeHost) -> Self {
        let recipes = ["debian-12", "debian-12-impermanence", "nixos-shaped"];
        let templates = recipes
            .map(|r| (r.parse().unwrap(), host.add_template(r)))
            .into();
        Self {
            host,
            vpses: BTreeMap::new(),
            templates,
            operations: 0,
            network: None,
            twice: false,
            fails_at: None,
            reboots: false,
        }
    }

    pub(super) fn context(&self) -> PlanContext {
        PlanContext {
            node: self.host.node(),
            operation: OperationId::at(1_800_000_000_000, self.operations.to_be_bytes()),
            now_unix_ms: self.host.unix_ms(),
            boot_id: self.host.boot_id(),
            templates: self.template_docs(),
            network: self.network.clone(),
        }
    }

    pub(super) fn doc(&self, vps: VpsId) -> &VpsDoc {
        &self.vpses[&vps]
    }

    pub(super) fn docs(&self) -> Vec<VpsDoc> {
        self.vpses.values().cloned().collect()
    }

    pub(super) fn template_docs(&self) -> Vec<TemplateDoc> {
        self.templates.values().cloned().collect()
    }

    pub(super) fn input(vps: VpsId) -> CreateInput {
        CreateInput {
            id: Some(vps),
            hostname: None,
            disk: None,
            memory: None,
            cpu_percent: None,
            impermanence: false,
            features: Features::new(),
            ssh_keys: None,
        }
    }

    pub(super) fn resolve(&self, input: &CreateInput, template: &str) -> Result<NewVps, Refusal> {
        let template = &self.templates[&template.parse().unwrap()];
        let number = input.id.map_or(0, VpsId::get);
        let life = Incarnation::from_random([number as u8; 16]);
        resolve_new_vps(
            input,
            template,
            &self.docs(),
            &[],
            (&self.host.node(), self.network.as_ref()),
            life,
        )
    }

    pub(super) fn observe(&self, request: &Request, doc: &VpsDoc) -> Result<Observed, Refusal> {
        let pool = self.host.observe()?;
        let probe = match request {
            Request::Reinstall { .. } | Request::ReinstallUndo { .. } => {
                reinstall_probe(request, doc, &pool, &self.template_docs())
            }
            _ => needed_probe(request, doc),
        };
        let init: Option<InitSeen> = match probe {
            None => None,
            Some((assembly, init)) => Some(self.host.probe_init(&assembly, &init)?),
        };
        Ok(Observed {
            pool,
            pending: Bytes(0),
            evidence: self.host.evidence(doc.id)?,
            init,
            features: self.host.features(&needed_features(request, doc))?,
            declared: None,
            health: doc
                .run
                .as_ref()
                .filter(|_| needs_health(request))
                .map(|run| self.host.health(doc.id, &run.run)),
        })
    }

    pub(super) fn plan(&self, vps: VpsId, request: &Request) -> Result<Plan, Refusal> {
        match request {
            Request::TemplateBuild {
                recipe,
                name,
                mirror,
                replace,
            } => {
                let (mirror, templates) = (mirror.as_deref(), self.template_docs());
                plan_template_build(recipe, name, mirror, *replace, &templates)
            }
            Request::TemplateImport {
                source,
                name,
                replace,
            } => plan_template_import(source, name, *replace, &self.template_docs()),
            Request::TemplatePull {
                source,
                name,
                replace,
            } => plan_template_pull(source, name, *replace, &self.template_docs()),
            Request::TemplateRemove { name } => plan_template_remove(
                name,
                &self.template_docs(),
                &self.docs(),
                &self.host.observe()?,
                &self.context(),
            ),
            Request::Create { new, .. } => plan_vps(
                request,
                &new.doc,
                &self.observe(request, &new.doc)?,
                &self.context(),
            ),
            _ => {
                let doc = self.doc(vps);
                plan_vps(request, doc, &self.observe(request, doc)?, &self.context())
            }
        }
    }

    /// Plans and carries out; where a step fails, its undo and those before it are done, last first.
    pub(super) fn ask(&mut self, vps: VpsId, request: &Request) -> Result<Plan, Refusal> {
        let plan = self.plan(vps, request)?;
        let done = self.carry_out(&plan);
        self.operations += 1;
        done.map(|()| plan)
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<(), Refusal> {
        for (at, planned) in plan.steps.iter().enumerate() {
            let mut done = self.perform(&planned.step);
            if done.is_err() && self.host.crashed() {
                // The next daemon finds this step in the journal as the first that is not done.
                self.host = if self.reboots {
                    self.host.reboot()
                } else {
                    self.host.restart_daemon()
                };
                self.host.clear_staging()?;
                done = self.perform(&planned.step);
            }
            if self.twice && done.is_ok() {
                done = self.perform(&planned.step);
            }
            if self.fails_at == Some(at) {
                done = Err(Refusal::new(Code::HostFailed, "it was made to fail", "-"));
            }
            let Err(refusal) = done else { continue };
            if planned.undo == Undo::Housekeeping {
                continue;
            }
            for planned in plan.steps[..=at].iter().rev() {
                if let Undo::Step(undo) = &planned.undo {
                    self.perform(undo)
                        .unwrap_or_else(|why| panic!("{undo} failed: {why} (after {refusal})"));
                }
            }
            return Err(refusal);
        }
        Ok(())
    }

    pub(super) fn create(&mut self, vps: VpsId, template: &str, start: Option<RunId>) -> Plan {
        let new = Box::new(self.resolve(&Self::input(vps), template).unwrap());
        self.ask(vps, &Request::Create { new, start }).unwrap()
    }

    pub(super) fn perform(&mut self, step: &Step) -> Result<(), Refusal> {
        let host = self.host.clone();
        let node = host.node();
        match step {
            Step::EndRun { vps, run, halt_ms } => {
                if let Some(run) = run {
                    host.stop(
                        *vps,
                        run,
                        Duration::from_millis(halt_ms.unwrap_or(0)),
                        halt_ms.is_none(),
                    )?;
                }
                host.sweep(*vps)?;
            }
            Step::CreateDataset { new } => drop(host.create_dataset(new)?),
            Step::SetQuota {
                dataset,
                quota_bytes,
            } => drop(host.set_quota(dataset, *quota_bytes)?),
            Step::PrepareTree { dataset, tree } => drop(host.prepare_tree(dataset, tree)?),
            Step::Record {
                vps,
                doc: Some(doc),
                ..
            } => drop(self.vpses.insert(*vps, (**doc).clone())),
            Step::Record { vps, doc: None, .. } => drop(self.vpses.remove(vps)),
            Step::SetLimits { vps, run, limits } => drop(host.set_limits(*vps, run, limits)?),
            Step::ShowMount { vps, run, mount } | Step::HideMount { vps, run, mount } => {
                let mount = run_mount(mount, |n| host.mount_source(n));
                match step {
                    Step::ShowMount { .. } => host.show_mount(*vps, run, &mount)?,
                    _ => host.hide_mount(*vps, run, &mount)?,
                };
            }
            Step::Launch { launch } => {
                host.launch(&launch.to_run_spec(|n| host.mount_source(n), host.detach()))?;
            }
            Step::AwaitInit {
                vps,
                run,
                deadline_ms,
            } => {
                host.await_init(*vps, run, Duration::from_millis(*deadline_ms))?;
            }
            Step::Harvest { harvest } => {
                if host.look(&harvest.root)?.is_some() {
                    host.harvest(&harvest.to_order(|n| host.mount_source(n)))?;
                    host.mark_harvested(&harvest.root)?;
                }
            }
            Step::BuryRoot {
                vps,
                incarnation,
                root,
                grave,
                give_up,
            } => self.bury(root, grave, |mark| {
                let owner = (*vps, incarnation);
                let prove = match give_up {
                    true => EphemeralRoot::prove_given_up,
                    false => EphemeralRoot::prove,
                };
                let root = prove(root, mark, &node, owner, &host.evidence(*vps)?)?;
                Ok(Burial::of_root(
                    root,
                    condemner(mark, self.context().operation),
                ))
            })?,
            Step::BuryData {
                vps,
                incarnation,
                dataset,
                grave,
            } => self.bury(dataset, grave, |mark| {
                let owner = (*vps, incarnation);
                let data = ConfirmedDestroy::prove(
                    dataset,
                    mark,
                    &node,
                    owner,
                    &host.in_use(*vps, dataset)?,
                )?;
                Ok(Burial::of_data(
                    data,
                    condemner(mark, self.context().operation),
                ))
            })?,
            Step::Exchange {
                vps,
                incarnation,
                dataset,
                aside,
                contents,
                ..
            } => {
                let owner = (*vps, incarnation);
                let signs = host.evidence(*vps)?;
                let proof = Exchange::prove(dataset, aside, owner, contents.as_ref(), &signs)?;
                host.exchange(&proof)?;
            }
            Step::CopyTree { copy } => {
                host.copy_tree(copy, &Cancel::default(), &mut |_| {})?;
            }
            Step::TakeOut { what, to } => drop(host.take_out(what, *to)?),
            Step::AwaitHealth {
                vps, run, before, ..
            } => match host.health(*vps, run)?.beside(before) {
                Judgement::Well => {}
                other => {
                    let message = format!("{other:?}");
                    return Err(Refusal::new(Code::Unhealthy, message, "-"));
                }
            },
            Step::BuryTemplate { dataset, grave } => self.bury(dataset, grave, |mark| {
                let template = ConfirmedDestroy::prove_template(dataset, mark, &node)?;
                Ok(Burial::of_data(
                    template,
                    condemner(mark, self.context().operation),
                ))
            })?,
            Step::ForgetRuns { vps, keep, console } => {
                host.forget(*vps, keep.as_ref(), *console)?;
            }
            Step::Reap { graves } => graves.iter().try_for_each(|grave| self.reap(grave))?,
            Step::BuildTemplate {
                recipe,
                name,
                mirror,
            } => {
                let built =
                    host.build(recipe, mirror.as_deref(), &Cancel::default(), &mut |_| {})?;
                self.templates.insert(name.clone(), document(name, built));
            }
            Step::ImportTemplate { source, name } => {
                let built = host.import(source, &Cancel::default(), &mut |_| {})?;
                self.templates.insert(name.clone(), document(name, built));
            }
            Step::PullTemplate { source, name } => {
                let built = host.pull(source, &Cancel::default(), &mut |_| {})?;
                self.templates.insert(name.clone(), document(name, built));
            }
            Step::RecordTemplate {
                name,
                doc: Some(doc),
            } => drop(self.templates.insert(name.clone(), (**doc).clone())),
            Step::RecordTemplate { name, doc: None } => drop(self.templates.remove(name)),
        }
        Ok(())
    }

    fn bury(
        &self,
        name: &PoolPath,
        grave: &PoolPath,
        prove: impl Fn(&MarkSeen) -> Result<Burial, Refusal>,
    ) -> Result<(), Refusal> {
        if let Some(seen) = self.host.look(name)? {
            self.host.bury(&prove(&seen.mark)?, grave)?;
        }
        Ok(())
    }

    fn reap(&self, grave: &PoolPath) -> Result<(), Refusal> {
        if let Some(seen) = self.host.look(grave)? {
            self.host
                .reap(&Condemned::prove(grave, &seen.mark, &self.host.node())?)?;
        }
        Ok(())
    }

    /// What the daemon does in the background: leftovers are buried, graves emptied.
    pub(super) fn clean_up(&mut self) {
        self.host.clear_staging().unwrap();
        let pool = self.host.observe().unwrap();
        let context = self.context();
        let left = sort_leftovers(
            &pool,
            &self.docs(),
            &self.template_docs(),
            &Busy::default(),
            &Default::default(),
            &context.node,
            &context.operation,
        );
        for step in &left.burials {
            self.perform(step).unwrap();
        }
        for grave in self
            .host
            .datasets()
            .iter()
            .filter(|d| d.is_grave() && d.as_str().matches('/').count() == 1)
        {
            self.reap(grave).unwrap();
        }
        self.operations += 1;
    }

    /// Datasets with their quotas and files, documents, and which guests live: all that a plan can change.
    pub(super) fn picture(&self) -> String {
        let mut text = String::new();
        for (name, seen) in self.host.observe().unwrap().datasets {
            let quota = seen.quota.unwrap_or(Bytes(0));
            text += &format!(
                "{name} {quota} {:?} {:?}\n",
                self.host.mark(&name),
                self.host.paths(&name)
            );
        }
        for doc in self.vpses.values() {
            let (root, limits) = (self.host.root_of(doc.id), self.host.limits_of(doc.id));
            text += &format!("{doc:?}\n{root:?}\n{limits:?}\n");
        }
        text + &format!("{:?}", self.templates.keys())
    }

    #[track_caller]
    pub(super) fn assert_sound(&mut self) {
        self.host.assert_no_catastrophe();
        self.host.assert_persistent_data_intact();
        for doc in self.vpses.values().filter(|doc| doc.run.is_some()) {
            let held = self.host.limits_of(doc.id);
            assert!(held.is_none_or(|held| held == doc.limits), "{doc:?}");
        }
        self.clean_up();
        self.host.assert_no_orphans(&self.docs());
        self.host.assert_persistent_data_intact();
    }
}

fn document(name: &TemplateName, built: BuiltTemplate) -> TemplateDoc {
    TemplateDoc {
        schema: SCHEMA,
        name: name.clone(),
        digest: built.digest,
        size_bytes: built.size_bytes,
        created_unix_ms: 0,
        manifest: built.manifest,
    }
}

fn condemner(mark: &MarkSeen, now: OperationId) -> OperationId {
    match mark {
        MarkSeen::Local(mark) => mark.condemned_by.clone().unwrap_or(now),
        _ => now,
    }
}

/// Switches impermanence on or off.
pub(super) fn impermanence(want: Option<Impermanence>, run: RunId) -> Request {
    let change = FeaturesChange {
        impermanence: Some(want),
        ..FeaturesChange::default()
    };
    Request::SetFeatures { change, run }
}
