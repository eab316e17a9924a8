//! Whether any mount namespace of the host shows a dataset, asked of the namespaces themselves.
//!
//! It takes two calls a mount, and nothing for processes, of which there are many more than namespaces. It answers one thing
//! only: that nothing is shown anywhere. Namespaces and mounts are all seen here, those without a process as well, and
//! those that no process's root leads to; so whatever the tables of processes could show is among them. Everything else is
//! not known here, and then the tables are read: something is shown, the kernel is too old (before 6.12) or does not let
//! itself be asked, a namespace changes under the look, it takes too long, or the pool is of ZFS.

use std::io;
use std::time::{Duration, Instant};

use rustix::thread::{CapabilitySet, capabilities};

use crate::storage::KernelIdentity;
use crate::sys::mount_spaces::{Answer, MountSpace};

/// After so long tables are read instead: they have a bound for each guest.
const BUDGET: Duration = Duration::from_millis(50);
/// How often a namespace is looked at again that was changed meanwhile.
const TRIES: u32 = 3;
/// The first user namespace, which every other one lies in.
const FIRST_USERS: &str = "user:[4026531837]";

/// True: no mount namespace but the caller's own shows a dataset that is wanted. False: one may.
pub(super) fn show_nothing(pool: &KernelIdentity, wanted: &dyn Fn(&str) -> bool) -> bool {
    let KernelIdentity::FileSystem { device, root } = pool else {
        return false;
    };
    let Some(device) = parse_device(device) else {
        return false;
    };
    // Paths are told here without the escapes that tables have.
    if root.contains('\\') {
        return false;
    }
    let look = Look {
        pool,
        device,
        wanted,
        end: Instant::now() + BUDGET,
    };
    look.everywhere().unwrap_or_else(|error| {
        tracing::trace!(%error, "mount namespaces cannot be asked themselves");
        false
    })
}

fn parse_device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

struct Look<'a> {
    pool: &'a KernelIdentity,
    device: (u32, u32),
    wanted: &'a dyn Fn(&str) -> bool,
    end: Instant,
}

impl Look<'_> {
    fn everywhere(&self) -> io::Result<bool> {
        if !sees_all()? {
            return Ok(false);
        }
        let own = MountSpace::own()?;
        let mut room = Answer::new();
        let mut next = own.before()?;
        let mut first = None;
        while let Some(space) = next {
            next = space.before()?;
            first = Some(space);
        }
        // From the first to the last: one that is made meanwhile has a larger number.
        let mut next = match first {
            Some(first) => Some(first),
            None => own.after()?,
        };
        while let Some(mut space) = next {
            if space.id != own.id && !self.in_space(&mut space, &mut room)? {
                return Ok(false);
            }
            next = space.after()?;
        }
        Ok(true)
    }

    /// Whether a namespace shows nothing that is wanted.
    fn in_space(&self, space: &mut MountSpace, room: &mut Answer) -> io::Result<bool> {
        for _ in 0..TRIES {
            let mut mounts = space.list()?;
            // All that are in it have to be among those that were listed. Only the mount below its root cannot be.
            let hidden = (space.count as usize).checked_sub(mounts.len());
            match (hidden, mounts.first().copied()) {
                (Some(0), _) => return self.of_space(space, &mounts, room),
                (Some(1), Some(top)) => {
                    if let Some(seen) = space.look(top, room)? {
                        mounts.push(seen.parent);
                        return self.of_space(space, &mounts, room);
                    }
                }
                _ => {}
            }
            space.count_again()?;
        }
        Ok(false)
    }

    fn of_space(&self, space: &MountSpace, mounts: &[u64], room: &mut Answer) -> io::Result<bool> {
        for &mount in mounts {
            if Instant::now() >= self.end {
                return Ok(false);
            }
            // One that is gone was taken off meanwhile: a mount is never put into another namespace.
            let Some(seen) = space.look(mount, room)? else {
                continue;
            };
            if seen.device != self.device {
                continue;
            }
            let Some(root) = space.root_of(mount, room)? else {
                continue;
            };
            let root = String::from_utf8_lossy(root);
            let shown = self.pool.below_top(&root);
            if shown.is_some_and(|what| (self.wanted)(super::mounts::dataset_of(what))) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether this process is shown every namespace: those of users that it has no power over are passed over in silence.
fn sees_all() -> io::Result<bool> {
    let users = std::fs::read_link("/proc/thread-self/ns/user")?;
    let powers = capabilities(None)?.effective;
    Ok(users.as_os_str() == FIRST_USERS && powers.contains(CapabilitySet::SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_mount() -> (String, String) {
        let table = std::fs::read_to_string("/proc/1/mountinfo").unwrap();
        let line = table
            .lines()
            .find(|line| line.contains(" - proc "))
            .unwrap();
        let mut fields = line.split(' ').skip(2);
        let device = fields.next().unwrap().to_owned();
        (device, fields.next().unwrap().to_owned())
    }

    #[test]
    fn a_device_is_two_numbers() {
        assert_eq!(parse_device("0:57"), Some((0, 57)));
        assert_eq!(parse_device("0"), None);
        assert_eq!(parse_device("0:x"), None);
    }

    #[test]
    fn zfs_and_escaped_paths_are_left_to_the_tables() {
        let nothing = |_: &str| false;
        let pool = "tank".to_owned();
        assert!(!show_nothing(&KernelIdentity::Datasets { pool }, &nothing));
        let escaped = KernelIdentity::FileSystem {
            device: "0:1".into(),
            root: "/a\\040b".into(),
        };
        assert!(!show_nothing(&escaped, &nothing));
    }

    /// Where the kernel can be asked, what this process's parent namespace has is seen from a thread with one of its own.
    #[test]
    fn what_another_namespace_has_mounted_is_seen() {
        let seen = std::thread::spawn(|| {
            let done = crate::sys::ns::unshare_mounts();
            if done.is_err() || MountSpace::own().is_err() || !sees_all().unwrap() {
                return None;
            }
            let (device, root) = first_mount();
            let pool = KernelIdentity::FileSystem { device, root };
            let whole = |what: &str| what.is_empty();
            let absent = |what: &str| what == "113/27";
            Some((show_nothing(&pool, &whole), show_nothing(&pool, &absent)))
        });
        match seen.join().unwrap() {
            None => eprintln!("skipped: it needs root and Linux 6.12"),
            Some(seen) => assert_eq!(seen, (false, true)),
        }
    }
}
