//! Files into a VPS and out of it, and what is told of them. The helper is a shell that says what a test wants.

use std::io;

use futures_util::stream;
use mayfly_api::{PutFile, SetPassword};
use mayfly_core::error::Code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Bytes;

use crate::harness::{Node, create, refused};

fn wish(path: &str) -> PutFile {
    PutFile {
        path: path.to_owned(),
        ..PutFile::default()
    }
}

fn pieces(text: &'static str) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    stream::iter([Ok(Bytes::from_static(text.as_bytes())), Ok(Bytes::new())])
}

#[tokio::test]
async fn what_is_put_is_told_with_its_fate() {
    let node = Node::start().await;
    node.template("debian-12-impermanence").await;
    node.done(&create("debian-12-impermanence", true)).await;
    let put = |path: &'static str, text| {
        let client = node.client.clone();
        async move { client.put_file("web1", &wish(path), pieces(text)).await }
    };
    let placed = put("/etc/motd", "hello").await.unwrap();
    assert_eq!((placed.bytes, placed.stays), (5, false), "{}", placed.why);
    let placed = put("/persistent/x", "").await.unwrap();
    assert!(
        placed.stays && placed.why.contains("/persistent"),
        "{}",
        placed.why
    );
    let info = refused(put("/none/x", "").await);
    assert_eq!(info.code, Code::FileNotFound);
    assert!(
        info.message.contains("no file") && !info.message.contains('\x1b'),
        "{}",
        info.message
    );
    assert_eq!(refused(put("/lie", "").await).code, Code::FileRefused);
    for bad in ["etc/motd", ""] {
        assert_eq!(refused(put(bad, "").await).code, Code::Invalid);
    }
    node.stop().await;
}

/// A node that closed as soon as it has answered would fail the next write of a client that has more to send, which then never
/// reads why.
#[tokio::test]
async fn a_refusal_is_heard_by_whoever_still_sends() {
    let node = Node::start().await;
    node.template("debian-12-impermanence").await;
    node.done(&create("debian-12-impermanence", false)).await;

    let mut slow = UnixStream::connect(node.client.socket()).await.unwrap();
    let head = "PUT /v1/vps/web1/file?path=/x HTTP/1.1\r\nhost: x\r\n\
                content-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("vps.not_running") {
        assert!(slow.read_buf(&mut answer).await.unwrap() > 0);
    }
    for _ in 0..100 {
        let chunk = [b"1000\r\n".as_slice(), &[0; 0x1000], b"\r\n"].concat();
        slow.write_all(&chunk).await.unwrap();
    }

    let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 0x1000])));
    let info = refused(node.client.put_file("web1", &wish("/x"), endless).await);
    assert_eq!(info.code, Code::VpsNotRunning);
    node.stop().await;
}

#[tokio::test]
async fn what_is_pulled_is_whole_or_an_error() {
    let node = Node::start().await;
    node.template("debian-12-impermanence").await;
    node.done(&create("debian-12-impermanence", true)).await;
    let mut pulled = node.client.pull_file("web1", "/three").await.unwrap();
    assert_eq!(pulled.mode, 0o600);
    let mut text = Vec::new();
    while let Some(piece) = pulled.next_bytes().await.unwrap() {
        text.extend_from_slice(&piece);
    }
    assert_eq!(text, b"abc");
    // The helper was let end by itself, and had ended before the file was whole.
    let dir = tempfile::tempdir().unwrap();
    let ends = dir.path().join("ends");
    let mut pulled = node
        .client
        .pull_file("web1", ends.to_str().unwrap())
        .await
        .unwrap();
    while pulled.next_bytes().await.unwrap().is_some() {}
    assert!(ends.try_exists().unwrap());
    // Where the beginning and the end of the connection come at once, the beginning may not be seen.
    let short = node.client.pull_file("web1", "/short").await;
    let cut = match short {
        Err(_) => true,
        Ok(mut short) => loop {
            match short.next_bytes().await {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        },
    };
    assert!(cut, "a file that ends early is taken for a whole one");
    let info = refused(node.client.pull_file("web1", "/none").await);
    assert_eq!(info.code, Code::FileNotFound);
    let info = refused(node.client.pull_file("web1", "/lie").await);
    assert_eq!(info.code, Code::FileRefused);
    node.stop().await;
}

#[tokio::test]
async fn a_password_is_one_line_of_a_program_inside() {
    let node = Node::start().await;
    node.template("debian-12").await;
    let set = |user: &'static str, password: &'static str| {
        let client = node.client.clone();
        let wish = SetPassword {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        async move { client.set_password("web1", &wish).await }
    };
    node.done(&create("debian-12", false)).await;
    assert_eq!(refused(set("root", "x").await).code, Code::VpsNotRunning);
    node.done(&mayfly_api::Change::start("web1")).await;
    for (user, password) in [("a:b", "x"), ("root", "x\ny"), ("root", ""), ("", "x")] {
        assert_eq!(refused(set(user, password).await).code, Code::Invalid);
    }
    node.stop().await;
}
