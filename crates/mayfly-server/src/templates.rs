//! Templates.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use mayfly_api::{BuildTemplate, ImportTemplate, PullTemplate, TemplateView};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::names::TemplateName;
use mayfly_core::ports::ImportSource;
use mayfly_core::remote::PullSource;
use mayfly_engine::Intent;
use utoipa_axum::routes;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::{Body, Caller, How, Params, Path};
use crate::router::{Answer, Changed, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default()
        .routes(routes!(list, build))
        .routes(routes!(show, import, remove))
        .routes(routes!(pull))
}

/// All templates.
#[utoipa::path(
    get,
    path = "/v1/templates",
    responses((status = 200, description = "The templates, by name.", body = Vec<TemplateView>)),
)]
pub(crate) async fn list(State(state): State<AppState>) -> Answer<Vec<TemplateView>> {
    let all = state.blocking(|state| state.engine().templates()).await?;
    Ok(Json(all.into_iter().map(TemplateView::from).collect()))
}

/// One template.
#[utoipa::path(
    get,
    path = "/v1/templates/{name}",
    params(("name" = String, Path, description = "A template's name.")),
    responses((status = 200, description = "The template.", body = TemplateView)),
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Answer<TemplateView> {
    let all = state.blocking(|state| state.engine().templates()).await?;
    let found = all
        .into_iter()
        .find(|t| t.name.as_str() == name)
        .ok_or_else(|| not_found(&name))?;
    Ok(Json(found.into()))
}

/// Builds a template from a recipe.
#[utoipa::path(
    post,
    path = "/v1/templates",
    params(How),
    request_body = BuildTemplate,
    responses(Changed),
)]
pub(crate) async fn build(
    State(state): State<AppState>,
    caller: Caller,
    Params(how): Params<How>,
    Body(wish): Body<BuildTemplate>,
) -> Result<Response, ApiError> {
    let BuildTemplate {
        recipe,
        name,
        mirror,
        replace,
    } = wish;
    let name = match name {
        Some(name) => name,
        None => recipe.parse().map_err(|_| {
            ApiError::invalid(
                format!(
                    "recipe `{}` has no name that a template could bear",
                    recipe.escape_debug()
                ),
                "name the template: --name NAME",
            )
        })?,
    };
    state
        .change(
            caller,
            &how,
            None,
            Intent::TemplateBuild {
                recipe,
                name,
                mirror,
                replace,
            },
        )
        .await
}

/// Makes a template of files on the node: a root file system that somebody else made.
#[utoipa::path(
    post,
    path = "/v1/templates/{name}",
    params(("name" = String, Path, description = "The template's name."), How),
    request_body = ImportTemplate,
    responses(Changed),
)]
pub(crate) async fn import(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    Params(how): Params<How>,
    Body(wish): Body<ImportTemplate>,
) -> Result<Response, ApiError> {
    let name: TemplateName = name.parse().map_err(|why| {
        ApiError::invalid(format!("{why}"), "choose another name for the template")
    })?;
    let ImportTemplate {
        archive,
        metadata,
        digest,
        replace,
    } = wish;
    for path in std::iter::once(&archive).chain(&metadata) {
        if !path.starts_with('/') {
            return Err(ApiError::invalid(
                format!("`{}` is no absolute path", path.escape_debug()),
                "name the file by its path on the node, from / on",
            ));
        }
    }
    let source = ImportSource {
        archive,
        metadata,
        digest,
    };
    let intent = Intent::TemplateImport {
        source,
        name,
        replace,
    };
    state.change(caller, &how, None, intent).await
}

/// Makes a template of an image of a server that speaks simplestreams, as those of LXC and Incus do.
#[utoipa::path(
    post,
    path = "/v1/templates/{name}/pull",
    params(("name" = String, Path, description = "The template's name."), How),
    request_body = PullTemplate,
    responses(Changed),
)]
pub(crate) async fn pull(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    Params(how): Params<How>,
    Body(wish): Body<PullTemplate>,
) -> Result<Response, ApiError> {
    let name: TemplateName = name.parse().map_err(|why| {
        ApiError::invalid(format!("{why}"), "choose another name for the template")
    })?;
    let PullTemplate {
        remote,
        image,
        plain_http,
        replace,
    } = wish;
    let intent = Intent::TemplatePull {
        source: PullSource {
            remote,
            image,
            plain_http,
        },
        name,
        replace,
    };
    state.change(caller, &how, None, intent).await
}

/// Removes a template that nothing needs.
#[utoipa::path(
    delete,
    path = "/v1/templates/{name}",
    params(("name" = String, Path, description = "A template's name."), How),
    responses(Changed),
)]
pub(crate) async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    Params(how): Params<How>,
) -> Result<Response, ApiError> {
    let name: TemplateName = name.parse().map_err(|_| not_found(&name))?;
    state
        .change(caller, &how, None, Intent::TemplateRemove { name })
        .await
}

fn not_found(name: &str) -> ApiError {
    let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    Refusal::new(
        Code::TemplateNotFound,
        format!("there is no template {name}"),
        "see `mayfly template list`",
    )
    .into()
}
