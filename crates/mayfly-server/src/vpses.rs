//! VPSes: what there is, and their life.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use mayfly_api::{CreateVps, IfBusy, RescueVps, RestartVps, SetVps, StopVps, VpsView};
use mayfly_core::plan::CreateInput;
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
        .routes(routes!(show, set, destroy))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(restart))
        .routes(routes!(rescue))
}

/// All VPSes.
///
/// Nothing is looked up in the pool: `used_bytes` is absent.
#[utoipa::path(
    get,
    path = "/v1/vps",
    responses((status = 200, description = "The VPSes, by id.", body = Vec<VpsView>)),
)]
pub(crate) async fn list(State(state): State<AppState>) -> Answer<Vec<VpsView>> {
    let all = state.blocking(|state| {
        Ok(state
            .engine()
            .vpses()?
            .into_iter()
            .map(|doc| state.view(doc))
            .collect())
    });
    Ok(Json(all.await?))
}

/// One VPS, with what its datasets use.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}",
    responses((status = 200, description = "The VPS.", body = VpsView)),
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    Path(vps): Path<String>,
) -> Answer<VpsView> {
    let view = state.blocking(move |state| {
        let mut view = state.view(state.engine().vps(&vps)?);
        match state.engine().pool() {
            Ok(report) => {
                for dataset in &mut view.datasets {
                    dataset.used_bytes = report
                        .seen
                        .datasets
                        .get(&dataset.dataset)
                        .and_then(|seen| seen.used);
                }
            }
            Err(refusal) => view.notes.push(refusal.message),
        }
        Ok(view)
    });
    Ok(Json(view.await?))
}

/// Makes a VPS from a template.
#[utoipa::path(
    post,
    path = "/v1/vps",
    params(How),
    request_body = CreateVps,
    responses(Changed),
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Params(how): Params<How>,
    Body(wish): Body<CreateVps>,
) -> Result<Response, ApiError> {
    let CreateVps {
        template,
        hostname,
        id,
        disk_bytes,
        memory_bytes,
        cpu_percent,
        impermanence,
        features,
        ssh_keys,
        start,
    } = wish;
    let input = CreateInput {
        id,
        hostname,
        disk: disk_bytes,
        memory: memory_bytes,
        cpu_percent,
        impermanence,
        features,
        ssh_keys,
    };
    state
        .change(
            caller,
            &how,
            None,
            Intent::Create {
                input,
                template,
                start,
            },
        )
        .await
}

/// Starts a VPS; with impermanence on, with a new root.
#[utoipa::path(post, path = "/v1/vps/{vps}/start", params(How), responses(Changed))]
pub(crate) async fn start(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
) -> Result<Response, ApiError> {
    state.change(caller, &how, Some(vps), Intent::Start).await
}

/// Stops a VPS.
#[utoipa::path(
    post,
    path = "/v1/vps/{vps}/stop",
    params(How),
    request_body = StopVps,
    responses(Changed),
)]
pub(crate) async fn stop(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(StopVps {
        timeout_ms,
        force,
        discard,
    }): Body<StopVps>,
) -> Result<Response, ApiError> {
    state
        .change(
            caller,
            &how,
            Some(vps),
            Intent::Stop {
                timeout_ms,
                force,
                discard,
            },
        )
        .await
}

/// Stops a VPS and starts it again.
#[utoipa::path(
    post,
    path = "/v1/vps/{vps}/restart",
    params(How),
    request_body = RestartVps,
    responses(Changed),
)]
pub(crate) async fn restart(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(RestartVps { timeout_ms, force }): Body<RestartVps>,
) -> Result<Response, ApiError> {
    state
        .change(
            caller,
            &how,
            Some(vps),
            Intent::Restart { timeout_ms, force },
        )
        .await
}

/// Boots another system in a VPS, with the VPS's datasets in reach, until the next restart or stop.
#[utoipa::path(
    post,
    path = "/v1/vps/{vps}/rescue",
    params(How),
    request_body = RescueVps,
    responses(Changed),
)]
pub(crate) async fn rescue(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(RescueVps { template, root_at }): Body<RescueVps>,
) -> Result<Response, ApiError> {
    state
        .change(
            caller,
            &how,
            Some(vps),
            Intent::Rescue { template, root_at },
        )
        .await
}

/// Changes the limits of a VPS.
///
/// Absent means unchanged. All of it is changed, or nothing.
#[utoipa::path(
    patch,
    path = "/v1/vps/{vps}",
    params(How),
    request_body = SetVps,
    responses(Changed),
)]
pub(crate) async fn set(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(change): Body<SetVps>,
) -> Result<Response, ApiError> {
    state
        .change(caller, &how, Some(vps), Intent::Set { change })
        .await
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DestroyParams {
    /// Whether the operation is over only when the space is free.
    #[serde(default)]
    now: bool,
    /// Whether to tell the plan and do nothing.
    #[serde(default)]
    dry_run: bool,
    /// What happens where another change of the VPS is under way.
    #[serde(default)]
    if_busy: IfBusy,
}

/// Destroys a VPS with all its data.
#[utoipa::path(
    delete,
    path = "/v1/vps/{vps}",
    params(DestroyParams),
    responses(Changed)
)]
pub(crate) async fn destroy(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(DestroyParams {
        now,
        dry_run,
        if_busy,
    }): Params<DestroyParams>,
) -> Result<Response, ApiError> {
    state
        .change(
            caller,
            &How { dry_run, if_busy },
            Some(vps),
            Intent::Destroy { now },
        )
        .await
}
