//! Programs of the host, found once by absolute path.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Looked through after this process's own PATH.
const USUAL: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// A program of the host, by absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool(PathBuf);

/// A program that is not on this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the program `{0}` was not found on this host")]
pub struct ToolMissing(pub String);

impl Tool {
    /// Looks for `name` in this process's PATH (its absolute directories), then in the usual places.
    pub fn find(name: &str) -> Result<Self, ToolMissing> {
        let missing = || ToolMissing(name.to_owned());
        if name.is_empty() || name.contains('/') {
            return Err(missing());
        }
        directories()
            .map(|dir| dir.join(name))
            .find(|path| is_executable(path))
            .map(Self)
            .ok_or_else(missing)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn directories() -> impl Iterator<Item = PathBuf> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&own)
        .filter(|dir| dir.is_absolute())
        .collect();
    let usual = USUAL
        .iter()
        .map(PathBuf::from)
        .filter(|dir| !own.contains(dir))
        .collect::<Vec<_>>();
    own.into_iter().chain(usual)
}

/// The PATH that programs get: the very places where [`Tool::find`] looks.
pub(super) fn search_path() -> std::ffi::OsString {
    std::env::join_paths(directories()).unwrap_or_else(|_| USUAL.join(":").into())
}
