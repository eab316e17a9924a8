//! Files inside a VPS, its passwords, and what becomes of them.

use mayfly_core::persist::path::TreePath;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The header of an answer with a file that has its mode, in octal.
pub const MODE_HEADER: &str = "mayfly-file-mode";

/// What a file is to be like that goes into a VPS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutFile {
    /// Where.
    pub path: String,
    /// Its name, where that is a directory.
    pub name: Option<String>,
    /// Its mode; else that of the one that is there.
    pub mode: Option<u32>,
    /// Its mode where there is none yet; else 0644.
    pub mode_if_new: Option<u32>,
    /// User and group; else those of the one that is there, else root.
    pub owner: Option<(u32, u32)>,
}

/// A file that was put into a VPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FilePlaced {
    /// Where it really is, every link followed.
    pub path: TreePath,
    /// Its length.
    pub bytes: u64,
    /// Whether it is there after the next start.
    pub stays: bool,
    /// Why.
    pub why: String,
}

/// `POST /v1/vps/{v}/password`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPassword {
    /// Whose.
    #[serde(default = "root")]
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for SetPassword {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetPassword")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

fn root() -> String {
    "root".to_owned()
}

/// A password that was set in a VPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PasswordSet {
    /// Whose.
    pub user: String,
    /// Whether it holds after the next start.
    pub stays: bool,
    /// Why.
    pub why: String,
}
