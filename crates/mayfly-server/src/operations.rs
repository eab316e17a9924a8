//! Operations.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, State};
use mayfly_api::OperationView;
use serde::Deserialize;

use crate::AppState;
use crate::extract::Params;
use crate::router::Answer;
use crate::state::SLICE;

/// Nobody waits longer in one request.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(crate) async fn list(State(state): State<AppState>) -> Answer<Vec<OperationView>> {
    let all = state.blocking(|state| state.engine().operations()).await?;
    Ok(Json(all.into_iter().map(OperationView::from).collect()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitParams {
    #[serde(default)]
    wait_ms: u64,
}

pub(crate) async fn show(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Params(WaitParams { wait_ms }): Params<WaitParams>,
) -> Answer<OperationView> {
    let mut doc = state
        .blocking(move |state| state.engine().operation(&id))
        .await?;
    let deadline = Instant::now() + Duration::from_millis(wait_ms).min(LONGEST_WAIT);
    loop {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .min(SLICE);
        if doc.state.is_over() || left.is_zero() {
            return Ok(Json(doc.into()));
        }
        let id = doc.id.clone();
        doc = tokio::select! {
            waited = state.blocking(move |state| state.engine().wait(&id, left)) => waited?,
            () = state.ended() => return Ok(Json(doc.into())),
        };
    }
}
