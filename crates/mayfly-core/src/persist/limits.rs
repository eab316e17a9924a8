//! How much of a guest's input is looked at.

/// The declaration file, in bytes; a longer one is not read at all.
pub const FILE_BYTES: usize = 256 << 10;
/// A declaration file that is changed from outside, in bytes: the journal of each change holds it.
pub const EDIT_BYTES: usize = 64 << 10;
/// Declarations of one VPS, presets among them; those beyond are refused.
pub const DECLARATIONS: usize = 4_096;
/// Directories that a plan makes or looks at, on both sides together.
pub const DIRECTORIES: usize = 20_000;
/// One path, in bytes.
pub const PATH_BYTES: usize = 1_024;
/// Names in one path.
pub const PATH_DEPTH: usize = 64;
/// A user or a group.
pub const NAME_BYTES: usize = 256;
/// How deep the tables and lists of a declaration file may be.
pub const NESTING: usize = 16;
/// Problems that are kept; of more only the number is told.
pub const PROBLEMS: usize = 256;
/// Files that are named when copies are taken back; of more only the number is told.
pub const TOLD: usize = 64;
/// Files of which a harvest tells each; of more only the number is told.
pub const TOLD_FILES: usize = 128;
/// The report of a harvest, in bytes: it is always shorter.
pub const HARVESTED_BYTES: usize = 1 << 20;
/// passwd, group and the like, in bytes each.
pub const ACCOUNT_BYTES: usize = 1 << 20;
/// A file that is copied, in bytes.
pub const COPY_BYTES: u64 = 16 << 20;
/// All files that are copied at one birth, in bytes.
pub const COPY_TOTAL_BYTES: u64 = 256 << 20;
/// What one harvest reads of a root, and of a storage, in bytes each.
pub const HARVEST_BYTES: u64 = COPY_TOTAL_BYTES;
/// Names that are looked at in the directory of the records.
pub const RECORDS: usize = 1_024;
/// Paths of which is known when they were declared; of more the longest gone are forgotten.
pub const HISTORY: usize = 4_096;
/// The file of them, in bytes.
pub const HISTORY_BYTES: usize = 16 << 20;
