//! Datasets of a VPS.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use mayfly_api::{CreateDataset, DatasetView, IfBusy, SetDataset, VpsView, paths};
use mayfly_core::names::DatasetName;
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
    Routes::default()
        .routes(routes!(list, create))
        .routes(routes!(set, destroy))
}

/// The datasets of a VPS, the root dataset first.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/datasets",
    responses((status = 200, description = "The datasets.", body = Vec<DatasetView>)),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    Path(vps): Path<String>,
) -> Answer<Vec<DatasetView>> {
    let all = state.blocking(move |state| {
        let mut datasets = VpsView::new(state.engine().vps(&vps)?, None).datasets;
        let seen = state.engine().pool()?.seen;
        for dataset in &mut datasets {
            dataset.used_bytes = seen
                .datasets
                .get(&dataset.dataset)
                .and_then(|seen| seen.used);
        }
        Ok(datasets)
    });
    Ok(Json(all.await?))
}

/// Makes a dataset, and mounts it where that is asked.
#[utoipa::path(
    post,
    path = "/v1/vps/{vps}/datasets",
    params(How),
    request_body = CreateDataset,
    responses(Changed),
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(CreateDataset {
        name,
        quota_bytes,
        mount,
    }): Body<CreateDataset>,
) -> Result<Response, ApiError> {
    state
        .change(
            caller,
            &how,
            Some(vps),
            Intent::DatasetCreate {
                name,
                quota: quota_bytes,
                mount,
            },
        )
        .await
}

/// Changes the quota of a dataset.
#[utoipa::path(
    patch,
    path = "/v1/vps/{vps}/datasets/{*name}",
    params(("name" = String, Path, description = "A dataset's name with its slashes; `-` is the root dataset."), How),
    request_body = SetDataset,
    responses(Changed),
)]
pub(crate) async fn set(
    State(state): State<AppState>,
    caller: Caller,
    Path((vps, name)): Path<(String, String)>,
    Params(how): Params<How>,
    Body(SetDataset { quota_bytes }): Body<SetDataset>,
) -> Result<Response, ApiError> {
    let name = parse_name(&name)?;
    state
        .change(
            caller,
            &how,
            Some(vps),
            Intent::DatasetSet {
                name,
                quota: quota_bytes,
            },
        )
        .await
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DestroyParams {
    /// Whether its mounts go with it.
    #[serde(default)]
    force: bool,
    /// Whether to tell the plan and do nothing.
    #[serde(default)]
    dry_run: bool,
    /// What happens where another change of the VPS is under way.
    #[serde(default)]
    if_busy: IfBusy,
}

/// Destroys a dataset with its data.
#[utoipa::path(
    delete,
    path = "/v1/vps/{vps}/datasets/{*name}",
    params(("name" = String, Path, description = "A dataset's name with its slashes; `-` is the root dataset."), DestroyParams),
    responses(Changed),
)]
pub(crate) async fn destroy(
    State(state): State<AppState>,
    caller: Caller,
    Path((vps, name)): Path<(String, String)>,
    Params(DestroyParams {
        force,
        dry_run,
        if_busy,
    }): Params<DestroyParams>,
) -> Result<Response, ApiError> {
    let name = parse_name(&name)?;
    state
        .change(
            caller,
            &How { dry_run, if_busy },
            Some(vps),
            Intent::DatasetDestroy { name, force },
        )
        .await
}

fn parse_name(text: &str) -> Result<DatasetName, ApiError> {
    if text == paths::ROOT_DATASET {
        return Ok(DatasetName::root());
    }
    text.parse()
        .map_err(|e| ApiError::invalid(format!("{e}"), "see `mayfly dataset list`"))
}
