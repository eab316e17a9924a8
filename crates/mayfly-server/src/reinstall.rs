//! Contents of a VPS replaced by a template's, and put back.

use axum::extract::State;
use axum::response::Response;
use mayfly_api::{IfBusy, ReinstallVps};
use mayfly_core::ids::OperationId;
use mayfly_engine::Intent;
use serde::Deserialize;
use utoipa::IntoParams;
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
        .routes(routes!(forget))
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

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct GiveUpParams {
    /// Whether snapshots that others made of it go with it.
    #[serde(default)]
    force: bool,
    /// Whether to tell the plan and do nothing.
    #[serde(default)]
    dry_run: bool,
    /// What happens where another change of the VPS is under way.
    #[serde(default)]
    if_busy: IfBusy,
}

impl GiveUpParams {
    fn how(&self) -> How {
        How {
            dry_run: self.dry_run,
            if_busy: self.if_busy,
        }
    }
}

/// Puts back what the last reinstall of a VPS replaced.
///
/// What it got by the reinstall is destroyed, with all that was written there since. Which reinstall is meant has to be said
/// (`replaced` of the VPS has them), so that a request that is sent twice does not undo the one before as well.
#[utoipa::path(
    delete,
    path = "/v1/vps/{vps}/reinstall/{operation}",
    params(("operation" = OperationId, Path, description = "The reinstall, by its operation."), GiveUpParams),
    responses(Changed)
)]
pub(crate) async fn undo(
    State(state): State<AppState>,
    caller: Caller,
    Path((vps, by)): Path<(String, OperationId)>,
    Params(params): Params<GiveUpParams>,
) -> Result<Response, ApiError> {
    let force = params.force;
    let intent = Intent::ReinstallUndo { by, force };
    state.change(caller, &params.how(), Some(vps), intent).await
}

/// Gives up what a reinstall of a VPS, and those before it, have put aside.
///
/// There is no way back to it then. A VPS can have as many as three that are kept.
#[utoipa::path(
    delete,
    path = "/v1/vps/{vps}/replaced/{operation}",
    params(("operation" = OperationId, Path, description = "The last reinstall that is meant, by its operation."), GiveUpParams),
    responses(Changed)
)]
pub(crate) async fn forget(
    State(state): State<AppState>,
    caller: Caller,
    Path((vps, by)): Path<(String, OperationId)>,
    Params(params): Params<GiveUpParams>,
) -> Result<Response, ApiError> {
    let force = params.force;
    let intent = Intent::ReinstallForget { by, force };
    state.change(caller, &params.how(), Some(vps), intent).await
}
