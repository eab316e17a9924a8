//! What a VPS should be asked about before its next start.

use axum::Json;
use axum::extract::State;
use mayfly_api::DoctorView;
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::Path;
use crate::router::{Answer, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(show))
}

/// Looks a VPS over, and of a NixOS its configuration too, whether it runs or not.
///
/// The configuration is read and not evaluated: what would have to be is told with its place. A configuration that
/// makes no sense is told, and is no error.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/doctor",
    responses((status = 200, description = "What was found.", body = DoctorView)),
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    Path(vps): Path<String>,
) -> Answer<DoctorView> {
    let found = state
        .blocking(move |state| state.engine().doctor(&vps))
        .await?;
    Ok(Json(DoctorView {
        id: found.doc.id,
        hostname: found.doc.hostname,
        impermanent: found.doc.impermanence.is_some(),
        configuration: found.configuration,
        files: found.files,
        findings: found.findings,
    }))
}
