//! Mount options that only programs know (`x-gvfs-hide`, `x-gvfs-trash`), where libmount looks for them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mayfly_core::persist::path::TreePath;

use crate::tree::{Tree, write};

const DIRECTORY: &str = "/run/mount";
/// The mount table of a process, in bytes, that is looked at.
const MOUNTINFO_BYTES: u64 = 8 << 20;

/// The options of all mounts of this application.
#[derive(Default)]
pub(super) struct Options {
    all: BTreeMap<TreePath, (TreePath, &'static str)>,
}

impl Options {
    /// Remembers the options of one mount.
    pub(super) fn add(&mut self, path: &TreePath, stored: &TreePath, hide: bool, trash: bool) {
        let options = match (hide, trash) {
            (false, false) => return,
            (true, false) => "x-gvfs-hide",
            (false, true) => "x-gvfs-trash",
            (true, true) => "x-gvfs-hide,x-gvfs-trash",
        };
        self.all.insert(path.clone(), (stored.clone(), options));
    }

    /// Adds them to libmount's table. An entry counts only with the file system and the directory in it that the kernel
    /// names, so those are read from the mount table; the paths in it are seen from this process's own root.
    pub(super) fn write(&self, tree: &Tree) -> Result<(), String> {
        if self.all.is_empty() {
            return Ok(());
        }
        let file = std::fs::File::open("/proc/self/mountinfo")
            .map_err(|e| format!("no mount table: {e}"))?;
        let mut table = Vec::new();
        let mut file = std::io::Read::take(file, MOUNTINFO_BYTES);
        std::io::Read::read_to_end(&mut file, &mut table)
            .map_err(|e| format!("no mount table: {e}"))?;
        let table = String::from_utf8_lossy(&table);
        let directory = TreePath::parse(DIRECTORY)?;
        let at = directory.join("utab")?;
        let old = tree.read(&at, 1 << 20)?.unwrap_or_default();
        let mut text = String::from_utf8_lossy(&old).into_owned();
        for (path, (stored, options)) in &self.all {
            let target = escape(path.as_str());
            let known = format!(" TARGET={target} ");
            if text.lines().any(|line| line.contains(&known)) {
                continue;
            }
            let line = table.lines().rev().find_map(|line| entry(line, &target));
            let Some((root, source)) = line else { continue };
            let stored = escape(stored.as_str());
            let _ = writeln!(
                text,
                "SRC={source} TARGET={target} ROOT={root} BINDSRC={stored} OPTS={options}"
            );
        }
        if text.as_bytes() == old {
            return Ok(());
        }
        tree.make_directories(&directory, 0o755)?;
        write(tree, &at, text.as_bytes(), 0o644)
    }
}

/// Root and source of the mount at `target`, escaped as they stand in the table.
fn entry<'a>(line: &'a str, target: &str) -> Option<(&'a str, &'a str)> {
    let mut fields = line.split(' ');
    let root = fields.nth(3)?;
    if fields.next()? != target {
        return None;
    }
    let source = fields.skip_while(|field| *field != "-").nth(2)?;
    Some((root, source))
}

fn escape(path: &str) -> String {
    path.replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_target() {
        let line = "36 35 98:0 /var/log /var/log rw,noatime shared:1 - btrfs /dev/loop0 rw";
        assert_eq!(entry(line, "/var/log"), Some(("/var/log", "/dev/loop0")));
        assert_eq!(entry(line, "/var"), None);
        assert_eq!(entry("broken", "/var"), None);
        assert_eq!(escape("/a b\\c"), "/a\\040b\\134c");
    }
}
