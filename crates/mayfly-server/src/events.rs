//! Changes as they happen: one JSON document per line, an empty line now and then.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use mayfly_api::{ErrorBody, EventView};
use mayfly_core::error::Refusal;
use mayfly_engine::store::Change;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::Params;
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
}

/// Every change of a document, in order, as it happens.
///
/// The answer does not end: one JSON document a line. An empty line says that nothing happened for a second. Where the
/// node cannot go on, the last line is an `ErrorBody`.
#[utoipa::path(
    get,
    path = "/v1/events",
    params(Since),
    responses((status = 200, description = "One `EventView` a line.", body = EventView, content_type = "application/x-ndjson")),
)]
pub(crate) async fn follow(
    State(state): State<AppState>,
    Params(Since { since }): Params<Since>,
) -> Result<Response, ApiError> {
    let since = match since {
        Some(since) => since,
        None => state.blocking(|state| state.engine().revision()).await?,
    };
    let (lines, receiver) = mpsc::channel(16);
    tokio::spawn(feed(state, since, lines));
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

async fn feed(state: AppState, mut since: u64, lines: mpsc::Sender<Bytes>) {
    loop {
        let seen = state.blocking(move |state| {
            let (next, changes) = state.engine().changes(since, SLICE)?;
            let events: Result<Vec<_>, _> = changes
                .into_iter()
                .map(|change| event(state, change))
                .collect();
            Ok((next, events?))
        });
        let mut text = Vec::new();
        let seen = tokio::select! {
            seen = seen => seen,
            () = state.ended() => return,
        };
        match seen {
            Ok((next, events)) => {
                since = next;
                for event in &events {
                    push_line(&mut text, event);
                }
            }
            Err(e) => {
                push_line(&mut text, &ErrorBody { error: e.0 });
                let _ = lines.send(text.into()).await;
                return;
            }
        }
        if text.is_empty() {
            // A listener that is gone is noticed by it.
            text.push(b'\n');
        }
        if lines.send(text.into()).await.is_err() {
            return;
        }
    }
}

fn push_line(text: &mut Vec<u8>, value: &impl serde::Serialize) {
    text.extend(serde_json::to_vec(value).expect("an event is plain data"));
    text.push(b'\n');
}

fn event(state: &AppState, change: Change) -> Result<EventView, Refusal> {
    let (kind, name) = kind_and_name(&change.key);
    let mut event = EventView {
        revision: change.revision.0,
        kind: kind.to_owned(),
        name: name.to_owned(),
        removed: change.value.is_none(),
        vps: None,
        template: None,
        operation: None,
    };
    let value = change.value.as_deref();
    match kind {
        "vps" => event.vps = read(value).map(|doc| Box::new(state.view(doc))),
        "template" => {
            event.template =
                read(value).map(|doc: mayfly_core::documents::TemplateDoc| Box::new(doc.into()))
        }
        "operation" => {
            event.operation =
                read(value).map(|doc: mayfly_core::documents::OperationDoc| Box::new(doc.into()));
        }
        _ => {}
    }
    Ok(event)
}

/// A document of the store. One that cannot be read (of a newer version) is told without its contents.
fn read<T: DeserializeOwned>(value: Option<&str>) -> Option<T> {
    serde_json::from_str(value?).ok()
}

fn kind_and_name(key: &str) -> (&str, &str) {
    let (kind, name) = key
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((key, ""));
    let kind = match kind {
        "templates" => "template",
        "operations" => "operation",
        other => other,
    };
    (kind, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_nouns() {
        assert_eq!(kind_and_name("/vps/11327"), ("vps", "11327"));
        assert_eq!(kind_and_name("/operations/0a"), ("operation", "0a"));
        assert_eq!(
            kind_and_name("/templates/debian-12"),
            ("template", "debian-12")
        );
        assert_eq!(kind_and_name("node"), ("node", ""));
    }
}
