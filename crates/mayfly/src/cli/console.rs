//! The console of a VPS.

use std::io::{self, Write as _};
use std::process::ExitCode;

use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use mayfly_api::{ConsoleRequest, ConsoleSays, Socket, paths};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;

use super::exec::{is_closed, lost, text};
use super::screen::escape;
use super::terminal::{self, Raw};
use super::{Context, Failure};

const HOW_TO_LEAVE: &str = "leave with Ctrl-] twice, or Ctrl-a q";

/// Connects the terminal to the console.
pub(super) async fn console(context: &Context, vps: &str) -> Result<ExitCode, Failure> {
    let socket = context
        .client
        .websocket(&paths::of_vps(vps, "console"))
        .await?;
    let (mut sink, mut frames) = socket.split();
    let raw = Raw::enter()?;
    if raw.is_some() {
        say(&format!("console of VPS {vps}: {HOW_TO_LEAVE}"));
        sink.send(window()).await.map_err(lost)?;
    }
    let resized = signal(SignalKind::window_change())?;
    let (leave, mut left) = oneshot::channel();
    // What the guest prints is read whatever becomes of what is typed, or each side could wait for the other.
    tokio::spawn(pass_on(sink, resized, raw.is_some(), leave));
    let mut more = true;
    let done = loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            wish = &mut left, if more => {
                if wish.is_ok() {
                    break Ok(());
                }
                // Without anything to type it is still worth watching.
                more = false;
                continue;
            }
        };
        match frame {
            Some(Ok(Message::Binary(bytes))) => context.screen.print_raw(&bytes)?,
            Some(Ok(Message::Text(says))) => match serde_json::from_str(&says) {
                Ok(ConsoleSays::Note(note)) => say(&note),
                Ok(ConsoleSays::Error(info)) => break Err(info.into()),
                // A newer node may have more to tell.
                Err(_) => {}
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) | None => break Err(lost("it was closed")),
            Some(Err(e)) if is_closed(&e) => break Err(lost("it was closed")),
            Some(Err(e)) => break Err(lost(e)),
        }
    };
    if raw.is_some() {
        context.screen.print("\x1b[0m")?;
        say("left the console");
    }
    drop(raw);
    done.map(|()| ExitCode::SUCCESS)
}

/// Passes on what is typed, and the size of the terminal; says when somebody wants to leave.
async fn pass_on(
    mut sink: SplitSink<Socket, Message>,
    mut resized: Signal,
    raw: bool,
    leave: oneshot::Sender<()>,
) {
    let mut typed = terminal::typed();
    let mut more = true;
    let mut keys = Keys::default();
    while more || raw {
        let frame = tokio::select! {
            piece = typed.recv(), if more => {
                let Some(bytes) = piece else {
                    more = false;
                    continue;
                };
                let (pass, leaves) = if raw { keys.press(&bytes) } else { (bytes, false) };
                if leaves {
                    let _ = leave.send(());
                    return;
                }
                if pass.is_empty() {
                    continue;
                }
                Message::Binary(pass.into())
            }
            _ = resized.recv(), if raw => window(),
        };
        // A connection that is lost is noticed by whoever reads.
        let _ = sink.send(frame).await;
    }
}

fn window() -> Message {
    let (rows, cols) = terminal::size();
    text(&ConsoleRequest::Resize { rows, cols })
}

/// A line of our own in the middle of the guest's; the terminal may be raw.
fn say(line: &str) {
    // Who cannot be told is not told.
    let _ = write!(io::stderr(), "\r\n[mayfly: {}]\r\n", escape(line));
}

const CTRL_A: u8 = 0x01;
const CTRL_BRACKET: u8 = 0x1d;

/// Finds the keys that leave among those that are passed on. Ctrl-a twice passes one Ctrl-a on.
#[derive(Debug, Default)]
struct Keys {
    held: Option<u8>,
}

impl Keys {
    /// What is to be passed on, and whether to leave.
    fn press(&mut self, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut pass = Vec::with_capacity(keys.len() + 1);
        for &key in keys {
            match (self.held.take(), key) {
                (Some(CTRL_BRACKET), CTRL_BRACKET) | (Some(CTRL_A), b'q') => return (pass, true),
                (Some(CTRL_A), CTRL_A) => pass.push(CTRL_A),
                (held, CTRL_A | CTRL_BRACKET) => {
                    pass.extend(held);
                    self.held = Some(key);
                }
                (held, key) => {
                    pass.extend(held);
                    pass.push(key);
                }
            }
        }
        (pass, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = Keys::default();
        let mut all = Vec::new();
        for piece in pieces {
            let (pass, leave) = keys.press(piece);
            all.extend(pass);
            if leave {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn two_ways_to_leave() {
        assert_eq!(press(&[b"ls\x1d\x1dx"]), (b"ls".to_vec(), true));
        assert_eq!(press(&[b"\x1d", b"\x1d"]), (vec![], true));
        assert_eq!(press(&[b"a\x01", b"q"]), (b"a".to_vec(), true));
    }

    #[test]
    fn every_other_key_arrives() {
        assert_eq!(
            press(&[b"\x1dx\x1d", b"y\x1b[A"]),
            (b"\x1dx\x1dy\x1b[A".to_vec(), false)
        );
        assert_eq!(press(&[b"\x01a\x01\x01q"]), (b"\x01a\x01q".to_vec(), false));
        assert_eq!(
            press(&[b"\x01\x1d\x01z"]),
            (b"\x01\x1d\x01z".to_vec(), false)
        );
    }
}
