//! Reinstall: contents of datasets are replaced by a template's, kept aside, and put back by an undo (SPEC I).
//!
//! ```text
//!  make the new contents aside │ halt the run │ record │ exchange … │ start
//!        the VPS runs on       │  where one of these fails, all of it is put back
//!
//!  undo:   halt the run │ exchange … back │ record │ start │ bury what gave way
//! ```
//!
//! What is kept, for how long, and how it is given up: `reinstall_kept.rs`.
//!
//! What lies aside and is dear is known to the document from before it is put there until after it is back: whoever clears
//! away leftovers finds it there.

use super::bases::{check_lacks_nothing, check_no_own, check_same_distribution, find};
use super::harvest::before_a_start;
use super::parts::{bury_data, end_run, record, record_ended, running};
use super::platform::platform_files;
use super::promises::promised_with_plans;
use super::reinstall_kept::{check_below, check_bound, check_gives_way};
use super::reinstall_parts::{Part, parts_of, used_of};
use super::start::{check_absent, check_there, end_remains, record_over, start_steps};
use super::{Plan, PlanContext, PlannedStep, Step};
use crate::bytes::Bytes;
use crate::documents::{PutAside, ReinstallScope, Replaced, TemplateDoc, VpsDoc};
use crate::error::{Code, LookFailed, Refusal};
use crate::ids::{OperationId, RunId};
use crate::names::{PoolPath, TemplateName};
use crate::observed::{InitSeen, Mark, MarkSeen, Observed, Role};
use crate::ports::{NewDataset, TreePlan};
use crate::space::{self, shown};
use crate::template::{RootKind, check_architecture};

/// How long the guest may take to halt, in milliseconds.
const HALT_MS: u64 = 60_000;

/// Replaces what `scope` says by what `template` has.
pub fn plan_reinstall(
    doc: &VpsDoc,
    seen: &Observed,
    (template, scope): (&TemplateName, Option<ReinstallScope>),
    (run, boot_ms): (&RunId, u64),
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    let template = find(template, &ctx.templates)?;
    check_architecture(&template.manifest.architecture, &doc.manifest.architecture)?;
    let scope = decide(doc, template, scope, seen)?;
    if scope.has_system() {
        check_no_own(doc)?;
    }
    check_bound(doc)?;
    // It lies beside the contents that would be put aside.
    if doc.taken_out().is_some() {
        return Err(Refusal::new(
            Code::VpsBusy,
            format!(
                "what the conversion of VPS {} left is still to be destroyed",
                doc.title()
            ),
            "try again in a moment; `mayfly operation list` says how far it is",
        ));
    }
    match (doc.impermanence.is_some(), scope.has_system()) {
        (true, true) => check_fits(doc, template, scope)?,
        // Its parts would have no dataset to go into.
        (false, _) => check_lacks_nothing(doc, template)?,
        (true, false) => {}
    }
    let parts = parts_of(doc, template, scope, &seen.pool);
    for part in &parts {
        check_below(doc, &part.dataset.name, seen)?;
    }
    let entry = entry(doc, seen, scope, &parts, boot_ms, ctx)?;
    let used = entry.used_bytes();
    space::check_pool(seen.pool.capacity, promised_with_plans(seen), used)?;

    let stopped = record_ended(doc);
    let mut new = stopped.clone();
    new.replaced.push(entry.clone());
    if scope.has_system() {
        new.template = template.name.clone();
        new.base.template = template.digest.clone();
        new.manifest = template.manifest.clone();
        check_there(&new, seen)?;
    }
    check_init(&new, seen)?;

    let mut steps = Vec::new();
    for (part, put) in parts.iter().zip(&entry.datasets) {
        check_absent(doc, &put.aside, seen)?;
        steps.push(make_aside(doc, part, put, ctx));
        if part.dataset.name.is_root() && doc.impermanence.is_none() {
            steps.extend(platform(&new, &put.aside));
        }
    }
    steps.extend(at_rest(doc, &stopped, seen)?);
    let what = format!(
        "reinstalled from {} (scope {scope}), {used} are kept",
        template.name
    );
    steps.push(record(&stopped, new.clone(), what));
    for put in &entry.datasets {
        let there = exchange(doc, put, Some(&entry.by), put.used_bytes);
        steps.push(there.undone_by(exchange(doc, put, put.had.as_ref(), Bytes(0))));
    }
    if running(doc, seen) {
        steps.extend(start_steps(&new, seen, run, ctx)?);
    }
    Ok(Plan { steps })
}

/// Puts back what the last reinstall replaced. What gives way is buried; with snapshots that others made only by force.
pub fn plan_reinstall_undo(
    doc: &VpsDoc,
    seen: &Observed,
    (by, force, run): (&OperationId, bool, &RunId),
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    let last = doc.replaced.last().filter(|entry| entry.by == *by);
    let Some(entry) = last else {
        return Err(Refusal::new(
            Code::Invalid,
            format!(
                "VPS {}: {by} is not its last reinstall, or what it had before is not kept any more",
                doc.title()
            ),
            format!("see `mayfly show {}`", doc.id),
        ));
    };
    check_same_kind(doc, entry)?;
    // A dataset that was destroyed since has nothing to come back into: what it had stays aside for its days.
    let (there, gone): (Vec<&PutAside>, Vec<&PutAside>) = entry
        .datasets
        .iter()
        .partition(|put| doc.dataset(&put.dataset).is_some());
    if let (true, Some(put)) = (there.is_empty(), gone.first()) {
        return Err(super::parts::no_such_dataset(doc, &put.dataset));
    }
    let stopped = record_ended(doc);
    let mut old = stopped.clone();
    let left = old.replaced.pop().filter(|_| !gone.is_empty());
    // It is out of the way of the undo of what was before.
    let left = left.map(|left| Replaced {
        datasets: gone.into_iter().cloned().collect(),
        ..left
    });
    old.replaced.splice(0..0, left);
    // The base of a VPS whose data alone was replaced may be another by now, and stays.
    if entry.scope.has_system() {
        old.template = entry.template.clone();
        old.base = entry.base.clone();
        old.manifest = entry.manifest.clone();
    }

    let mut quotas = Vec::new();
    let mut back = Vec::new();
    let mut burials = Vec::new();
    for put in there {
        quotas.extend(quota_of(doc, put, seen)?);
        check_two(doc, put, &entry.by, seen)?;
        if !force {
            check_gives_way(doc, put, &entry.by, seen)?;
        }
        let there = exchange(
            doc,
            put,
            put.had.as_ref(),
            used_of(doc, &put.dataset, &seen.pool)?,
        );
        back.push(there.undone_by(exchange(doc, put, Some(&entry.by), Bytes(0))));
        burials.push(bury_data(doc, &put.aside, ctx).as_housekeeping());
    }
    let mut steps = quotas;
    steps.extend(at_rest(doc, &stopped, seen)?);
    steps.extend(back);
    let what = format!("as it was before reinstall {}", entry.by);
    steps.push(record(&stopped, old.clone(), what));
    if running(doc, seen) {
        steps.extend(start_steps(&old, seen, run, ctx)?);
    }
    steps.extend(burials);
    Ok(Plan { steps })
}

/// What is meant, or what would go with each scope, in bytes.
fn decide(
    doc: &VpsDoc,
    template: &TemplateDoc,
    scope: Option<ReinstallScope>,
    seen: &Observed,
) -> Result<ReinstallScope, Refusal> {
    match (&doc.impermanence, scope) {
        (None, None | Some(ReinstallScope::Os)) => Ok(ReinstallScope::Os),
        (None, Some(scope)) => Err(Refusal::new(
            Code::Invalid,
            format!(
                "VPS {} is not impermanent: its root dataset holds system and data together, so there is no scope {scope}",
                doc.title()
            ),
            "leave the scope out: all of the root dataset is replaced, and kept for an undo",
        )),
        (Some(_), Some(scope)) => Ok(scope),
        (Some(_), None) => {
            let told = ReinstallScope::ALL.map(|scope| {
                let parts = parts_of(doc, template, scope, &seen.pool);
                format!("{scope}: {}", told(doc, template, scope, &parts, seen))
            });
            Err(Refusal::new(
                Code::Invalid,
                format!(
                    "VPS {} is impermanent, so say what is to be replaced. {}",
                    doc.title(),
                    told.join("; ")
                ),
                format!(
                    "mayfly reinstall {} --template {} --scope os|data|all",
                    doc.id, template.name
                ),
            ))
        }
    }
}

/// What a scope would put aside, in words and bytes.
fn told(
    doc: &VpsDoc,
    template: &TemplateDoc,
    scope: ReinstallScope,
    parts: &[Part<'_>],
    seen: &Observed,
) -> String {
    let mut words: Vec<String> = parts
        .iter()
        .map(|part| {
            let used = used_of(doc, &part.dataset.name, &seen.pool);
            let used = used.map_or_else(|_| "nobody knows how much".to_owned(), |b| b.to_string());
            format!("{used} in {}", shown(doc, &part.dataset.name))
        })
        .collect();
    if scope.has_system() && doc.clones_its_base() {
        words.insert(0, format!("roots are made from {}", template.name));
    }
    match words.is_empty() {
        true => "nothing".to_owned(),
        false => words.join(", "),
    }
}

fn check_fits(doc: &VpsDoc, template: &TemplateDoc, scope: ReinstallScope) -> Result<(), Refusal> {
    let kind = doc.impermanence.as_ref().map(|on| on.root_kind);
    if kind != Some(template.manifest.root_kind) {
        let word = |kind| match kind {
            RootKind::Empty => "empty",
            RootKind::Template => "template",
        };
        return Err(Refusal::new(
            Code::TemplateUnfit,
            format!(
                "VPS {} has roots of kind {}, template {} is for roots of kind {}",
                doc.title(),
                kind.map_or("none", word),
                template.name,
                word(template.manifest.root_kind)
            ),
            "choose a template of the same root kind: mayfly template list",
        ));
    }
    if !scope.has_data() {
        check_same_distribution(doc, template)?;
    }
    check_lacks_nothing(doc, template)
}

fn entry(
    doc: &VpsDoc,
    seen: &Observed,
    scope: ReinstallScope,
    parts: &[Part<'_>],
    boot_ms: u64,
    ctx: &PlanContext,
) -> Result<Replaced, Refusal> {
    let put = |part: &Part<'_>| -> Result<PutAside, Refusal> {
        let name = doc.pool_path(&part.dataset.name);
        let had = match seen.pool.datasets.get(&name).map(|d| &d.mark) {
            Some(MarkSeen::Local(mark)) => mark.contents.clone(),
            _ => None,
        };
        Ok(PutAside {
            dataset: part.dataset.name.clone(),
            aside: PoolPath::replaced(doc.id, &ctx.operation, &part.dataset.name),
            had,
            used_bytes: used_of(doc, &part.dataset.name, &seen.pool)?,
        })
    };
    Ok(Replaced {
        by: ctx.operation.clone(),
        scope,
        at_unix_ms: ctx.now_unix_ms,
        template: doc.template.clone(),
        base: doc.base.clone(),
        manifest: doc.manifest.clone(),
        root_kind: doc.impermanence.as_ref().map(|on| on.root_kind),
        datasets: parts.iter().map(put).collect::<Result<_, _>>()?,
        kept_ms: 0,
        counted_boot_id: ctx.boot_id.clone(),
        counted_boot_ms: boot_ms,
        held_by: None,
    })
}

fn make_aside(doc: &VpsDoc, part: &Part<'_>, put: &PutAside, ctx: &PlanContext) -> PlannedStep {
    let mark = Mark {
        node: ctx.node.clone(),
        owner: Some((doc.id, doc.incarnation.clone())),
        role: Role::Replaced,
        run: None,
        made_as: put.aside.clone(),
        condemned_by: None,
        unharvested: false,
        contents: Some(ctx.operation.clone()),
    };
    let new = NewDataset {
        name: put.aside.clone(),
        mark,
        quota: Some(part.dataset.quota_bytes),
        origin: part.from.clone(),
    };
    Step::CreateDataset { new }.undone_by(bury_data(doc, &put.aside, ctx))
}

fn platform(new: &VpsDoc, aside: &PoolPath) -> Option<PlannedStep> {
    let tree = TreePlan {
        files: platform_files(new),
        ..TreePlan::default()
    };
    let step = Step::PrepareTree {
        dataset: aside.clone(),
        tree: tree.clone(),
    };
    (!tree.files.is_empty()).then(|| step.final_because("it goes with the dataset"))
}

/// Nothing of the VPS is alive, and what is owed to its storage is in the contents that it was written for.
fn at_rest(doc: &VpsDoc, stopped: &VpsDoc, seen: &Observed) -> Result<Vec<PlannedStep>, Refusal> {
    let mut steps = match running(doc, seen) {
        true => vec![end_run(doc, HALT_MS, false)],
        false => vec![end_remains(doc)],
    };
    if *stopped != *doc {
        steps.push(record_over(stopped));
    }
    steps.extend(before_a_start(stopped, seen)?);
    Ok(steps)
}

fn exchange(
    doc: &VpsDoc,
    put: &PutAside,
    contents: Option<&OperationId>,
    used_bytes: Bytes,
) -> Step {
    Step::Exchange {
        vps: doc.id,
        incarnation: doc.incarnation.clone(),
        dataset: doc.pool_path(&put.dataset),
        aside: put.aside.clone(),
        contents: contents.cloned(),
        used_bytes,
    }
}

/// Refuses a persistent system without an init; that of an empty root is looked at by whoever plans its start.
fn check_init(new: &VpsDoc, seen: &Observed) -> Result<(), Refusal> {
    if new
        .impermanence
        .as_ref()
        .is_some_and(|on| on.root_kind == RootKind::Template)
    {
        return Ok(());
    }
    let why = match &seen.init {
        Some(InitSeen::Found) => return Ok(()),
        Some(InitSeen::Missing { path }) => format!("{path} is not there"),
        Some(InitSeen::NotExecutable { what }) => format!("its init is {what}"),
        None => {
            return Err(
                LookFailed::new("the init of the new system", "it was not looked for").into(),
            );
        }
    };
    Err(Refusal::new(
        Code::VpsWouldNotBoot,
        format!("VPS {} would not boot after that: {why}", new.title()),
        "choose another template: mayfly template list",
    ))
}

fn check_same_kind(doc: &VpsDoc, entry: &Replaced) -> Result<(), Refusal> {
    if doc.impermanence.as_ref().map(|on| on.root_kind) == entry.root_kind {
        return Ok(());
    }
    let back = match entry.root_kind {
        None => "impermanence=off".to_owned(),
        Some(RootKind::Empty) => "impermanence=on --root-kind empty".to_owned(),
        Some(RootKind::Template) => "impermanence=on --root-kind template".to_owned(),
    };
    Err(Refusal::new(
        Code::Invalid,
        format!(
            "VPS {} has roots of another kind than when it was reinstalled",
            doc.title()
        ),
        format!("mayfly feature set {} {back}, then undo", doc.id),
    ))
}

/// The quota that the dataset has by now is for the contents that come back as well.
fn quota_of(doc: &VpsDoc, put: &PutAside, seen: &Observed) -> Result<Option<PlannedStep>, Refusal> {
    let Some(dataset) = doc.dataset(&put.dataset) else {
        return Err(super::parts::no_such_dataset(doc, &put.dataset));
    };
    let there = seen.pool.datasets.get(&put.aside);
    let (Some(had), want) = (there.and_then(|d| d.quota), dataset.quota_bytes) else {
        return Ok(None);
    };
    let used = there.and_then(|d| d.used).unwrap_or_default();
    if used > want {
        return Err(Refusal::new(
            Code::QuotaBelowUse,
            format!(
                "what is to come back into {} holds {used}, more than its quota of {want}",
                shown(doc, &put.dataset)
            ),
            format!(
                "mayfly dataset set {} quota={}M",
                shown(doc, &put.dataset),
                used.0.div_ceil(1 << 20)
            ),
        ));
    }
    let set = |quota_bytes| Step::SetQuota {
        dataset: put.aside.clone(),
        quota_bytes,
    };
    Ok((had != want).then(|| set(want).undone_by(set(had))))
}

/// Refuses where the two datasets are not those of that reinstall.
fn check_two(
    doc: &VpsDoc,
    put: &PutAside,
    by: &OperationId,
    seen: &Observed,
) -> Result<(), Refusal> {
    let contents = |name: &PoolPath| match seen.pool.datasets.get(name).map(|d| &d.mark) {
        Some(MarkSeen::Local(mark)) => Some(mark.contents.as_ref()),
        _ => None,
    };
    let name = doc.pool_path(&put.dataset);
    let (new, old) = (Some(Some(by)), Some(put.had.as_ref()));
    let found = (contents(&name), contents(&put.aside));
    // Cut off before this dataset's turn, and nothing else left of it: it is back already, and the step finds that.
    if found == (new, old) || found == (old, new) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::NotOurs,
        format!(
            "VPS {}: {name} and {} are not what reinstall {by} left",
            doc.title(),
            put.aside
        ),
        "see what is there: mayfly pool show, mayfly fsck",
    ))
}
