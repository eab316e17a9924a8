//! Operations.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mayfly_api::OperationView;
use mayfly_core::documents::OperationState;
use mayfly_core::error::Refusal;
use mayfly_core::ids::VpsId;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::{Caller, Params, Path};
use crate::router::{Answer, Routes};
use crate::state::SLICE;

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(cancel))
}

/// Nobody waits longer in one request.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Those of this VPS, by number or host name.
    vps: Option<String>,
    /// Those that are this far.
    #[param(inline)]
    state: Option<OperationState>,
    /// So many at most, the newest of them.
    limit: Option<usize>,
}

/// The operations that the node remembers, oldest first.
#[utoipa::path(
    get,
    path = "/v1/operations",
    params(Which),
    responses((status = 200, description = "The operations.", body = Vec<OperationView>)),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    Params(which): Params<Which>,
) -> Answer<Vec<OperationView>> {
    let all = state.blocking(move |state| {
        let vps = match &which.vps {
            None => None,
            Some(named) => Some(number(state, named)?),
        };
        let mut all = state.engine().operations()?;
        all.retain(|op| vps.is_none() || op.vps == vps);
        all.retain(|op| which.state.is_none_or(|wanted| op.state == wanted));
        let more = all.len() - which.limit.unwrap_or(all.len()).min(all.len());
        Ok(all.split_off(more))
    });
    Ok(Json(
        all.await?.into_iter().map(OperationView::from).collect(),
    ))
}

/// A VPS that was destroyed has no name any more, but operations.
fn number(state: &AppState, vps: &str) -> Result<VpsId, Refusal> {
    match vps.parse() {
        Ok(id) => Ok(id),
        Err(_) => Ok(state.engine().vps(vps)?.id),
    }
}

/// Gives an operation up.
///
/// What waits for its turn ends at once; what is under way ends after its present step, which is cut short where that is
/// possible, and what it had done is put back. The answer may come before that.
#[utoipa::path(
    post,
    path = "/v1/operations/{id}/cancel",
    params(("id" = String, Path, description = "An operation's id, or enough of its beginning.")),
    responses((status = 202, description = "It is given up, or will be.", body = OperationView)),
)]
pub(crate) async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<OperationView>), ApiError> {
    let op = state.blocking(move |state| state.engine().cancel(&id, &caller.by()));
    Ok((StatusCode::ACCEPTED, Json(op.await?.into())))
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
