//! What a VPS with a temporary root should be asked about before its next start loses something: whether its storage is a
//! mount, and whether what makes it itself stays (machine-id, the numbers of users, SSH host keys).
//!
//! The questions are put to its document and its declarations, and of a NixOS to its configuration as well. That is read
//! and not evaluated: what would have to be is told as such, with its place, and whatever it could change is told as not
//! known. All of it is a guest's text.

#[cfg(feature = "nix")]
mod depth;
mod facts;
mod judge;
#[cfg(feature = "nix")]
mod nix;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::facts::{About, ConfigFile, Kept, NixFacts, NixosLook, Place, Unsure};
pub use self::judge::{Looked, judge};
#[cfg(feature = "nix")]
pub use self::nix::{Role, read_nix};

/// A file that is longer is not read.
pub const FILE_BYTES: usize = 256 << 10;
/// So many files of one configuration are read.
pub const FILES: usize = 32;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = Weight))]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The VPS will not start so, or loses what its owner told it to keep.
    Problem,
    /// Something is lost at each start that most would want to keep, or does not work.
    Warning,
    /// Nobody can tell without evaluating the configuration.
    Unknown,
    /// Good to know.
    Note,
}

/// What a finding is about. The words never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// `/` is not temporary: nothing is thrown away yet.
    FeatureOff,
    /// The Nix store lies in the root dataset, where a VPS with an empty root does not find it.
    StoreInRoot,
    /// No dataset is mounted where declared paths are to live.
    StorageNotMounted,
    /// What is mounted there cannot be written.
    StorageReadOnly,
    /// The VPS has no storage for declarations.
    NoStorage,
    /// The configuration keeps paths elsewhere than where Mayfly looks for them.
    StorageDiffers,
    /// The configuration is not among what stays.
    ConfigurationLost,
    /// The configuration was not found, or a file of it was not read.
    ConfigurationUnreadable,
    /// The option is set, and no module that has it is imported.
    ModuleMissing,
    /// Nothing is declared to stay at all.
    NothingDeclared,
    /// Something that is declared to stay will not.
    DeclarationRefused,
    /// `/etc/machine-id` is another one after each start.
    MachineIdLost,
    /// Users and groups may get other numbers after a start.
    AccountsLost,
    /// The SSH host keys are others after each start.
    SshHostKeysLost,
    /// The journal and all logs begin anew at each start.
    LogsLost,
    /// Nix has no flakes, by which the system is rebuilt.
    FlakesOff,
    /// The configuration mounts what Mayfly has mounted already.
    MountedTwice,
    /// Something says what it says only when it is evaluated.
    NeedsEvaluation,
}

/// Something to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about; stable.
    pub topic: Topic,
    /// What it concerns: a VPS, a path in it, or a place in its configuration as `file:line`.
    pub object: String,
    /// What was seen.
    pub reason: String,
    /// What to do next.
    pub hint: String,
}
