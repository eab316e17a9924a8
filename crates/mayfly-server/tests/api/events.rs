//! The stream of events, and what is remembered of runs.

use std::time::Duration;

use mayfly_api::{
    Change, EventLine, EventView, Lines, RestartVps, RunEventKind, RunEventView, StopVps,
};
use mayfly_core::error::Code;
use mayfly_core::history::HowEnded;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Node, create, field, refused};

const SOON: Duration = Duration::from_secs(20);

async fn next(lines: &mut Lines) -> EventLine {
    let line = tokio::time::timeout(SOON, lines.next_line()).await;
    serde_json::from_str(&line.expect("events stopped").unwrap().unwrap()).unwrap()
}

async fn next_event(lines: &mut Lines) -> EventView {
    match next(lines).await {
        EventLine::Event(event) => *event,
        EventLine::Last(body) => panic!("{}", body.error.message),
    }
}

/// The next run that is told of.
async fn next_run(lines: &mut Lines) -> RunEventView {
    loop {
        let event = next_event(lines).await;
        if let Some(run) = event.run {
            assert_eq!(
                (event.kind.as_str(), Some(event.name)),
                ("run", run.run.as_ref().map(ToString::to_string))
            );
            return *run;
        }
    }
}

/// Everything up to the end of what there is.
async fn everything(node: &Node, vps: Option<&str>) -> Vec<EventView> {
    let end = node.client.history("web1").await.unwrap().revision;
    let mut lines = node.client.events(Some(0), vps).await.unwrap();
    let mut seen = Vec::new();
    while seen
        .last()
        .is_none_or(|event: &EventView| event.revision < end)
    {
        seen.push(next_event(&mut lines).await);
    }
    seen
}

fn force() -> StopVps {
    StopVps {
        force: true,
        ..StopVps::default()
    }
}

#[tokio::test]
async fn runs_are_told_as_what_they_are_and_remembered() {
    let node = Node::start().await;
    node.template("debian-12-impermanence").await;
    let mut lines = node.client.events(None, None).await.unwrap();
    let vps = node
        .done(&create("debian-12-impermanence", true))
        .await
        .vps
        .unwrap();
    let first = node.client.vps("web1").await.unwrap().run.unwrap();
    let told = next_run(&mut lines).await;
    assert_eq!((told.what, told.vps), (RunEventKind::Started, vps));
    assert_eq!(
        (&told.run, &told.root),
        (&Some(first.id.clone()), &Some(first.root.clone()))
    );
    assert_eq!((told.verb.as_str(), told.by.as_str()), ("create", "uid 0"));

    node.done(&Change::restart("web1", &RestartVps::default()))
        .await;
    let told = next_run(&mut lines).await;
    assert_eq!(
        (told.what, told.how),
        (RunEventKind::Ended, Some(HowEnded::Stopped))
    );
    assert_eq!((told.run, told.root), (Some(first.id), Some(first.root)));
    assert_eq!(
        (told.verb.as_str(), told.starts_again),
        ("restart", Some(false))
    );
    assert_eq!(next_run(&mut lines).await.what, RunEventKind::Started);

    node.host.guest_crash(vps);
    let told = next_run(&mut lines).await;
    assert_eq!((told.how, told.crash), (Some(HowEnded::Crashed), Some(1)));
    assert!(
        told.starts_again == Some(true) && told.detail.is_some(),
        "{told:?}"
    );
    assert_eq!(next_run(&mut lines).await.after_crash, Some(1));

    node.host.guest_poweroff(vps);
    let told = next_run(&mut lines).await;
    assert_eq!(
        (told.how, told.starts_again),
        (Some(HowEnded::PowerOff), Some(false))
    );

    let why = node.failed(&Change::stop("web1", &force())).await;
    assert_eq!(why.code, Code::VpsNotRunning);
    let history = node.client.history("web1").await.unwrap();
    let kinds: Vec<_> = history.events.iter().map(|event| event.what).collect();
    use RunEventKind::{Ended, OperationFailed, Started};
    assert_eq!(
        kinds,
        [
            Started,
            Ended,
            Started,
            Ended,
            Started,
            Ended,
            OperationFailed
        ]
    );
    assert_eq!(history.events[6].error, Some(why));

    // The revision of the answer is where the stream goes on without a gap.
    let mut lines = node
        .client
        .events(Some(history.revision), Some("web1"))
        .await
        .unwrap();
    node.done(&Change::start("web1")).await;
    node.done(&Change::destroy("web1", true)).await;
    let started = next_run(&mut lines).await;
    let ended = next_run(&mut lines).await;
    assert_eq!(
        (ended.run, ended.how),
        (started.run, Some(HowEnded::Stopped))
    );
    assert_eq!(ended.verb, "destroy");
    assert_eq!(
        refused(node.client.history("web1").await).code,
        Code::VpsNotFound
    );
    node.done(&create("debian-12-impermanence", false)).await;
    assert_eq!(node.client.history("web1").await.unwrap().events, []);
    node.stop().await;
}

#[tokio::test]
async fn only_one_vps_is_told_of_and_neither_its_predecessor_nor_its_successor() {
    let node = Node::start().await;
    node.template("debian-12").await;
    node.done(&create("debian-12", true)).await;
    node.done(&Change::destroy("web1", true)).await;
    let vps = node.done(&create("debian-12", false)).await.vps.unwrap();
    let mut other: mayfly_api::CreateVps =
        serde_json::from_str(r#"{"template":"debian-12"}"#).unwrap();
    other.start = true;
    let other = node.done(&Change::create(&other)).await.vps.unwrap();
    let id = vps.to_string();
    let stop = node.failed(&Change::stop("web1", &force())).await;

    let all = everything(&node, None).await;
    let ours = everything(&node, Some("web1")).await;
    assert_eq!(ours, everything(&node, Some(&id)).await);
    assert!(all.iter().any(|event| event.name == other.to_string()));
    let made = all
        .iter()
        .rfind(|event| {
            event
                .operation
                .as_ref()
                .is_some_and(|op| op.vps == Some(vps) && op.verb == "create")
        })
        .unwrap();
    let begin = ours[0].revision;
    assert!(
        ours.iter()
            .all(|event| match (&event.vps, &event.operation) {
                (Some(shown), None) => shown.id == vps,
                (None, Some(op)) => {
                    Some(&op.id) == stop.operation.as_ref()
                        || op.id == made.operation.as_ref().unwrap().id
                }
                _ => false,
            })
    );
    let concerning = |event: &&EventView| {
        event.revision >= begin
            && (event.name == id
                || event
                    .operation
                    .as_ref()
                    .is_some_and(|op| op.vps == Some(vps)))
    };
    assert_eq!(
        ours,
        all.iter().filter(concerning).cloned().collect::<Vec<_>>()
    );

    let mut lines = node.client.events(None, Some(&id)).await.unwrap();
    node.done(&Change::destroy("web1", true)).await;
    node.done(&create("debian-12", true)).await;
    let mut last = None;
    let why = loop {
        match next(&mut lines).await {
            EventLine::Event(event) => last = event.operation.or(last),
            EventLine::Last(body) => break body.error,
        }
    };
    assert_eq!(last.unwrap().verb, "destroy");
    assert_eq!(why.code, Code::VpsNotFound);
    assert!(why.message.contains("another's"), "{}", why.message);
    assert_eq!(lines.next_line().await.unwrap(), None);
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_told_is_refused_before_anything_is() {
    let node = Node::that_remembers(20).await;
    node.template("debian-12").await;
    node.done(&create("debian-12", true)).await;
    for _ in 0..10 {
        node.done(&Change::restart("web1", &RestartVps::default()))
            .await;
    }
    let now = node.at_rest().await;
    let asked = format!("GET /v1/events?since={}", now + 1);
    let (status, body) = node.raw(&asked).await;
    assert_eq!(
        (status, field(&body, "code")),
        (400, "input.invalid".into())
    );
    assert!(
        field(&body, "hint").contains(&format!("--since {now}")),
        "{body}"
    );
    let (status, body) = node.raw("GET /v1/events?since=18446744073709551615").await;
    assert_eq!(
        (status, field(&body, "code")),
        (400, "input.invalid".into())
    );
    let (status, body) = node.raw("GET /v1/events?since=3&vps=web1").await;
    assert_eq!(
        (status, field(&body, "code")),
        (410, "events.compacted".into())
    );
    let oldest = now - 20;
    assert!(
        field(&body, "message").contains(&format!("revision {oldest} ")),
        "{body}"
    );
    assert!(
        field(&body, "hint").ends_with(&format!("--since {oldest}")),
        "{body}"
    );
    // And that is true.
    let mut lines = node.client.events(Some(oldest), None).await.unwrap();
    assert_eq!(next_event(&mut lines).await.revision, oldest + 1);
    let (status, body) = node.raw("GET /v1/events?vps=web9").await;
    assert_eq!(
        (status, field(&body, "code")),
        (404, "vps.not_found".into())
    );
    let (status, body) = node.raw("GET /v1/events?vpss=web1").await;
    assert_eq!(
        (status, field(&body, "code")),
        (400, "input.invalid".into())
    );
    node.stop().await;
}

#[tokio::test]
async fn who_does_not_read_is_told_what_was_missed_and_holds_nobody_up() {
    let node = Node::that_remembers(200).await;
    node.template("debian-12").await;
    node.done(&create("debian-12", true)).await;
    let mut silent = node.connect().await;
    silent
        .write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 15];
    silent.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    // Far more than connection and channel hold, and many times what the store remembers.
    for _ in 0..1200 {
        node.done(&Change::restart(
            "web1",
            &RestartVps {
                timeout_ms: 1,
                force: true,
            },
        ))
        .await;
    }
    let mut text = Vec::new();
    let read = tokio::time::timeout(SOON, silent.read_to_end(&mut text)).await;
    read.expect("it does not end").unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<EventLine> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let Some(EventLine::Last(body)) = lines.last() else {
        panic!("{} bytes, and the last line is no error", text.len())
    };
    assert_eq!(body.error.code, Code::EventsCompacted);
    // What came before has no gap.
    let revisions = lines.iter().filter_map(|line| match line {
        EventLine::Event(event) => Some(event.revision),
        EventLine::Last(_) => None,
    });
    let mut revisions: Vec<u64> = revisions.collect();
    revisions.dedup();
    assert!(revisions.len() > 100);
    assert!(revisions.windows(2).all(|pair| pair[1] == pair[0] + 1));
    node.stop().await;
}

/// More readers than the daemon has threads for what blocks.
#[test]
fn who_does_not_read_holds_no_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .unwrap();
    runtime.block_on(async {
        let node = Node::start().await;
        node.template("debian-12").await;
        node.done(&create("debian-12", true)).await;
        let begin = node.client.history("web1").await.unwrap().revision;
        let restart = RestartVps {
            timeout_ms: 1,
            force: true,
        };
        for _ in 0..200 {
            node.done(&Change::restart("web1", &restart)).await;
        }
        let ask = format!(
            "GET /v1/events?since={begin} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        let mut silent = Vec::new();
        for _ in 0..12 {
            let mut stream = node.connect().await;
            stream.write_all(ask.as_bytes()).await.unwrap();
            silent.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let began = std::time::Instant::now();
        for _ in 0..20 {
            node.done(&Change::restart("web1", &restart)).await;
        }
        // Who waits for changes has a thread for a second.
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{:?}",
            began.elapsed()
        );
        drop(silent);
        node.stop().await;
    });
}
