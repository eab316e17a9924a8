//! The network of the node, and ports of the host that lead to a VPS.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use mayfly_api::NetworkRemoved;
use mayfly_core::network::{Forward, Protocol};
use mayfly_core::ports::Outcome;
use mayfly_engine::Intent;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::{Body, Caller, How, Params, Path};
use crate::router::{Answer, Changed, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default()
        .routes(routes!(remove))
        .routes(routes!(list, add))
        .routes(routes!(remove_port))
}

/// Removes the network from the host and from the node. Refused while a VPS that is plugged into it runs.
#[utoipa::path(
    delete,
    path = "/v1/network",
    responses((status = 200, description = "What became of it.", body = NetworkRemoved)),
)]
pub(crate) async fn remove(State(state): State<AppState>) -> Answer<NetworkRemoved> {
    let outcome = state.blocking(|state| state.engine().remove_network());
    let removed = outcome.await? == Outcome::Changed;
    Ok(Json(NetworkRemoved { removed }))
}

/// The ports of the host that lead to the VPS.
#[utoipa::path(
    get,
    path = "/v1/vps/{vps}/ports",
    responses((status = 200, description = "The ports.", body = Vec<Forward>)),
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    Path(vps): Path<String>,
) -> Answer<Vec<Forward>> {
    let doc = state
        .blocking(move |state| state.engine().vps(&vps))
        .await?;
    Ok(Json(doc.network.map(|own| own.ports).unwrap_or_default()))
}

/// Has a port of the host lead to the VPS.
#[utoipa::path(
    post,
    path = "/v1/vps/{vps}/ports",
    params(How),
    request_body = Forward,
    responses(Changed),
)]
pub(crate) async fn add(
    State(state): State<AppState>,
    caller: Caller,
    Path(vps): Path<String>,
    Params(how): Params<How>,
    Body(forward): Body<Forward>,
) -> Result<Response, ApiError> {
    state
        .change(caller, &how, Some(vps), Intent::PortAdd { forward })
        .await
}

/// Has it lead there no more.
#[utoipa::path(
    delete,
    path = "/v1/vps/{vps}/ports/{host_port}/{protocol}",
    params(
        ("host_port" = u16, Path, description = "The port of the host."),
        ("protocol" = Protocol, Path, description = "`tcp` or `udp`."),
        How,
    ),
    responses(Changed)
)]
pub(crate) async fn remove_port(
    State(state): State<AppState>,
    caller: Caller,
    Path((vps, host_port, protocol)): Path<(String, u16, Protocol)>,
    Params(how): Params<How>,
) -> Result<Response, ApiError> {
    let intent = Intent::PortRemove {
        host_port,
        protocol,
    };
    state.change(caller, &how, Some(vps), intent).await
}
