//! A client of one node, over its unix socket. One connection per request: nothing is shared, nothing lingers.

mod change;
mod files;
mod lines;

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mayfly_core::error::Code;
use mayfly_core::names::TemplateName;
use mayfly_core::network::Forward;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

pub use self::change::Change;
pub use self::files::Pulled;
pub use self::lines::Lines;
use crate::{
    DatasetView, DoctorView, ErrorBody, ErrorInfo, FeatureView, FsckView, HistoryView, IfBusy,
    MountView, NetworkRemoved, NodeView, OperationFilter, OperationView, PersistenceView, PlanBody,
    PoolView, TemplateView, VpsView, paths,
};

/// How long an answer may take where nothing waits on purpose.
const DEADLINE: Duration = Duration::from_secs(120);

/// A look over a large node reads the whole state database and every mount table, several times.
const FSCK_DEADLINE: Duration = Duration::from_secs(900);

/// A websocket to the node.
pub type Socket = WebSocketStream<UnixStream>;

/// Why a request had no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket, or it may not be opened.
    #[error("the node at {} does not answer", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The node refused.
    #[error("{}", .0.message)]
    Refused(Box<ErrorInfo>),
    /// What came back was no answer.
    #[error("the node at {} gave no usable answer: {why}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What was wrong with it.
        why: String,
    },
}

impl ClientError {
    /// The error as it is shown.
    pub fn into_info(self) -> ErrorInfo {
        let message = self.to_string();
        match self {
            Self::Refused(info) => *info,
            Self::Unreachable { socket, source } => ErrorInfo {
                code: Code::NodeUnreachable,
                message: format!("{message}: {source}"),
                hint: start_hint(&socket),
                operation: None,
            },
            Self::Broken { .. } => ErrorInfo {
                code: Code::NodeUnreachable,
                message,
                hint: "see whether `mayfly serve` still runs and what its log says; what was asked may have been done"
                    .to_owned(),
                operation: None,
            },
        }
    }
}

fn start_hint(socket: &Path) -> String {
    match socket
        .parent()
        .filter(|_| socket.file_name().is_some_and(|name| name == paths::SOCKET))
    {
        Some(dir) if dir == Path::new("/var/lib/mayfly") => "start it: mayfly serve".to_owned(),
        Some(dir) => format!("start it: mayfly serve --state-dir {}", dir.display()),
        None => {
            "start it: mayfly serve; or name its socket with --socket or MAYFLY_SOCKET".to_owned()
        }
    }
}

/// A client of one node.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the node that listens on `socket`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The node.
    pub async fn node(&self) -> Result<NodeView, ClientError> {
        self.get(paths::NODE).await
    }

    /// The socket that the node listens on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The pool.
    pub async fn pool(&self) -> Result<PoolView, ClientError> {
        self.get(paths::POOL).await
    }

    /// Removes the network of the node.
    pub async fn remove_network(&self) -> Result<NetworkRemoved, ClientError> {
        self.call(Method::DELETE, paths::NETWORK, None, DEADLINE)
            .await
    }

    /// The ports of the host that lead to a VPS.
    pub async fn ports(&self, which: &str) -> Result<Vec<Forward>, ClientError> {
        self.get(&paths::of_vps(which, "ports")).await
    }

    /// What is wrong with the node; with `repair` it mends what it can.
    pub async fn fsck(&self, repair: bool) -> Result<FsckView, ClientError> {
        let method = if repair { Method::POST } else { Method::GET };
        self.call(method, paths::FSCK, None, FSCK_DEADLINE).await
    }

    /// All templates, by name.
    pub async fn templates(&self) -> Result<Vec<TemplateView>, ClientError> {
        self.get(paths::TEMPLATES).await
    }

    /// One template.
    pub async fn template(&self, name: &TemplateName) -> Result<TemplateView, ClientError> {
        self.get(&paths::template(name.as_str())).await
    }

    /// All VPSes, by number.
    pub async fn vpses(&self) -> Result<Vec<VpsView>, ClientError> {
        self.get(paths::VPSES).await
    }

    /// One VPS, by number or host name.
    pub async fn vps(&self, which: &str) -> Result<VpsView, ClientError> {
        self.get(&paths::vps(which)).await
    }

    /// The datasets of a VPS with what they hold.
    pub async fn datasets(&self, which: &str) -> Result<Vec<DatasetView>, ClientError> {
        self.get(&paths::of_vps(which, "datasets")).await
    }

    /// The mounts of a VPS.
    pub async fn mounts(&self, which: &str) -> Result<Vec<MountView>, ClientError> {
        self.get(&paths::of_vps(which, "mounts")).await
    }

    /// What a VPS declares to stay.
    pub async fn persistence(&self, which: &str) -> Result<PersistenceView, ClientError> {
        self.get(&paths::of_vps(which, "persistence")).await
    }

    /// What a VPS should be asked about before its next start.
    pub async fn doctor(&self, which: &str) -> Result<DoctorView, ClientError> {
        self.get(&paths::of_vps(which, "doctor")).await
    }

    /// The features of a VPS.
    pub async fn features(&self, which: &str) -> Result<Vec<FeatureView>, ClientError> {
        self.get(&paths::of_vps(which, "features")).await
    }

    /// What the console's ring holds: raw, as the guest printed it.
    pub async fn log(&self, which: &str) -> Result<Vec<u8>, ClientError> {
        let path = paths::of_vps(which, "log");
        self.within(DEADLINE, async {
            let response = self.request(Method::GET, &path, None).await?;
            Ok(self.body(response).await?.to_vec())
        })
        .await
    }

    /// What the console's ring holds, and then what comes, raw.
    pub async fn follow_log(&self, which: &str) -> Result<Lines, ClientError> {
        self.stream(&paths::with(&paths::of_vps(which, "log"), "follow", "true"))
            .await
    }

    /// The operations that are remembered, the oldest first.
    pub async fn operations(
        &self,
        which: &OperationFilter,
    ) -> Result<Vec<OperationView>, ClientError> {
        let OperationFilter { vps, state, limit } = which;
        let state = state.and_then(|state| serde_json::to_value(state).ok());
        let state = state.and_then(|state| state.as_str().map(str::to_owned));
        let given = [
            ("vps", vps.clone()),
            ("state", state),
            ("limit", limit.map(|limit| limit.to_string())),
        ];
        let path = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .fold(paths::OPERATIONS.to_owned(), |path, (name, value)| {
                paths::with(&path, name, &value)
            });
        self.get(&path).await
    }

    /// Asks for an operation to be given up. It may take a moment until it is.
    pub async fn cancel(&self, id: &str) -> Result<OperationView, ClientError> {
        self.call(Method::POST, &paths::cancel(id), None, DEADLINE)
            .await
    }

    /// One operation, by its id or the beginning of it, once it is over or `wait` has passed.
    pub async fn operation(&self, id: &str, wait: Duration) -> Result<OperationView, ClientError> {
        let path = paths::with(
            &paths::operation(id),
            "wait_ms",
            &wait.as_millis().to_string(),
        );
        self.call(Method::GET, &path, None, DEADLINE.saturating_add(wait))
            .await
    }

    /// What is remembered of the runs of a VPS.
    pub async fn history(&self, which: &str) -> Result<HistoryView, ClientError> {
        self.get(&paths::of_vps(which, "history")).await
    }

    /// Changes after a revision, or from now on, one JSON document per line; it does not end. With `vps`, only what
    /// concerns that VPS.
    pub async fn events(
        &self,
        since: Option<u64>,
        vps: Option<&str>,
    ) -> Result<Lines, ClientError> {
        let mut path = paths::EVENTS.to_owned();
        if let Some(since) = since {
            path = paths::with(&path, "since", &since.to_string());
        }
        if let Some(vps) = vps {
            path = paths::with(&path, "vps", vps);
        }
        self.stream(&path).await
    }

    /// Asks for a change. It is accepted, not done.
    pub async fn submit(&self, change: &Change) -> Result<OperationView, ClientError> {
        self.submit_when(change, IfBusy::Wait).await
    }

    /// The same, and what happens where another change is under way.
    pub async fn submit_when(
        &self,
        change: &Change,
        if_busy: IfBusy,
    ) -> Result<OperationView, ClientError> {
        let path = match if_busy {
            IfBusy::Wait => change.path().to_owned(),
            IfBusy::Refuse => paths::with(change.path(), "if_busy", "refuse"),
        };
        self.call(change.method(), &path, change.body(), DEADLINE)
            .await
    }

    /// What a change would do.
    pub async fn plan(&self, change: &Change) -> Result<PlanBody, ClientError> {
        self.call(
            change.method(),
            &paths::with(change.path(), "dry_run", "true"),
            change.body(),
            DEADLINE,
        )
        .await
    }

    /// Opens the websocket at `path`.
    pub async fn websocket(&self, path: &str) -> Result<Socket, ClientError> {
        let stream = self.connect().await?;
        let request = format!("ws://mayfly{path}")
            .into_client_request()
            .map_err(|e| self.broken(e))?;
        let shake = tokio_tungstenite::client_async(request, stream);
        let (socket, _) = self
            .within(DEADLINE, async {
                shake.await.map_err(|e| self.refused_socket(e))
            })
            .await?;
        Ok(socket)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None, DEADLINE).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        self.within(deadline, async {
            let response = self.request(method, path, body).await?;
            let bytes = self.body(response).await?;
            serde_json::from_slice(&bytes).map_err(|e| self.broken(e))
        })
        .await
    }

    async fn stream(&self, path: &str) -> Result<Lines, ClientError> {
        let response = self
            .within(DEADLINE, self.request(Method::GET, path, None))
            .await?;
        Ok(Lines::new(self.socket.clone(), response.into_body()))
    }

    /// Sends a request and waits for the head of a good answer.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Response<Incoming>, ClientError> {
        let content_type = body.as_ref().map(|_| "application/json");
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let (response, _) = self.send(method, path, content_type, body).await?;
        Ok(response)
    }

    /// The same with any body, and the task of its connection: it ends with the body of the answer and that of the request,
    /// which may be longer than anyone listens.
    async fn send<B>(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: B,
    ) -> Result<(Response<Incoming>, AbortHandle), ClientError>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(e))?;
        let connection = tokio::spawn(connection).abort_handle();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "mayfly");
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(|e| self.broken(e))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| self.broken(e))?;
        if response.status().is_success() {
            return Ok((response, connection));
        }
        let status = response.status();
        let bytes = self.body(response).await;
        connection.abort();
        Err(self.refused(status, &bytes?))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let connect = async {
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Unreachable {
                    socket: self.socket.clone(),
                    source,
                })
        };
        self.within(DEADLINE, connect).await
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        Ok(response
            .into_body()
            .collect()
            .await
            .map_err(|e| self.broken(e))?
            .to_bytes())
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(body) => ClientError::Refused(Box::new(body.error)),
            Err(e) => self.broken(format!("status {status}, {e}")),
        }
    }

    fn refused_socket(&self, error: tokio_tungstenite::tungstenite::Error) -> ClientError {
        match error {
            tokio_tungstenite::tungstenite::Error::Http(response) => {
                let (head, body) = response.into_parts();
                self.refused(head.status, &body.unwrap_or_default())
            }
            other => self.broken(other),
        }
    }

    fn broken(&self, why: impl std::fmt::Display) -> ClientError {
        ClientError::Broken {
            socket: self.socket.clone(),
            why: why.to_string(),
        }
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        what: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(deadline, what).await {
            Ok(done) => done,
            Err(_) => Err(self.broken(format!("nothing within {} s", deadline.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests;
