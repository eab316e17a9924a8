//! What a request carries, checked before a handler sees it.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use mayfly_api::IfBusy;
use mayfly_core::error::{Code, Refusal};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use crate::error::ApiError;
use crate::serve::Peer;

/// A JSON body. None at all is the same as `{}`.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|e| {
            ApiError::invalid(
                format!("the request cannot be read: {}", e.body_text()),
                HINT,
            )
        })?;
        parse_body(&bytes).map(Self)
    }
}

const HINT: &str = "send one JSON document with the fields that the command line shows with --help";

/// Parses a body; the error names the field.
pub(crate) fn parse_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        let place = if path == "." {
            String::new()
        } else {
            format!(", field `{}`", path.escape_debug())
        };
        ApiError::invalid(
            format!("the request is not well formed{place}: {}", e.inner()),
            HINT,
        )
    })?;
    json.end()
        .map_err(|e| ApiError::invalid(format!("the request goes on after its end: {e}"), HINT))?;
    Ok(parsed)
}

/// What stands in the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        let axum::extract::Path(words) = path.map_err(|e| {
            ApiError::invalid(
                format!(
                    "the path {} is not well formed: {}",
                    parts.uri.path(),
                    e.body_text()
                ),
                "name things by their ids or names, as `--json` shows them",
            )
        })?;
        Ok(Self(words))
    }
}

/// The parameters after the `?`.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::from_request_parts(parts, state).await.map_err(|e| {
            ApiError::invalid(
                format!(
                    "the parameters of {} are not well formed: {}",
                    parts.uri.path(),
                    e.body_text()
                ),
                "leave out what is not known",
            )
        })?;
        Ok(Self(params))
    }
}

/// The parameters of every change that has nothing else to say.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct How {
    /// Whether to tell the plan and do nothing.
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// What happens where another change of the VPS, or of templates, is under way.
    #[serde(default)]
    pub(crate) if_busy: IfBusy,
}

/// Who asks: someone who may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    uid: u32,
}

impl Caller {
    /// How the caller is named in operations.
    pub(crate) fn by(self) -> String {
        format!("uid {}", self.uid)
    }

    /// The caller of a request. Who is not known is a stranger.
    pub(crate) fn of(peer: Option<&Peer>) -> Result<Self, ApiError> {
        match peer {
            Some(Peer { uid: 0 }) => Ok(Self { uid: 0 }),
            Some(Peer { uid }) => Err(forbidden(&format!("user id {uid} may not use this node"))),
            None => Err(forbidden("who asks is not known")),
        }
    }
}

fn forbidden(message: &str) -> ApiError {
    Refusal::new(Code::Forbidden, message, "ask as root").into()
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::of(parts.extensions.get())
    }
}

#[cfg(test)]
mod tests {
    use mayfly_api::{CreateVps, SetFeatures, StopVps};

    use super::*;

    fn refusal<T: DeserializeOwned>(text: &str) -> String {
        match parse_body::<T>(text.as_bytes()) {
            Ok(_) => panic!("{text} was taken"),
            Err(e) => e.0.message,
        }
    }

    #[test]
    fn a_bad_body_names_its_field() {
        assert!(
            refusal::<CreateVps>(r#"{"template":"debian-12","id":"x"}"#).contains("field `id`")
        );
        assert!(
            refusal::<CreateVps>(r#"{"template":"debian-12","memory":1}"#).contains("`memory`")
        );
        assert!(refusal::<CreateVps>("").contains("missing field `template`"));
        assert!(refusal::<CreateVps>("[").starts_with("the request is not well formed"));
        assert!(
            refusal::<SetFeatures>(r#"{"impermanence":{"on":1}}"#)
                .contains("field `impermanence.on`")
        );
        assert!(refusal::<StopVps>("{} x").starts_with("the request goes on after its end"));
    }

    #[test]
    fn no_body_means_no_wishes() {
        assert!(parse_body::<StopVps>(b"").is_ok_and(|body| body == StopVps::default()));
    }

    #[test]
    fn only_root_is_let_in() {
        assert!(Caller::of(Some(&Peer { uid: 0 })).is_ok());
        for stranger in [
            None,
            Some(&Peer { uid: 1000 }),
            Some(&Peer { uid: u32::MAX }),
        ] {
            assert!(Caller::of(stranger).is_err_and(|e| e.0.code == Code::Forbidden));
        }
    }
}
