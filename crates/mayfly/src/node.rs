//! A node's state directory, and the parts of a daemon put together from it.
//!
//! ```text
//! node.json        what this node is; written last by `init`
//! state.db         documents and the journal
//! pool/            where the pool is mounted (of ZFS the platform's own part), in the daemon's mount namespace only
//! runs/<vps>.<run> one directory a run
//! consoles/<vps>   console rings
//! api.sock         the API
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use mayfly_core::documents::{NodeDoc, PoolSpec, SCHEMA};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::NodeId;
use mayfly_core::ports::Clock as _;
use mayfly_engine::store::SqliteStore;
use mayfly_engine::{Deps, Engine};
use mayfly_host::clock::HostClock;
use mayfly_host::run::client::Node;
use mayfly_host::run::runtime::{LxcRuntime, RuntimePlaces};
use mayfly_host::storage::{format_pool, open_pool};
use mayfly_host::template::TemplateWorks;
use mayfly_host::{crash, namespace, subids};

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
pub(crate) fn init(state: &StateDir, pool: PoolSpec) -> anyhow::Result<NodeDoc> {
    if let Some(node) = state.read_node()? {
        if node.pool == pool {
            return Ok(node);
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
    };
    write_durably(&state.node_file(), &serde_json::to_vec_pretty(&node)?)?;
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

/// A daemon's parts.
pub(crate) struct Daemon {
    /// The engine, at rest.
    pub(crate) engine: Engine,
    /// The runs.
    pub(crate) runtime: Arc<LxcRuntime>,
}

/// Puts a daemon together. The calling thread, and those that it starts from now on, have a mount namespace of their
/// own, with the pool in it: call this before any other thread exists.
pub(crate) fn open(state: &StateDir) -> anyhow::Result<Daemon> {
    let node = state.read_node()?.ok_or_else(|| {
        Refusal::new(
            Code::NodeNotInitialised,
            format!("{} is not the state directory of a node", state.0.display()),
            "make one: mayfly init --pool zfs:tank/ct, or loop:FILE,size=20G",
        )
    })?;
    state.ensure_directories()?;
    let began = Instant::now();
    let monotonic = Arc::new(move || began.elapsed());
    let store = SqliteStore::open(&state.0.join("state.db"), monotonic).map_err(Refusal::from)?;
    namespace::enter_private()?;
    let pool = open_pool(&node.pool, &node.id, &state.pool_mount()).map_err(Refusal::from)?;
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
        store: Arc::new(store),
        storage: pool.storage,
        runtime: runtime.clone(),
        templates: Arc::new(TemplateWorks::new(pool.templates)),
        clock: Arc::new(HostClock::new()?),
        reserved: subids::observe_reserved_ranges()?,
        crash: Arc::new(crash::step_point),
    };
    Ok(Daemon {
        engine: Engine::new(deps),
        runtime,
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
