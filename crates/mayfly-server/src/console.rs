//! The console of a VPS: its ring, then what it prints, through stops, starts and reboots, and what is typed.
//!
//! Each run has a console socket of its own that begins with the whole ring, which outlives the runs. Between two runs
//! there is no socket. A viewer who has seen the ring once is shown only what came after.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{
    Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
};
use axum::response::Response;
use futures_util::{SinkExt as _, StreamExt as _};
use mayfly_api::{ConsoleRequest, ConsoleSays};
use mayfly_core::documents::VpsDoc;
use mayfly_core::ids::VpsId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::Path;
use crate::router::Routes;

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(open))
}

/// How often a VPS that does not run is looked at.
const PAUSE: Duration = Duration::from_millis(300);
/// How often a silent viewer is asked whether it is there.
const BEAT: Duration = Duration::from_secs(10);
/// How much of what was shown is remembered to find the place again.
const MARK: usize = 1024;
/// No frame of a viewer is larger.
pub(crate) const FRAME_LIMIT: usize = 256 << 10;

/// What a viewer is told.
#[derive(Debug)]
pub(crate) enum Said {
    /// The guest printed this.
    Bytes(Bytes),
    /// The node has this to say.
    Note(String),
    /// Nothing happened for a while.
    Beat,
    /// The console ends here.
    Error(ApiError),
}

/// What a viewer does.
#[derive(Debug)]
pub(crate) enum Typed {
    /// Types this.
    Bytes(Bytes),
    /// Has a window of this size.
    Resize {
        /// Its height.
        rows: u16,
        /// Its width.
        cols: u16,
    },
}

/// The console of a VPS, over a websocket.
///
/// Binary frames to the client are what the guest printed, beginning with the last MiB; binary frames from the client are
/// typed. Text frames are `ConsoleSays` to the client and `ConsoleRequest` from it. It goes on through stops and starts.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/console",
    responses((status = 101, description = "A websocket; see above for its frames.")),
)]
pub(crate) async fn open(
    State(state): State<AppState>,
    Path(vps): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgraded(upgrade)?;
    let id = state
        .blocking(move |state| Ok(state.engine().vps(&vps)?.id))
        .await?;
    Ok(upgrade.on_upgrade(move |socket| session(state, id, socket)))
}

/// A websocket with limits, or why there is none.
pub(crate) fn upgraded(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<WebSocketUpgrade, ApiError> {
    let upgrade = upgrade.map_err(|e| {
        ApiError::invalid(format!("this is a websocket: {e}"), "use the command line")
    })?;
    Ok(upgrade
        .max_message_size(FRAME_LIMIT)
        .max_frame_size(FRAME_LIMIT))
}

async fn session(state: AppState, id: VpsId, socket: WebSocket) {
    let (mut sink, mut frames) = socket.split();
    let (said, mut heard) = mpsc::channel(16);
    let (typing, typed) = mpsc::channel(16);
    let shown = tokio::spawn(show(state, id, said, typed));
    let write = async {
        while let Some(said) = heard.recv().await {
            let (frame, last) = match said {
                Said::Bytes(bytes) => (Message::Binary(bytes), false),
                Said::Note(note) => (text(&ConsoleSays::Note(note)), false),
                Said::Beat => (Message::Ping(Bytes::new()), false),
                Said::Error(e) => (text(&ConsoleSays::Error(e.0)), true),
            };
            if sink.send(frame).await.is_err() || last {
                break;
            }
        }
        let _ = sink.close().await;
    };
    let read = async {
        while let Some(Ok(frame)) = frames.next().await {
            let typed = match frame {
                Message::Binary(bytes) => Typed::Bytes(bytes),
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(ConsoleRequest::Resize { rows, cols }) => Typed::Resize { rows, cols },
                    // A newer client may know more words.
                    Err(_) => continue,
                },
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            if typing.send(typed).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    shown.abort();
}

/// A text frame.
pub(crate) fn text(says: &impl serde::Serialize) -> Message {
    Message::Text(
        serde_json::to_string(says)
            .expect("a frame is plain data")
            .into(),
    )
}

/// Shows a console to one viewer until it goes, or the VPS does.
pub(crate) async fn show(
    state: AppState,
    id: VpsId,
    said: mpsc::Sender<Said>,
    mut typed: mpsc::Receiver<Typed>,
) {
    let mut view = View {
        shown: None,
        told_stopped: false,
        window: None,
    };
    loop {
        let found = state.blocking(move |state| {
            let doc = state.engine().vps(&id.to_string())?;
            let socket = state.consoles().console_socket(&doc);
            Ok((doc, socket))
        });
        let went_on = match found.await {
            Err(e) => said
                .send(Said::Error(e))
                .await
                .and(Err(mpsc::error::SendError(Said::Beat))),
            Ok((doc, socket)) => match connect(socket).await {
                Some(stream) => view.follow(&state, doc, stream, &said, &mut typed).await,
                None => view.wait(&state, doc, &said, &mut typed).await,
            },
        };
        if went_on.is_err() {
            return;
        }
    }
}

async fn connect(socket: Option<PathBuf>) -> Option<UnixStream> {
    // A socket without a listener is that of a run that is over.
    UnixStream::connect(socket?).await.ok()
}

type Shown = Result<(), mpsc::error::SendError<Said>>;

/// One viewer's place in a console.
struct View {
    /// The end of what was shown; none before anything was.
    shown: Option<Vec<u8>>,
    told_stopped: bool,
    /// The viewer's window, rows and columns: each run has a console of its own that does not know it.
    window: Option<(u16, u16)>,
}

impl View {
    async fn say(&mut self, said: &mpsc::Sender<Said>, bytes: Bytes) -> Shown {
        let mark = self.shown.get_or_insert_default();
        mark.extend_from_slice(&bytes[bytes.len().saturating_sub(MARK)..]);
        let excess = mark.len().saturating_sub(MARK);
        mark.drain(..excess);
        said.send(Said::Bytes(bytes)).await
    }

    /// Shows what came since, says that nothing runs, and waits for a moment.
    async fn wait(
        &mut self,
        state: &AppState,
        doc: VpsDoc,
        said: &mpsc::Sender<Said>,
        typed: &mut mpsc::Receiver<Typed>,
    ) -> Shown {
        if !self.told_stopped {
            let title = doc.title();
            let ring = ring(state, &doc).await;
            let from = self.place_in(&ring);
            if from < ring.len() {
                self.say(said, Bytes::from(ring).slice(from..)).await?;
            }
            self.shown.get_or_insert_default();
            said.send(Said::Note(format!(
                "VPS {title} does not run; this goes on with its next start"
            )))
            .await?;
            self.told_stopped = true;
        }
        tokio::select! {
            () = said.closed() => return Err(mpsc::error::SendError(Said::Beat)),
            // What is typed at a VPS that does not run is lost, as at any machine that is off.
            () = async {
                while let Some(typed) = typed.recv().await {
                    if let Typed::Resize { rows, cols } = typed {
                        self.window = Some((rows, cols));
                    }
                }
                std::future::pending().await
            } => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
        said.send(Said::Beat).await
    }

    /// Shows one run's console until the run is over.
    async fn follow(
        &mut self,
        state: &AppState,
        doc: VpsDoc,
        stream: UnixStream,
        said: &mpsc::Sender<Said>,
        typed: &mut mpsc::Receiver<Typed>,
    ) -> Shown {
        self.told_stopped = false;
        let mut skip = match &self.shown {
            None => 0,
            Some(_) => self.place_in(&ring(state, &doc).await),
        };
        self.resize(state, &doc).await;
        let (mut from, mut to) = stream.into_split();
        let (keys, mut pressed) = mpsc::channel::<Bytes>(64);
        let writer = tokio::spawn(async move {
            while let Some(bytes) = pressed.recv().await {
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let mut buffer = vec![0; 16 << 10];
        let over = loop {
            tokio::select! {
                () = said.closed() => break Err(mpsc::error::SendError(Said::Beat)),
                read = from.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => break Ok(()),
                    Ok(n) => {
                        let known = skip.min(n);
                        skip -= known;
                        if known < n {
                            if let Err(gone) = self.say(said, Bytes::copy_from_slice(&buffer[known..n])).await {
                                break Err(gone);
                            }
                        }
                    }
                },
                Some(typed) = typed.recv() => match typed {
                    // A guest that reads nothing must not stop its output: what is too much is lost.
                    Typed::Bytes(bytes) => drop(keys.try_send(bytes)),
                    Typed::Resize { rows, cols } => {
                        self.window = Some((rows, cols));
                        self.resize(state, &doc).await;
                    }
                },
                () = tokio::time::sleep(BEAT) => {
                    if let Err(gone) = said.send(Said::Beat).await {
                        break Err(gone);
                    }
                }
            }
        };
        writer.abort();
        if over.is_ok() {
            // The next run's socket is not there at once.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        over
    }

    /// Tells the run how large the viewer's window is, where that is known.
    async fn resize(&self, state: &AppState, doc: &VpsDoc) {
        let Some((rows, cols)) = self.window else {
            return;
        };
        let of = doc.clone();
        let resized = state.blocking(move |state| state.consoles().resize(&of, rows, cols));
        if let Err(e) = resized.await {
            tracing::debug!("console of {}: {}", doc.id, e.0.message);
        }
    }

    fn place_in(&self, ring: &[u8]) -> usize {
        place_after(ring, self.shown.as_deref().unwrap_or_default())
    }
}

async fn ring(state: &AppState, doc: &VpsDoc) -> Vec<u8> {
    let doc = doc.clone();
    state
        .blocking(move |state| state.consoles().console_log(&doc))
        .await
        .unwrap_or_default()
}

/// Where in `ring` what follows the last occurrence of `mark` begins; 0 where it does not occur.
fn place_after(ring: &[u8], mark: &[u8]) -> usize {
    if mark.is_empty() {
        return 0;
    }
    ring.windows(mark.len())
        .rposition(|window| window == mark)
        .map_or(0, |at| at + mark.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_after_the_last_mark() {
        assert_eq!(place_after(b"login: \nlogin: \nnew", b"login: \n"), 16);
        assert_eq!(place_after(b"all new", b"login: "), 0);
        assert_eq!(place_after(b"all", b""), 0);
        assert_eq!(place_after(b"", b"x"), 0);
        assert_eq!(place_after(b"same", b"same"), 4);
    }
}
