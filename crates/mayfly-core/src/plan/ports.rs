//! Ports of the host that lead to a VPS. They take effect at once, whether it runs or not.

use super::parts::record;
use super::{Plan, PlanContext};
use crate::documents::VpsDoc;
use crate::error::{Code, Refusal};
use crate::network::{Forward, Protocol, VpsNetwork};

/// Has one more port of the host lead to the VPS. That no other VPS has it was seen to when it was asked for.
pub fn plan_port_add(doc: &VpsDoc, forward: Forward, ctx: &PlanContext) -> Result<Plan, Refusal> {
    let own = place(doc, ctx)?;
    if forward.host_port == 0 || forward.guest_port == 0 {
        return Err(Refusal::new(
            Code::Invalid,
            "there is no port 0",
            "choose one from 1 to 65535",
        ));
    }
    let is_it =
        |it: &&Forward| (it.host_port, it.protocol) == (forward.host_port, forward.protocol);
    if let Some(taken) = own.ports.iter().find(is_it) {
        return Err(Refusal::new(
            Code::PortTaken,
            format!("VPS {} has {taken} already", doc.title()),
            format!("see `mayfly port list {}`", doc.id),
        ));
    }
    let mut own = own.clone();
    own.ports.push(forward);
    own.ports.sort();
    Ok(with(doc, own, format!("{forward} leads to it")))
}

/// Has a port of the host lead there no more.
pub fn plan_port_remove(doc: &VpsDoc, host_port: u16, protocol: Protocol) -> Result<Plan, Refusal> {
    let missing = || {
        Refusal::new(
            Code::PortNotFound,
            format!(
                "port {host_port}/{protocol} of the host does not lead to VPS {}",
                doc.title()
            ),
            format!("see `mayfly port list {}`", doc.id),
        )
    };
    let mut own = doc.network.clone().ok_or_else(missing)?;
    let before = own.ports.len();
    own.ports
        .retain(|it| (it.host_port, it.protocol) != (host_port, protocol));
    if own.ports.len() == before {
        return Err(missing());
    }
    let what = format!("{host_port}/{protocol} leads to it no more");
    Ok(with(doc, own, what))
}

fn with(doc: &VpsDoc, own: VpsNetwork, what: String) -> Plan {
    let mut new = doc.clone();
    new.network = Some(own);
    Plan {
        steps: vec![record(doc, new, what)],
    }
}

fn place<'a>(doc: &'a VpsDoc, ctx: &PlanContext) -> Result<&'a VpsNetwork, Refusal> {
    if ctx.network.is_none() {
        return Err(Refusal::new(
            Code::NetworkAbsent,
            "the node has no network",
            "give it one while no daemon runs: mayfly init with the same --pool and --bridge mayfly0",
        ));
    }
    doc.network.as_ref().ok_or_else(|| {
        Refusal::new(
            Code::NetworkAbsent,
            format!("VPS {} has no address", doc.title()),
            "start the daemon again: it gives one to every VPS, as long as there are some",
        )
    })
}
