//! Changes as they happen: one JSON document per line, an empty line now and then.
//!
//! For a reader that is behind, however far, the channel holds one piece of what a store gives at once, and the connection
//! what hyper buffers: less than a mebibyte. The next piece is looked up when there is room for it; until then the feed holds
//! nothing, no thread and no lock. A reader that takes nothing for [`PATIENCE`], or for whom the store has forgotten what
//! comes next, finds the reason as its last line.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use mayfly_api::{ErrorBody, EventLine};
use mayfly_core::error::{Code, Refusal};
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::Params;
use crate::feed::{Only, tell};
use crate::router::Routes;
use crate::state::SLICE;

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(follow))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Since {
    /// The revision after which to begin; without it, now.
    since: Option<u64>,
    /// Id or host name of the VPS of which alone to tell: its document, its operations, its runs.
    vps: Option<String>,
}

/// How long a reader may take nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every change of a document, in order, as it happens, and what it meant for runs.
///
/// The answer does not end: one JSON document a line. An empty line says that nothing happened for a second. Where the
/// node cannot go on, the last line is an `ErrorBody`: `events.compacted` where changes were missed, `events.not_read`
/// where the reader took nothing for a minute, `vps.not_found` where the number of the VPS belongs to another.
#[utoipa::path(
    get,
    path = "/v1/events",
    params(Since),
    responses((status = 200, description = "One `EventView` a line; the last one may be an `ErrorBody`.", body = EventLine, content_type = "application/x-ndjson")),
)]
pub(crate) async fn follow(
    State(state): State<AppState>,
    Params(Since { since, vps }): Params<Since>,
) -> Result<Response, ApiError> {
    let (since, only) = state
        .blocking(move |state| {
            let only = vps.map(|vps| Only::of(state.engine(), &vps)).transpose()?;
            let since = match since {
                Some(since) => since,
                None => state.engine().revision()?,
            };
            // What cannot be told at all is refused before anything is.
            state.engine().changes(since, Duration::ZERO)?;
            Ok((since, only))
        })
        .await?;
    let (lines, receiver) = mpsc::channel(SLOTS);
    tokio::spawn(feed(state, since, only, lines));
    Ok(streamed(receiver, "application/x-ndjson"))
}

/// An answer whose body is what comes out of a channel.
pub(crate) fn streamed(receiver: mpsc::Receiver<Bytes>, content_type: &'static str) -> Response {
    let body = stream::unfold(receiver, async |mut receiver| {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(bytes), receiver))
    });
    ([(CONTENT_TYPE, content_type)], Body::from_stream(body)).into_response()
}

/// Pieces that wait for a reader: one, and the last line.
const SLOTS: usize = 2;

async fn feed(state: AppState, mut since: u64, mut only: Option<Only>, lines: mpsc::Sender<Bytes>) {
    loop {
        let room = tokio::select! {
            room = room_for_one(&lines, PATIENCE) => room,
            () = state.ended() => return,
        };
        let room = match room {
            Ok(room) => room,
            Err(Waited::Gone) => return,
            Err(Waited::InVain) => return last(&lines, not_read(since)),
        };
        let of = only.clone();
        let seen = state.blocking(move |state| {
            let (next, changes) = state.engine().changes(since, SLICE)?;
            Ok((next, tell(changes, of, |doc| state.view(doc))))
        });
        let seen = tokio::select! {
            seen = seen => seen,
            () = state.ended() => return,
        };
        let mut text = Vec::new();
        let over = match seen {
            Ok((next, told)) => {
                for event in told.events {
                    push_line(&mut text, &EventLine::Event(Box::new(event)));
                }
                (since, only) = (next, told.only);
                told.over.map(ApiError::from)
            }
            Err(e) => Some(e),
        };
        if text.is_empty() && over.is_none() {
            // A listener that is gone is noticed by it.
            text.push(b'\n');
        }
        text.shrink_to_fit();
        room.send(text.into());
        if let Some(why) = over {
            return last(&lines, why);
        }
    }
}

/// Why there is no room.
#[derive(Debug, PartialEq, Eq)]
enum Waited {
    /// Nobody listens.
    Gone,
    /// Somebody does, and has taken nothing for long.
    InVain,
}

/// Room for a piece when all before it were taken; the slot for the last line stays free.
async fn room_for_one(
    lines: &mpsc::Sender<Bytes>,
    patience: Duration,
) -> Result<mpsc::Permit<'_, Bytes>, Waited> {
    match tokio::time::timeout(patience, lines.reserve_many(SLOTS)).await {
        Ok(Ok(mut free)) => Ok(free.next().expect("so many were reserved")),
        Ok(Err(_)) => Err(Waited::Gone),
        Err(_) => Err(Waited::InVain),
    }
}

/// Says why nothing more comes, whenever that is read.
fn last(lines: &mpsc::Sender<Bytes>, why: ApiError) {
    let mut text = Vec::new();
    push_line(&mut text, &EventLine::Last(ErrorBody { error: why.0 }));
    // The slot for it is free, or nobody listens.
    let _ = lines.try_send(text.into());
}

fn not_read(since: u64) -> ApiError {
    let message = format!(
        "nothing of the events was read for {} s, so nothing more is sent",
        PATIENCE.as_secs()
    );
    let hint = format!("go on where this ended: mayfly events --since {since}");
    Refusal::new(Code::EventsNotRead, message, hint).into()
}

fn push_line(text: &mut Vec<u8>, line: &EventLine) {
    text.extend(serde_json::to_vec(line).expect("an event is plain data"));
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn hand(lines: &mpsc::Sender<Bytes>, text: &'static str, ms: u64) -> Result<(), Waited> {
        let room = room_for_one(lines, Duration::from_millis(ms)).await?;
        room.send(Bytes::from_static(text.as_bytes()));
        Ok(())
    }

    #[tokio::test]
    async fn who_takes_nothing_for_long_finds_the_reason_last() {
        let (lines, mut receiver) = mpsc::channel(SLOTS);
        assert_eq!(hand(&lines, "one", 20).await, Ok(()));
        assert_eq!(hand(&lines, "two", 20).await, Err(Waited::InVain));
        last(&lines, not_read(7));
        drop(lines);
        assert_eq!(receiver.recv().await.unwrap(), "one");
        let end = receiver.recv().await.unwrap();
        let Ok(EventLine::Last(body)) = serde_json::from_slice(&end) else {
            panic!("{end:?}")
        };
        assert_eq!(body.error.code, Code::EventsNotRead);
        assert!(body.error.hint.ends_with("--since 7"));
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn who_reads_late_misses_nothing_and_who_is_gone_is_noticed() {
        let (lines, mut receiver) = mpsc::channel(SLOTS);
        assert_eq!(hand(&lines, "one", 20).await, Ok(()));
        let reader = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            receiver.recv().await.zip(receiver.recv().await)
        });
        assert_eq!(hand(&lines, "two", 20_000).await, Ok(()));
        let (one, two) = reader.await.unwrap().unwrap();
        assert_eq!((&one[..], &two[..]), (&b"one"[..], &b"two"[..]));
        assert_eq!(hand(&lines, "three", 20_000).await, Err(Waited::Gone));
    }
}
