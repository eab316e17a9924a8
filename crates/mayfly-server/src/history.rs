//! What is remembered of the runs of a VPS.

use axum::Json;
use axum::extract::State;
use mayfly_api::{HistoryView, RunEventView};
use utoipa_axum::routes;

use crate::AppState;
use crate::extract::Path;
use crate::router::{Answer, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(show))
}

/// What happened to the runs of a VPS: starts, ends, operations that failed.
///
/// So much as is kept, through restarts of the daemon and of the host; it goes with the VPS. No guest can write it.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/history",
    responses((status = 200, description = "What is remembered.", body = HistoryView)),
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    Path(vps): Path<String>,
) -> Answer<HistoryView> {
    let history = state
        .blocking(move |state| state.engine().history(&state.engine().vps(&vps)?))
        .await?;
    Ok(Json(HistoryView {
        revision: history.revision,
        events: history
            .entries
            .into_iter()
            .map(RunEventView::from)
            .collect(),
    }))
}
