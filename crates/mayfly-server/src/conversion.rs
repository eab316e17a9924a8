//! A persistent VPS made impermanent in one operation, and back.

use axum::extract::State;
use axum::response::Response;
use mayfly_api::ConvertVps;
use mayfly_engine::{ConvertIntent, Intent};
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::{Body, Caller, How, Params, Path};
use crate::router::{Changed, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(convert, revert))
}

/// Makes a persistent VPS impermanent, with everything that takes.
///
/// Its root dataset becomes its storage. A VPS with a system profile in /nix gets a dataset for that, and empty roots; of any other
/// its present system becomes the base that roots are cloned from. It is restarted, and has to be as well as it was before,
/// by its systemd's word: nothing queued, nothing failed that had not. Where anything fails, it is put back and runs as before.
/// It is refused with all reasons at once. `notes` of the operation say what was copied.
#[utoipa::path(
    post,
    path = "/v1/vps/{vps}/conversion",
    params(How),
    request_body = ConvertVps,
    responses(Changed),
)]
pub(crate) async fn convert(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(wish): Body<ConvertVps>,
) -> Result<Response, ApiError> {
    let ConvertVps {
        root_quota_bytes,
        root_kind,
        storage,
        nix_quota_bytes,
        keep,
    } = wish;
    let asked = ConvertIntent {
        root_quota: root_quota_bytes,
        root_kind,
        storage,
        nix_quota: nix_quota_bytes,
        keep,
    };
    state
        .change(caller, &how, Some(vps), Intent::Convert(asked))
        .await
}

/// Makes a VPS that was converted persistent again, with the same data.
///
/// One that runs is restarted, and has to be as well as it was before.
#[utoipa::path(
    delete,
    path = "/v1/vps/{vps}/conversion",
    params(How),
    responses(Changed)
)]
pub(crate) async fn revert(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
) -> Result<Response, ApiError> {
    state.change(caller, &how, Some(vps), Intent::Revert).await
}
