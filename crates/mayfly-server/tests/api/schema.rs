//! What goes in and out, held against the description of the API.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt as _;
use mayfly_core::error::Code;
use serde_json::Value;

const PLACE: &str = "mem://node/openapi.json";

thread_local! {
    /// The description as a schema; its compiler stays in its thread.
    static COMPILED: RefCell<(boon::Compiler, boon::Schemas)> = RefCell::new({
        let document: Value = serde_json::from_str(&mayfly_server::description()).unwrap();
        let mut compiler = boon::Compiler::new();
        compiler.add_resource(PLACE, document).unwrap();
        (compiler, boon::Schemas::new())
    });
}

/// The description of the API. That the checked-in one is the same is a test of its own.
pub(crate) struct Description {
    document: Value,
}

/// An operation of the description: the path as it stands there, and the method.
pub(crate) type Operation = (String, String);

impl Description {
    pub(crate) fn new() -> Arc<Self> {
        let document = serde_json::from_str(&mayfly_server::description()).unwrap();
        Arc::new(Self { document })
    }

    pub(crate) fn document(&self) -> &Value {
        &self.document
    }

    /// Every operation.
    pub(crate) fn operations(&self) -> BTreeMap<Operation, &Value> {
        let mut all = BTreeMap::new();
        for (path, item) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                all.insert((path.clone(), method.to_uppercase()), operation);
            }
        }
        all
    }

    /// The operation that a request is for.
    fn operation_of(&self, method: &str, path: &str) -> Option<Operation> {
        let asked: Vec<_> = path.split('/').collect();
        let mut found = None;
        for (known, of) in self.operations().into_keys() {
            let words: Vec<_> = known.split('/').collect();
            let open = |word: &str| word.starts_with('{');
            // The name of a dataset has slashes of its own.
            let long_enough = words.len() == asked.len()
                || words.len() < asked.len() && words.last().is_some_and(|word| open(word));
            let fits = words
                .iter()
                .zip(&asked)
                .all(|(word, got)| open(word) || word == got);
            if of == method && long_enough && fits {
                let exact = words.len() == asked.len() && !words.last().is_some_and(|w| open(w));
                if exact {
                    return Some((known, of));
                }
                found = Some((known, of));
            }
        }
        found
    }

    /// Says why `value` is not what `pointer` of the description calls for.
    pub(crate) fn check(&self, pointer: &str, value: &Value) -> Result<(), String> {
        let escaped = pointer.replace('{', "%7B").replace('}', "%7D");
        COMPILED.with_borrow_mut(|(compiler, schemas)| {
            let index = compiler
                .compile(&format!("{PLACE}#{escaped}"), schemas)
                .map_err(|e| format!("{pointer}: {e:#}"))?;
            schemas
                .validate(value, index)
                .map_err(|e| format!("{pointer}: {e:#}\n{value:#}"))
        })
    }

    /// Where in the description the answers of an operation with that status are.
    fn answer(&self, of: &Operation, status: u16) -> Option<String> {
        let place = format!("/paths/{}/{}/responses", escape(&of.0), of.1.to_lowercase());
        let class = format!("{}XX", status / 100);
        [status.to_string(), class]
            .into_iter()
            .map(|key| format!("{place}/{key}"))
            .find(|place| self.document.pointer(place).is_some())
            .map(
                |place| match self.document.pointer(&format!("{place}/$ref")) {
                    Some(target) => target.as_str().unwrap().trim_start_matches('#').to_owned(),
                    None => place,
                },
            )
    }

    fn schema(&self, place: &str, content_type: &str) -> Option<String> {
        let pointer = format!("{place}/content/{}/schema", escape(content_type));
        self.document.pointer(&pointer).map(|_| pointer)
    }
}

fn escape(word: &str) -> String {
    word.replace('~', "~0").replace('/', "~1")
}

const RAW: &str = "application/octet-stream";

/// Ends the test where an answer, or a body that was taken, is not as described.
pub(crate) async fn hold(described: Arc<Description>, request: Request, next: Next) -> Response {
    let (method, path) = (
        request.method().to_string(),
        request.uri().path().to_owned(),
    );
    let (head, body) = request.into_parts();
    let is_raw = head.headers.get(CONTENT_TYPE).is_some_and(|v| v == RAW);
    // What is raw goes on as it comes.
    let (sent, body) = match is_raw {
        true => (Bytes::new(), body),
        false => {
            let sent = to_bytes(body, 1 << 20).await.unwrap_or_default();
            (sent.clone(), Body::from(sent))
        }
    };
    let answer = next.run(Request::from_parts(head, body)).await;
    let status = answer.status().as_u16();
    let what = format!("{method} {path}: {status}");
    let Some(of) = described.operation_of(&method, &path) else {
        let (head, body) = answer.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let error: mayfly_api::ErrorBody = serde_json::from_slice(&body).unwrap();
        let nowhere = [Code::NoSuchRoute, Code::Forbidden].contains(&error.error.code);
        assert!(nowhere, "{what}: this address is not in the description");
        return Response::from_parts(head, Body::from(body));
    };
    let Some(place) = described.answer(&of, status) else {
        panic!("{what}: this status is not in the description");
    };
    if (200..300).contains(&status) && (is_raw || !sent.is_empty()) {
        let place = format!(
            "/paths/{}/{}/requestBody",
            escape(&of.0),
            method.to_lowercase()
        );
        let raw = format!("{place}/content/{}", escape(RAW));
        if is_raw {
            let known = described.document.pointer(&raw);
            assert!(
                known.is_some(),
                "{what}: a raw body is not in the description"
            );
        } else {
            let schema = described.schema(&place, "application/json");
            let schema =
                schema.unwrap_or_else(|| panic!("{what}: its body is not in the description"));
            let sent = serde_json::from_slice(&sent).unwrap();
            described
                .check(&schema, &sent)
                .unwrap_or_else(|e| panic!("{what}: the body: {e}"));
        }
    }
    let (head, body) = answer.into_parts();
    let content_type = head
        .headers
        .get(CONTENT_TYPE)
        .map(|v| v.to_str().unwrap().to_owned());
    let Some(content_type) = content_type else {
        return Response::from_parts(head, body);
    };
    let documented = described
        .document
        .pointer(&format!("{place}/content/{}", escape(&content_type)));
    assert!(
        documented.is_some(),
        "{what}: {content_type} is not in the description"
    );
    let Some(schema) = described.schema(&place, &content_type) else {
        return Response::from_parts(head, body);
    };
    let body = if content_type == "application/json" {
        let bytes = to_bytes(body, 16 << 20).await.unwrap();
        let value = serde_json::from_slice(&bytes).unwrap();
        described
            .check(&schema, &value)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        Body::from(bytes)
    } else {
        // One document a line, and whole lines in each piece.
        Body::from_stream(body.into_data_stream().inspect(move |piece| {
            let Ok(piece) = piece else { return };
            for line in piece.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                let value = serde_json::from_slice(line).unwrap();
                described
                    .check(&schema, &value)
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
            }
        }))
    };
    Response::from_parts(head, body)
}
