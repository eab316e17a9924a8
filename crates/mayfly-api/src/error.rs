//! The one form of every error.

use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::OperationId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What stands under `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorInfo {
    /// What kind of error; never changes its meaning.
    pub code: Code,
    /// The object and the reason.
    pub message: String,
    /// The next step, usually a command to type.
    pub hint: String,
    /// The operation that failed, where there was one.
    #[serde(default)]
    pub operation: Option<OperationId>,
}

/// The body of every answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorInfo,
}

impl From<Refusal> for ErrorInfo {
    fn from(refusal: Refusal) -> Self {
        let Refusal {
            code,
            message,
            hint,
        } = refusal;
        Self {
            code,
            message,
            hint,
            operation: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_look_as_documented() {
        let refusal = Refusal::new(
            Code::VpsNotFound,
            "there is no VPS web9",
            "see `mayfly list`",
        );
        let body = ErrorBody {
            error: refusal.into(),
        };
        let text = serde_json::to_string(&body).unwrap();
        assert_eq!(
            text,
            r#"{"error":{"code":"vps.not_found","message":"there is no VPS web9","hint":"see `mayfly list`","operation":null}}"#
        );
        assert_eq!(serde_json::from_str::<ErrorBody>(&text).unwrap(), body);
    }
}
