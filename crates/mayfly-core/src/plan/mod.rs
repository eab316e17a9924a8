//! What must be done, decided before anything is done.
//!
//! Every `plan_` function is pure: equal inputs give equal plans. A [`Plan`] is an ordered list of complete
//! [`Step`]s; the executor never chooses a name, a path or an order. `--dry-run` prints the very plan that the executor
//! takes.
//!
//! Each step can be done twice with the effect of once. Each names its undo, or the reason for having none. After a
//! crash the executor goes on with the first step that is not journalled as done; when a step fails, the undo of that
//! step and of all before it are done in reverse.

mod bases;
mod convert;
mod convert_reasons;
mod create;
mod datasets;
mod destroy;
mod ended;
mod feature;
mod giving_up;
mod harvest;
mod leftovers;
mod live;
mod mounts;
mod parts;
#[cfg(feature = "edit")]
mod persist;
mod places;
mod platform;
mod ports;
mod promises;
mod reinstall;
mod reinstall_kept;
mod reinstall_parts;
mod rescue;
mod revert;
mod set;
mod start;
mod stays;
mod step;
mod stop;
mod templates;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::bases::{base_path, check_fits, clones_from, followed, in_use, needs_of};
pub use self::convert::{AWAIT_HEALTH_MS, plan_convert, plan_convert_rest, system_profile};
pub use self::create::{CreateInput, NewVpsDefaults, free_range, plan_create, resolve_new_vps};
pub use self::datasets::{plan_dataset_create, plan_dataset_destroy, plan_dataset_set};
pub use self::destroy::plan_destroy;
pub use self::ended::{CRASH_WINDOW_MS, MAX_CRASHES, comes_back, plan_run_ended, should_start};
pub use self::feature::{needed_features, plan_set_features};
pub use self::giving_up::{Asks, Cut};
pub use self::harvest::HarvestPlan;
pub use self::leftovers::{Busy, Leftovers, sort_leftovers};
pub use self::mounts::{Shown, mount_order, plan_mount_add, plan_mount_remove, run_mount};
#[cfg(feature = "edit")]
pub use self::persist::plan_persist_change;
pub use self::places::{mount_of, place_of, storage_inactive};
pub use self::ports::{plan_port_add, plan_port_remove};
pub use self::promises::promised;
pub use self::reinstall::{plan_reinstall, plan_reinstall_undo};
pub use self::reinstall_kept::{plan_reinstall_forget, plan_replaced_age};
pub use self::reinstall_parts::reinstall_probe;
pub use self::rescue::{RESCUE_ROOT, plan_rescue};
pub use self::revert::plan_revert;
pub use self::set::plan_set;
pub use self::start::{AWAIT_INIT_MS, plan_restart, plan_start};
pub use self::stays::{Fate, fate_of_file};
pub use self::step::{LaunchPlan, PlannedStep, Step, StepKind, Undo};
pub use self::stop::plan_stop;
pub use self::templates::{
    plan_template_build, plan_template_import, plan_template_pull, plan_template_remove,
};

use crate::documents::{Lifecycle, Request, TemplateDoc, VpsDoc};
use crate::error::{Code, Refusal};
use crate::ids::{NodeId, OperationId};
use crate::names::GuestPath;
use crate::network::NodeNetwork;
use crate::observed::Observed;
use crate::ports::Assembly;
use crate::template::RootKind;

/// An ordered list of complete steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps, in order.
    pub steps: Vec<PlannedStep>,
}

impl Plan {
    /// The plan as lines to read, one a step.
    pub fn lines(&self) -> Vec<String> {
        self.steps.iter().map(|s| s.step.to_string()).collect()
    }
}

/// What a plan may depend on beside the document and the observation.
#[derive(Clone, Debug)]
pub struct PlanContext {
    /// This node.
    pub node: NodeId,
    /// The operation that the plan is for.
    pub operation: OperationId,
    /// Milliseconds since 1970.
    pub now_unix_ms: u64,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// The templates that there are.
    pub templates: Vec<TemplateDoc>,
    /// The node's network.
    pub network: Option<NodeNetwork>,
}

/// Decides what a request to a VPS calls for. Requests to templates have planners of their own.
pub fn plan_vps(
    request: &Request,
    doc: &VpsDoc,
    seen: &Observed,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    check_lifecycle(request, doc)?;
    let followed = match request {
        Request::Start { .. } | Request::Restart { .. } => Some(followed(doc, &ctx.templates)?),
        Request::SetFeatures { change, .. } if change.needs_restart(doc) => {
            // What is wanted is what decides whether its base is cloned.
            let mut followed = followed(&change.of(doc), &ctx.templates)?;
            followed.impermanence.clone_from(&doc.impermanence);
            followed.features.clone_from(&doc.features);
            followed.limits.clone_from(&doc.limits);
            Some(followed)
        }
        _ => None,
    };
    let doc = followed.as_ref().unwrap_or(doc);
    match request {
        Request::Create { new, start } => plan_create(new, start.as_ref(), seen, ctx),
        Request::Start { run } => plan_start(doc, seen, run, ctx),
        Request::Stop {
            timeout_ms,
            force,
            discard,
        } => plan_stop(doc, seen, *timeout_ms, *force, *discard, ctx),
        Request::Restart {
            run,
            timeout_ms,
            force,
        } => plan_restart(doc, seen, run, *timeout_ms, *force, ctx),
        Request::Reinstall {
            template,
            scope,
            run,
            boot_ms,
        } => plan_reinstall(doc, seen, (template, *scope), (run, *boot_ms), ctx),
        Request::ReinstallUndo { by, force, run } => {
            plan_reinstall_undo(doc, seen, (by, *force, run), ctx)
        }
        Request::ReinstallForget { by, force } => {
            plan_reinstall_forget(doc, seen, (by, *force), ctx)
        }
        Request::ReplacedAge { boot_ms } => Ok(plan_replaced_age(doc, seen, *boot_ms, ctx)),
        Request::Destroy { now } => plan_destroy(doc, seen, *now, ctx),
        Request::RunEnded {
            run, end, boot_ms, ..
        } => Ok(plan_run_ended(doc, run, end, *boot_ms, &ctx.boot_id)),
        Request::DatasetCreate {
            name,
            quota_bytes,
            mount,
        } => plan_dataset_create(doc, seen, name, *quota_bytes, mount.as_ref(), ctx),
        Request::DatasetSet { name, quota_bytes } => {
            plan_dataset_set(doc, seen, name, *quota_bytes)
        }
        Request::DatasetDestroy { name, force } => {
            plan_dataset_destroy(doc, seen, name, *force, ctx)
        }
        Request::MountAdd { mount } => plan_mount_add(doc, seen, mount, ctx),
        Request::PortAdd { forward } => plan_port_add(doc, *forward, ctx),
        Request::PortRemove {
            host_port,
            protocol,
        } => plan_port_remove(doc, *host_port, *protocol),
        Request::MountRemove { path } => plan_mount_remove(doc, seen, path),
        Request::Set { change } => plan_set(doc, seen, change, ctx),
        #[cfg(feature = "edit")]
        Request::PersistChange { change } => plan_persist_change(doc, seen, change),
        #[cfg(not(feature = "edit"))]
        Request::PersistChange { .. } => Err(Refusal::new(
            Code::Internal,
            "this program was made without what changes declarations",
            "this is a mistake in Mayfly; please report it",
        )),
        Request::Rescue {
            run,
            template,
            root_at,
        } => plan_rescue(doc, seen, run, template, root_at.as_ref(), ctx),
        Request::SetFeatures { change, run } => plan_set_features(doc, seen, change, run, ctx),
        Request::Convert { want, run } => plan_convert(doc, seen, want, run, ctx),
        Request::ConvertRest {} => Ok(plan_convert_rest(doc)),
        Request::Revert { run } => plan_revert(doc, seen, run, ctx),
        Request::TemplateBuild { .. }
        | Request::TemplateImport { .. }
        | Request::TemplatePull { .. }
        | Request::TemplateRemove { .. } => Err(Refusal::new(
            Code::Internal,
            format!("`{}` is no request to a VPS", request.verb()),
            "this is a mistake in Mayfly; please report it",
        )),
    }
}

fn check_lifecycle(request: &Request, doc: &VpsDoc) -> Result<(), Refusal> {
    match (&doc.lifecycle, request) {
        (Lifecycle::Ready, _)
        | (Lifecycle::Creating, Request::Create { .. })
        | (Lifecycle::Creating | Lifecycle::Destroying, Request::Destroy { .. })
        | (_, Request::RunEnded { .. }) => Ok(()),
        (Lifecycle::Creating, _) => Err(Refusal::new(
            Code::VpsBusy,
            format!("VPS {} is still being made", doc.title()),
            "see how far it is: mayfly operation list",
        )),
        (Lifecycle::Destroying, _) => Err(Refusal::new(
            Code::VpsBusy,
            format!("VPS {} is being destroyed", doc.title()),
            format!("finish that: mayfly destroy {}", doc.id),
        )),
        (Lifecycle::NeedsOperator { why }, _) => Err(Refusal::new(
            Code::VpsNeedsOperator,
            format!("VPS {} refuses changes: {why}", doc.title()),
            "look at `mayfly pool show` and at the daemon's log, then restart the daemon: it tries again",
        )),
    }
}

/// What has to be looked up inside the datasets before a request can be decided: the datasets as the guest would see
/// them, and the path of the init.
pub fn needed_probe(request: &Request, doc: &VpsDoc) -> Option<(Assembly, GuestPath)> {
    let impermanence = match request {
        Request::Convert { .. } => return Some((persistent(doc), system_profile())),
        Request::Revert { .. } => return revert::revert_probe(doc),
        Request::Start { .. } | Request::Restart { .. } => doc.impermanence.as_ref(),
        Request::SetFeatures { change, .. } => match &change.impermanence {
            Some(want) => want.as_ref(),
            None => doc.impermanence.as_ref(),
        },
        _ => return None,
    };
    let all = persistent(doc);
    let root = match (impermanence, request) {
        (Some(on), _) if on.root_kind == RootKind::Empty => None,
        (Some(_), _) => return None,
        (None, Request::SetFeatures { change, .. }) if change.impermanence.is_some() => all.root,
        (None, _) => return None,
    };
    let mounts = all.mounts;
    Some((Assembly { root, mounts }, doc.manifest.init.clone()))
}

/// The datasets as the guest sees them where its root dataset is `/`.
fn persistent(doc: &VpsDoc) -> Assembly {
    let mounts = mount_order(&doc.mounts).into_iter();
    Assembly {
        root: Some(doc.pool_path(&crate::names::DatasetName::root())),
        mounts: mounts
            .map(|m| (doc.pool_path(&m.dataset), m.path))
            .collect(),
    }
}

/// Whether the guest has to be asked how it is before a request can be decided.
pub fn needs_health(request: &Request) -> bool {
    matches!(request, Request::Convert { .. } | Request::Revert { .. })
}
