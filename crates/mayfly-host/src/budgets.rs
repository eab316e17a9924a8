//! Budgets that the whole host shares (inotify instances, ptys, keys), raised for the VPSes that a node has. They are
//! never lowered.

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
pub fn wanted(vpses: u64) -> [(&'static str, u64); 4] {
    [
        ("fs.inotify.max_user_instances", (64 + 32 * vpses).max(1024)),
        ("fs.inotify.max_user_watches", 65_536),
        ("kernel.pty.max", (1024 + 16 * vpses).max(4096)),
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
