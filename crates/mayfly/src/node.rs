//! A node's state directory, and the parts of a daemon put together from it.
//!
//! ```text
//! node.json        what this node is; written last by `init`
//! state.db         documents and the journal
//! lock             held by the process that has the node open
//! pool/            where the pool is mounted (of ZFS the platform's own part), in the daemon's mount namespace only
//! runs/<vps>.<run> one directory a run
//! consoles/<vps>   console rings
//! network/         files of the server of addresses and names
//! ssh/             SSH host keys that `mayfly ssh` has seen, by incarnation
//! api.sock         the API
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::network::{NetworkWish, change_network};
use anyhow::Context as _;
use mayfly_core::documents::{NodeDoc, PoolSpec, SCHEMA};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::NodeId;
use mayfly_core::network::Network;
use mayfly_core::ports::{Clock as _, Storage};
use mayfly_engine::store::{MemoryStore, Monotonic, SqliteStore, Store, StoreError};
use mayfly_engine::{Deps, Engine, KeepNode};
use mayfly_host::clock::HostClock;
use mayfly_host::network::HostNetwork;
use mayfly_host::run::client::Node;
use mayfly_host::run::runtime::{LxcRuntime, RuntimePlaces};
use mayfly_host::storage::{OpenPool, format_pool, open_pool};
use mayfly_host::template::{TemplateWorks, forget_downloads};
use mayfly_host::{crash, namespace, subids};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The name of the guest helper, beside the program.
const GUEST_HELPER: &str = "mayfly-guest";

/// The state directory of one node.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// The directory, made absolute: it is written into configurations.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        Ok(Self(std::path::absolute(path)?))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn node_file(&self) -> PathBuf {
        self.0.join("node.json")
    }

    fn pool_mount(&self) -> PathBuf {
        self.0.join("pool")
    }

    fn runs(&self) -> PathBuf {
        self.0.join("runs")
    }

    /// What is being pulled.
    fn downloads(&self) -> PathBuf {
        self.0.join("downloads")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("state.db")
    }

    /// Makes this process the one that has the node's pool and state open; none where another is. The kernel lets go of it
    /// when the process ends.
    pub(crate) fn try_lock(&self) -> anyhow::Result<Option<Lock>> {
        let file = self.0.join("lock");
        let lock = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&file)
            .with_context(|| format!("cannot open {}", file.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(lock))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno).with_context(|| format!("cannot lock {}", file.display())),
        }
    }

    /// The same for whoever cannot do without; waits a moment for one that ends.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let end = Instant::now() + LOCK_WAIT;
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            if Instant::now() >= end {
                return Err(Refusal::new(
                    Code::NodeBusy,
                    format!("another process has the node in {}", self.0.display()),
                    "stop the daemon: systemctl stop mayfly; VPSes go on",
                )
                .into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The socket of the API.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("api.sock")
    }

    /// The node's document; none when `init` was not done here.
    fn read_node(&self) -> anyhow::Result<Option<NodeDoc>> {
        let file = self.node_file();
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
        };
        let node: NodeDoc = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", file.display()))?;
        Ok(Some(node))
    }

    /// The node's document, or a refusal where `init` was not done here.
    pub(crate) fn node(&self) -> anyhow::Result<NodeDoc> {
        let missing = || {
            Refusal::new(
                Code::NodeNotInitialised,
                format!("{} is not the state directory of a node", self.0.display()),
                "make one: mayfly init --pool zfs:tank/ct, or loop:FILE,size=20G",
            )
        };
        Ok(self.read_node()?.ok_or_else(missing)?)
    }

    /// Keeps what the node is.
    pub(crate) fn keep(&self, node: &NodeDoc) -> anyhow::Result<()> {
        write_durably(&self.node_file(), &serde_json::to_vec_pretty(node)?)
    }

    /// The network of the node on its host. Called before the pool is opened: what outlives the daemon lives where the
    /// daemon was started.
    fn network(&self) -> anyhow::Result<Arc<dyn Network>> {
        Ok(Arc::new(HostNetwork::new(self.0.join("network"))?))
    }

    /// Refuses to begin with an empty state over a pool that has had one.
    fn check_database(&self, pool: &dyn Storage) -> Result<(), Refusal> {
        let there = fs::symlink_metadata(self.database()).is_ok();
        match pool.generation()? {
            Some(generation) if !there && generation > 0 => Err(Refusal::new(
                Code::StateFailed,
                format!(
                    "the state database {} is gone; the pool has seen its revision {generation}",
                    self.database().display()
                ),
                format!(
                    "rebuild it from the pool: mayfly recover --state-dir {} --dry-run",
                    self.0.display()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Makes the directories. Guests' roots pass through `runs`, so others may pass, not read.
    fn ensure_directories(&self) -> io::Result<()> {
        for dir in [
            self.0.clone(),
            self.runs(),
            self.0.join("consoles"),
            self.pool_mount(),
        ] {
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
        }
        fs::set_permissions(self.pool_mount(), fs::Permissions::from_mode(0o700))
    }
}

/// Makes a node: its pool, then its document. Done again with the same pool it changes nothing; cut off, it is
/// completed by the next call.
pub(crate) fn init(
    state: &StateDir,
    pool: PoolSpec,
    wish: &NetworkWish,
) -> anyhow::Result<NodeDoc> {
    if let Some(node) = state.read_node()? {
        if node.pool == pool {
            return change_network(state, node, wish);
        }
        return Err(Refusal::new(
            Code::NodeExists,
            format!(
                "{} is the state directory of node {} with another pool",
                state.0.display(),
                node.id
            ),
            "choose another --state-dir",
        )
        .into());
    }
    let network = wish.settle().map_err(Refusal::from)?;
    state
        .ensure_directories()
        .with_context(|| format!("cannot make {}", state.0.display()))?;
    namespace::enter_private()?;
    let id = ensure_node_id(state)?;
    format_pool(&pool, &id, &state.pool_mount()).map_err(Refusal::from)?;
    let node = NodeDoc {
        schema: SCHEMA,
        id,
        pool,
        network,
    };
    state.keep(&node)?;
    Ok(node)
}

/// The node's id, drawn once: a pool that was made by an init that was cut off bears it already.
fn ensure_node_id(state: &StateDir) -> anyhow::Result<NodeId> {
    let file = state.0.join("node-id");
    match fs::read_to_string(&file) {
        Ok(text) => return Ok(text.trim().parse()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let mut random = [0; 8];
    HostClock::new()?.random(&mut random);
    let id = NodeId::from_random(random);
    write_durably(&file, id.as_str().as_bytes())?;
    Ok(id)
}

fn write_durably(file: &Path, text: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let temporary = file.with_extension("tmp");
    let mut out = fs::File::create(&temporary)?;
    out.write_all(text)?;
    out.sync_all()?;
    fs::rename(&temporary, file)?;
    if let Some(dir) = file.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Held by the one process that has the node's pool and state open.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "open, it holds the lock")] fs::File);

/// How long to wait for another process to let go of the node.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// A daemon's parts.
pub(crate) struct Daemon {
    /// The engine, at rest.
    pub(crate) engine: Engine,
    /// The runs.
    pub(crate) runtime: Arc<LxcRuntime>,
    pub(crate) lock: Lock,
}

impl Daemon {
    /// Closes state and pool; the node stays this process's.
    pub(crate) fn close(self) -> Lock {
        self.lock
    }
}

/// Puts a daemon together. The calling thread, and those that it starts from now on, have a mount namespace of their
/// own, with the pool in it: call this before any other thread exists.
pub(crate) fn open(state: &StateDir) -> anyhow::Result<Daemon> {
    let node = state.node()?;
    let lock = state.lock()?;
    let downloads = state.downloads();
    forget_downloads(&downloads)
        .with_context(|| format!("cannot remove {}", downloads.display()))?;
    let network = state.network()?;
    let pool = open_pool_of(state, &node)?;
    state.check_database(&*pool.storage)?;
    let store = open_store(state).map_err(Refusal::from)?;
    assemble(state, (node, network), pool, Arc::new(store), lock)
}

/// The same to look at what is there, also where the state cannot be used: why that is so comes with it, and the engine
/// has an empty state then. Nothing is made.
pub(crate) fn open_to_look(
    state: &StateDir,
    lock: Lock,
) -> anyhow::Result<(Daemon, Option<Refusal>)> {
    let node = state.node()?;
    let network = state.network()?;
    let pool = open_pool_of(state, &node)?;
    let opened = state
        .check_database(&*pool.storage)
        .and_then(|()| open_store(state).map_err(Refusal::from));
    let (store, trouble): (Arc<dyn Store>, _) = match opened {
        Ok(store) => (Arc::new(store), None),
        Err(refusal) => (Arc::new(MemoryStore::new(monotonic())), Some(refusal)),
    };
    let daemon = assemble(state, (node, network), pool, store, lock)?;
    Ok((daemon, trouble))
}

fn monotonic() -> Monotonic {
    let began = Instant::now();
    Arc::new(move || began.elapsed())
}

fn open_store(state: &StateDir) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(&state.database(), monotonic())
}

/// Opens the pool in a mount namespace of this thread's own.
fn open_pool_of(state: &StateDir, node: &NodeDoc) -> anyhow::Result<OpenPool> {
    state.ensure_directories()?;
    namespace::enter_private()?;
    Ok(open_pool(&node.pool, &node.id, &state.pool_mount()).map_err(Refusal::from)?)
}

fn assemble(
    state: &StateDir,
    (node, network): (NodeDoc, Arc<dyn Network>),
    pool: OpenPool,
    store: Arc<dyn Store>,
    lock: Lock,
) -> anyhow::Result<Daemon> {
    let program = std::env::current_exe().context("cannot find the program itself")?;
    let runtime = Arc::new(LxcRuntime::new(RuntimePlaces {
        node: Node {
            node: node.id.clone(),
            runs: state.runs(),
            pool: Some(pool.identity),
        },
        guest_helper: find_helper(&program)?,
        program,
        consoles: state.0.join("consoles"),
    }));
    let deps = Deps {
        node,
        store,
        storage: pool.storage,
        runtime: runtime.clone(),
        templates: Arc::new(TemplateWorks::new(pool.templates, state.downloads())),
        network,
        keep_node: keeper(state),
        clock: Arc::new(HostClock::new()?),
        reserved: subids::observe_reserved_ranges()?,
        crash: Arc::new(crash::step_point),
    };
    Ok(Daemon {
        engine: Engine::new(deps),
        runtime,
        lock,
    })
}

/// Keeps what of the node changes while it serves.
fn keeper(state: &StateDir) -> KeepNode {
    let state = state.clone();
    Arc::new(move |node| {
        state.keep(node).map_err(|error| {
            Refusal::new(
                Code::StateFailed,
                format!("{} was not written: {error:#}", state.node_file().display()),
                "see whether there is room, then ask again",
            )
        })
    })
}

fn find_helper(program: &Path) -> anyhow::Result<PathBuf> {
    let beside = program.with_file_name(GUEST_HELPER);
    let installed = PathBuf::from("/usr/lib/mayfly").join(GUEST_HELPER);
    for candidate in [&beside, &installed] {
        if fs::metadata(candidate).is_ok_and(|meta| meta.is_file()) {
            return Ok(candidate.clone());
        }
    }
    Err(Refusal::new(
        Code::HostUnsuitable,
        format!(
            "the guest helper is neither at {} nor at {}",
            beside.display(),
            installed.display()
        ),
        "build it: ./run build",
    )
    .into())
}
