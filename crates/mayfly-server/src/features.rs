//! Features of a VPS.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use mayfly_api::{FeatureView, SetFeatures, SetImpermanence};
use mayfly_core::error::{Code, Refusal};
use mayfly_engine::Intent;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::{Body, Caller, How, Params, Path};
use crate::router::{Answer, Changed, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(list, set))
}

/// What features a VPS has.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/features",
    responses((status = 200, description = "All features, whether on or off.", body = Vec<FeatureView>)),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    Path(vps): Path<String>,
) -> Answer<Vec<FeatureView>> {
    let doc = state
        .blocking(move |state| state.engine().vps(&vps))
        .await?;
    Ok(Json(FeatureView::all(&doc)))
}

/// Switches features.
///
/// Absent means unchanged. A VPS that runs is restarted.
#[utoipa::path(
    patch,
    path = "/v1/vps/{vps}/features",
    params(How),
    request_body = SetFeatures,
    responses(Changed),
)]
pub(crate) async fn set(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(wish): Body<SetFeatures>,
) -> Result<Response, ApiError> {
    let intent = intent(&wish)?;
    state.change(caller, &how, Some(vps), intent).await
}

fn intent(wish: &SetFeatures) -> Result<Intent, ApiError> {
    let missing: Vec<_> = wish
        .switches()
        .into_iter()
        .filter_map(|(name, want)| want.map(|_| name))
        .collect();
    if !missing.is_empty() {
        return Err(Refusal::new(
            Code::FeatureUnavailable,
            format!("not built in this version: {}", missing.join(", ")),
            "leave them out; `mayfly feature list` shows what there is",
        )
        .into());
    }
    match &wish.impermanence {
        None => Err(ApiError::invalid(
            "no feature was named",
            "name one: impermanence=on or impermanence=off",
        )),
        Some(SetImpermanence {
            on: true,
            root_quota_bytes,
            root_kind,
        }) => Ok(Intent::ImpermanenceOn {
            root_quota: *root_quota_bytes,
            root_kind: *root_kind,
        }),
        Some(SetImpermanence {
            on: false,
            root_quota_bytes: None,
            root_kind: None,
        }) => Ok(Intent::ImpermanenceOff),
        Some(SetImpermanence { on: false, .. }) => Err(ApiError::invalid(
            "root quota and root kind mean nothing without impermanence",
            "leave them out, or ask for impermanence=on",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Result<Intent, Code> {
        intent(&serde_json::from_str(text).unwrap()).map_err(|e| e.0.code)
    }

    #[test]
    fn what_is_not_built_is_refused_whole() {
        assert!(matches!(
            code(r#"{"impermanence":{"on":true},"nesting":true}"#),
            Err(Code::FeatureUnavailable)
        ));
        assert!(matches!(
            code(r#"{"tun":false}"#),
            Err(Code::FeatureUnavailable)
        ));
        assert!(matches!(code("{}"), Err(Code::Invalid)));
    }

    #[test]
    fn impermanence_goes_on_and_off() {
        assert!(matches!(
            code(r#"{"impermanence":{"on":true}}"#),
            Ok(Intent::ImpermanenceOn {
                root_quota: None,
                ..
            })
        ));
        assert!(matches!(
            code(r#"{"impermanence":{"on":false}}"#),
            Ok(Intent::ImpermanenceOff)
        ));
        assert!(matches!(
            code(r#"{"impermanence":{"on":false,"root_quota_bytes":1}}"#),
            Err(Code::Invalid)
        ));
    }
}
