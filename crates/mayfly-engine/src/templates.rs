//! Templates while others count on them.
//!
//! A plan that clones a template is made and journalled with the lock `bases` read; a template is buried with it
//! written, and only after a look at everybody who may need it: documents, plans that are under way, and clones in the
//! pool. So a template is either still there when a plan counts on it, or the burial sees that plan and is refused.

use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

use mayfly_core::documents::{OperationDoc, SCHEMA, TemplateDoc, Track, VpsDoc};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::OperationId;
use mayfly_core::names::{PoolPath, TemplateName};
use mayfly_core::plan::{base_path, check_fits, clones_from, in_use, needs_of};
use mayfly_core::ports::{BuiltTemplate, Outcome};
use mayfly_core::proof::{Burial, ConfirmedDestroy};

use crate::engine::Engine;
use crate::keys;
use crate::store::{Condition, TypedStore};

impl Engine {
    /// As long as this is held, no template is buried.
    pub(crate) fn bases_stay(&self) -> RwLockReadGuard<'_, ()> {
        // The lock guards nothing that a panic could have spoiled.
        let bases = &self.inner.bases;
        bases.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As long as this is held, no plan that counts on a template is made.
    fn bases_may_go(&self) -> RwLockWriteGuard<'_, ()> {
        let bases = &self.inner.bases;
        bases.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The template that a new VPS is made from, as the condition that it is still what it was.
    pub(crate) fn still_there(&self, doc: &VpsDoc) -> Result<Condition, Refusal> {
        let key = keys::template(&doc.template);
        let found = self.deps().store.get_doc::<TemplateDoc>(&key)?;
        match found {
            Some(found) if found.doc.digest == doc.base.template => {
                Ok(Condition::AtRevision(key, found.mod_revision))
            }
            _ => Err(Refusal::new(
                Code::TemplateNotFound,
                format!("template {} was changed at this moment", doc.template),
                "try again",
            )),
        }
    }

    /// Moves a template to the graveyard, unless somebody needs it or a document names it.
    pub(crate) fn bury_template(
        &self,
        dataset: &PoolPath,
        grave: &PoolPath,
        op: &OperationId,
    ) -> Result<Outcome, Refusal> {
        let _alone = self.bases_may_go();
        self.bury_needless(dataset, grave, op)
    }

    /// The same for what no document names, unless the lane of templates may just be about to name it.
    pub(crate) fn bury_template_leftover(
        &self,
        dataset: &PoolPath,
        grave: &PoolPath,
        op: &OperationId,
    ) -> Result<Outcome, Refusal> {
        let _alone = self.bases_may_go();
        // An operation that is not in its lane yet cannot be planned before this is over.
        if self.inner.lanes.busy().templates {
            return Ok(Outcome::Unchanged);
        }
        self.bury_needless(dataset, grave, op)
    }

    fn bury_needless(
        &self,
        dataset: &PoolPath,
        grave: &PoolPath,
        op: &OperationId,
    ) -> Result<Outcome, Refusal> {
        if self.deps().storage.look(dataset)?.is_none() {
            return Ok(Outcome::Unchanged);
        }
        let object = format!("what lies in {dataset}");
        in_use(&object, &self.needs_of_template(dataset, op)?)?;
        self.bury(dataset, grave, |mark| {
            let proof = ConfirmedDestroy::prove_template(dataset, mark, &self.node().id)?;
            Ok(Burial::of_data(proof, op.clone()))
        })
    }

    fn needs_of_template(
        &self,
        dataset: &PoolPath,
        op: &OperationId,
    ) -> Result<Vec<String>, Refusal> {
        let pool = self.deps().storage.observe()?;
        let mut needs = needs_of(dataset, &self.every_vps()?, &pool);
        // A document that cannot be read may name it.
        let named: Vec<TemplateDoc> = self.all_or_none(keys::TEMPLATES)?;
        let named = named.iter().filter(|t| base_path(&t.digest) == *dataset);
        needs.extend(named.map(|t| format!("it is the template {}", t.name)));
        for other in self.all_or_none::<OperationDoc>(keys::OPERATIONS)? {
            let under_way = !other.state.is_over() && other.id != *op;
            if under_way && other.plan.is_some_and(|plan| clones_from(&plan, dataset)) {
                let what = other.request.verb();
                needs.push(format!("operation {} ({what}) clones it", other.id));
            }
        }
        Ok(needs)
    }

    /// Writes the document of what was put into the pool. Refused where a VPS follows the template and could not start
    /// with what it is now.
    pub(crate) fn record_template(
        &self,
        name: &TemplateName,
        built: BuiltTemplate,
    ) -> Result<Outcome, Refusal> {
        let doc = TemplateDoc {
            schema: SCHEMA,
            name: name.clone(),
            digest: built.digest,
            size_bytes: built.size_bytes,
            created_unix_ms: self.deps().clock.unix_ms(),
            manifest: built.manifest,
        };
        for vps in self.every_vps()? {
            let follows = vps.base.track == Track::Latest && vps.template == *name;
            if follows && vps.clones_its_base() {
                check_fits(&vps, &doc).map_err(|mut refusal| {
                    refusal.hint = format!(
                        "it follows that template: first mayfly set {} track=pinned",
                        vps.id
                    );
                    refusal
                })?;
            }
        }
        let key = keys::template(name);
        let outcome = self.record(&key, Some(&doc))?;
        self.mirror_now(&key);
        Ok(outcome)
    }
}
