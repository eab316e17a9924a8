//! What the platform owns inside a root (machine-id, host name, hosts), per distribution.

use crate::documents::VpsDoc;
use crate::names::GuestPath;

/// The files that the platform writes into a new root.
///
/// The machine-id is the incarnation of the VPS: stable through resets, shared with no other VPS. NixOS gets nothing
/// into `/etc`: its host name comes by utsname, the rest from its own configuration.
pub(super) fn platform_files(doc: &VpsDoc) -> Vec<(GuestPath, String)> {
    if doc.manifest.distribution == "nixos" {
        return Vec::new();
    }
    let name = &doc.hostname;
    let hosts = format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    );
    vec![
        (path("/etc/hostname"), format!("{name}\n")),
        (path("/etc/hosts"), hosts),
        (path("/etc/machine-id"), format!("{}\n", doc.incarnation)),
    ]
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
