//! A program inside a VPS.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use mayfly_api::{ExecRequest, ExecSays, ExecStart, STDERR, STDOUT, Socket, paths};
use mayfly_core::error::Code;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::terminal::{self, Raw};
use super::words::parse_vps;
use super::{Context, Failure};

const EXAMPLES: &str = "\
Examples:
  mayfly exec web -- systemctl --failed
  mayfly exec web -- sh -c 'cat > /persistent/notes' < notes";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExecArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// Give the program a terminal of its own [default: where this is run from one]
    #[arg(long, short, conflicts_with = "no_tty")]
    tty: bool,
    /// Give it none
    #[arg(long, short = 'T')]
    no_tty: bool,
    /// Set a variable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

pub(super) async fn run(context: &Context, args: ExecArgs) -> Result<ExitCode, Failure> {
    let at_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let tty = args.tty || (at_terminal && !args.no_tty);
    let (rows, cols) = terminal::size();
    let mut env: std::collections::BTreeMap<_, _> = args.env.into_iter().collect();
    if let (true, Ok(term)) = (tty, std::env::var("TERM")) {
        env.entry("TERM".to_owned()).or_insert(term);
    }
    let start = ExecStart {
        command: args.command,
        tty,
        rows,
        cols,
        env,
    };
    let socket = context
        .client
        .websocket(&paths::of_vps(&args.vps, "exec"))
        .await?;
    let (mut sink, mut frames) = socket.split();
    // A node that refuses has closed its end already, and says why in its only frame.
    let _ = sink.send(text(&start)).await;
    let _raw = if tty { Raw::enter()? } else { None };
    let resized = signal(SignalKind::window_change())?;
    // What comes is read whatever becomes of what goes: a program that waits until its output is taken reads no input, and
    // each side would wait for the other.
    tokio::spawn(pass_on(sink, resized, tty));
    loop {
        let frame = frames.next().await;
        match frame.ok_or_else(|| lost("it was closed"))?.map_err(lost)? {
            Message::Binary(bytes) => print(&bytes)?,
            Message::Text(says) => match serde_json::from_str(&says).map_err(lost)? {
                ExecSays::Exit(code) => {
                    return Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)));
                }
                ExecSays::Error(info) => return Err(info.into()),
            },
            Message::Close(_) => return Err(lost("it was closed")),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

/// Passes on what is typed, and the size of the terminal, until there is no more of it.
async fn pass_on(mut sink: SplitSink<Socket, Message>, mut resized: Signal, tty: bool) {
    let mut typed = terminal::typed();
    let mut more = true;
    while more || tty {
        let frame = tokio::select! {
            piece = typed.recv(), if more => match piece {
                Some(bytes) => Message::Binary(bytes.into()),
                None => {
                    more = false;
                    text(&ExecRequest::Eof(true))
                }
            },
            _ = resized.recv(), if tty => {
                let (rows, cols) = terminal::size();
                text(&ExecRequest::Resize { rows, cols })
            }
        };
        // A node that has ended says why in its last frame, which may be here already.
        let _ = sink.send(frame).await;
    }
}

fn print(frame: &Bytes) -> Result<(), Failure> {
    match frame.split_first() {
        Some((&STDOUT, bytes)) => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()?;
        }
        Some((&STDERR, bytes)) => io::stderr().write_all(bytes)?,
        // A newer node may have more to tell.
        Some(_) | None => {}
    }
    Ok(())
}

/// A text frame.
pub(super) fn text(value: &impl serde::Serialize) -> Message {
    Message::text(serde_json::to_string(value).expect("a frame is plain data"))
}

/// A connection that ended before its time.
pub(super) fn lost(why: impl std::fmt::Display) -> Failure {
    Failure::refused(
        Code::NodeUnreachable,
        format!("the connection to the node was lost: {why}"),
        "see whether it still runs: mayfly status",
    )
}

/// Whether the other side said goodbye in order.
pub(super) fn is_closed(error: &Error) -> bool {
    matches!(error, Error::ConnectionClosed | Error::AlreadyClosed)
}
