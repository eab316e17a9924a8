//! What AppArmor keeps of a container: LXC writes a profile for each, has it compiled and loaded, and gives the guest a
//! policy namespace of its own.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use super::paths::{LXC_PATH, RunDir};

/// The program that LXC has profiles compiled and loaded with; it looks for it in its PATH.
const PARSER: &str = "apparmor_parser";
/// Where distributions put it.
const PARSER_DIRECTORIES: [&str; 5] = [
    "/usr/sbin",
    "/sbin",
    "/usr/bin",
    "/bin",
    "/run/current-system/sw/bin",
];
const KERNEL: &str = "/sys/kernel/security/apparmor";
const CACHE: &str = "/var/cache/lxc/apparmor";

/// Makes the directory that is all of lxc-start's PATH, with the parser in it and nothing else: where LXC finds
/// `newuidmap`, it uses that, and then ids must be in /etc/subuid. Without AppArmor it stays empty.
pub(super) fn create_search_path(dir: &RunDir, apparmor: bool) -> io::Result<PathBuf> {
    let path = dir.programs();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&path)?;
    if apparmor {
        let parser = PARSER_DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(PARSER))
            .find(|program| program.is_file())
            .ok_or_else(|| {
                let why = "AppArmor is on and apparmor_parser is missing: install apparmor";
                io::Error::new(io::ErrorKind::NotFound, why)
            })?;
        match symlink(parser, path.join(PARSER)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(path)
}

/// Removes what an lxc-start that was killed has left of a container's confinement: LXC does it itself at any other end.
/// Only when nothing of the container is alive: a process whose profile is removed is confined no more. What is not there
/// is fine; gives back what stayed.
pub(super) fn forget(container: &str) -> Vec<(PathBuf, io::Error)> {
    let kernel = Path::new(KERNEL);
    let own = Path::new(LXC_PATH).join(container);
    let mangled = LXC_PATH.replace('/', "-");
    let mut stayed = Vec::new();
    let mut done = |path: PathBuf, result: io::Result<()>| match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => stayed.push((path, e)),
        _ => {}
    };
    // Looked for first: only few hosts have left anything, and loading policy is serialised.
    if own.join("apparmor").is_dir() {
        let remove = kernel.join(".remove");
        let profile = format!("lxc-{container}_<{LXC_PATH}>");
        done(remove.clone(), fs::write(&remove, profile));
        let namespace = kernel
            .join("policy/namespaces")
            .join(format!("lxc-{container}_<{mangled}>"));
        done(namespace.clone(), fs::remove_dir(&namespace));
    }
    done(own.clone(), fs::remove_dir_all(&own));
    stayed
}

/// Removes the compiled profile, which LXC keeps for the next start. For a container that will not be started again.
pub fn forget_compiled(container: &str) -> io::Result<()> {
    let mangled = LXC_PATH.replace('/', "-");
    let name = format!("lxc-{container}_<{mangled}>");
    let sets = match fs::read_dir(CACHE) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for set in sets {
        match fs::remove_file(set?.path().join(&name)) {
            Err(e)
                if !matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Err(e);
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_path_has_nothing_but_the_parser() {
        let at = tempfile::tempdir().unwrap();
        let dir = RunDir::new(at.path());
        let path = create_search_path(&dir, false).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        // Whether the parser is there depends on the host; that nothing else comes in does not.
        match create_search_path(&dir, true) {
            Ok(path) => assert_eq!(fs::read_dir(path).unwrap().count(), 1),
            Err(e) => assert!(e.to_string().contains("install apparmor"), "{e}"),
        }
    }

    #[test]
    fn a_container_that_left_nothing_is_forgotten() {
        assert!(forget("mayfly-0123456789abcdef-4294967295").is_empty());
        forget_compiled("mayfly-0123456789abcdef-4294967295").unwrap();
    }
}
