//! Refusals: one stable code, the object and the reason in a sentence, the next thing to type.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $status:literal;)*) => {
        /// Every error code that a user, a script or a client may see. Codes never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[doc = $doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as it is written in answers.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim_ascii(),)* }
            }

            /// The HTTP status that goes with it.
            pub fn http_status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }
        }
    };
}

codes! {
    /// The input is not well formed.
    Invalid = "input.invalid", 400;
    /// The caller may not do this.
    Forbidden = "auth.forbidden", 403;
    /// The daemon does not answer.
    NodeUnreachable = "node.unreachable", 503;
    /// The state directory is not that of a node.
    NodeNotInitialised = "node.not_initialised", 409;
    /// There is a node already.
    NodeExists = "node.exists", 409;
    /// Another daemon has the state directory.
    NodeBusy = "node.busy", 409;
    /// The host lacks something that is needed.
    HostUnsuitable = "host.unsuitable", 409;
    /// The pool is not there or cannot be used.
    PoolUnavailable = "pool.unavailable", 503;
    /// The pool belongs to another node.
    PoolForeign = "pool.foreign", 409;
    /// The pool has no room.
    PoolFull = "pool.full", 507;
    /// No such VPS.
    VpsNotFound = "vps.not_found", 404;
    /// The id is taken.
    VpsIdTaken = "vps.id_taken", 409;
    /// The host name is taken.
    VpsNameTaken = "vps.name_taken", 409;
    /// It runs, and the change needs it stopped.
    VpsRunning = "vps.running", 409;
    /// It does not run, and the change needs it running.
    VpsNotRunning = "vps.not_running", 409;
    /// Another operation has it.
    VpsBusy = "vps.busy", 409;
    /// An operator must look at it first.
    VpsNeedsOperator = "vps.needs_operator", 409;
    /// It would not boot.
    VpsWouldNotBoot = "vps.would_not_boot", 409;
    /// It cannot be converted, or a conversion cannot be taken back.
    NotConvertible = "vps.not_convertible", 409;
    /// It is not as well as it was before.
    Unhealthy = "vps.unhealthy", 500;
    /// It uses more than the limit would allow.
    LimitBelowUse = "vps.limit_below_use", 409;
    /// It did not start.
    VpsStartFailed = "vps.start_failed", 500;
    /// No such template.
    TemplateNotFound = "template.not_found", 404;
    /// The name is taken by another template.
    TemplateExists = "template.exists", 409;
    /// A VPS or a root still needs it.
    TemplateInUse = "template.in_use", 409;
    /// It could not be built.
    TemplateBuildFailed = "template.build_failed", 500;
    /// An image server did not give what was asked for.
    TemplatePullFailed = "template.pull_failed", 502;
    /// The archive is damaged, or has what no template may have.
    TemplateBadArchive = "template.bad_archive", 400;
    /// The archive is not the one that was meant.
    TemplateWrongDigest = "template.wrong_digest", 409;
    /// As many reinstalls of the VPS as can be undone are kept already.
    ReinstallsKept = "vps.reinstalls_kept", 409;
    /// It cannot be the base of that VPS.
    TemplateUnfit = "template.unfit", 409;
    /// No such dataset.
    DatasetNotFound = "dataset.not_found", 404;
    /// There is one of that name.
    DatasetExists = "dataset.exists", 409;
    /// It is mounted, holds other datasets, or has snapshots.
    DatasetInUse = "dataset.in_use", 409;
    /// The disk space of the VPS is not enough.
    DiskSpace = "dataset.disk_space", 409;
    /// The quota is below what is used.
    QuotaBelowUse = "dataset.quota_below_use", 409;
    /// No such mount.
    MountNotFound = "mount.not_found", 404;
    /// Something is mounted at that path.
    MountExists = "mount.exists", 409;
    /// The path cannot be a mount point.
    MountPointRefused = "mount.refused", 409;
    /// There is no such file in the VPS.
    FileNotFound = "file.not_found", 404;
    /// The file cannot be read or written in the VPS.
    FileRefused = "file.refused", 409;
    /// The network of the node cannot be made or kept.
    NetworkUnavailable = "network.unavailable", 503;
    /// The node has no network, or the VPS no place in it.
    NetworkAbsent = "network.absent", 409;
    /// Every address is taken.
    NetworkFull = "network.full", 409;
    /// VPSes that run are plugged into the network.
    NetworkInUse = "network.in_use", 409;
    /// The port of the host leads to a VPS already.
    PortTaken = "port.taken", 409;
    /// No such port leads to the VPS.
    PortNotFound = "port.not_found", 404;
    /// It has no storage that declared paths could be kept in.
    PersistNoStorage = "persist.no_storage", 409;
    /// The path cannot be declared.
    PersistRefused = "persist.refused", 409;
    /// The path stays already.
    PersistExists = "persist.exists", 409;
    /// The path is not declared.
    PersistNotFound = "persist.not_found", 404;
    /// The VPS's own declarations cannot be changed as they are written.
    PersistNotEditable = "persist.not_editable", 409;
    /// The VPS's own declarations were changed by somebody else meanwhile.
    PersistChanged = "persist.changed", 409;
    /// The feature is not there.
    FeatureUnavailable = "feature.unavailable", 409;
    /// No such operation.
    OperationNotFound = "operation.not_found", 404;
    /// It was given up because somebody asked for that.
    OperationCancelled = "operation.cancelled", 409;
    /// It is over, or has done what cannot be put back.
    OperationTooLate = "operation.too_late", 409;
    /// A step of an operation has not come to its end in its time: the host hangs.
    OperationOverdue = "operation.overdue", 503;
    /// Changes that far back are not kept any more.
    EventsCompacted = "events.compacted", 410;
    /// The reader took nothing for long; it can go on where it was.
    EventsNotRead = "events.not_read", 408;
    /// Ownership is not proven.
    NotOurs = "storage.not_ours", 409;
    /// A look at the host failed; nothing was changed.
    CouldNotLook = "host.could_not_look", 503;
    /// Copies of declared files could not be taken back from a root.
    HarvestFailed = "root.harvest_failed", 409;
    /// Something of a run is still alive.
    StillAlive = "run.still_alive", 409;
    /// A change on the host failed.
    HostFailed = "host.failed", 500;
    /// The state database could not be read or written.
    StateFailed = "state.failed", 500;
    /// The state is older than the pool, or it cannot be told whether it is; nothing is changed.
    StateBehind = "state.behind", 409;
    /// There is no such address in the API.
    NoSuchRoute = "api.no_such_route", 404;
    /// A mistake in Mayfly.
    Internal = "internal", 500;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why something was not done. Nothing was changed, or what was changed has been put back, unless the message says
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of refusal.
    pub code: Code,
    /// The object and the reason.
    pub message: String,
    /// The next step, usually a command to type.
    pub hint: String,
}

impl Refusal {
    /// A refusal with its parts.
    pub fn new(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: hint.into(),
        }
    }
}

/// A look at the host that did not succeed: neither "there" nor "absent".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("could not look at {what}: {why}")]
pub struct LookFailed {
    /// What was looked at.
    pub what: String,
    /// Why it failed.
    pub why: String,
}

impl LookFailed {
    /// A failed look.
    pub fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self {
            what: what.into(),
            why: why.to_string(),
        }
    }
}

impl From<LookFailed> for Refusal {
    fn from(failed: LookFailed) -> Self {
        Self::new(
            Code::CouldNotLook,
            failed.to_string(),
            "nothing was changed; mend the cause and try again",
        )
    }
}
