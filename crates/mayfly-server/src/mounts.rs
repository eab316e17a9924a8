//! Mounts of a VPS.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use mayfly_api::{AddMount, IfBusy, MountView, VpsView};
use mayfly_core::documents::Mount;
use mayfly_core::names::GuestPath;
use mayfly_engine::Intent;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::{Body, Caller, How, Params, Path};
use crate::router::{Answer, Changed, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(list, add, remove))
}

/// The mounts of a VPS, parents before children.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/mounts",
    responses((status = 200, description = "The mounts.", body = Vec<MountView>)),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    Path(vps): Path<String>,
) -> Answer<Vec<MountView>> {
    let doc = state
        .blocking(move |state| state.engine().vps(&vps))
        .await?;
    Ok(Json(VpsView::new(doc, None).mounts))
}

/// Shows a dataset at a path of the VPS.
#[utoipa::path(
    post,
    path = "/v1/vps/{vps}/mounts",
    params(How),
    request_body = AddMount,
    responses(Changed),
)]
pub(crate) async fn add(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(AddMount {
        dataset,
        path,
        read_only,
    }): Body<AddMount>,
) -> Result<Response, ApiError> {
    let mount = Mount {
        dataset,
        path,
        read_only,
    };
    state
        .change(caller, &how, Some(vps), Intent::MountAdd { mount })
        .await
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveParams {
    /// Where it is mounted.
    path: GuestPath,
    /// Whether to tell the plan and do nothing.
    #[serde(default)]
    dry_run: bool,
    /// What happens where another change of the VPS is under way.
    #[serde(default)]
    if_busy: IfBusy,
}

/// Shows a dataset no more; its data stays.
#[utoipa::path(
    delete,
    path = "/v1/vps/{vps}/mounts",
    params(RemoveParams),
    responses(Changed)
)]
pub(crate) async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(RemoveParams {
        path,
        dry_run,
        if_busy,
    }): Params<RemoveParams>,
) -> Result<Response, ApiError> {
    state
        .change(
            caller,
            &How { dry_run, if_busy },
            Some(vps),
            Intent::MountRemove { path },
        )
        .await
}
