//! Removes what two VPSes of one template must never share: machine-id, SSH host keys, random seeds, leases.
//!
//! Works on any tree, also on one that was imported: directories are opened with openat2 confined to the tree, so that no link
//! in it leads outside, and the last component of a path is never followed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mayfly_core::names::GuestPath;
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, open, openat, openat2, readlinkat, statat,
    unlinkat,
};
use rustix::io::Errno;

/// Where such files are: a directory, and how their names begin and end.
const PRIVATE: [(&str, &str, &str); 20] = [
    ("etc/ssh", "ssh_host_", ""),
    ("etc/dropbear", "dropbear_", "_host_key"),
    ("var/lib/dbus", "machine-id", ""),
    // Seeds and secrets.
    ("var/lib/systemd", "random-seed", ""),
    ("var/lib/systemd", "credential.secret", ""),
    ("var/lib/urandom", "random-seed", ""),
    ("var/lib/misc", "random-seed", ""),
    ("var/lib", "random-seed", ""),
    ("var/lib/seedrng", "seed.", ""),
    ("boot/loader", "random-seed", ""),
    // Leases, and the ids by which a client of DHCP is known.
    ("var/lib/dhcp", "", ".leases"),
    ("var/lib/dhclient", "", ".leases"),
    ("var/lib/dhcpcd", "", ""),
    ("var/db/dhcpcd", "", ""),
    ("etc", "dhcpcd.duid", ""),
    ("etc", "dhcpcd.secret", ""),
    ("var/lib/NetworkManager", "", ".lease"),
    ("var/lib/NetworkManager", "secret_key", ""),
    ("var/lib/wicked", "lease-", ""),
    ("var/lib/systemd/network", "", ""),
];

/// A tree that could not be scrubbed to its end: it must not become a template.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove what is private to one system from {}", path.display())]
pub struct ScrubError {
    /// The file or directory in trouble.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub cause: Errno,
}

/// Scrubs `tree`, and what lies below `storage` in it. Returns what was removed or emptied, relative to the tree. Idempotent.
///
/// An existing `/etc/machine-id` is left as an empty file, which systemd fills at a boot; in storage it is removed.
pub fn scrub_tree(tree: &Path, storage: Option<&GuestPath>) -> Result<Vec<PathBuf>, ScrubError> {
    let failed = |path: &Path, cause| ScrubError {
        path: tree.join(path),
        cause,
    };
    let top = open(
        tree,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| failed(Path::new(""), e))?;
    let mut done = Vec::new();
    let storage = storage
        .map(GuestPath::relative)
        .filter(|path| !path.is_empty());
    for prefix in [Some(""), storage].into_iter().flatten().map(Path::new) {
        for (dir, begin, end) in PRIVATE {
            let dir = prefix.join(dir);
            let removed = remove_matching(&top, &dir, begin, end).map_err(|e| failed(&dir, e))?;
            done.extend(removed.into_iter().map(|name| dir.join(name)));
        }
        let etc = prefix.join("etc");
        if forget_machine_id(&top, &etc, prefix.as_os_str().is_empty())
            .map_err(|e| failed(&etc.join("machine-id"), e))?
        {
            done.push(etc.join("machine-id"));
        }
    }
    Ok(done)
}

/// A directory of the tree, or none. A link to it is followed inside the tree only.
fn open_inside(top: &OwnedFd, dir: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(
        top,
        dir,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) {
        Ok(fd) => Ok(Some(fd)),
        // A file, or a link to nowhere, in the place of the directory holds no such files either.
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn remove_matching(
    top: &OwnedFd,
    dir: &Path,
    begin: &str,
    end: &str,
) -> Result<Vec<String>, Errno> {
    let Some(fd) = open_inside(top, dir)? else {
        return Ok(Vec::new());
    };
    let mut removed = Vec::new();
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        let matches =
            name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end);
        if !matches || name == "." || name == ".." {
            continue;
        }
        // Directories stay. So does dbus's link to /etc/machine-id, which holds no id itself.
        let kind = FileType::from_raw_mode(statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
        if kind == FileType::Directory || (kind == FileType::Symlink && name == "machine-id") {
            continue;
        }
        unlinkat(&fd, name, AtFlags::empty())?;
        removed.push(name.to_owned());
    }
    Ok(removed)
}

/// Empties (or removes) `machine-id` in `etc`. A link stays, and what it names in the tree is removed: that is a copy in storage,
/// or dbus's.
fn forget_machine_id(top: &OwnedFd, etc: &Path, keep_empty: bool) -> Result<bool, Errno> {
    const NAME: &str = "machine-id";
    let Some(fd) = open_inside(top, etc)? else {
        return Ok(false);
    };
    let found = match statat(&fd, NAME, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Symlink => {
            let link = readlinkat(&fd, NAME, Vec::new())?;
            // An absolute one replaces `etc` here, and is taken from the top of the tree below.
            let target = etc.join(OsStr::from_bytes(link.as_bytes()));
            let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
                return Ok(false);
            };
            let Some(parent) = open_inside(top, parent)? else {
                return Ok(false);
            };
            match unlinkat(&parent, name, AtFlags::empty()) {
                Ok(()) => Ok(true),
                Err(Errno::NOENT) => Ok(false),
                Err(errno) => Err(errno),
            }
        }
        FileType::RegularFile if keep_empty && found.st_size == 0 => Ok(false),
        _ => {
            // Made anew rather than truncated: the file may have a second name.
            unlinkat(&fd, NAME, AtFlags::empty())?;
            if keep_empty {
                openat(
                    &fd,
                    NAME,
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
                    Mode::from_raw_mode(0o444),
                )?;
            }
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn put(top: &Path, path: &str, text: &str) {
        let path = top.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// T1
    #[test]
    fn what_two_systems_may_not_share_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let gone = [
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/ssh_host_rsa_key.pub",
            "var/lib/dbus/machine-id",
            "var/lib/systemd/random-seed",
            "var/lib/dhcp/dhclient.eth0.leases",
            "var/lib/dhcpcd/duid",
            "keep/etc/machine-id",
            "keep/etc/ssh/ssh_host_ed25519_key",
        ];
        let stays = [
            "etc/ssh/sshd_config",
            "var/lib/systemd/linger/me",
            "var/lib/dhcp/README",
            "keep/etc/nixos/flake.nix",
        ];
        for path in gone.iter().chain(&stays) {
            put(dir.path(), path, "x");
        }
        put(dir.path(), "etc/machine-id", "0123\n");
        let storage = "/keep".parse().unwrap();
        assert_eq!(
            scrub_tree(dir.path(), Some(&storage)).unwrap().len(),
            gone.len() + 1
        );
        assert!(
            gone.iter()
                .all(|path| !dir.path().join(path).try_exists().unwrap())
        );
        assert!(
            stays
                .iter()
                .all(|path| dir.path().join(path).try_exists().unwrap())
        );
        assert_eq!(fs::read(dir.path().join("etc/machine-id")).unwrap(), b"");
        assert!(scrub_tree(dir.path(), Some(&storage)).unwrap().is_empty());
    }

    #[test]
    fn no_link_leads_outside() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put(outside.path(), "ssh_host_rsa_key", "host's own");
        put(outside.path(), "machine-id", "host's own");
        put(dir.path(), "etc/hostname", "x");
        put(dir.path(), "var/keys/ssh_host_rsa_key", "x");
        symlink(outside.path(), dir.path().join("var/lib")).unwrap();
        symlink("/var/keys", dir.path().join("etc/ssh")).unwrap();
        symlink(
            outside.path().join("machine-id"),
            dir.path().join("etc/machine-id"),
        )
        .unwrap();
        assert_eq!(
            scrub_tree(dir.path(), None).unwrap(),
            [Path::new("etc/ssh/ssh_host_rsa_key")]
        );
        assert!(
            !dir.path()
                .join("var/keys/ssh_host_rsa_key")
                .try_exists()
                .unwrap()
        );
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_linked_machine_id_is_removed_where_it_is() {
        for link in ["/keep/etc/machine-id", "../keep/etc/machine-id"] {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), "keep/etc/machine-id", "0123");
            fs::create_dir(dir.path().join("etc")).unwrap();
            symlink(link, dir.path().join("etc/machine-id")).unwrap();
            assert_eq!(scrub_tree(dir.path(), None).unwrap().len(), 1);
            assert!(!dir.path().join("keep/etc/machine-id").try_exists().unwrap());
        }
    }

    #[test]
    fn an_empty_tree_has_nothing_to_remove_and_an_absent_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(scrub_tree(dir.path(), None).unwrap().is_empty());
        assert_eq!(
            scrub_tree(&dir.path().join("absent"), None)
                .unwrap_err()
                .cause,
            Errno::NOENT
        );
    }
}
