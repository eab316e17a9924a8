//! The description of the API (OpenAPI 3.1), made from what stands at each handler.
//!
//! A handler says its method, path, parameters, body and answer. What all have in common is added here: the errors, the
//! VPS in the path, the group, an id. The result is checked in with `mayfly-api`, and that text is what the node serves.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use mayfly_api::{
    ConsoleRequest, ConsoleSays, ErrorBody, ExecRequest, ExecSays, ExecStart, IfBusy, OPENAPI,
    OperationView, PlanBody,
};
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, Schema, Type};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, Content, InfoBuilder, LicenseBuilder, OpenApi as Document, PathItem, Ref, RefOr,
    Required, ResponseBuilder,
};
use utoipa_axum::routes;

use crate::router::{GROUPS, Routes};

const ABOUT: &str = "What `mayfly serve` answers over the unix socket in its state directory (`api.sock`). Only root is \
let in. Sizes are bytes (`*_bytes`), durations and times milliseconds (`*_ms`, `*_unix_ms` since 1970).

Requests refuse fields and parameters that they do not know; answers may gain fields and codes. A change is answered \
with an operation (202), which goes on whether or not anybody waits; with `dry_run=true`, with its plan (200).";

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default().routes(routes!(show))
}

/// This description.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    responses((status = 200, description = "An OpenAPI 3.1 document.", body = serde_json::Value))
)]
pub(crate) async fn show() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// What is named at no handler: errors, the answers of changes, the frames of the websockets.
#[derive(OpenApi)]
#[openapi(components(schemas(
    ErrorBody,
    IfBusy,
    OperationView,
    PlanBody,
    ExecStart,
    ExecRequest,
    ExecSays,
    ConsoleRequest,
    ConsoleSays
)))]
struct Common;

/// The description of every address: JSON to be read by people as well, the same for the same program.
pub fn description() -> String {
    let mut all = Common::openapi();
    all.info = InfoBuilder::new()
        .title("Mayfly")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(
            LicenseBuilder::new()
                .name("Apache-2.0")
                .identifier(Some("Apache-2.0"))
                .build(),
        ))
        .build();
    all.tags = Some(
        GROUPS
            .iter()
            .map(|group| {
                TagBuilder::new()
                    .name(group.name)
                    .description(Some(group.about))
                    .build()
            })
            .collect(),
    );
    for group in GROUPS {
        take_in(&mut all, group.name, (group.routes)().into_openapi());
    }
    let Document {
        paths, components, ..
    } = &mut all;
    let components = components.get_or_insert_with(Components::new);
    for item in paths.paths.values_mut() {
        for operation in operations(item) {
            let_body_out(operation, components);
        }
    }
    let errors = ResponseBuilder::new()
        .description("Refused or failed: the object and the reason, and what to do.")
        .content(
            "application/json",
            Content::new(Some(Ref::from_schema_name("ErrorBody"))),
        )
        .build();
    components
        .responses
        .insert("Error".to_owned(), errors.into());
    let mut text = serde_json::to_string_pretty(&all).expect("a description is plain data");
    text.push('\n');
    text
}

fn take_in(all: &mut Document, group: &str, part: Document) {
    for (path, mut item) in part.paths.paths {
        for operation in operations(&mut item) {
            finish(operation, group, &path);
        }
        // OpenAPI has no word for the rest of a path.
        let path = path.replace("{*", "{");
        match all.paths.paths.get_mut(&path) {
            Some(known) => known.merge_operations(item),
            None => {
                all.paths.paths.insert(path, item);
            }
        }
    }
    let schemas = part.components.map(|c| c.schemas).unwrap_or_default();
    all.components
        .get_or_insert_with(Components::new)
        .schemas
        .extend(schemas);
}

/// A body in which nothing has to be said may be left out.
fn let_body_out(operation: &mut Operation, components: &Components) {
    let Some(body) = &mut operation.request_body else {
        return;
    };
    let nothing_to_say = body.content.values().all(|content| {
        let Some(RefOr::Ref(name)) = &content.schema else {
            return false;
        };
        let name = name.ref_location.rsplit('/').next().unwrap_or_default();
        matches!(components.schemas.get(name),
            Some(RefOr::T(Schema::Object(object))) if object.required.is_empty())
    });
    if nothing_to_say {
        body.required = Some(Required::False);
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.patch,
        &mut item.delete,
    ]
    .into_iter()
    .flatten()
}

fn finish(operation: &mut Operation, group: &str, path: &str) {
    operation.tags = Some(vec![group.to_owned()]);
    // The name of the handler, which other groups have as well.
    let name = operation.operation_id.take().unwrap_or_default();
    operation.operation_id = Some(format!("{group}_{name}"));
    if path.contains("{vps}") {
        let vps = ParameterBuilder::new()
            .name("vps")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("A VPS, by id or host name."))
            .schema(Some(Object::with_type(Type::String)))
            .build();
        operation.parameters.get_or_insert_default().insert(0, vps);
    }
    for class in ["4XX", "5XX"] {
        operation
            .responses
            .responses
            .insert(class.to_owned(), Ref::from_response_name("Error").into());
    }
}
