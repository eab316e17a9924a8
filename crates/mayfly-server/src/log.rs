//! What the console printed.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::AppState;
use crate::console::{Said, show as show_console};
use crate::error::ApiError;
use crate::events::streamed;
use crate::extract::{Params, Path};
use crate::router::Routes;

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(show))
}

const RAW: &str = "application/octet-stream";

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Follow {
    /// Whether to go on with what the guest prints from now on.
    #[serde(default)]
    follow: bool,
}

/// What the console printed.
///
/// The last MiB as the guest printed it; with `follow`, then what comes, through stops and starts, without end.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/log",
    params(Follow),
    responses((status = 200, description = "Raw bytes of a terminal.", content_type = "application/octet-stream")),
)]
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
