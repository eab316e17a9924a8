//! The digest of a tree that was built: the sha256 of its canonical tar.
//!
//! Canonical: sorted by name, numbers for owners, extended headers whose names hold no process id, no times of access and
//! change. The archive is never written anywhere. It is taken before the tree is split.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mayfly_core::ids::Digest;
use sha2::{Digest as _, Sha256};

use crate::runner::{Command, RunFailure, Runner, Tool, ToolMissing};

const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// A digest that could not be computed.
#[derive(Debug, thiserror::Error)]
#[error("cannot compute the digest of {}", tree.display())]
pub struct DigestError {
    /// The tree.
    pub tree: PathBuf,
    /// Why.
    #[source]
    pub cause: DigestCause,
}

/// Why a digest could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum DigestCause {
    /// There is no tar on this host.
    #[error(transparent)]
    Tool(#[from] ToolMissing),
    /// tar failed, or something in the tree changed while it read.
    #[error(transparent)]
    Run(#[from] RunFailure),
}

/// Computes the digest of `tree`. Only reads; equal trees have equal digests, wherever they are.
pub fn digest_tree(runner: &Runner, tree: &Path) -> Result<Digest, DigestError> {
    digest(runner, tree).map_err(|cause| DigestError {
        tree: tree.to_owned(),
        cause,
    })
}

fn digest(runner: &Runner, tree: &Path) -> Result<Digest, DigestCause> {
    let command = Command::new(&Tool::find("tar")?)
        .args([
            "--create",
            "--file=-",
            "--sort=name",
            "--numeric-owner",
            "--one-file-system",
            "--format=posix",
        ])
        .args([
            "--acls",
            "--xattrs",
            "--xattrs-include=security.capability",
            "--xattrs-include=user.*",
        ])
        .arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime")
        .args(["--warning=no-file-ignored", "--directory"])
        .arg(tree)
        .arg(".")
        .deadline(DEADLINE);
    let mut hash = Sha256::new();
    runner.run_streaming(&command, &mut |piece| hash.update(piece), &mut |_| {})?;
    Ok(Digest::from_random(hash.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn tree(order: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in order {
            let path = dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_millis(1_500))
                .unwrap();
        }
        symlink("a", dir.path().join("link")).unwrap();
        let touch = Command::new(&Tool::find("touch").unwrap())
            .args(["-h", "-d", "@1"])
            .arg(dir.path().join("link"))
            .arg(dir.path());
        Runner::default().run(&touch).unwrap();
        dir
    }

    #[test]
    fn equal_trees_have_equal_digests() {
        let (one, two) = (tree(&["a", "b", "c"]), tree(&["c", "a", "b"]));
        let first = digest_tree(&Runner::default(), one.path()).unwrap();
        assert_eq!(first, digest_tree(&Runner::default(), two.path()).unwrap());
        assert_eq!(first, digest_tree(&Runner::default(), one.path()).unwrap());
    }

    #[test]
    fn any_change_changes_the_digest() {
        let dir = tree(&["a"]);
        let first = digest_tree(&Runner::default(), dir.path()).unwrap();
        std::fs::set_permissions(
            dir.path().join("a"),
            std::fs::Permissions::from_mode(0o4755),
        )
        .unwrap();
        assert_ne!(first, digest_tree(&Runner::default(), dir.path()).unwrap());
    }

    #[test]
    fn an_unreadable_tree_has_no_digest() {
        assert!(matches!(
            digest_tree(&Runner::default(), Path::new("/no/such/tree"))
                .unwrap_err()
                .cause,
            DigestCause::Run(_)
        ));
    }
}
