//! Rescue mode: another system boots, in a root that lives for one run, with the VPS's datasets in reach (SPEC X).
//!
//! Nothing of the VPS is changed: not its last root, not its features. The next start is that of the VPS itself.

use super::bases::base_path;
use super::harvest::{harvest, is_owed};
use super::mounts::{Shown, mount_order};
use super::parts::{end_run, old_roots, record, record_ended, running};
use super::platform::path;
use super::start::{
    check_absent, create_root, end_remains, launch_plan, launch_steps, record_over, tree_steps,
    with_run,
};
use super::{NewVpsDefaults, Plan, PlanContext, PlannedStep, Step};
use crate::documents::{Base, Impermanence, Mount, Rescue, TemplateDoc, Track, VpsDoc};
use crate::error::{Code, Refusal};
use crate::features::usable;
use crate::ids::RunId;
use crate::names::{DatasetName, GuestPath, PoolPath, TemplateName, TemplatePart};
use crate::observed::{Mark, Observed, Role};
use crate::persist::spec::Spec;
use crate::ports::{NewDataset, Origin};
use crate::template::{RootKind, check_architecture};

/// Where the root dataset is in a rescue system, if nothing else is said; what would hide that system is below.
pub const RESCUE_ROOT: &str = "/mnt/vps";

/// How long the guest that makes way may take to halt.
const HALT_MS: u64 = 60_000;

/// Paths at which nothing of the VPS may be, nor above or below them: the rescue system itself.
const SYSTEM: [&str; 11] = [
    "/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/root", "/sbin", "/tmp",
    "/usr",
];

/// Boots `template` in a root of its own, whatever the VPS is at.
pub fn plan_rescue(
    doc: &VpsDoc,
    seen: &Observed,
    run: &RunId,
    template: &TemplateName,
    root_at: Option<&GuestPath>,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    let template = find(doc, template, ctx)?;
    let base = base_path(&template.digest);
    let parts = own_parts(template, &PoolPath::rescue_root(doc.id, run));
    let mut needed = [&base].into_iter().chain(parts.iter().map(|p| &p.from));
    if let Some(absent) = needed.find(|one| !seen.pool.datasets.contains_key(one)) {
        return Err(Refusal::new(
            Code::TemplateNotFound,
            format!(
                "template {} is recorded, and its dataset {absent} is not in the pool",
                template.name
            ),
            format!(
                "build it again: mayfly template build {} --replace",
                template.name
            ),
        ));
    }
    let rescue = place(doc, template, root_at)?;
    let root = PoolPath::rescue_root(doc.id, run);
    check_absent(doc, &root, seen)?;
    let stopped = record_ended(doc);
    let mut steps = match running(doc, seen) {
        true => vec![end_run(doc, HALT_MS, false)],
        false => vec![end_remains(doc)],
    };
    if stopped != *doc {
        steps.push(record_over(&stopped));
    }
    // A storage that is full, or damaged, is what a rescue system is for; the next start insists on it.
    let owed = stopped
        .last_root
        .as_ref()
        .filter(|root| is_owed(seen, root));
    let harvest = owed.and_then(|root| harvest(&stopped, root));
    steps.extend(harvest.map(Step::as_housekeeping));
    steps.extend(boot(&stopped, template, rescue, &root, (seen, run), ctx));
    Ok(Plan { steps })
}

fn find<'a>(
    doc: &VpsDoc,
    name: &TemplateName,
    ctx: &'a PlanContext,
) -> Result<&'a TemplateDoc, Refusal> {
    let template = ctx
        .templates
        .iter()
        .find(|t| t.name == *name)
        .ok_or_else(|| {
            Refusal::new(
                Code::TemplateNotFound,
                format!("there is no template {name}"),
                "see `mayfly template list`",
            )
        })?;
    check_architecture(&template.manifest.architecture, &doc.manifest.architecture)?;
    Ok(template)
}

/// What is shown where. A dataset that would hide the rescue system goes below [`RESCUE_ROOT`].
fn place(
    doc: &VpsDoc,
    template: &TemplateDoc,
    root_at: Option<&GuestPath>,
) -> Result<Rescue, Refusal> {
    if let Some(at) = root_at {
        let kernel = ["/dev", "/proc", "/run", "/sys"].map(path);
        if hides(Some(template), at) || kernel.iter().any(|of| at.below(of).is_some()) {
            return Err(Refusal::new(
                Code::MountPointRefused,
                format!("the root dataset at {at} would hide the rescue system"),
                format!("choose a path such as {RESCUE_ROOT}, or leave it out: --no-root"),
            ));
        }
    }
    let mut mounts: Vec<Mount> = root_at
        .map(|at| Mount {
            dataset: DatasetName::root(),
            path: at.clone(),
            read_only: false,
        })
        .into_iter()
        .collect();
    let mut moved = Vec::new();
    for mount in doc.mounts.iter().filter(|mount| !mount.dataset.is_root()) {
        let (at, is_moved) = place_one(doc, Some(template), root_at, mount)?;
        if is_moved {
            moved.push(mount.path.clone());
        }
        mounts.push(at);
    }
    Ok(Rescue {
        template: template.name.clone(),
        root_at: root_at.cloned(),
        mounts: mount_order(&mounts),
        moved,
    })
}

/// Whether something at that path would hide the system of a template, or be hidden by it.
fn hides(template: Option<&TemplateDoc>, at: &GuestPath) -> bool {
    let own = template.map_or(&[][..], |template| &template.manifest.layout.mounts);
    let own = own.iter().filter(|mount| !mount.dataset.is_root());
    let mut system = SYSTEM
        .iter()
        .map(|text| path(text))
        .chain(own.map(|mount| mount.path.clone()));
    at.is_top()
        || ["/var", "/var/lib"].map(path).contains(at)
        || system.any(|of| at.below(&of).is_some() || of.below(at).is_some())
}

/// Where a rescue system has a mount of a dataset that is not the root dataset, and whether that is elsewhere than usual.
pub(super) fn place_one(
    doc: &VpsDoc,
    template: Option<&TemplateDoc>,
    root_at: Option<&GuestPath>,
    mount: &Mount,
) -> Result<(Mount, bool), Refusal> {
    let mut mount = mount.clone();
    let taken = root_at.is_some_and(|at| mount.path == *at || at.below(&mount.path).is_some());
    if !taken && !hides(template, &mount.path) {
        return Ok((mount, false));
    }
    let text = format!("{RESCUE_ROOT}{}", mount.path);
    mount.path = text.parse().map_err(|_| {
        Refusal::new(
            Code::MountPointRefused,
            format!(
                "VPS {}: {text} is too long to be a mount point",
                doc.title()
            ),
            "remove that mount first",
        )
    })?;
    Ok((mount, true))
}

/// The steps from "nothing of it is alive" to "the rescue system's init lives".
fn boot(
    doc: &VpsDoc,
    template: &TemplateDoc,
    rescue: Rescue,
    root: &PoolPath,
    (seen, run): (&Observed, &RunId),
    ctx: &PlanContext,
) -> Vec<PlannedStep> {
    let on = Impermanence {
        root_quota_bytes: NewVpsDefaults::ROOT_QUOTA,
        root_kind: template.manifest.root_kind,
    };
    let mut rescued = as_rescued(doc, template, &rescue, &on);
    // What the host cannot give now is no reason to be without a rescue system.
    rescued.features = usable(&doc.features, seen);
    let parts = own_parts(template, root);
    let mut steps = vec![create_root(&rescued, &on, root, run, ctx)];
    steps.extend(parts.iter().map(|part| part.create(doc, run, ctx)));
    let mut trees = tree_steps(&rescued, root);
    for planned in &mut trees {
        if let Step::PrepareTree { dataset, tree } = &mut planned.step {
            if dataset == root {
                let points = parts.iter().map(|part| part.path.clone());
                tree.directories.extend(points.chain([path("/etc")]));
                tree.files.extend(notices(doc, &rescue));
            }
        }
    }
    steps.extend(trees);
    let mut begun = with_run(doc, root, run, Some(template.digest.clone()), ctx);
    if let Some(run) = &mut begun.run {
        run.rescue = Some(rescue);
    }
    steps.push(record(
        doc,
        begun,
        format!("run {run} in rescue mode with {root} at /"),
    ));
    let mut launch = launch_plan(&rescued, root, run, ctx);
    launch.boot_report["root"]["kind"] = "rescue".into();
    launch.mounts.extend(parts.iter().map(Part::shown));
    launch
        .mounts
        .sort_by(|a, b| a.1.as_str().split('/').cmp(b.1.as_str().split('/')));
    launch.persistence = Some(Spec {
        inactive: Some(
            "this is a rescue system: declarations are applied at the next start of the VPS itself"
                .to_owned(),
        ),
        ..Spec::new(run.to_string(), false)
    });
    steps.extend(launch_steps(launch));
    // The last root of the VPS itself stays, and so does the record of its run: how that ended says what may be taken back
    // from it. Roots of earlier rescues go.
    let old = old_roots(doc, seen, root, false, ctx).into_iter();
    let is_rescue = |step: &Step| matches!(step, Step::BuryRoot { root, .. } if root.named_temporary_root().is_none());
    steps.extend(old.filter(is_rescue).map(Step::as_housekeeping));
    steps
}

/// A dataset of a template of root kind empty, in which its system lies, cloned for one rescue.
struct Part {
    from: PoolPath,
    name: PoolPath,
    path: GuestPath,
    read_only: bool,
}

/// The parts that a rescue system needs beside its root. One of root kind template is whole without.
fn own_parts(template: &TemplateDoc, root: &PoolPath) -> Vec<Part> {
    if template.manifest.root_kind != RootKind::Empty {
        return Vec::new();
    }
    let mounts = template.manifest.layout.mounts.iter();
    let own = mounts.filter(|mount| !mount.dataset.is_root());
    own.map(|mount| Part {
        from: PoolPath::template(
            &template.digest,
            &TemplatePart::Dataset(mount.dataset.clone()),
        ),
        name: root.part_of_root(&mount.dataset),
        path: mount.path.clone(),
        read_only: mount.read_only,
    })
    .collect()
}

impl Part {
    /// Makes it; it lies in the root, and is buried with that.
    fn create(&self, doc: &VpsDoc, run: &RunId, ctx: &PlanContext) -> PlannedStep {
        let mark = Mark {
            node: ctx.node.clone(),
            owner: Some((doc.id, doc.incarnation.clone())),
            role: Role::Temporary,
            run: Some(run.clone()),
            made_as: self.name.clone(),
            condemned_by: None,
            unharvested: false,
            contents: None,
        };
        let new = NewDataset {
            name: self.name.clone(),
            mark,
            quota: Some(NewVpsDefaults::ROOT_QUOTA),
            origin: Origin::Clone(self.from.clone()),
        };
        Step::CreateDataset { new }.final_because("it goes with the root that it lies in")
    }

    fn shown(&self) -> Shown {
        (self.name.clone(), self.path.clone(), self.read_only)
    }
}

/// The VPS as the rescue system sees it: who it is and what it may take stay.
fn as_rescued(doc: &VpsDoc, template: &TemplateDoc, rescue: &Rescue, on: &Impermanence) -> VpsDoc {
    VpsDoc {
        template: template.name.clone(),
        base: Base {
            template: template.digest.clone(),
            track: Track::Pinned,
            own: None,
        },
        manifest: template.manifest.clone(),
        storage: None,
        mounts: rescue.mounts.clone(),
        impermanence: Some(on.clone()),
        ..doc.clone()
    }
}

/// Files that say where one is: the message of the day, and what Debian's shells put before their prompt.
fn notices(doc: &VpsDoc, rescue: &Rescue) -> Vec<(GuestPath, String)> {
    let mut text = format!(
        "\nThis is a rescue system ({}), not VPS {} itself. What is changed in / is lost with the next start.\n",
        rescue.template,
        doc.title()
    );
    for mount in &rescue.mounts {
        let name = doc.pool_path(&mount.dataset);
        text.push_str(&format!("  {} is at {}\n", name, mount.path));
    }
    text.push_str("Leave it with a restart or a stop.\n\n");
    vec![
        (path("/etc/motd"), text),
        (path("/etc/debian_chroot"), "rescue\n".to_owned()),
    ]
}
