//! Templates: build, and remove where nothing needs them.

use super::{Plan, PlanContext, Step};
use crate::documents::{TemplateDoc, VpsDoc};
use crate::error::{Code, Refusal};
use crate::names::{PoolPath, TemplateName, TemplatePart};

/// Builds a template under a name that is free.
pub fn plan_template_build(
    recipe: &str,
    name: &TemplateName,
    mirror: Option<&str>,
    templates: &[TemplateDoc],
) -> Result<Plan, Refusal> {
    if templates.iter().any(|t| t.name == *name) {
        return Err(Refusal::new(
            Code::TemplateExists,
            format!("there is a template {name} already"),
            format!("choose another name with --name, or first: mayfly template remove {name}"),
        ));
    }
    let step = Step::BuildTemplate {
        recipe: recipe.to_owned(),
        name: name.clone(),
        mirror: mirror.map(str::to_owned),
    };
    Ok(Plan {
        steps: vec![step.undone_by(Step::RecordTemplate {
            name: name.clone(),
            doc: None,
        })],
    })
}

/// Removes a template. Its contents go only when no other name has them and no VPS is based on them.
pub fn plan_template_remove(
    name: &TemplateName,
    templates: &[TemplateDoc],
    vpses: &[VpsDoc],
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
    let users: Vec<String> = vpses
        .iter()
        .filter(|v| v.base.template == doc.digest)
        .map(VpsDoc::title)
        .collect();
    if !shared && !users.is_empty() {
        return Err(Refusal::new(
            Code::TemplateInUse,
            format!("template {name} is the base of VPS {}", users.join(", ")),
            "a base stays as long as a VPS needs it",
        ));
    }
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
        let dataset = PoolPath::template(&doc.digest, &TemplatePart::Base);
        let grave = PoolPath::grave(&format!(
            "template-{}.{}",
            doc.digest.short(),
            ctx.operation
        ));
        steps.push(Step::BuryTemplate { dataset, grave }.final_because("it was asked for"));
    }
    Ok(Plan { steps })
}
