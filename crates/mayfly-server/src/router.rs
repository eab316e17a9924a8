//! Addresses and what answers at them. Each group's file has its own; none gets in without its description.

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Json, Router};
use mayfly_api::{OperationView, PlanBody};
use mayfly_core::error::{Code, Refusal};
use utoipa::IntoResponses;
use utoipa_axum::router::OpenApiRouter;

use crate::error::ApiError;
use crate::{
    AppState, console, conversion, datasets, describe, doctor, events, exec, features, files, fsck,
    history, log, mounts, network, node, operations, persist, reinstall, templates, vpses,
};

/// No request is larger.
const BODY_LIMIT: usize = 64 << 10;

/// Addresses with their descriptions.
pub(crate) type Routes = OpenApiRouter<AppState>;

/// What a handler that only tells something answers.
pub(crate) type Answer<T> = Result<Json<T>, ApiError>;

/// What a handler that changes something answers, for its description.
#[derive(IntoResponses)]
#[expect(
    dead_code,
    clippy::large_enum_variant,
    reason = "only described, never made; the engine decides which of the two it is"
)]
pub(crate) enum Changed {
    /// The change was taken on; ask `/v1/operations/{id}` how far it is.
    #[response(status = 202)]
    Operation(OperationView),
    /// With `dry_run=true`: what would be done. Nothing was changed.
    #[response(status = 200)]
    Plan(PlanBody),
}

/// Some addresses that have to do with each other.
pub(crate) struct Group {
    /// What they are called.
    pub(crate) name: &'static str,
    /// What they are about.
    pub(crate) about: &'static str,
    /// They.
    pub(crate) routes: fn() -> Routes,
}

const fn group(name: &'static str, about: &'static str, routes: fn() -> Routes) -> Group {
    Group {
        name,
        about,
        routes,
    }
}

/// All groups.
pub(crate) const GROUPS: &[Group] = &[
    group("api", "This description", describe::routes),
    group("node", "The node and its pool", node::routes),
    group("fsck", "What is wrong with the node", fsck::routes),
    group("template", "What VPSes are made from", templates::routes),
    group("vps", "VPSes and their life", vpses::routes),
    group(
        "reinstall",
        "Contents replaced by a template's",
        reinstall::routes,
    ),
    group(
        "conversion",
        "A persistent VPS made impermanent, and back",
        conversion::routes,
    ),
    group("exec", "Programs inside a VPS", exec::routes),
    group(
        "file",
        "Files inside a VPS, and its passwords",
        files::routes,
    ),
    group("console", "The console of a VPS", console::routes),
    group("log", "What the console printed", log::routes),
    group("history", "What happened to runs", history::routes),
    group("dataset", "Datasets of a VPS", datasets::routes),
    group("mount", "Mounts of a VPS", mounts::routes),
    group(
        "network",
        "The network, and ports of the host",
        network::routes,
    ),
    group(
        "persistence",
        "What of a VPS is declared to stay",
        persist::routes,
    ),
    group(
        "doctor",
        "What a VPS should be asked about before its next start",
        doctor::routes,
    ),
    group("feature", "Features of a VPS", features::routes),
    group(
        "operation",
        "Changes under way and past",
        operations::routes,
    ),
    group("event", "Changes as they happen", events::routes),
];

/// All addresses. A request without a [`crate::Peer`] among its extensions is refused.
pub fn router(state: AppState) -> Router {
    GROUPS
        .iter()
        .fold(Router::new(), |all, group| {
            all.merge(Router::from((group.routes)()))
        })
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_route)
        .layer(middleware::from_fn(let_in))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(state)
}

/// Nobody learns anything, not even which addresses there are, before it is known who asks.
async fn let_in(_: crate::extract::Caller, request: Request, next: Next) -> Response {
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
