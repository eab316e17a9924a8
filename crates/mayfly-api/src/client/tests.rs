use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::*;

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mayfly-api-{}-{name}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// A node that gives one answer and keeps what it was asked.
fn node(name: &str, answer: &'static str) -> (PathBuf, tokio::task::JoinHandle<String>) {
    let path = scratch(name);
    let listener = UnixListener::bind(&path).unwrap();
    let taken = path.clone();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Whoever is connected needs the name no more.
        std::fs::remove_file(taken).unwrap();
        let mut buffer = vec![0; 16 << 10];
        let n = stream.read(&mut buffer).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    });
    (path, asked)
}

#[tokio::test]
async fn a_node_that_is_not_there_is_unreachable_and_says_how_to_start_it() {
    let error = Client::new("/nonexistent/scratch/api.sock")
        .node()
        .await
        .unwrap_err()
        .into_info();
    assert_eq!(error.code, Code::NodeUnreachable);
    assert_eq!(
        error.hint,
        "start it: mayfly serve --state-dir /nonexistent/scratch"
    );
    let error = Client::new("/var/lib/mayfly/none/../api.sock")
        .node()
        .await
        .unwrap_err()
        .into_info();
    assert!(
        error.message.starts_with("the node at "),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_refusal_keeps_code_and_hint() {
    let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 102\r\nConnection: close\r\n\r\n{\"error\":{\"code\":\"vps.not_found\",\"message\":\"there is no VPS x\",\"hint\":\"see `mayfly list`\",\"operation\":null}}";
    let answer: &str = Box::leak(
        answer
            .replace(
                "102",
                &answer.split("\r\n\r\n").nth(1).unwrap().len().to_string(),
            )
            .into_boxed_str(),
    );
    let (path, asked) = node("refusal", answer);
    let error = Client::new(path)
        .vps("x/../y")
        .await
        .unwrap_err()
        .into_info();
    assert_eq!(
        (error.code, error.hint.as_str()),
        (Code::VpsNotFound, "see `mayfly list`")
    );
    assert!(
        asked
            .await
            .unwrap()
            .starts_with("GET /v1/vps/x%2F..%2Fy HTTP/1.1\r\n")
    );
}

#[tokio::test]
async fn an_answer_that_is_none_is_broken_not_absent() {
    let (path, _) = node("broken", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[{]");
    let error = Client::new(path).vpses().await.unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    let (path, _) = node("cut", "HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n[");
    assert!(matches!(
        Client::new(path).vpses().await,
        Err(ClientError::Broken { .. })
    ));
}

#[tokio::test]
async fn changes_carry_their_body_and_plans_ask_for_a_dry_run() {
    let (path, asked) = node(
        "plan",
        "HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\n{\"plan\":{\"lines\":[],\"steps\":[]}} ",
    );
    let body = crate::SetDataset {
        quota_bytes: mayfly_core::bytes::Bytes::gib(30),
    };
    let change = Change::set_dataset("web1", &"nix".parse().unwrap(), &body);
    let plan = Client::new(path).plan(&change).await.unwrap();
    assert!(plan.plan.lines.is_empty());
    let asked = asked.await.unwrap();
    assert!(
        asked.starts_with("PATCH /v1/vps/web1/datasets/nix?dry_run=true HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(asked.ends_with("{\"quota_bytes\":32212254720}"), "{asked}");
}

#[tokio::test]
async fn lines_are_put_together_across_chunks() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n6\r\n:1}\n\n{\r\n2\r\n}\n\r\n0\r\n\r\n";
    let (path, _) = node("lines", answer);
    let mut lines = Client::new(path).events(Some(7), None).await.unwrap();
    assert_eq!(
        lines.next_line().await.unwrap().as_deref(),
        Some("{\"a\":1}")
    );
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("{}"));
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(5), lines.next_line())
            .await
            .unwrap()
            .unwrap(),
        None
    );
}
