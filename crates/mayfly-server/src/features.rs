//! Features of a VPS.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use mayfly_api::{FeatureView, SetFeatures, SetImpermanence};
use mayfly_engine::{FeaturesWish, ImpermanenceWish, Intent};
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
    responses((status = 200, description = "All features, whether on or off, and what the host lacks for them.", body = Vec<FeatureView>)),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    Path(vps): Path<String>,
) -> Answer<Vec<FeatureView>> {
    let (doc, host) = state
        .blocking(move |state| Ok((state.engine().vps(&vps)?, state.engine().host_features()?)))
        .await?;
    Ok(Json(FeatureView::all(&doc, &host)))
}

/// Switches features, and changes limits with them.
///
/// Absent means unchanged. A VPS that runs is restarted where a feature changes; where it does not start with what is wanted,
/// all of that is put back, and it is started as it was.
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
    if *wish == SetFeatures::default() {
        return Err(ApiError::invalid(
            "no feature was named",
            "name one: tun=on or impermanence=off",
        ));
    }
    let impermanence = match wish.impermanence {
        None => None,
        Some(SetImpermanence {
            on: true,
            root_quota_bytes,
            root_kind,
        }) => Some(ImpermanenceWish::On {
            root_quota: root_quota_bytes,
            root_kind,
        }),
        Some(SetImpermanence {
            on: false,
            root_quota_bytes: None,
            root_kind: None,
        }) => Some(ImpermanenceWish::Off),
        Some(SetImpermanence { on: false, .. }) => {
            return Err(ApiError::invalid(
                "root quota and root kind mean nothing without impermanence",
                "leave them out, or ask for impermanence=on",
            ));
        }
    };
    Ok(Intent::SetFeatures {
        wish: FeaturesWish {
            impermanence,
            switches: wish.switches(),
            limits: wish.limits.clone(),
        },
    })
}

#[cfg(test)]
mod tests {
    use mayfly_core::error::Code;
    use mayfly_core::features::Feature;

    use super::*;

    fn read(text: &str) -> Result<FeaturesWish, Code> {
        match intent(&serde_json::from_str(text).unwrap()) {
            Ok(Intent::SetFeatures { wish }) => Ok(wish),
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(e.0.code),
        }
    }

    #[test]
    fn features_and_limits_are_one_wish() {
        let wish = read(
            r#"{"impermanence":{"on":true},"nesting":true,"tun":false,"limits":{"processes":500}}"#,
        )
        .unwrap();
        assert!(matches!(
            wish.impermanence,
            Some(ImpermanenceWish::On {
                root_quota: None,
                ..
            })
        ));
        let switches = [(Feature::Nesting, true), (Feature::Tun, false)];
        assert_eq!(wish.switches, switches.into());
        assert_eq!(wish.limits.processes, Some(500));
        assert!(matches!(read("{}"), Err(Code::Invalid)));
    }

    #[test]
    fn impermanence_goes_off_without_a_quota() {
        let off = read(r#"{"impermanence":{"on":false}}"#).unwrap();
        assert_eq!(off.impermanence, Some(ImpermanenceWish::Off));
        assert!(matches!(
            read(r#"{"impermanence":{"on":false,"root_quota_bytes":1}}"#),
            Err(Code::Invalid)
        ));
    }
}
