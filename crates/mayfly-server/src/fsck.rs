//! Looking the node over.

use axum::Json;
use axum::extract::State;
use mayfly_api::FsckView;
use utoipa_axum::routes;

use crate::AppState;
use crate::router::{Answer, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(look, repair))
}

/// Looks the node over and changes nothing.
#[utoipa::path(
    get,
    path = "/v1/fsck",
    responses((status = 200, description = "What is wrong.", body = FsckView)),
)]
pub(crate) async fn look(State(state): State<AppState>) -> Answer<FsckView> {
    answer(state, false).await
}

/// Looks the node over and mends what can be proven.
#[utoipa::path(
    post,
    path = "/v1/fsck",
    responses((status = 200, description = "What is wrong, and what was mended.", body = FsckView)),
)]
pub(crate) async fn repair(State(state): State<AppState>) -> Answer<FsckView> {
    answer(state, true).await
}

async fn answer(state: AppState, repair: bool) -> Answer<FsckView> {
    let report = state.blocking(move |state| state.engine().fsck(repair));
    Ok(Json(view(report.await?)))
}

/// A report as it goes over the wire.
pub fn view(report: mayfly_engine::FsckReport) -> FsckView {
    use mayfly_api::{FindingView, NotMendedView};
    use mayfly_core::fsck::{Finding, Remedy};
    let finding = |found: Finding| {
        let (repair, operator) = match found.remedy {
            Remedy::Repair(repair) => (Some(repair.to_string()), None),
            Remedy::Operator { hint } => (None, Some(hint)),
        };
        FindingView {
            code: found.code.to_string(),
            object: found.object,
            meaning: found.meaning,
            repair,
            operator,
        }
    };
    FsckView {
        findings: report.findings.into_iter().map(finding).collect(),
        mended: report.mended.into_iter().map(finding).collect(),
        not_mended: report
            .failed
            .into_iter()
            .map(|(found, why)| NotMendedView {
                finding: finding(found),
                why: why.message,
            })
            .collect(),
    }
}
