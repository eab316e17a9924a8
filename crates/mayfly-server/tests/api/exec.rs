//! Programs and consoles over websockets.

use std::time::Duration;

use crate::harness::{Node, console_frame, create};
use futures_util::{SinkExt as _, StreamExt as _};
use mayfly_api::{Change, ExecRequest, ExecSays, ExecStart, paths};
use mayfly_core::error::Code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;

async fn exec(
    node: &Node,
    start: &ExecStart,
    typed: &[u8],
) -> (Result<i32, Code>, Vec<u8>, Vec<u8>) {
    let mut socket = node
        .client
        .websocket(&paths::of_vps("web1", "exec"))
        .await
        .unwrap();
    let text = |value: String| Message::text(value);
    socket
        .send(text(serde_json::to_string(start).unwrap()))
        .await
        .unwrap();
    let _ = socket.send(Message::Binary(typed.to_vec().into())).await;
    let _ = socket
        .send(text(
            serde_json::to_string(&ExecRequest::Eof(true)).unwrap(),
        ))
        .await;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match tokio::time::timeout(Duration::from_secs(20), socket.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            Message::Binary(frame) => {
                let stream = if frame[0] == mayfly_api::STDOUT {
                    &mut stdout
                } else {
                    &mut stderr
                };
                stream.extend_from_slice(&frame[1..]);
            }
            Message::Text(says) => match serde_json::from_str(&says).unwrap() {
                ExecSays::Exit(code) => return (Ok(code), stdout, stderr),
                ExecSays::Error(info) => return (Err(info.code), stdout, stderr),
            },
            _ => {}
        }
    }
}

fn run(command: &[&str], tty: bool) -> ExecStart {
    let command = command.iter().map(ToString::to_string).collect();
    ExecStart {
        command,
        tty,
        rows: 33,
        cols: 99,
        env: [("WORD".to_owned(), "set".to_owned())].into(),
    }
}

#[tokio::test]
async fn exec_carries_streams_status_and_refusals() {
    let node = Node::start().await;
    assert_eq!(
        exec(&node, &run(&["id"], false), b"").await.0,
        Err(Code::VpsNotFound)
    );
    node.template("debian-12").await;
    node.done(&create("debian-12", false)).await;
    assert_eq!(
        exec(&node, &run(&["id"], false), b"").await.0,
        Err(Code::VpsNotRunning)
    );
    node.done(&Change::start("web1")).await;
    assert_eq!(
        exec(&node, &run(&[], false), b"").await.0,
        Err(Code::Invalid)
    );
    assert_eq!(
        exec(&node, &run(&["a\0b"], false), b"").await.0,
        Err(Code::Invalid)
    );
    let typed = vec![b'x'; 200_000];
    let (code, stdout, stderr) = exec(
        &node,
        &run(&["sh", "-c", "cat; echo $WORD >&2; exit 42"], false),
        &typed,
    )
    .await;
    assert_eq!(
        (code, stdout.len(), stderr.as_slice()),
        (Ok(42), 200_000, b"set\n".as_slice())
    );
    let (code, stdout, _) = exec(&node, &run(&["sh", "-c", "stty size; tty"], true), b"").await;
    let text = String::from_utf8_lossy(&stdout);
    assert!(
        code == Ok(0) && text.contains("33 99") && text.contains("/dev/pts/"),
        "{text}"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_takes_its_program_along() {
    let node = Node::start().await;
    node.template("debian-12").await;
    node.done(&create("debian-12", true)).await;
    let mut socket = node
        .client
        .websocket(&paths::of_vps("web1", "exec"))
        .await
        .unwrap();
    let start = run(&["sh", "-c", "sleep 1000 & echo $!; wait"], false);
    socket
        .send(Message::text(serde_json::to_string(&start).unwrap()))
        .await
        .unwrap();
    let pid = loop {
        if let Message::Binary(frame) = socket.next().await.unwrap().unwrap() {
            break String::from_utf8_lossy(&frame[1..]).trim().to_owned();
        }
    };
    let alive =
        || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    assert!(alive());
    drop(socket);
    for _ in 0..500 {
        if !alive() {
            return node.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} outlived its client");
}

#[tokio::test]
async fn a_console_goes_on_through_runs_without_showing_anything_twice() {
    let node = Node::start().await;
    node.template("debian-12").await;
    let id = node.done(&create("debian-12", false)).await.vps.unwrap();
    node.consoles.print(b"first run\r\n");
    let mut socket = node
        .client
        .websocket(&paths::of_vps("web1", "console"))
        .await
        .unwrap();
    let mut shown = Vec::new();
    let mut notes = Vec::new();
    while notes.is_empty() {
        console_frame(&mut socket, &mut shown, &mut notes).await;
    }
    assert_eq!(shown, b"first run\r\n");
    assert!(notes[0].contains("does not run"), "{notes:?}");

    // A window that was there before the run is the run's as well.
    socket
        .send(Message::text(r#"{"resize":{"rows":24,"cols":80}}"#))
        .await
        .unwrap();
    let listener = node.consoles.listen();
    node.done(&Change::start("web1")).await;
    let (mut supervisor, _) = listener.accept().await.unwrap();
    supervisor.write_all(b"first run\r\n").await.unwrap();
    supervisor
        .write_all(b"second run\r\nlogin: ")
        .await
        .unwrap();
    while !shown.ends_with(b"login: ") {
        console_frame(&mut socket, &mut shown, &mut notes).await;
    }
    assert_eq!(
        String::from_utf8_lossy(&shown),
        "first run\r\nsecond run\r\nlogin: "
    );

    socket
        .send(Message::Binary(b"root\r".to_vec().into()))
        .await
        .unwrap();
    socket
        .send(Message::text(r#"{"resize":{"rows":50,"cols":132}}"#))
        .await
        .unwrap();
    let mut keys = [0; 5];
    supervisor.read_exact(&mut keys).await.unwrap();
    assert_eq!(&keys, b"root\r");
    for _ in 0..200 {
        if node.consoles.sizes().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.consoles.sizes(), [(24, 80), (50, 132)]);

    node.consoles.print(b"second run\r\nlogin: ");
    let mut log = node.client.follow_log(&id.to_string()).await.unwrap();
    let (mut second, _) = listener.accept().await.unwrap();
    second.write_all(b"all of it").await.unwrap();
    let mut followed = Vec::new();
    while followed.len() < 9 {
        followed.extend_from_slice(&log.next_bytes().await.unwrap().unwrap());
    }
    assert_eq!(followed, b"all of it");
    assert_eq!(
        node.client.log("web1").await.unwrap(),
        b"first run\r\nsecond run\r\nlogin: "
    );
    node.stop().await;
}
