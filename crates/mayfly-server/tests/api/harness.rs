//! A node in memory behind a real socket.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use futures_util::StreamExt as _;
use mayfly_api::{
    BuildTemplate, Change, Client, ClientError, ConsoleSays, CreateVps, ErrorInfo, OperationView,
    Socket,
};
use mayfly_core::documents::{NodeDoc, OperationState, PoolSpec, SCHEMA, VpsDoc};
use mayfly_core::error::Refusal;
use mayfly_core::fake::FakeHost;
use mayfly_engine::store::{HISTORY, MemoryStore};
use mayfly_engine::{Deps, Engine, no_crash};
use mayfly_server::{AppState, AttachCommand, Consoles, router, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::schema::{Description, hold};

/// Consoles that a test holds the other end of, and programs that run on the host instead of in a VPS.
pub(crate) struct FakeConsoles {
    socket: PathBuf,
    ring: Mutex<Vec<u8>>,
    sizes: Mutex<Vec<(u16, u16)>>,
}

impl FakeConsoles {
    pub(crate) fn print(&self, text: &[u8]) {
        self.ring.lock().unwrap().extend_from_slice(text);
    }

    pub(crate) fn sizes(&self) -> Vec<(u16, u16)> {
        self.sizes.lock().unwrap().clone()
    }

    pub(crate) fn listen(&self) -> UnixListener {
        UnixListener::bind(&self.socket).unwrap()
    }
}

impl Consoles for FakeConsoles {
    fn attach(
        &self,
        _: &VpsDoc,
        command: &[String],
        env: &BTreeMap<String, String>,
        _: bool,
    ) -> Result<AttachCommand, Refusal> {
        let mut env: Vec<_> = env.clone().into_iter().collect();
        env.push(("PATH".into(), "/usr/bin:/bin".into()));
        Ok(AttachCommand {
            program: "/usr/bin/env".into(),
            args: command.iter().map(Into::into).collect(),
            env,
        })
    }

    /// A shell that says what it was asked, in the place of the helper.
    fn attach_helper(&self, _: &VpsDoc, arguments: &[&str]) -> Result<AttachCommand, Refusal> {
        let mut args: Vec<OsString> = vec!["-c".into(), HELPER.into(), "helper".into()];
        args.extend(arguments.iter().map(Into::into));
        Ok(AttachCommand {
            program: "/bin/sh".into(),
            args,
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        })
    }

    fn console_socket(&self, doc: &VpsDoc) -> Option<PathBuf> {
        doc.run.as_ref().map(|_| self.socket.clone())
    }

    fn console_log(&self, _: &VpsDoc) -> Result<Vec<u8>, Refusal> {
        Ok(self.ring.lock().unwrap().clone())
    }

    fn resize(&self, _: &VpsDoc, rows: u16, cols: u16) -> Result<(), Refusal> {
        self.sizes.lock().unwrap().push((rows, cols));
        Ok(())
    }
}

/// Takes five bytes in one piece, and gives out three and four of seven.
const HELPER: &str = r#"
case "$1 $3" in
    "put /etc/motd") test "$(od -An -v -tx1 | tr -d ' \n')" = 0500000068656c6c6f00000000 \
        && echo '{"path":"/etc/motd","bytes":5,"ground":"root"}' ;;
    "put /persistent/x") cat > /dev/null; echo '{"path":"/persistent/x","bytes":0,"ground":"elsewhere"}' ;;
    "put /lie") cat > /dev/null; echo '{"path":"../x"}' ;;
    "get /three") printf '{"bytes":3,"mode":384}\nabc' ;;
    "get "*/ends) printf '{"bytes":3,"mode":384}\nabc'; sleep 0.3; : > "$3" ;;
    "get /short") printf '{"bytes":7,"mode":384}\nabcd' ;;
    "get /lie") echo nothing ;;
    *) printf 'there is no file \033[2J%s\n' "$3" >&2; exit 3 ;;
esac"#;

/// A node that serves.
pub(crate) struct Node {
    pub(crate) host: FakeHost,
    pub(crate) client: Client,
    pub(crate) consoles: Arc<FakeConsoles>,
    engine: Engine,
    socket: PathBuf,
    end: oneshot::Sender<()>,
    served: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::that_remembers(HISTORY).await
    }

    /// A node whose store remembers that many revisions.
    pub(crate) async fn that_remembers(history: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = FakeHost::new();
        let began = Instant::now();
        let pool = PoolSpec::Btrfs {
            directory: "/srv/pool".into(),
        };
        let engine = Engine::new(Deps {
            node: NodeDoc {
                schema: SCHEMA,
                id: host.node(),
                pool,
                network: None,
            },
            store: Arc::new(MemoryStore::with_history(
                Arc::new(move || began.elapsed()),
                history,
            )),
            storage: Arc::new(host.clone()),
            runtime: Arc::new(host.clone()),
            templates: Arc::new(host.clone()),
            network: Arc::new(host.clone()),
            keep_node: Arc::new(|_| Ok(())),
            clock: Arc::new(host.clone()),
            reserved: Vec::new(),
            crash: no_crash(),
        });
        engine.recover().unwrap();
        engine.start_threads().unwrap();
        let consoles = Arc::new(FakeConsoles {
            socket: dir.path().join("console.sock"),
            ring: Mutex::default(),
            sizes: Mutex::default(),
        });
        let socket = dir.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (end, ended) = oneshot::channel();
        let state = AppState::new(engine.clone(), consoles.clone());
        let described = Description::new();
        let held = router(state.clone()).layer(from_fn(move |request: Request, next: Next| {
            hold(described.clone(), request, next)
        }));
        let served = tokio::spawn(serve(listener, held, state, async {
            let _ = ended.await;
        }));
        Self {
            host,
            client: Client::new(&socket),
            consoles,
            engine,
            socket,
            end,
            served,
            _dir: dir,
        }
    }

    /// Ends the node; what hangs would be seen here.
    pub(crate) async fn stop(self) {
        self.end.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.served)
            .await
            .expect("the server does not end")
            .unwrap();
        self.engine.stop_threads();
    }

    pub(crate) fn router(&self) -> Router {
        router(AppState::new(self.engine.clone(), self.consoles.clone()))
    }

    /// Asks for a change and waits until it is done.
    pub(crate) async fn done(&self, change: &Change) -> OperationView {
        let operation = self.client.submit(change).await.unwrap();
        let operation = self
            .client
            .operation(operation.id.as_str(), Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!(
            operation.state,
            OperationState::Done,
            "{change:?}: {:?}",
            operation.error
        );
        operation
    }

    pub(crate) async fn template(&self, recipe: &str) {
        let body = BuildTemplate {
            recipe: recipe.into(),
            name: None,
            mirror: None,
            replace: false,
        };
        self.done(&Change::build_template(&body)).await;
    }

    /// Asks for a change and waits until it has failed; answers with why.
    pub(crate) async fn failed(&self, change: &Change) -> ErrorInfo {
        let operation = self.client.submit(change).await.unwrap();
        let operation = self
            .client
            .operation(operation.id.as_str(), Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!(operation.state, OperationState::Failed, "{change:?}");
        operation.error.unwrap()
    }

    /// A connection on which nothing was said yet.
    pub(crate) async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    async fn revision(&self) -> u64 {
        self.client.history("web1").await.unwrap().revision
    }

    /// The revision when nothing changes any more: what follows from an operation comes a little later than its end.
    pub(crate) async fn at_rest(&self) -> u64 {
        let (mut at, mut looks) = (self.revision().await, 0);
        while looks < 3 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = self.revision().await;
            looks = if now == at { looks + 1 } else { 0 };
            at = now;
        }
        at
    }

    /// Sends `METHOD PATH [BODY]` as it is; answers with status and JSON.
    pub(crate) async fn raw(&self, request: &str) -> (u16, serde_json::Value) {
        let mut words = request.splitn(3, ' ');
        let (method, path, body) = (
            words.next().unwrap(),
            words.next().unwrap(),
            words.next().unwrap_or(""),
        );
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        // A server that refuses early need not read it all.
        let _ = stream.write_all(text.as_bytes()).await;
        let mut answer = Vec::new();
        // One that does not end is no answer to this.
        let read = stream.read_to_end(&mut answer);
        let read = tokio::time::timeout(Duration::from_secs(60), read).await;
        assert!(read.is_ok(), "{request}: the answer does not end");
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{request}: no answer"));
        assert!(head.contains("content-type: application/json"), "{head}");
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            serde_json::from_str(body).unwrap(),
        )
    }
}

/// A VPS `web1` of that template.
pub(crate) fn create(template: &str, start: bool) -> Change {
    let body = CreateVps {
        template: template.parse().unwrap(),
        hostname: Some("web1".parse().unwrap()),
        id: None,
        disk_bytes: None,
        memory_bytes: None,
        cpu_percent: None,
        impermanence: false,
        features: [].into(),
        ssh_keys: None,
        start,
    };
    Change::create(&body)
}

pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorInfo {
    result.expect_err("it was not refused").into_info()
}

pub(crate) fn field(body: &serde_json::Value, name: &str) -> String {
    body["error"][name].as_str().unwrap_or_default().to_owned()
}

/// Takes one frame of a console.
pub(crate) async fn console_frame(
    socket: &mut Socket,
    shown: &mut Vec<u8>,
    notes: &mut Vec<String>,
) {
    let frame = tokio::time::timeout(Duration::from_secs(10), socket.next())
        .await
        .expect("the console is silent");
    match frame.unwrap().unwrap() {
        Message::Binary(bytes) => shown.extend_from_slice(&bytes),
        Message::Text(says) => match serde_json::from_str(&says).unwrap() {
            ConsoleSays::Note(note) => notes.push(note),
            ConsoleSays::Error(info) => panic!("{}", info.message),
        },
        _ => {}
    }
}
