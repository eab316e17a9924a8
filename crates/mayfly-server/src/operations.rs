//! Operations.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use mayfly_api::OperationView;
use serde::Deserialize;

use crate::AppState;
use crate::extract::Params;
use crate::router::Answer;

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
    let doc = state.blocking(move |state| {
        let doc = state.engine().operation(&id)?;
        if wait_ms == 0 || doc.state.is_over() {
            return Ok(doc);
        }
        state.engine().wait(&doc.id, Duration::from_millis(wait_ms).min(LONGEST_WAIT))
    });
    Ok(Json(doc.await?.into()))
}
