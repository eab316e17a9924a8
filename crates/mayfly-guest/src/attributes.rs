//! The extended attributes of a copied file: what programs keep there, its access list, and its capabilities.
//!
//! What the file system or the kernel does not take for a new file is left out: an attribute less is no reason to lose a
//! file.

use std::fs::File;

use mayfly_core::persist::path::TreePath;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;

use crate::tree::Trouble;

/// The longest list and the longest value that the kernel has; and what one file may have together.
const BYTES: usize = 64 << 10;

/// Gives `to` the attributes of `from`, which lies at `path`. After the owner was set: a change of owner takes capabilities
/// away.
pub(crate) fn copy(from: &File, path: &TreePath, to: &File) -> Result<(), Trouble> {
    let failed = |e: Errno| Trouble::of(format!("the attributes of {path}"), e);
    let mut names = vec![0; BYTES];
    let length = match flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    let mut value = vec![0; BYTES];
    let mut total = 0;
    for name in names[..length].split(|b| *b == 0).filter(is_carried) {
        let length = match fgetxattr(from, name, &mut value) {
            Ok(length) => length,
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(e) => return Err(failed(e)),
        };
        total += name.len() + length;
        if total > BYTES {
            let what = format!("the attributes of {path} are larger than 64 KiB");
            return Err(Trouble::lasting(what));
        }
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::INVAL) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}

/// Labels of security modules are the system's, not the file's, and all else is of no use in another place.
fn is_carried(name: &&[u8]) -> bool {
    name.starts_with(b"user.")
        || matches!(*name, b"system.posix_acl_access" | b"security.capability")
}
