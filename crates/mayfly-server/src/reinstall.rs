//! Contents of a VPS replaced by a template's, and put back.

use axum::extract::State;
use axum::response::Response;
use mayfly_api::ReinstallVps;
use mayfly_core::ids::OperationId;
use mayfly_engine::Intent;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::{Body, Caller, How, Params, Path};
use crate::router::{Changed, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default()
        .routes(routes!(reinstall))
        .routes(routes!(undo))
}

/// Replaces contents of a VPS by those of a template.
///
/// Subdatasets that are no part of the scope, mounts, the id, limits and features stay. A VPS that runs is stopped for it and
/// started again. What is replaced is kept for seven days of a running host, or until the undo; a dry run tells its bytes.
#[utoipa::path(
    post,
    path = "/v1/vps/{vps}/reinstall",
    params(How),
    request_body = ReinstallVps,
    responses(Changed),
)]
pub(crate) async fn reinstall(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(ReinstallVps { template, scope }): Body<ReinstallVps>,
) -> Result<Response, ApiError> {
    state
        .change(
            caller,
            &how,
            Some(vps),
            Intent::Reinstall { template, scope },
        )
        .await
}

/// Puts back what the last reinstall of a VPS replaced.
///
/// What it got by the reinstall is destroyed, with all that was written there since. Which reinstall is meant has to be said
/// (`replaced` of the VPS has them), so that a request that is sent twice does not undo the one before as well.
#[utoipa::path(
    delete,
    path = "/v1/vps/{vps}/reinstall/{operation}",
    params(("operation" = OperationId, Path, description = "The reinstall, by its operation."), How),
    responses(Changed)
)]
pub(crate) async fn undo(
    State(state): State<AppState>,
    caller: Caller,
    Path((vps, by)): Path<(String, OperationId)>,
    Params(how): Params<How>,
) -> Result<Response, ApiError> {
    state
        .change(caller, &how, Some(vps), Intent::ReinstallUndo { by })
        .await
}
