//! The description of the API says what there is, and all of it.

use std::collections::BTreeSet;
use std::path::Path;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use mayfly_api::{ConsoleRequest, ConsoleSays, ErrorInfo, ExecRequest, ExecSays, ExecStart};
use mayfly_core::error::{Code, Refusal};
use mayfly_server::Peer;
use serde_json::{Value, json};
use tower_service::Service as _;

use crate::harness::{Node, create};
use crate::schema::Description;

const REFRESH: &str = "MAYFLY_BLESS=1 cargo test -p mayfly-server --test api description";

#[test]
fn the_checked_in_description_is_that_of_the_program() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mayfly-api/openapi.json");
    let now = mayfly_server::description();
    if std::env::var_os("MAYFLY_BLESS").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    let checked_in = std::fs::read_to_string(&file).unwrap();
    let different = checked_in
        .lines()
        .zip(now.lines())
        .find(|(old, new)| old != new);
    assert!(
        checked_in == now,
        "crates/mayfly-api/openapi.json is not what the program is: {different:?}\n\
         see docs/api-policy.md whether the change may be made, then: {REFRESH}"
    );
}

#[test]
fn every_operation_says_what_it_does_and_every_word_is_explained() {
    let described = Description::new();
    let mut ids = BTreeSet::new();
    for ((path, method), operation) in described.operations() {
        let what = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{what}: there are two {id}");
        let summary = operation["summary"].as_str().unwrap_or_default();
        assert!(
            !summary.is_empty(),
            "{what}: its handler has no doc comment"
        );
        let parameters = operation["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let mut in_path = BTreeSet::new();
        for parameter in &parameters {
            let name = parameter["name"].as_str().unwrap();
            assert!(
                parameter["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{what}: nothing says what `{name}` is"
            );
            if parameter["in"] == "path" {
                in_path.insert(name);
            }
        }
        let open: BTreeSet<_> = path
            .split('/')
            .filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        assert_eq!(
            open, in_path,
            "{what}: add params((\"…\" = String, Path, description = \"…\"))"
        );
    }
    references(described.document(), &mut |target| {
        let found = described.document().pointer(target.trim_start_matches('#'));
        assert!(
            found.is_some(),
            "{target} is nowhere; add it to components in describe.rs"
        );
    });
    let codes = described.document()["components"]["schemas"]["Code"]["enum"].clone();
    let all: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(codes, json!(all));
}

fn references(value: &Value, each: &mut impl FnMut(&str)) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" => each(target),
                    _ => references(value, each),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, each)),
        _ => {}
    }
}

/// A route without a description cannot be made but by these.
#[test]
fn no_route_goes_around_the_description() {
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for word in [
            ".route(",
            ".route_service(",
            ".nest(",
            ".nest_service(",
            ".on(",
        ] {
            assert!(
                !text.contains(word),
                "{}: `{word}` makes an address without a description: use `.routes(routes!(…))`",
                path.display()
            );
        }
    }
}

#[tokio::test]
async fn what_is_described_answers_and_nothing_else_does() {
    let node = Node::start().await;
    let described = Description::new();
    let known = described.operations();
    for path in known.keys().map(|(path, _)| path).collect::<BTreeSet<_>>() {
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE"] {
            let address: String = path.replace("{vps}", "web1").replace(['{', '}'], "");
            let request = Request::builder()
                .method(method)
                .uri(&address)
                .extension(Peer { uid: 0 })
                .body(Body::empty())
                .unwrap();
            let answer = node.router().call(request).await.unwrap();
            let lost = if answer.status() == 404 {
                let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
                let body: Value = serde_json::from_slice(&body).unwrap();
                body["error"]["code"] == "api.no_such_route"
            } else {
                false
            };
            let described = known.contains_key(&(path.clone(), method.to_owned()));
            assert_eq!(described, !lost, "{method} {path}");
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_path_that_is_no_text_is_refused_as_everything_is() {
    let node = Node::start().await;
    for (path, method) in Description::new().operations().into_keys() {
        if !path.contains('{') {
            continue;
        }
        let words: Vec<_> = path.split('/').collect();
        let words: Vec<_> = words
            .iter()
            .map(|word| if word.starts_with('{') { "%ff" } else { word })
            .collect();
        let request = format!("{method} {}", words.join("/"));
        let (status, body) = node.raw(&request).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (400, &json!("input.invalid")),
            "{request}"
        );
    }
    node.stop().await;
}

/// The answers themselves are held against their schemas by every test, in the harness.
#[tokio::test]
async fn whatever_can_be_read_is_as_described() {
    let node = Node::start().await;
    node.template("debian-12-impermanence").await;
    let made = node.done(&create("debian-12-impermanence", true)).await;
    let described = Description::new();
    for ((path, method), operation) in described.operations() {
        let tells = &operation["responses"]["200"]["content"]["application/json"];
        if method != "GET" || tells.is_null() {
            continue;
        }
        let address = path
            .replace("{vps}", "web1")
            .replace("templates/{name}", "templates/debian-12-impermanence")
            .replace("operations/{id}", &format!("operations/{}", made.id));
        assert!(
            !address.contains('{'),
            "{path}: say here what stands for it"
        );
        let (status, body) = node.raw(&format!("GET {address}")).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    node.stop().await;
}

#[test]
fn frames_are_as_described() {
    let described = Description::new();
    let error: ErrorInfo =
        Refusal::new(Code::VpsNotRunning, "VPS 100 does not run", "start it").into();
    let start = ExecStart {
        command: vec!["id".into()],
        tty: true,
        rows: 24,
        cols: 80,
        env: [("TERM".to_owned(), "xterm".to_owned())].into(),
    };
    let (rows, cols) = (24, 80);
    for (name, value) in [
        ("ExecStart", json!(start)),
        ("ExecRequest", json!(ExecRequest::Eof(true))),
        ("ExecRequest", json!(ExecRequest::Resize { rows, cols })),
        ("ExecSays", json!(ExecSays::Exit(137))),
        ("ExecSays", json!(ExecSays::Error(error.clone()))),
        (
            "ConsoleRequest",
            json!(ConsoleRequest::Resize { rows, cols }),
        ),
        ("ConsoleSays", json!(ConsoleSays::Note("it ended".into()))),
        ("ConsoleSays", json!(ConsoleSays::Error(error))),
    ] {
        let pointer = format!("/components/schemas/{name}");
        described.check(&pointer, &value).unwrap();
        assert!(
            described.check(&pointer, &json!({"other": 1})).is_err(),
            "{name} takes anything"
        );
    }
}
