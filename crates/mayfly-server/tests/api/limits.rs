//! Limits over the socket.

use std::time::Duration;

use mayfly_api::{Change, SetVps};
use mayfly_core::documents::OperationState;
use mayfly_core::error::Code;

use crate::harness::{Node, create};

#[tokio::test]
async fn limits_are_changed_together_or_not_at_all() {
    let node = Node::start().await;
    node.template("debian-12").await;
    let vps = node.done(&create("debian-12", true)).await.vps.unwrap();
    let body = |text: &str| serde_json::from_str::<SetVps>(text).unwrap();
    let first = node.client.vps("web1").await.unwrap().limits;
    let all = Change::set(
        "web1",
        &body(
            r#"{"memory_bytes":1073741824,"swap_bytes":536870912,"cpu_percent":50,"processes":300}"#,
        ),
    );
    let plan = node.client.plan(&all).await.unwrap().plan;
    assert_eq!(plan.lines.len(), 2, "{plan:?}");
    assert!(plan.lines[0].ends_with("to memory 1G, swap 512M, 0.5 CPUs, 300 processes"));
    assert_eq!(node.client.vps("web1").await.unwrap().limits, first);

    let op = node.done(&all).await;
    assert_eq!((op.verb.as_str(), op.steps_done), ("set", 2));
    let web = node.client.vps("web1").await.unwrap();
    assert_eq!(node.host.limits_of(vps).as_ref(), Some(&web.limits));
    assert_eq!(
        (web.limits.cpu_percent, web.limits.processes),
        (Some(50), Some(300))
    );
    // Absent is unchanged, null is no limit.
    node.done(&Change::set("web1", &body(r#"{"cpu_percent":null}"#)))
        .await;
    let free = node.client.vps("web1").await.unwrap().limits;
    assert_eq!((free.cpu_percent, free.processes), (None, Some(300)));
    assert_eq!(node.host.limits_of(vps).as_ref(), Some(&free));

    node.host.use_memory(vps, "700M".parse().unwrap());
    let less = Change::set(
        "web1",
        &body(r#"{"memory_bytes":536870912,"processes":400}"#),
    );
    let refused = node.client.submit(&less).await.unwrap();
    let refused = node
        .client
        .operation(refused.id.as_str(), Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(refused.state, OperationState::Failed);
    assert_eq!(refused.error.unwrap().code, Code::LimitBelowUse);
    assert_eq!(node.client.vps("web1").await.unwrap().limits, free);
    assert_eq!(node.host.limits_of(vps), Some(free));
    node.stop().await;
}
