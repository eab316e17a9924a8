//! A program inside a VPS over a websocket; the frames are in `mayfly_api`. It dies with the client.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{
    Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use mayfly_api::{ExecRequest, ExecSays, ExecStart};
use mayfly_core::documents::VpsDoc;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::run::RunPhase;
use tokio::sync::mpsc;
use utoipa_axum::routes;

use crate::console::{text, upgraded};
use crate::error::ApiError;
use crate::extract::{Path, parse_body};
use crate::process::{Input, Process};
use crate::router::Routes;
use crate::{AppState, AttachCommand};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(open))
}

/// How long a client may take to say what is to be run.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How often a client is asked whether it is there.
const BEAT: Duration = Duration::from_secs(5);
/// How long it may take to hear the end.
const GOODBYE: Duration = Duration::from_secs(10);

/// Runs a program inside a VPS, over a websocket.
///
/// The client sends an `ExecStart` as its first text frame, then input as binary frames and `ExecRequest`s as text frames.
/// Binary frames to the client begin with one byte, 1 for standard output and 2 for standard error. The last frame is an
/// `ExecSays`: the status, or why it was not run. The program dies with the connection.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/exec",
    responses((status = 101, description = "A websocket; see above for its frames.")),
)]
pub(crate) async fn open(
    State(state): State<AppState>,
    Path(vps): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    Ok(upgraded(upgrade)?.on_upgrade(move |socket| session(state, vps, socket)))
}

async fn session(state: AppState, vps: String, socket: WebSocket) {
    let (sink, mut frames) = socket.split();
    let (out, outgoing) = mpsc::channel(16);
    let mut writer = tokio::spawn(write_frames(sink, outgoing));
    let started = match first_frame(&mut frames).await {
        None => return,
        Some(Err(e)) => Err(e),
        Some(Ok(start)) => prepare(&state, vps, start).await,
    };
    let mut unread = None;
    let last = match started {
        Err(e) => {
            unread = Some(frames);
            ExecSays::Error(e.0)
        }
        Ok((command, start)) => match Process::start(&command, &start, &out) {
            Err(e) => {
                unread = Some(frames);
                ExecSays::Error(ApiError::internal(format!("{}: {e}", command.program.display())).0)
            }
            Ok((process, input)) => {
                let reader = tokio::spawn(read_frames(frames, input));
                let ended = tokio::select! {
                    code = process.finished() => Some(code),
                    () = gone(reader) => None,
                    _ = &mut writer => None,
                };
                // Where the client went, the process was dropped with everything below it.
                match ended {
                    None => return,
                    Some(Ok(code)) => ExecSays::Exit(code),
                    Some(Err(e)) => ExecSays::Error(ApiError::internal(e).0),
                }
            }
        },
    };
    let _ = out.send(text(&last)).await;
    drop(out);
    let _ = tokio::time::timeout(GOODBYE, writer).await;
    // Closed with something unread, the connection would be reset, and the reason lost with it.
    if let Some(mut frames) = unread {
        let heard = async { while let Some(Ok(_)) = frames.next().await {} };
        let _ = tokio::time::timeout(GOODBYE, heard).await;
    }
}

async fn gone(reader: tokio::task::JoinHandle<()>) {
    let _ = reader.await;
}

async fn first_frame(frames: &mut SplitStream<WebSocket>) -> Option<Result<ExecStart, ApiError>> {
    let first = tokio::time::timeout(START_DEADLINE, async {
        loop {
            match frames.next().await? {
                Ok(Message::Text(text)) => return Some(parse_body::<ExecStart>(text.as_bytes())),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Binary(_)) => {
                    return Some(Err(ApiError::invalid(
                        "the first frame must say what is to be run",
                        "use `mayfly exec`",
                    )));
                }
                Ok(Message::Close(_)) | Err(_) => return None,
            }
        }
    });
    first.await.ok().flatten()
}

async fn prepare(
    state: &AppState,
    vps: String,
    start: ExecStart,
) -> Result<(AttachCommand, ExecStart), ApiError> {
    if start.command.first().is_none_or(String::is_empty) {
        return Err(ApiError::invalid(
            "there is nothing to run",
            format!("name a program: mayfly exec {vps} -- id"),
        ));
    }
    let odd = |text: &str| text.contains('\0');
    if start.command.iter().any(|word| odd(word))
        || start
            .env
            .iter()
            .any(|(name, value)| name.is_empty() || name.contains('=') || odd(name) || odd(value))
    {
        return Err(ApiError::invalid(
            "a word or variable is not possible on this system",
            "leave it out",
        ));
    }
    state
        .blocking(move |state| {
            let doc = running(state, &vps)?;
            let command = state
                .consoles()
                .attach(&doc, &start.command, &start.env, start.tty)?;
            Ok((command, start))
        })
        .await
}

/// A VPS in which programs can be run.
pub(crate) fn running(state: &AppState, vps: &str) -> Result<VpsDoc, Refusal> {
    let doc = state.engine().vps(vps)?;
    let phase = state.engine().run_state(&doc)?.map(|run| run.phase);
    if phase != Some(RunPhase::Running) {
        return Err(Refusal::new(
            Code::VpsNotRunning,
            format!("VPS {} is not running", doc.title()),
            format!("start it: mayfly start {}", doc.id),
        ));
    }
    Ok(doc)
}

/// Passes on what the client types, until it goes.
async fn read_frames(mut frames: SplitStream<WebSocket>, input: mpsc::Sender<Input>) {
    while let Some(Ok(frame)) = frames.next().await {
        let input_frame = match frame {
            Message::Binary(bytes) => Input::Bytes(bytes),
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(ExecRequest::Eof(true)) => Input::Eof,
                Ok(ExecRequest::Resize { rows, cols }) => Input::Resize { rows, cols },
                Ok(ExecRequest::Eof(false)) | Err(_) => continue,
            },
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        // A program that reads no more is no reason to end.
        let _ = input.send(input_frame).await;
    }
}

/// Sends what the program prints, and asks now and then whether someone is there: while a program does not read its
/// input, the client's frames are not read either.
async fn write_frames(
    mut sink: SplitSink<WebSocket, Message>,
    mut outgoing: mpsc::Receiver<Message>,
) {
    let mut beat = tokio::time::interval(BEAT);
    loop {
        let frame = tokio::select! {
            frame = outgoing.recv() => match frame {
                Some(frame) => frame,
                None => break,
            },
            _ = beat.tick() => Message::Ping(Bytes::new()),
        };
        if sink.send(frame).await.is_err() {
            return;
        }
    }
    let _ = sink.close().await;
}
