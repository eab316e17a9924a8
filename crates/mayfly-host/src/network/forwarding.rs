//! Whether the host passes packets on. It is a setting of the whole host, so it is only ever switched on.

use std::fs;
use std::io;

use mayfly_core::network::NetworkPlan;
use mayfly_core::ports::{HostError, HostResult};

pub(super) fn ensure(plan: &NetworkPlan) -> HostResult<bool> {
    let mut changed = switch_on("/proc/sys/net/ipv4/ip_forward")?;
    let all = "/proc/sys/net/ipv6/conf/all/forwarding";
    if read(all)?.is_some_and(|value| value == "0") {
        // A host that forwards listens to no router any more, unless it is told to: then it would lose its own way out.
        keep_listening(plan.bridge.as_str())?;
        changed |= switch_on(all)?;
    }
    Ok(changed)
}

fn keep_listening(bridge: &str) -> HostResult<()> {
    let top = "/proc/sys/net/ipv6/conf";
    let entries = match fs::read_dir(top) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(HostError::failed(format!("reading {top}"), error)),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        // Not `default`: links that come later, cards of guests among them, would take any router for theirs.
        let is_other = name != bridge && !["lo", "all", "default"].iter().any(|one| name == *one);
        let file = entry.path().join("accept_ra");
        let file = file.to_string_lossy();
        if is_other && read(&file)?.is_some_and(|value| value == "1") {
            write(&file, "2")?;
        }
    }
    Ok(())
}

fn switch_on(file: &str) -> HostResult<bool> {
    match read(file)? {
        Some(value) if value == "0" => write(file, "1").map(|()| true),
        _ => Ok(false),
    }
}

fn read(file: &str) -> HostResult<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostError::failed(format!("reading {file}"), error)),
    }
}

fn write(file: &str, value: &str) -> HostResult<()> {
    fs::write(file, value).map_err(|error| HostError::failed(format!("writing {file}"), error))
}
