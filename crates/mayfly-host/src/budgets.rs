//! Budgets that the whole host shares (inotify instances, ptys, open files), raised for the VPSes that a node has. They are
//! never lowered.
//!
//! Some of them the kernel counts for the whole host and for nobody in particular: ptys, open files, requests of
//! asynchronous I/O, process numbers. One guest could take them all. Each of these takes memory that is counted to the guest
//! (3.4 KiB a pty, 220 bytes a file, 73 bytes a request were measured), so with a budget that is never reached its own memory
//! limit is what stops it.

use std::io;

/// One kernel setting that was, or could not be, raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Its name, as for sysctl.
    pub name: &'static str,
    /// What it was.
    pub from: u64,
    /// What it is now.
    pub to: u64,
}

/// What a node with so many VPSes wants. A guest with systemd takes about 8 inotify instances of its own user's budget
/// and 5 ptys; the daemon and the host's other services need some as well.
pub fn wanted(vpses: u64) -> [(&'static str, u64); 8] {
    [
        ("fs.inotify.max_user_instances", (64 + 32 * vpses).max(1024)),
        ("fs.inotify.max_user_watches", 65_536),
        // As many as the kernel can number.
        ("kernel.pty.max", 1 << 20),
        ("kernel.pid_max", 1 << 22),
        ("kernel.threads-max", 16_384 + 8192 * vpses),
        // systemd sets it to this as well.
        ("fs.file-max", i64::MAX as u64),
        ("fs.aio-max-nr", 1 << 26),
        ("kernel.keys.maxkeys", 2000),
    ]
}

/// Raises what is below; tells what was raised. A setting that the kernel does not have is passed over.
pub fn ensure_budgets(vpses: u64) -> io::Result<Vec<Raised>> {
    let mut raised = Vec::new();
    for (name, want) in wanted(vpses) {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let from: u64 = match std::fs::read_to_string(&file) {
            Ok(text) => text.trim().parse().map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("{file}: {error}"))),
        };
        if from < want {
            std::fs::write(&file, want.to_string())
                .map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))?;
            raised.push(Raised {
                name,
                from,
                to: want,
            });
        }
    }
    Ok(raised)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_grow_with_the_vpses() {
        let of = |n| wanted(n)[0].1;
        assert_eq!(of(1), 1024);
        assert_eq!(of(100), 64 + 3200);
    }
}
