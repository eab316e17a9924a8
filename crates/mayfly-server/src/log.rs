//! What the console printed.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::AppState;
use crate::console::{Said, show as show_console};
use crate::error::ApiError;
use crate::events::streamed;
use crate::extract::Params;

const RAW: &str = "application/octet-stream";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Follow {
    #[serde(default)]
    follow: bool,
}

/// The ring, raw as the guest printed it; with `follow`, then what comes.
pub(crate) async fn show(
    State(state): State<AppState>,
    Path(vps): Path<String>,
    Params(Follow { follow }): Params<Follow>,
) -> Result<Response, ApiError> {
    if !follow {
        let log = state
            .blocking(move |state| state.consoles().console_log(&state.engine().vps(&vps)?))
            .await?;
        return Ok(([(CONTENT_TYPE, RAW)], log).into_response());
    }
    let id = state
        .blocking(move |state| Ok(state.engine().vps(&vps)?.id))
        .await?;
    let (bytes, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let (_nothing_is_typed, typed) = mpsc::channel(1);
        let (said, mut heard) = mpsc::channel(16);
        tokio::spawn(show_console(state.clone(), id, said, typed));
        loop {
            let said = tokio::select! {
                said = heard.recv() => said,
                () = state.ended() => return,
            };
            let Some(said) = said else { return };
            let piece = match said {
                Said::Bytes(piece) => piece,
                // An empty piece tells whether someone still listens.
                Said::Beat => Bytes::new(),
                Said::Note(_) => continue,
                Said::Error(_) => return,
            };
            let sent = if piece.is_empty() {
                !bytes.is_closed()
            } else {
                bytes.send(piece).await.is_ok()
            };
            if !sent {
                return;
            }
        }
    });
    Ok(streamed(receiver, RAW))
}
