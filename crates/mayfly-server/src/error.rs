//! Errors as answers.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mayfly_api::{ErrorBody, ErrorInfo};
use mayfly_core::error::{Code, Refusal};

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) ErrorInfo);

impl ApiError {
    /// A request that is not well formed.
    pub(crate) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal::new(Code::Invalid, message, hint).into()
    }

    /// A mistake of this program.
    pub(crate) fn internal(what: impl std::fmt::Display) -> Self {
        tracing::error!("internal: {what}");
        Refusal::new(
            Code::Internal,
            "the node made a mistake",
            "see the log of `mayfly serve`, and report it",
        )
        .into()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.into())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}
