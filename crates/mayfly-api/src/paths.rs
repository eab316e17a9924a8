//! The addresses. What a person named goes in escaped, so that a name can never reach another address.

use std::fmt::Write as _;

use mayfly_core::names::{DatasetName, GuestPath};
use mayfly_core::network::Protocol;

/// The name of the socket in a node's state directory.
pub const SOCKET: &str = "api.sock";

/// The node.
pub const NODE: &str = "/v1/node";
/// The pool.
pub const POOL: &str = "/v1/pool";
/// The network of the node.
pub const NETWORK: &str = "/v1/network";
/// What is wrong with the node; a POST mends what can be proven.
pub const FSCK: &str = "/v1/fsck";
/// All templates.
pub const TEMPLATES: &str = "/v1/templates";
/// All VPSes.
pub const VPSES: &str = "/v1/vps";
/// All operations.
pub const OPERATIONS: &str = "/v1/operations";
/// Changes as they happen, one JSON document per line.
pub const EVENTS: &str = "/v1/events";

/// How the root dataset is written in an address, where a subdataset has its name.
pub const ROOT_DATASET: &str = "-";

/// One segment of a path, or a value of a query.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    // A segment of dots alone would be taken for a step in the tree by proxies.
    if !escaped.is_empty() && escaped.bytes().all(|b| b == b'.') {
        escaped.replace('.', "%2E")
    } else {
        escaped
    }
}

/// One template.
pub fn template(name: &str) -> String {
    format!("{TEMPLATES}/{}", escape(name))
}

/// What makes a template of a server's image.
pub fn pull(name: &str) -> String {
    format!("{}/pull", template(name))
}

/// One VPS.
pub fn vps(which: &str) -> String {
    format!("{VPSES}/{}", escape(which))
}

/// Something of one VPS: `start`, `stop`, `restart`, `exec`, `file`, `password`, `console`, `log`, `history`, `datasets`, `mounts`, `features`,
/// `persistence`, `doctor`.
pub fn of_vps(which: &str, what: &str) -> String {
    format!("{}/{what}", vps(which))
}

/// One dataset of a VPS.
pub fn dataset(which: &str, name: &DatasetName) -> String {
    let name = if name.is_root() {
        ROOT_DATASET.to_owned()
    } else {
        name.as_str()
            .split('/')
            .map(escape)
            .collect::<Vec<_>>()
            .join("/")
    };
    format!("{}/{name}", of_vps(which, "datasets"))
}

/// The mount at one path of a VPS.
pub fn mount(which: &str, path: &GuestPath) -> String {
    format!("{}?path={}", of_vps(which, "mounts"), escape(path.as_str()))
}

/// A port of the host that leads to a VPS.
pub fn port(which: &str, host_port: u16, protocol: Protocol) -> String {
    format!("{}/{host_port}/{protocol}", of_vps(which, "ports"))
}

/// One operation.
pub fn operation(id: &str) -> String {
    format!("{OPERATIONS}/{}", escape(id))
}

/// Where the giving up of an operation is asked for.
pub fn cancel(id: &str) -> String {
    format!("{}/cancel", operation(id))
}

/// An address with one more parameter.
pub fn with(path: &str, name: &str, value: &str) -> String {
    let mark = if path.contains('?') { '&' } else { '?' };
    format!("{path}{mark}{name}={}", escape(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_place() {
        assert_eq!(vps("../node"), "/v1/vps/..%2Fnode");
        assert_eq!(vps(".."), "/v1/vps/%2E%2E");
        assert_eq!(operation("a?b#c d\n"), "/v1/operations/a%3Fb%23c%20d%0A");
    }

    #[test]
    fn datasets_keep_their_slashes() {
        assert_eq!(
            dataset("web1", &"srv/data".parse().unwrap()),
            "/v1/vps/web1/datasets/srv/data"
        );
        assert_eq!(
            dataset("web1", &DatasetName::root()),
            "/v1/vps/web1/datasets/-"
        );
    }

    #[test]
    fn parameters_are_escaped() {
        let path = mount("11327", &"/srv/a&b".parse().unwrap());
        assert_eq!(
            with(&path, "dry_run", "true"),
            "/v1/vps/11327/mounts?path=%2Fsrv%2Fa%26b&dry_run=true"
        );
    }
}
