//! Operations.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use mayfly_api::OperationView;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::{Params, Path};
use crate::router::{Answer, Routes};
use crate::state::SLICE;

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default()
        .routes(routes!(list))
        .routes(routes!(show))
}

/// Nobody waits longer in one request.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The operations that the node remembers, oldest first.
#[utoipa::path(
    get,
    path = "/v1/operations",
    responses((status = 200, description = "The operations.", body = Vec<OperationView>)),
)]
pub(crate) async fn list(State(state): State<AppState>) -> Answer<Vec<OperationView>> {
    let all = state.blocking(|state| state.engine().operations()).await?;
    Ok(Json(all.into_iter().map(OperationView::from).collect()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitParams {
    /// How long to wait for its end, in milliseconds; a minute at most.
    #[serde(default)]
    wait_ms: u64,
}

/// One operation; with `wait_ms`, as soon as it is over.
#[utoipa::path(
    get,
    path = "/v1/operations/{id}",
    params(("id" = String, Path, description = "An operation's id, or enough of its beginning."), WaitParams),
    responses((status = 200, description = "How far it is. It need not be over when the wait is.", body = OperationView)),
)]
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
