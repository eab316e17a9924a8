//! What the platform owns inside a root (machine-id, host name, hosts, network, keys), per distribution.

use crate::documents::VpsDoc;
use crate::names::GuestPath;
use crate::network::DOMAIN;
use crate::ports::TreePlan;

/// The files that the platform writes into a new root.
///
/// The machine-id is the incarnation of the VPS: stable through resets, shared with no other VPS. NixOS gets nothing
/// into `/etc`: its host name comes by utsname, its address by DHCP, the rest from its own configuration.
pub(super) fn platform_files(doc: &VpsDoc) -> Vec<(GuestPath, String)> {
    let mut files = Vec::new();
    if doc.manifest.distribution != "nixos" {
        let name = &doc.hostname;
        let hosts = format!(
            "127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        );
        files.push((path("/etc/hostname"), format!("{name}\n")));
        files.push((path("/etc/hosts"), hosts));
        files.push((path("/etc/machine-id"), format!("{}\n", doc.incarnation)));
        files.extend(network_files(doc));
    }
    files.extend(key_file(doc));
    files
}

/// Who may log in as root; in a root of any kind, because it is not in `/etc`.
pub(super) fn key_file(doc: &VpsDoc) -> Option<(GuestPath, String)> {
    let keys = doc.ssh_keys.as_ref()?;
    Some((path("/root/.ssh/authorized_keys"), keys.to_string()))
}

/// The file of keys alone, for a root that gets nothing else of the platform's.
pub(super) fn put_keys(doc: &VpsDoc, tree: &mut TreePlan) {
    tree.files.extend(key_file(doc));
    put_homes(tree);
}

/// The card is set up before the first process of the guest, so its own software is only told to leave it so. No address is
/// in these files: they hold in a root that outlives its address, too.
fn network_files(doc: &VpsDoc) -> Vec<(GuestPath, String)> {
    let Some(own) = &doc.network else {
        return Vec::new();
    };
    let gateway = own.subnet.gateway();
    let resolv = format!("search {DOMAIN}\nnameserver {gateway}\n");
    let mut files = vec![(path("/etc/resolv.conf"), resolv)];
    if doc.manifest.halt_signal == SYSTEMD_HALT {
        let networkd = format!(
            "# Written by mayfly: eth0 has its addresses before anything of this system runs.\n\
             [Match]\nName=eth0\n\n\
             [Network]\nKeepConfiguration=static\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6\n\
             DNS={gateway}\nDomains={DOMAIN}\n"
        );
        files.push((path(NETWORKD_FILE), networkd));
    }
    files
}

/// The signal (SIGRTMIN+3) by which systemd is asked to halt, and only systemd.
const SYSTEMD_HALT: i32 = 37;

/// Sorts before whatever a template brings.
const NETWORKD_FILE: &str = "/etc/systemd/network/10-mayfly.network";

/// Adds the platform's files, and the directories that they lie in, to what must be in a tree.
pub(super) fn put_platform_files(doc: &VpsDoc, tree: &mut TreePlan) {
    tree.files = platform_files(doc);
    put_homes(tree);
}

fn put_homes(tree: &mut TreePlan) {
    // Parents before children.
    let homes = [
        "/etc/systemd",
        "/etc/systemd/network",
        "/root",
        "/root/.ssh",
    ]
    .map(path);
    for home in homes {
        let is_needed = tree.files.iter().any(|(at, _)| at.below(&home).is_some());
        if is_needed && !tree.directories.contains(&home) {
            tree.directories.push(home);
        }
    }
}

/// The directories of an empty root, and nothing else.
pub(super) fn skeleton() -> Vec<GuestPath> {
    [
        "/boot", "/dev", "/etc", "/proc", "/run", "/sbin", "/sys", "/var",
    ]
    .map(path)
    .to_vec()
}

/// The link that makes an empty root boot the system in `/nix`.
pub(super) fn init_link() -> (GuestPath, String) {
    (path("/sbin/init"), PROFILE_INIT.to_owned())
}

/// Where the init of a NixOS system is.
pub(super) const PROFILE_INIT: &str = "/nix/var/nix/profiles/system/init";

/// A constant path.
pub(super) fn path(text: &str) -> GuestPath {
    text.parse().expect("a constant path is valid")
}
