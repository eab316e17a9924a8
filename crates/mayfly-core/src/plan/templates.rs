//! Templates: build, import and pull, and remove where nothing needs them.

use super::bases::{base_path, in_use, needs_of};
use super::{Plan, PlanContext, Step};
use crate::documents::{TemplateDoc, Track, VpsDoc};
use crate::error::{Code, Refusal};
use crate::names::{PoolPath, TemplateName};
use crate::observed::PoolSeen;
use crate::ports::ImportSource;
use crate::remote::PullSource;

/// Builds a template under a name that is free, or gives one that is there other contents.
pub fn plan_template_build(
    recipe: &str,
    name: &TemplateName,
    mirror: Option<&str>,
    replace: bool,
    templates: &[TemplateDoc],
) -> Result<Plan, Refusal> {
    let step = Step::BuildTemplate {
        recipe: recipe.to_owned(),
        name: name.clone(),
        mirror: mirror.map(str::to_owned),
    };
    put(step, name, replace, templates)
}

/// The same from archives.
pub fn plan_template_import(
    source: &ImportSource,
    name: &TemplateName,
    replace: bool,
    templates: &[TemplateDoc],
) -> Result<Plan, Refusal> {
    let step = Step::ImportTemplate {
        source: source.clone(),
        name: name.clone(),
    };
    put(step, name, replace, templates)
}

/// The same from an image of a server.
pub fn plan_template_pull(
    source: &PullSource,
    name: &TemplateName,
    replace: bool,
    templates: &[TemplateDoc],
) -> Result<Plan, Refusal> {
    source.check()?;
    let step = Step::PullTemplate {
        source: source.clone(),
        name: name.clone(),
    };
    put(step, name, replace, templates)
}

/// What a template had before stays as long as something needs it, and is a leftover then.
fn put(
    step: Step,
    name: &TemplateName,
    replace: bool,
    templates: &[TemplateDoc],
) -> Result<Plan, Refusal> {
    let before = templates.iter().find(|t| t.name == *name);
    if before.is_some() && !replace {
        return Err(Refusal::new(
            Code::TemplateExists,
            format!("there is a template {name} already"),
            "choose another name, or give it these contents: --replace",
        ));
    }
    Ok(Plan {
        steps: vec![step.undone_by(Step::RecordTemplate {
            name: name.clone(),
            doc: before.map(|doc| Box::new(doc.clone())),
        })],
    })
}

/// Removes a template. Its contents go with it unless another name has them; what something needs is not removed.
pub fn plan_template_remove(
    name: &TemplateName,
    templates: &[TemplateDoc],
    vpses: &[VpsDoc],
    pool: &PoolSeen,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    let Some(doc) = templates.iter().find(|t| t.name == *name) else {
        return Err(Refusal::new(
            Code::TemplateNotFound,
            format!("there is no template {name}"),
            "see `mayfly template list`",
        ));
    };
    let shared = templates
        .iter()
        .any(|t| t.name != *name && t.digest == doc.digest);
    let dataset = base_path(&doc.digest);
    let mut needs: Vec<String> = vpses
        .iter()
        .filter(|v| v.base.track == Track::Latest && v.template == *name)
        .map(|v| format!("the base of VPS {} follows it", v.title()))
        .collect();
    if !shared && needs.is_empty() {
        needs = needs_of(&dataset, vpses, pool);
    }
    in_use(&format!("template {name}"), &needs)?;
    let remove = Step::RecordTemplate {
        name: name.clone(),
        doc: None,
    };
    let restore = Step::RecordTemplate {
        name: name.clone(),
        doc: Some(Box::new(doc.clone())),
    };
    let mut steps = vec![remove.undone_by(restore)];
    if !shared {
        let grave = PoolPath::grave(&format!(
            "template-{}.{}",
            doc.digest.short(),
            ctx.operation
        ));
        steps.push(Step::BuryTemplate { dataset, grave }.final_because("it was asked for"));
    }
    Ok(Plan { steps })
}
