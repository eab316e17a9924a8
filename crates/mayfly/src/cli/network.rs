//! The network of the node, and ports of the host that lead to a VPS.

use std::process::ExitCode;

use clap::Subcommand;
use mayfly_api::Change;
use mayfly_core::network::{Forward, Protocol};

use super::change::ChangeArgs;
use super::table::table;
use super::words::parse_vps;
use super::{Context, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// Remove bridge, rules and server from the host; VPSes keep their addresses for when there is a network again
    Remove,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortVerb {
    /// Have a port of the host lead to a VPS, at once
    #[command(
        after_help = "Example:\n  mayfly port add web 8080:80      port 8080 of the host is port 80 of web"
    )]
    Add {
        /// Id or host name
        #[arg(value_parser = parse_vps)]
        vps: String,
        /// Port of the host, port of the VPS; /udp where it is not TCP
        #[arg(value_name = "HOST:VPS[/udp]")]
        forward: Forward,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// The ports of the host that lead to a VPS
    List {
        /// Id or host name
        #[arg(value_parser = parse_vps)]
        vps: String,
    },
    /// Have it lead there no more
    Remove {
        /// Id or host name
        #[arg(value_parser = parse_vps)]
        vps: String,
        /// Port of the host; /udp where it is not TCP
        #[arg(value_name = "PORT[/udp]", value_parser = parse_port)]
        port: (u16, Protocol),
        #[command(flatten)]
        change: ChangeArgs,
    },
}

fn parse_port(text: &str) -> Result<(u16, Protocol), String> {
    let (port, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((port, protocol)) => (
            port,
            protocol.parse().map_err(|_| "write 8080 or 5353/udp")?,
        ),
    };
    match port.parse() {
        Ok(port) if port != 0 => Ok((port, protocol)),
        _ => Err("write 8080 or 5353/udp".to_owned()),
    }
}

pub(super) async fn run(context: &Context, verb: NetworkVerb) -> Result<ExitCode, Failure> {
    let NetworkVerb::Remove = verb;
    let done = context.client.remove_network().await?;
    context.screen.show(&done, |done| match done.removed {
        true => "the network is removed\n".to_owned(),
        false => "the node has no network\n".to_owned(),
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn port(context: &Context, verb: PortVerb) -> Result<ExitCode, Failure> {
    match verb {
        PortVerb::Add {
            vps,
            forward,
            change,
        } => {
            change
                .carry_out(context, &Change::add_port(&vps, &forward), |_| {
                    format!(
                        "port {}/{} of the host leads to port {} of VPS {vps}",
                        forward.host_port, forward.protocol, forward.guest_port
                    )
                })
                .await
        }
        PortVerb::List { vps } => {
            context
                .screen
                .show(&context.client.ports(&vps).await?, |all| render_list(all))?;
            Ok(ExitCode::SUCCESS)
        }
        PortVerb::Remove {
            vps,
            port: (port, protocol),
            change,
        } => {
            change
                .carry_out(context, &Change::remove_port(&vps, port, protocol), |_| {
                    format!("port {port}/{protocol} of the host leads nowhere")
                })
                .await
        }
    }
}

fn render_list(all: &[Forward]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|port| {
            vec![
                port.host_port.to_string(),
                port.guest_port.to_string(),
                port.protocol.to_string(),
            ]
        })
        .collect();
    table(&["host", "vps", "protocol"], &rows)
}
