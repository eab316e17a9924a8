//! Datasets of a VPS.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use mayfly_api::{CreateDataset, DatasetView, SetDataset, VpsView, paths};
use mayfly_core::names::DatasetName;
use mayfly_engine::Intent;
use serde::Deserialize;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::{Body, Caller, Dry, Params};
use crate::router::Answer;

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

pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(dry): Params<Dry>,
    Body(CreateDataset {
        name,
        quota_bytes,
        mount,
    }): Body<CreateDataset>,
) -> Result<Response, ApiError> {
    state
        .change(
            caller,
            &dry,
            Some(vps),
            Intent::DatasetCreate {
                name,
                quota: quota_bytes,
                mount,
            },
        )
        .await
}

pub(crate) async fn set(
    State(state): State<AppState>,
    caller: Caller,
    Path((vps, name)): Path<(String, String)>,
    Params(dry): Params<Dry>,
    Body(SetDataset { quota_bytes }): Body<SetDataset>,
) -> Result<Response, ApiError> {
    let name = parse_name(&name)?;
    state
        .change(
            caller,
            &dry,
            Some(vps),
            Intent::DatasetSet {
                name,
                quota: quota_bytes,
            },
        )
        .await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DestroyParams {
    #[serde(default)]
    force: bool,
    #[serde(default)]
    dry_run: bool,
}

pub(crate) async fn destroy(
    State(state): State<AppState>,
    caller: Caller,
    Path((vps, name)): Path<(String, String)>,
    Params(DestroyParams { force, dry_run }): Params<DestroyParams>,
) -> Result<Response, ApiError> {
    let name = parse_name(&name)?;
    state
        .change(
            caller,
            &Dry { dry_run },
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
