//! `mayfly serve`: the daemon of one node.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mayfly_host::budgets::ensure_budgets;
use mayfly_host::memory::share_arenas;
use mayfly_server::AppState;
use tokio::signal::unix::{SignalKind, signal};

use crate::consoles::HostConsoles;
use crate::node::{self, Daemon, StateDir};

/// Threads that answer requests; the work itself is done by the engine's own.
const SERVER_THREADS: usize = 2;

/// How long the daemon may take to end. Service managers wait longer.
const LAST: Duration = Duration::from_secs(20);

/// What `mayfly serve` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The directory of everything that the node keeps
    #[arg(long, value_name = "DIR", default_value = crate::DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

/// Serves until it is asked to end. Called before any other thread exists. VPSes go on when it ends.
pub(crate) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    share_arenas();
    start_log();
    let state = StateDir::new(&args.state_dir)?;
    let Daemon {
        engine,
        runtime,
        lock: _lock,
    } = node::open(&state)?;
    raise_budgets(engine.vpses()?.len() as u64);
    let found = engine.recover()?;
    tracing::info!(
        node = %engine.node().id,
        alive = found.alive,
        ended = found.ended,
        resumed = found.resumed.len(),
        "looked at the host"
    );
    for report in &found.reports {
        tracing::warn!(report, "left alone");
    }
    engine.start_threads()?;
    let consoles = Arc::new(HostConsoles::new(engine.node().id.clone(), runtime));
    let socket = state.socket();
    let listener =
        listen(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVER_THREADS)
        .enable_all()
        .build()?;
    threads.block_on(async {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tracing::info!(socket = %socket.display(), "serving");
        tell_ready();
        let shutdown = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            end_at_last();
        };
        let state = AppState::new(engine.clone(), consoles);
        let router = mayfly_server::router(state.clone());
        mayfly_server::serve(listener, router, state, shutdown).await;
        anyhow::Ok(())
    })?;
    engine.stop_threads();
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the socket stays")
        }
        _ => {}
    }
    tracing::info!("ended; VPSes go on");
    Ok(ExitCode::SUCCESS)
}

/// Ends the process where something that the host does not answer keeps it from ending by itself: what was begun is in the
/// journal, and goes on at the next start.
fn end_at_last() {
    let ended = std::thread::Builder::new().name("end".into()).spawn(|| {
        std::thread::sleep(LAST);
        tracing::error!("something does not end; the next start goes on with it");
        std::process::exit(0);
    });
    if let Err(error) = ended {
        tracing::warn!(%error, "nothing ends the daemon where the host hangs");
    }
}

/// The log goes to standard error; `MAYFLY_LOG` chooses what is in it.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MAYFLY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
}

/// Everybody may connect; who may do what is decided by the peer's credentials. The state database is locked by now, so
/// a socket that is there was left by a daemon that is dead.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Tells the service manager that the API answers, where one waits for that. Without it the service would be taken for
/// ready while recovery still looks at the host.
fn tell_ready() {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(OsStr::from_bytes(path)),
    };
    let told =
        address.and_then(|manager| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &manager));
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager was not told that the node serves");
    }
}

fn raise_budgets(vpses: u64) {
    match ensure_budgets(vpses) {
        Ok(raised) => {
            for setting in raised {
                tracing::info!(
                    name = setting.name,
                    from = setting.from,
                    to = setting.to,
                    "raised a budget of the host"
                );
            }
        }
        Err(error) => {
            tracing::warn!(%error, "the host's budgets were not raised; many VPSes may fail to start")
        }
    }
}
