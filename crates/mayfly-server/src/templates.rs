//! Templates.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use mayfly_api::{BuildTemplate, TemplateView};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::names::TemplateName;
use mayfly_engine::Intent;

use crate::AppState;
use crate::error::ApiError;
use crate::extract::{Body, Caller, Dry, Params};
use crate::router::Answer;

pub(crate) async fn list(State(state): State<AppState>) -> Answer<Vec<TemplateView>> {
    let all = state.blocking(|state| state.engine().templates()).await?;
    Ok(Json(all.into_iter().map(TemplateView::from).collect()))
}

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

pub(crate) async fn build(
    State(state): State<AppState>,
    caller: Caller,
    Params(dry): Params<Dry>,
    Body(wish): Body<BuildTemplate>,
) -> Result<Response, ApiError> {
    let BuildTemplate {
        recipe,
        name,
        mirror,
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
            &dry,
            None,
            Intent::TemplateBuild {
                recipe,
                name,
                mirror,
            },
        )
        .await
}

pub(crate) async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    Params(dry): Params<Dry>,
) -> Result<Response, ApiError> {
    let name: TemplateName = name.parse().map_err(|_| not_found(&name))?;
    state
        .change(caller, &dry, None, Intent::TemplateRemove { name })
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
