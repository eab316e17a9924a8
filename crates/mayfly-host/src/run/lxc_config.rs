//! LXC's configuration for one run: complete, it includes nothing of the distribution.

use std::fmt::Write as _;

use mayfly_core::network::RunNetwork;
use mayfly_core::run::{Limits, RunSpec};

use super::features;
use super::paths::{self, RunDir};

/// What the configuration depends on besides the spec: what this host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostTraits {
    /// AppArmor is on.
    pub apparmor: bool,
    /// The kernel accounts swap per cgroup.
    pub swap_accounting: bool,
}

impl HostTraits {
    /// What this host has. A file that cannot be read means that it has it not: LXC then starts without.
    pub fn observe() -> Self {
        let apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|on| on.starts_with(b"Y"));
        // The memory controller's own root has no swap files on cgroup v2, so the kernel's swap as such is asked.
        let v1 = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes";
        let v1_memory = std::path::Path::new("/sys/fs/cgroup/memory").is_dir();
        let file = if v1_memory { v1 } else { "/proc/swaps" };
        Self {
            apparmor,
            swap_accounting: std::fs::metadata(file).is_ok(),
        }
    }
}

/// Renders the configuration. `user_namespace` is a path that LXC can open.
pub fn render_lxc_config(
    spec: &RunSpec,
    dir: &RunDir,
    user_namespace: &str,
    host: HostTraits,
) -> String {
    let mut config = Config(String::with_capacity(4096));
    config.set("lxc.uts.name", &spec.hostname);
    config.set(
        "lxc.init.cmd",
        format_args!("/dev/.mayfly/guest init -- {}", spec.init),
    );
    config.set(
        "lxc.hook.post-stop",
        format_args!("/bin/sh {}", dir.post_stop().display()),
    );
    identity(&mut config, spec, user_namespace);
    network(&mut config, spec.network.as_ref());
    confinement(&mut config, dir, host);
    mounts(&mut config, spec, dir);
    cgroups(&mut config, spec);
    limits(&mut config, &spec.limits, host);
    config.0
}

struct Config(String);

impl Config {
    fn set(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }
}

fn identity(config: &mut Config, spec: &RunSpec, user_namespace: &str) {
    let ids = spec.ids;
    config.set("lxc.idmap", format_args!("u 0 {} {}", ids.first, ids.count));
    config.set("lxc.idmap", format_args!("g 0 {} {}", ids.first, ids.count));
    config.set("lxc.namespace.share.user", user_namespace);
}

/// The card is there with its addresses before the guest's first process: LXC needs no software of the guest's for that.
fn network(config: &mut Config, plug: Option<&RunNetwork>) {
    let Some(plug) = plug else {
        config.set("lxc.net.0.type", "empty");
        return;
    };
    config.set("lxc.net.0.type", "veth");
    config.set("lxc.net.0.link", &plug.bridge);
    config.set("lxc.net.0.veth.pair", &plug.card);
    config.set("lxc.net.0.name", "eth0");
    config.set("lxc.net.0.hwaddr", plug.mac);
    config.set("lxc.net.0.flags", "up");
    // Left to itself, LXC takes only the host's part of the address for the broadcast.
    config.set(
        "lxc.net.0.ipv4.address",
        format_args!("{} {}", plug.ipv4, plug.ipv4_broadcast),
    );
    config.set("lxc.net.0.ipv4.gateway", plug.ipv4_gateway);
    config.set("lxc.net.0.ipv6.address", &plug.ipv6);
    config.set("lxc.net.0.ipv6.gateway", plug.ipv6_gateway);
}

/// A user namespace keeps its set of capabilities but for one, with which guest root would lift the limits of that namespace
/// ([`crate::sys::ns`]). What may not be reached through the others is refused by seccomp.
fn confinement(config: &mut Config, dir: &RunDir, host: HostTraits) {
    config.set("lxc.seccomp.profile", dir.seccomp().display());
    if host.apparmor {
        config.set("lxc.apparmor.profile", "generated");
        config.set("lxc.apparmor.allow_nesting", 1);
    } else {
        config.set("lxc.apparmor.profile", "unconfined");
    }
    config.set("lxc.cap.drop", "");
    config.set("lxc.cap.drop", "sys_resource");
    // A signal, not a switch: the guest dies with lxc-start.
    config.set("lxc.monitor.signal.pdeath", "SIGKILL");
}

fn mounts(config: &mut Config, spec: &RunSpec, dir: &RunDir) {
    config.set(
        "lxc.rootfs.path",
        format_args!("dir:{}", dir.root().display()),
    );
    // LXC takes the times from here, not from the mount below: a mere read must not be a change of the root. Ids are mapped
    // in the mount below.
    config.set("lxc.rootfs.options", "noatime");
    config.set("lxc.autodev", 1);
    config.set("lxc.tty.max", 0);
    config.set("lxc.tty.dir", "");
    config.set("lxc.pty.max", 1024);
    // With a writable /sys and no udev in the guest, systemd-networkd waits for udev for ever.
    config.set("lxc.mount.auto", "proc:mixed sys:mixed cgroup:mixed");
    // systemd keeps a /run that is a mount already, and with it the boot report.
    config.set(
        "lxc.mount.entry",
        "tmpfs run tmpfs rw,nosuid,nodev,mode=0755 0 0",
    );
    for (index, mount) in spec.mounts.iter().enumerate() {
        let read_only = if mount.read_only { ",ro" } else { "" };
        let (from, to) = (dir.dataset(index), mount.target.relative());
        config.set(
            "lxc.mount.entry",
            format_args!(
                "{} {to} none bind{read_only},idmap=container 0 0",
                from.display()
            ),
        );
    }
    for entry in features::mount_entries(spec, dir) {
        config.set("lxc.mount.entry", entry);
    }
    for name in handover(spec) {
        let from = dir.handover(name);
        config.set(
            "lxc.mount.entry",
            format_args!(
                "{} dev/.mayfly/{name} none bind,ro,create=file 0 0",
                from.display()
            ),
        );
    }
}

/// What may be in `/dev/.mayfly`.
pub(crate) const HANDOVER: [&str; 4] = ["guest", "boot.json", "report", PERSISTENCE];
const PERSISTENCE: &str = "persistence.json";

/// The files in the `/dev/.mayfly` of a run: that of declarations only where something is said about them.
pub(crate) fn handover(spec: &RunSpec) -> impl Iterator<Item = &'static str> {
    let told = spec.persistence.is_some();
    HANDOVER
        .into_iter()
        .filter(move |name| told || *name != PERSISTENCE)
}

/// Every cgroup has a place of this run alone, also the one that LXC moves itself to when it ends: what is found
/// below that place belongs to this run, and nothing of it is anywhere else.
fn cgroups(config: &mut Config, spec: &RunSpec) {
    let top = format!(
        "{}/{}",
        paths::node_cgroup(&spec.node),
        paths::run_name(spec.vps, &spec.run)
    );
    config.set("lxc.cgroup.dir.monitor", format_args!("{top}/monitor"));
    config.set("lxc.cgroup.dir.monitor.pivot", format_args!("{top}/pivot"));
    config.set("lxc.cgroup.dir.container", format_args!("{top}/payload"));
}

/// Both spellings: LXC takes the ones of the hierarchy that it finds.
fn limits(config: &mut Config, limits: &Limits, host: HostTraits) {
    if let Some(memory) = limits.memory_bytes {
        let (memory, swap) = (memory.0, limits.swap_bytes.0);
        config.set("lxc.cgroup.memory.limit_in_bytes", memory);
        config.set("lxc.cgroup2.memory.max", memory);
        if host.swap_accounting {
            config.set(
                "lxc.cgroup.memory.memsw.limit_in_bytes",
                memory.saturating_add(swap),
            );
            config.set("lxc.cgroup2.memory.swap.max", swap);
        }
    }
    if let Some(processes) = limits.processes {
        config.set("lxc.cgroup.pids.max", processes);
        config.set("lxc.cgroup2.pids.max", processes);
    }
    if let Some(percent) = limits.cpu_percent {
        let quota = u64::from(percent) * CPU_PERIOD_US / 100;
        config.set("lxc.cgroup.cpu.cfs_period_us", CPU_PERIOD_US);
        config.set("lxc.cgroup.cpu.cfs_quota_us", quota);
        config.set(
            "lxc.cgroup2.cpu.max",
            format_args!("{quota} {CPU_PERIOD_US}"),
        );
    }
}

pub(super) const CPU_PERIOD_US: u64 = 100_000;

/// The hook that keeps lxc-start from rebooting in place: a reboot is a new run, with a new root.
pub fn render_post_stop() -> &'static str {
    "# Ends lxc-start where it would start the container again in place.\n[ \"$LXC_TARGET\" != reboot ]\n"
}

#[cfg(test)]
mod tests {
    use mayfly_core::features::Feature;
    use mayfly_core::persist;

    use super::*;

    fn spec() -> RunSpec {
        let text = r#"{
            "protocol": 1, "node": "0123456789abcdef", "vps": 11327, "run": "c5a8b7",
            "incarnation": "0123456789abcdef0123456789abcdef", "hostname": "web1",
            "root": {"kind": "directory", "path": "/pool/11327.impermanence-c5a8b7/private"},
            "mounts": [
                {"source": {"kind": "directory", "path": "/pool/11327/nix/private"}, "target": "/nix", "read_only": true}
            ],
            "ids": {"first": 1048576, "count": 262144},
            "limits": {"memory_bytes": 268435456, "swap_bytes": 1048576, "cpu_percent": 150, "processes": 200},
            "init": "/sbin/init", "halt_signal": 37, "boot_report": {}, "guest_helper": "/usr/lib/mayfly/guest",
            "console_dir": "/var/lib/mayfly/console/11327", "detach": ["/pool"]
        }"#;
        serde_json::from_str(text).unwrap()
    }

    fn render(host: HostTraits) -> String {
        render_lxc_config(&spec(), &RunDir::new("/run/r"), "/proc/7/fd/9", host)
    }

    #[test]
    fn the_configuration_is_complete_and_includes_nothing() {
        let host = HostTraits {
            apparmor: false,
            swap_accounting: true,
        };
        let config = render(host);
        for line in [
            "lxc.rootfs.path = dir:/run/r/mnt/root",
            "lxc.rootfs.options = noatime",
            "lxc.idmap = u 0 1048576 262144",
            "lxc.cap.drop = sys_resource",
            "lxc.namespace.share.user = /proc/7/fd/9",
            "lxc.init.cmd = /dev/.mayfly/guest init -- /sbin/init",
            "lxc.mount.entry = /run/r/mnt/0 nix none bind,ro,idmap=container 0 0",
            "lxc.mount.entry = /run/r/mnt/report dev/.mayfly/report none bind,ro,create=file 0 0",
            "lxc.cgroup.dir.container = mayfly-0123456789abcdef/11327.c5a8b7/payload",
            "lxc.cgroup.dir.monitor.pivot = mayfly-0123456789abcdef/11327.c5a8b7/pivot",
            "lxc.cgroup.memory.limit_in_bytes = 268435456",
            "lxc.cgroup.memory.memsw.limit_in_bytes = 269484032",
            "lxc.cgroup2.memory.max = 268435456",
            "lxc.cgroup2.memory.swap.max = 1048576",
            "lxc.cgroup.cpu.cfs_quota_us = 150000",
            "lxc.cgroup2.cpu.max = 150000 100000",
            "lxc.cgroup.pids.max = 200",
            "lxc.cgroup2.pids.max = 200",
            "lxc.apparmor.profile = unconfined",
        ] {
            assert!(
                config.lines().any(|l| l == line),
                "{line} is not in\n{config}"
            );
        }
        assert!(!config.contains("include"));
        assert!(!config.contains("persistence.json"));
        assert!(config.contains("lxc.net.0.type = empty\n"));
        let mut plugged = spec();
        plugged.network = serde_json::from_str(
            r#"{"bridge": "mayfly0", "card": "mfabc-11327", "mac": "02:00:00:00:00:01", "ipv4": "10.77.0.2/16", "ipv4_broadcast": "10.77.255.255",
                "ipv4_gateway": "10.77.0.1", "ipv6": "fd00::2/64", "ipv6_gateway": "fd00::1"}"#,
        )
        .unwrap();
        let plugged = render_lxc_config(&plugged, &RunDir::new("/run/r"), "/proc/7/fd/9", host);
        for line in [
            "lxc.net.0.type = veth",
            "lxc.net.0.veth.pair = mfabc-11327",
            "lxc.net.0.hwaddr = 02:00:00:00:00:01",
            "lxc.net.0.ipv4.address = 10.77.0.2/16 10.77.255.255",
            "lxc.net.0.ipv6.gateway = fd00::1",
        ] {
            assert!(
                plugged.lines().any(|l| l == line),
                "{line} is not in\n{plugged}"
            );
        }
        assert!(!config.contains("/devices/") && !config.contains(".lxc"));
        let mut featured = spec();
        featured.features = Feature::ALL.into();
        let featured = render_lxc_config(&featured, &RunDir::new("/run/r"), "/proc/7/fd/9", host);
        for line in [
            "lxc.mount.entry = /run/r/mnt/devices/tun dev/net/tun none bind,create=file 0 0",
            "lxc.mount.entry = /run/r/mnt/devices/ppp dev/ppp none bind,create=file 0 0",
            "lxc.mount.entry = proc dev/.lxc/proc proc nosuid,nodev,noexec,create=dir 0 0",
            "lxc.mount.entry = sysfs dev/.lxc/sys sysfs nosuid,nodev,noexec,create=dir 0 0",
        ] {
            assert!(
                featured.lines().any(|l| l == line),
                "{line} is not in\n{featured}"
            );
        }
        let mut spec = spec();
        spec.persistence = Some(persist::spec::Spec::new("c5a8b7", true));
        let config = render_lxc_config(&spec, &RunDir::new("/run/r"), "/proc/7/fd/9", host);
        let line = "lxc.mount.entry = /run/r/mnt/persistence.json dev/.mayfly/persistence.json none bind,ro,create=file 0 0";
        assert!(config.lines().any(|l| l == line), "{config}");
    }

    #[test]
    fn what_the_host_lacks_is_not_asked_for() {
        let host = HostTraits {
            apparmor: true,
            swap_accounting: false,
        };
        let config = render(host);
        assert!(!config.contains("swap") && !config.contains("memsw"));
        assert!(
            config.contains("lxc.apparmor.profile = generated\nlxc.apparmor.allow_nesting = 1\n")
        );
    }
}
