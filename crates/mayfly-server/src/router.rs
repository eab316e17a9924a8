//! Addresses and what answers at them.

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use mayfly_core::error::{Code, Refusal};

use crate::error::ApiError;
use crate::extract::Caller;
use crate::{
    AppState, console, datasets, events, exec, features, log, mounts, node, operations, templates,
    vpses,
};

/// No request is larger.
const BODY_LIMIT: usize = 64 << 10;

/// What a handler that only tells something answers.
pub(crate) type Answer<T> = Result<Json<T>, ApiError>;

/// All addresses. A request without a [`crate::Peer`] among its extensions is refused.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/v1/node", get(node::show))
        .route("/v1/pool", get(node::pool))
        .route("/v1/templates", get(templates::list).post(templates::build))
        .route(
            "/v1/templates/{name}",
            get(templates::show).delete(templates::remove),
        )
        .route("/v1/vps", get(vpses::list).post(vpses::create))
        .route(
            "/v1/vps/{vps}",
            get(vpses::show).patch(vpses::set).delete(vpses::destroy),
        )
        .route("/v1/vps/{vps}/start", post(vpses::start))
        .route("/v1/vps/{vps}/stop", post(vpses::stop))
        .route("/v1/vps/{vps}/restart", post(vpses::restart))
        .route("/v1/vps/{vps}/exec", get(exec::open))
        .route("/v1/vps/{vps}/console", get(console::open))
        .route("/v1/vps/{vps}/log", get(log::show))
        .route(
            "/v1/vps/{vps}/datasets",
            get(datasets::list).post(datasets::create),
        )
        .route(
            "/v1/vps/{vps}/datasets/{*name}",
            patch(datasets::set).delete(datasets::destroy),
        )
        .route(
            "/v1/vps/{vps}/mounts",
            get(mounts::list).post(mounts::add).delete(mounts::remove),
        )
        .route(
            "/v1/vps/{vps}/features",
            get(features::list).patch(features::set),
        )
        .route("/v1/operations", get(operations::list))
        .route("/v1/operations/{id}", get(operations::show))
        .route("/v1/events", get(events::follow))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_route)
        .layer(middleware::from_fn(let_in))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(state)
}

/// Nobody learns anything, not even which addresses there are, before it is known who asks.
async fn let_in(_: Caller, request: Request, next: Next) -> Response {
    next.run(request).await
}

async fn no_such_route(method: Method, uri: Uri) -> ApiError {
    Refusal::new(
        Code::NoSuchRoute,
        format!("there is no {method} {}", uri.path().escape_debug()),
        "see whether client and node are of the same version: mayfly status",
    )
    .into()
}
