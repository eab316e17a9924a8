//! Client and server over a real socket, with the real engine on a host in memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod description;
mod doctor;
mod events;
mod exec;
mod files;
mod harness;
mod limits;
mod persist;
mod schema;

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use harness::{Node, create, field, refused};
use mayfly_api::{Change, EventView, FeatureState, SetFeatures, StopVps, VpsState};
use mayfly_core::documents::OperationState;
use mayfly_core::error::Code;
use mayfly_core::features::{Feature, FeatureSeen, LimitsChange};
use tower_service::Service as _;

#[tokio::test]
async fn a_vps_lives_over_the_socket() {
    let node = Node::start().await;
    node.template("debian-12-impermanence").await;
    let made = node.done(&create("debian-12-impermanence", true)).await;
    let id = made.vps.unwrap().to_string();
    let web = node.client.vps("web1").await.unwrap();
    assert_eq!(
        (web.state, web.id.to_string()),
        (VpsState::Running, id.clone())
    );
    let first = web.run.unwrap().root;
    assert!(
        first.as_str().starts_with(&format!("{id}.impermanence-")),
        "{first}"
    );

    let restart = Change::restart("web1", &mayfly_api::RestartVps::default());
    let plan = node.client.plan(&restart).await.unwrap().plan;
    assert!(
        plan.lines.len() > 3 && plan.lines.len() == plan.steps.len(),
        "{plan:?}"
    );
    assert_eq!(
        node.client.vps("web1").await.unwrap().run.unwrap().root,
        first,
        "a plan changed something"
    );
    let op = node.done(&restart).await;
    assert_eq!(
        (op.verb.as_str(), op.by.as_str(), op.steps_done),
        ("restart", "uid 0", op.lines.len())
    );
    assert_ne!(node.client.vps(&id).await.unwrap().run.unwrap().root, first);

    node.done(&Change::stop(
        &id,
        &StopVps {
            force: true,
            ..StopVps::default()
        },
    ))
    .await;
    let web = node.client.vps("web1").await.unwrap();
    assert!(web.state == VpsState::Stopped && web.run.is_none() && web.last_root.is_some());
    let again = node
        .client
        .submit(&Change::stop(&id, &StopVps::default()))
        .await
        .unwrap();
    let again = node
        .client
        .operation(&again.id.as_str()[..14], Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(again.state, OperationState::Failed);
    let why = again.error.unwrap();
    assert_eq!(
        (why.code, why.operation),
        (Code::VpsNotRunning, Some(again.id))
    );

    node.done(&Change::destroy("web1", true)).await;
    assert_eq!(
        refused(node.client.vps("web1").await).code,
        Code::VpsNotFound
    );
    assert!(node.client.vpses().await.unwrap().is_empty());
    node.stop().await;
}

#[tokio::test]
async fn datasets_mounts_and_features_have_addresses() {
    let node = Node::start().await;
    node.template("debian-12").await;
    node.done(&create("debian-12", false)).await;
    let quota = |text: &str| text.parse().unwrap();
    let root = mayfly_api::SetDataset {
        quota_bytes: quota("10G"),
    };
    node.done(&Change::set_dataset("web1", &Default::default(), &root))
        .await;
    for name in ["srv", "srv/data"] {
        let body = mayfly_api::CreateDataset {
            name: name.parse().unwrap(),
            quota_bytes: quota("1G"),
            mount: Some(format!("/{name}").parse().unwrap()),
        };
        node.done(&Change::create_dataset("web1", &body)).await;
    }
    let deep = "srv/data".parse().unwrap();
    node.done(&Change::set_dataset(
        "web1",
        &deep,
        &mayfly_api::SetDataset {
            quota_bytes: quota("2G"),
        },
    ))
    .await;
    let all = node.client.datasets("web1").await.unwrap();
    assert_eq!(
        (all.len(), all[2].quota_bytes, all[2].mounted_at.len()),
        (3, quota("2G"), 1)
    );
    assert!(all.iter().all(|d| d.used_bytes.is_some()));
    node.done(&Change::remove_mount("web1", &"/srv/data".parse().unwrap()))
        .await;
    node.done(&Change::destroy_dataset("web1", &deep, false))
        .await;
    assert_eq!(node.client.mounts("web1").await.unwrap().len(), 1);

    let features = node.client.features("web1").await.unwrap();
    assert_eq!(features[0].state, FeatureState::Off);
    let wish = |n: u32| SetFeatures {
        fuse: Some(true),
        ppp: Some(n == 1),
        limits: LimitsChange {
            processes: Some(500),
            ..LimitsChange::default()
        },
        ..SetFeatures::default()
    };
    node.host.set_feature(Feature::Ppp, FeatureSeen::NoDevice);
    let refusal = node.failed(&Change::set_features("web1", &wish(1))).await;
    assert_eq!(refusal.code, Code::FeatureUnavailable);
    let features = node.client.features("web1").await.unwrap();
    assert!(features.iter().all(|f| f.state != FeatureState::On));
    node.done(&Change::set_features("web1", &wish(2))).await;
    let features = node.client.features("web1").await.unwrap();
    let states: Vec<_> = features
        .iter()
        .map(|f| (f.name.as_str(), f.state))
        .collect();
    assert!(states.contains(&("fuse", FeatureState::On)), "{states:?}");
    assert!(states.contains(&("ppp", FeatureState::Unavailable)));
    let shown = node.client.vps("web1").await.unwrap();
    assert_eq!(shown.features, [Feature::Fuse].into());
    assert_eq!(shown.limits.processes, Some(500));
    node.stop().await;
}

#[tokio::test]
async fn refusals_are_json_whatever_was_asked() {
    let node = Node::start().await;
    for (request, status, code, part) in [
        (
            "GET /v1/nothing",
            404,
            "api.no_such_route",
            "GET /v1/nothing",
        ),
        (
            "DELETE /v1/pool",
            404,
            "api.no_such_route",
            "DELETE /v1/pool",
        ),
        ("GET /v1/vps/web9", 404, "vps.not_found", "web9"),
        (
            "GET /v1/vps/%00%1b%5b2J",
            404,
            "vps.not_found",
            "\\u{1b}[2J",
        ),
        ("GET /v1/templates/x", 404, "template.not_found", "x"),
        ("GET /v1/operations/zz", 404, "operation.not_found", "zz"),
        ("GET /v1/operations/0?wait=1", 400, "input.invalid", "wait"),
        (
            "POST /v1/vps/web9/start?dry=true",
            400,
            "input.invalid",
            "dry",
        ),
        ("GET /v1/vps/web9/exec", 400, "input.invalid", "websocket"),
        (
            "DELETE /v1/vps/web9/mounts?path=nix",
            400,
            "input.invalid",
            "absolute",
        ),
        (
            "PATCH /v1/vps/web9/datasets/a%2F..%2Fb {\"quota_bytes\":1}",
            400,
            "input.invalid",
            "a/../b",
        ),
        (
            "POST /v1/vps {\"template\":\"d\",\"id\":\"x\"}",
            400,
            "input.invalid",
            "field `id`",
        ),
        (
            "POST /v1/vps {\"template\":\"d\",\"ram\":1}",
            400,
            "input.invalid",
            "ram",
        ),
        ("POST /v1/vps {", 400, "input.invalid", "not well formed"),
        (
            "POST /v1/vps {\"template\":\"nope\"}",
            404,
            "template.not_found",
            "nope",
        ),
        (
            "PATCH /v1/vps/web9 {\"memory_bytes\":null}",
            400,
            "input.invalid",
            "field `memory_bytes`",
        ),
        (
            "PATCH /v1/vps/web9 {\"ram_bytes\":1}",
            400,
            "input.invalid",
            "ram_bytes",
        ),
        (
            "PATCH /v1/vps/web9 {\"processes\":300}",
            404,
            "vps.not_found",
            "web9",
        ),
        (
            "PATCH /v1/vps/web9/persistence {\"add\":[{\"path\":\"srv\"}]}",
            400,
            "input.invalid",
            "absolute",
        ),
        (
            "PATCH /v1/vps/web9/persistence {\"remove\":[\"/a/../b\"]}",
            400,
            "input.invalid",
            "`..` is not allowed",
        ),
        (
            "PATCH /v1/vps/web9/persistence {\"add\":[{\"path\":\"/srv\",\"tier\":\"dear\"}]}",
            400,
            "input.invalid",
            "field `add[0].tier`",
        ),
        (
            "PATCH /v1/vps/web9/persistence {\"add\":[{\"path\":\"/srv\"}]}",
            404,
            "vps.not_found",
            "web9",
        ),
        ("GET /v1/vps/web9/persistence", 404, "vps.not_found", "web9"),
        (
            "PATCH /v1/vps/web9/features {}",
            400,
            "input.invalid",
            "no feature",
        ),
    ] {
        let (got, body) = node.raw(request).await;
        assert_eq!(got, status, "{request}: {body}");
        assert_eq!(body["error"]["code"], code, "{request}: {body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{request}: {message}");
        assert!(
            !body["error"]["hint"].as_str().unwrap().is_empty(),
            "{request}: no next step"
        );
    }
    let (status, body) = node
        .raw(&format!(
            "POST /v1/vps {{\"template\":\"{}\"}}",
            "x".repeat(70_000)
        ))
        .await;
    assert_eq!(
        (status, field(&body, "code")),
        (400, "input.invalid".to_owned())
    );
    node.stop().await;
}

#[tokio::test]
async fn strangers_learn_nothing() {
    let node = Node::start().await;
    for peer in [None, Some(mayfly_server::Peer { uid: 1000 })] {
        for address in [
            "/v1/node",
            "/v1/vps",
            "/v1/events",
            "/v1/nothing",
            "/v1/vps/x/exec",
        ] {
            let mut request = Request::get(address).body(Body::empty()).unwrap();
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            let answer = node.router().call(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{address}");
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_pool_that_cannot_be_looked_at_is_not_an_empty_one() {
    let node = Node::start().await;
    node.template("debian-12").await;
    node.done(&create("debian-12", false)).await;
    assert_eq!(
        node.client
            .pool()
            .await
            .unwrap()
            .datasets
            .iter()
            .filter(|d| d.role == "persistent")
            .count(),
        1
    );
    node.host.fail_looks("pool");
    assert_eq!(refused(node.client.pool().await).code, Code::CouldNotLook);
    assert_eq!(
        refused(node.client.datasets("web1").await).code,
        Code::CouldNotLook
    );
    let status = node.client.node().await.unwrap();
    assert!(status.space.is_none() && status.vpses == 1 && !status.trouble.is_empty());
    let web = node.client.vps("web1").await.unwrap();
    assert!(web.datasets[0].used_bytes.is_none() && !web.notes.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn events_tell_every_change_in_order() {
    let node = Node::start().await;
    let mut lines = node.client.events(None, None).await.unwrap();
    node.template("debian-12").await;
    let made = node.done(&create("debian-12", true)).await;
    let mut seen = Vec::new();
    let over = loop {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line())
            .await
            .expect("events stopped");
        let event: EventView = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        assert!(
            seen.last()
                .is_none_or(|last: &EventView| last.revision <= event.revision)
        );
        let over = event
            .operation
            .as_ref()
            .is_some_and(|op| op.id == made.id && op.state.is_over());
        seen.push(event);
        if over {
            break seen.last().unwrap().revision;
        }
    };
    let kinds = |kind: &str| seen.iter().filter(|e| e.kind == kind).count();
    assert!(
        kinds("template") == 1 && kinds("operation") > 4 && kinds("vps") > 1,
        "{seen:?}"
    );
    assert!(seen.iter().any(|e| {
        e.vps
            .as_ref()
            .is_some_and(|v| v.hostname.as_str() == "web1")
    }));
    let mut later = node.client.events(Some(over - 1), None).await.unwrap();
    let first: EventView =
        serde_json::from_str(&later.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(first.revision, over);
    node.stop().await;
}
