//! The socket: who comes in, and how connections end.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower_service::Service as _;

use crate::AppState;
use crate::linger::Lingering;

/// How long a peer may take to say what it wants.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// How long someone who may not use the node may hold a connection.
const STRANGER_DEADLINE: Duration = Duration::from_secs(5);
/// How many of those are heard at the same time.
const MOST_STRANGERS: usize = 16;
/// How long requests may take to finish when the daemon ends.
const GRACE: Duration = Duration::from_secs(5);

/// Who is at the other end of a connection, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user id.
    pub uid: u32,
}

/// Serves `router`, which is that of `state`, until `shutdown`, then lets requests that are under way finish for a moment. Websockets end with the process.
pub async fn serve(
    listener: UnixListener,
    router: Router,
    state: AppState,
    shutdown: impl Future<Output = ()>,
) {
    let strangers = Arc::new(Semaphore::new(MOST_STRANGERS));
    let (ending, ended) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) =
            match accepted.and_then(|(stream, _)| peer_of(&stream).map(|peer| (stream, peer))) {
                Ok(came) => came,
                Err(e) => {
                    tracing::warn!("a connection was lost: {e}");
                    // Without descriptors the next accept fails at once as well.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
        let (router, ended) = (router.clone(), ended.clone());
        if peer.uid == 0 {
            connections.spawn(connection(stream, peer, router, ended));
        } else if let Ok(permit) = strangers.clone().try_acquire_owned() {
            connections.spawn(async move {
                let _permit = permit;
                let _ = tokio::time::timeout(
                    STRANGER_DEADLINE,
                    connection(stream, peer, router, ended),
                )
                .await;
            });
        }
    }
    drop(listener);
    state.end();
    drop(ending);
    let _ = tokio::time::timeout(GRACE, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

fn peer_of(stream: &UnixStream) -> std::io::Result<Peer> {
    Ok(Peer {
        uid: stream.peer_cred()?.uid(),
    })
}

async fn connection(
    stream: UnixStream,
    peer: Peer,
    router: Router,
    mut ended: watch::Receiver<()>,
) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let mut router = router.clone();
        async move {
            Ok::<_, Infallible>(
                router
                    .call(request.map(|body| Body::new(Lingering::from(body))))
                    .await
                    .unwrap_or_else(|never| match never {}),
            )
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        // The sender never sends; an error means that it is gone.
        _ = ended.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(e) = result {
        tracing::debug!("connection of uid {}: {e}", peer.uid);
    }
}
