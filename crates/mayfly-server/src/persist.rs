//! What a VPS declares to stay.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use mayfly_api::{ChangePersistence, PersistenceView};
use mayfly_engine::Intent;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::{Body, Caller, How, Params, Path};
use crate::router::{Answer, Changed, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(show, change))
}

/// What a VPS declares to stay, whether it runs or not.
///
/// Read from its template and from its own file. What makes no sense in the file is told, and is no error.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/persistence",
    responses((status = 200, description = "What is declared.", body = PersistenceView)),
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    Path(vps): Path<String>,
) -> Answer<PersistenceView> {
    let found = state
        .blocking(move |state| state.engine().persistence(&vps))
        .await?;
    Ok(Json(PersistenceView::new(
        found.doc.storage,
        found.own,
        found.inactive,
        found.listing,
        found.last_start,
    )))
}

/// Declares paths, or declares them no more, in the VPS's own file.
///
/// All of it or nothing; it holds from the next start on. Nothing is moved, and nothing that is stored is removed.
#[utoipa::path(
    patch,
    path = "/v1/vps/{vps}/persistence",
    params(How),
    request_body = ChangePersistence,
    responses(Changed),
)]
pub(crate) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(change): Body<ChangePersistence>,
) -> Result<Response, ApiError> {
    state
        .change(caller, &how, Some(vps), Intent::PersistChange { change })
        .await
}
