//! The system calls that a VPS is refused.

use std::fmt::Write as _;

/// System calls answered with EPERM in every VPS: they act on the kernel, not on the container. `syslog` reads what the
/// kernel says of all tenants where the host does not restrict it.
const REFUSED: [&str; 7] = [
    "kexec_load",
    "kexec_file_load",
    "open_by_handle_at",
    "init_module",
    "finit_module",
    "delete_module",
    "syslog",
];

/// System calls answered with ENOSYS, as by a kernel without them. Keys lie in the kernel's memory, which is counted to nobody:
/// 20 kB for each of the ids of a VPS, for as long as it runs. systemd and runc go on without them.
const ABSENT: [&str; 3] = ["add_key", "keyctl", "request_key"];

/// The btrfs requests that make subvolumes and snapshots. With them guest root writes outside its quota, or into the
/// quota of another VPS. They are answered as on a file system that has no such thing, so programs make directories.
const SUBVOLUME_REQUESTS: [(&str, u32); 4] = [
    ("SUBVOL_CREATE", 0x5000_940e),
    ("SNAP_CREATE", 0x5000_9401),
    ("SNAP_CREATE_V2", 0x5000_9417),
    ("SUBVOL_CREATE_V2", 0x5000_9418),
];

/// The requests that share blocks between files. Simple quotas charge a block to the dataset that wrote it first, for
/// ever: a guest that clones from its temporary root into a persistent dataset would keep bytes that nobody counts.
/// They are answered as on a file system that has no such thing, so programs copy.
const SHARING_REQUESTS: [(&str, u32); 3] = [
    ("FICLONE", 0x4004_9409),
    ("FICLONERANGE", 0x4020_940d),
    ("FIDEDUPERANGE", 0xc018_9436),
];

/// The whole policy, in LXC's version 2 format.
///
/// The comparison is masked because the kernel looks at the low 32 bits of a request only, while a plain comparison
/// takes all 64: a guest that sets a high bit would pass it.
pub fn render_seccomp() -> String {
    let mut policy = String::from("2\ndenylist\nreject_force_umount\n[all]\n");
    for call in REFUSED {
        let _ = writeln!(policy, "{call} errno 1");
    }
    for call in ABSENT {
        let _ = writeln!(policy, "{call} errno 38");
    }
    for (_, request) in SUBVOLUME_REQUESTS {
        let _ = writeln!(
            policy,
            "ioctl errno 25 [1,{request:#010x},SCMP_CMP_MASKED_EQ,0xffffffff]"
        );
    }
    for (_, request) in SHARING_REQUESTS {
        let _ = writeln!(
            policy,
            "ioctl errno 95 [1,{request:#010x},SCMP_CMP_MASKED_EQ,0xffffffff]"
        );
    }
    // The same without a request number; programs fall back to reading and writing.
    policy.push_str("copy_file_range errno 38\n");
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_make_a_subvolume_is_masked() {
        let policy = render_seccomp();
        assert!(policy.starts_with("2\ndenylist\nreject_force_umount\n[all]\n"));
        for request in ["0x5000940e", "0x50009401", "0x50009417", "0x50009418"] {
            assert!(
                policy.contains(&format!(
                    "ioctl errno 25 [1,{request},SCMP_CMP_MASKED_EQ,0xffffffff]\n"
                )),
                "{policy}"
            );
        }
        assert!(!policy.contains("SCMP_CMP_EQ"));
    }

    #[test]
    fn keys_are_absent_and_the_kernels_log_is_refused() {
        let policy = render_seccomp();
        for line in [
            "syslog errno 1",
            "add_key errno 38",
            "keyctl errno 38",
            "request_key errno 38",
        ] {
            assert!(policy.lines().any(|one| one == line), "{line}: {policy}");
        }
    }

    #[test]
    fn every_way_to_share_blocks_is_refused() {
        let policy = render_seccomp();
        for request in ["0x40049409", "0x4020940d", "0xc0189436"] {
            assert!(
                policy.contains(&format!(
                    "ioctl errno 95 [1,{request},SCMP_CMP_MASKED_EQ,0xffffffff]\n"
                )),
                "{policy}"
            );
        }
        assert!(policy.contains("copy_file_range errno 38\n"));
    }
}
