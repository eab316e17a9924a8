//! Bases: what a VPS's roots are cloned from, who needs which template, and what fits whom.

use super::{Plan, Step};
use crate::change::VpsChange;
use crate::documents::{TemplateDoc, Track, VpsDoc};
use crate::error::{Code, Refusal};
use crate::ids::Digest;
use crate::names::{PoolPath, TemplateName, TemplatePart};
use crate::observed::PoolSeen;
use crate::ports::Origin;
use crate::template::RootKind;

/// The VPS as it starts: where its base follows its template, with what the template is now.
pub fn followed(doc: &VpsDoc, templates: &[TemplateDoc]) -> Result<VpsDoc, Refusal> {
    if doc.base.track == Track::Pinned || doc.base.own.is_some() || !doc.clones_its_base() {
        return Ok(doc.clone());
    }
    let pin = |mut refusal: Refusal| {
        refusal.hint = format!(
            "start it with what it had: mayfly set {} track=pinned; or: {}",
            doc.id, refusal.hint
        );
        refusal
    };
    let template = find(&doc.template, templates).map_err(pin)?;
    check_fits(doc, template).map_err(pin)?;
    Ok(based_on(doc, template))
}

/// The VPS with another base. It holds from the next start on.
pub(super) fn rebased(
    doc: &VpsDoc,
    change: &VpsChange,
    templates: &[TemplateDoc],
) -> Result<VpsDoc, Refusal> {
    let mut new = doc.clone();
    if change.base.is_none() && change.track.is_none() {
        return Ok(new);
    }
    check_no_own(doc)?;
    if !doc.clones_its_base() {
        let (what, hint) = match &doc.impermanence {
            None => (
                "its root dataset, which stays",
                format!(
                    "have each start clone it first: mayfly feature set {} impermanence=on",
                    doc.id
                ),
            ),
            Some(_) => (
                "an empty root and the system in /nix",
                "deploy another system into the dataset at /nix".to_owned(),
            ),
        };
        return Err(Refusal::new(
            Code::TemplateUnfit,
            format!(
                "VPS {} starts from {what}: no start clones its base",
                doc.title()
            ),
            hint,
        ));
    }
    new.base.track = change.track.unwrap_or(doc.base.track);
    if let Some(name) = &change.base {
        let template = find(name, templates)?;
        check_fits(doc, template)?;
        return Ok(based_on(&new, template));
    }
    if new.base.track == Track::Latest {
        check_fits(doc, find(&doc.template, templates)?)?;
    }
    Ok(new)
}

/// Refuses a VPS whose base is its own former system: what it declares to stay was decided for that.
pub(super) fn check_no_own(doc: &VpsDoc) -> Result<(), Refusal> {
    if doc.base.own.is_none() {
        return Ok(());
    }
    Err(Refusal::new(
        Code::TemplateUnfit,
        format!(
            "VPS {} was converted: its base is its own former system, and no template's",
            doc.title()
        ),
        format!("go back first: mayfly impermanence revert {}", doc.id),
    ))
}

fn based_on(doc: &VpsDoc, template: &TemplateDoc) -> VpsDoc {
    let mut new = doc.clone();
    new.template = template.name.clone();
    new.base.template = template.digest.clone();
    new.manifest = template.manifest.clone();
    new
}

pub(super) fn find<'a>(
    name: &TemplateName,
    templates: &'a [TemplateDoc],
) -> Result<&'a TemplateDoc, Refusal> {
    templates.iter().find(|t| t.name == *name).ok_or_else(|| {
        Refusal::new(
            Code::TemplateNotFound,
            format!("there is no template {name}"),
            "see `mayfly template list`",
        )
    })
}

/// Refuses a template that a VPS cannot have as its base.
pub fn check_fits(doc: &VpsDoc, template: &TemplateDoc) -> Result<(), Refusal> {
    let (had, has) = (&doc.manifest, &template.manifest);
    let refuse = |why: String, hint: String| {
        let message = format!(
            "template {} cannot be the base of VPS {}: {why}",
            template.name,
            doc.title()
        );
        Err(Refusal::new(Code::TemplateUnfit, message, hint))
    };
    if has.root_kind != RootKind::Template {
        return refuse(
            "its root kind is empty, so there is no system in it that a root could be cloned from"
                .to_owned(),
            "choose a template of root kind template: mayfly template list".to_owned(),
        );
    }
    if had.architecture != has.architecture {
        let why = format!(
            "it is {}, the VPS is {}",
            has.architecture, had.architecture
        );
        return refuse(why, make_anew(template));
    }
    check_same_distribution(doc, template)?;
    check_lacks_nothing(doc, template)?;
    Ok(())
}

/// Refuses a template of another distribution than that whose programs wrote what the VPS keeps.
pub(super) fn check_same_distribution(doc: &VpsDoc, template: &TemplateDoc) -> Result<(), Refusal> {
    let (had, has) = (&doc.manifest, &template.manifest);
    if had.distribution == has.distribution {
        return Ok(());
    }
    Err(Refusal::new(
        Code::TemplateUnfit,
        format!(
            "template {} cannot be the base of VPS {}: it is {}, the VPS is {}, and what the VPS keeps was written by programs and for users of that",
            template.name,
            doc.title(),
            has.distribution,
            had.distribution
        ),
        make_anew(template),
    ))
}

/// Refuses a template with a part of its system in a dataset for which the VPS has no place.
pub(super) fn check_lacks_nothing(doc: &VpsDoc, template: &TemplateDoc) -> Result<(), Refusal> {
    let lacks = template.manifest.layout.mounts.iter().find(|wanted| {
        !wanted.dataset.is_root() && !doc.mounts.iter().any(|m| m.path == wanted.path)
    });
    let Some(mount) = lacks else {
        return Ok(());
    };
    Err(Refusal::new(
        Code::TemplateUnfit,
        format!(
            "template {} cannot be the base of VPS {}: a part of its system lies in a dataset at {}, where the VPS has nothing mounted",
            template.name,
            doc.title(),
            mount.path
        ),
        format!(
            "mayfly dataset create {}/{} --quota 10G --mount {}, and put that part there",
            doc.id, mount.dataset, mount.path
        ),
    ))
}

fn make_anew(template: &TemplateDoc) -> String {
    format!(
        "make a new VPS of it: mayfly create --template {}",
        template.name
    )
}

/// Where the contents of a template are in the pool; their parts lie below.
pub fn base_path(digest: &Digest) -> PoolPath {
    PoolPath::template(digest, &TemplatePart::Base)
}

/// Who needs the contents at `base`, in words: VPSes by their documents, and what was cloned from it where the storage
/// keeps that. What lies in the graveyard is on its way out, and keeps what it needs by itself.
pub fn needs_of(base: &PoolPath, vpses: &[VpsDoc], pool: &PoolSeen) -> Vec<String> {
    let is_it = |digest: Option<&Digest>| digest.is_some_and(|digest| base_path(digest) == *base);
    let mut needs = Vec::new();
    for doc in vpses {
        let title = doc.title();
        if is_it(Some(&doc.base.template)) {
            needs.push(format!("it is the base of VPS {title}"));
        } else if is_it(doc.run.as_ref().and_then(|run| run.base.as_ref())) {
            needs.push(format!("the root of VPS {title} was cloned from it"));
        } else if is_it(doc.last_root_base.as_ref()) {
            needs.push(format!("the last root of VPS {title} was cloned from it"));
        } else if doc
            .replaced
            .iter()
            .any(|one| is_it(Some(&one.base.template)))
        {
            needs.push(format!("VPS {title} was reinstalled and can go back to it"));
        }
    }
    if needs.is_empty() {
        let of = |origin: &PoolPath| is_part_of(origin, base);
        let clones = pool
            .datasets
            .iter()
            .filter(|(name, seen)| !name.is_grave() && seen.origin.as_ref().is_some_and(of));
        needs.extend(clones.map(|(name, _)| format!("dataset {name} was cloned from it")));
    }
    needs
}

/// Whether a plan that is under way clones a part of the contents at `base`.
pub fn clones_from(plan: &Plan, base: &PoolPath) -> bool {
    plan.steps.iter().any(|planned| match &planned.step {
        Step::CreateDataset { new } => match &new.origin {
            Origin::Clone(from) => is_part_of(from, base),
            Origin::Empty => false,
        },
        _ => false,
    })
}

/// Whether a dataset is a template's base or lies below it.
pub(super) fn is_part_of(name: &PoolPath, base: &PoolPath) -> bool {
    name == base || name.is_below(base)
}

/// So many of those who need something are named.
const NAMED: usize = 5;

/// Those who need the contents of a template, where there are any.
pub fn in_use(object: &str, needs: &[String]) -> Result<(), Refusal> {
    let Some(more) = needs.len().checked_sub(1) else {
        return Ok(());
    };
    let mut told = needs[..needs.len().min(NAMED)].join("; ");
    if more >= NAMED {
        told.push_str(&format!("; and {} more", needs.len() - NAMED));
    }
    Err(Refusal::new(
        Code::TemplateInUse,
        format!("{object} is in use: {told}"),
        "it stays as long as something needs it: give them another base (mayfly set V base=TEMPLATE) and restart them, or destroy them",
    ))
}
