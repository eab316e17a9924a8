//! A node on the fake host, and daemons that die where the test says.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mayfly_core::bytes::Bytes;
use mayfly_core::documents::{Desired, Lifecycle, NodeDoc, OperationDoc, PoolSpec, SCHEMA, VpsDoc};
use mayfly_core::fake::FakeHost;
use mayfly_core::ids::VpsId;
use mayfly_core::network::NodeNetwork;
use mayfly_core::plan::CreateInput;
use mayfly_engine::store::{MemoryStore, Store, Txn, Write};
use mayfly_engine::{Deps, Engine, Intent};

/// The VPS of every scenario.
pub(crate) fn vps() -> VpsId {
    11327.try_into().unwrap()
}

/// Where a daemon dies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Death {
    /// Nowhere.
    Never,
    /// At the n-th point that its engine passes: before a step, or after one and before the journal says so.
    Point(usize),
    /// Before the n-th changing call has any effect.
    Before(usize),
    /// In the middle of the n-th changing call.
    HalfWay(usize),
    /// After the n-th changing call.
    After(usize),
}

/// The host, its store, and the points that engines have passed.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) host: FakeHost,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) passed: Arc<Mutex<BTreeSet<String>>>,
    pub(crate) network: Option<NodeNetwork>,
}

/// What `resume_unwind` carries, so that nothing is printed.
pub(crate) struct Died;

impl World {
    /// A node with the templates that scenarios use.
    pub(crate) fn new(passed: &Arc<Mutex<BTreeSet<String>>>) -> Self {
        Self::on(FakeHost::new(), passed)
    }

    /// The same on a host of its own kind.
    pub(crate) fn on(host: FakeHost, passed: &Arc<Mutex<BTreeSet<String>>>) -> Self {
        let store = MemoryStore::new(Arc::new(|| Duration::ZERO));
        for name in ["debian-12", "debian-12-impermanence", "nixos-shaped"] {
            let doc = host.add_template(name);
            let write = Write::put_doc(format!("/templates/{name}"), &doc).unwrap();
            store
                .txn(Txn {
                    conditions: vec![],
                    writes: vec![write],
                })
                .unwrap();
        }
        Self {
            host,
            store: Arc::new(store),
            passed: Arc::clone(passed),
            network: None,
        }
    }

    /// An engine that dies at the given point, or when its host's daemon does.
    pub(crate) fn engine(&self, death: Death) -> Engine {
        let (host, passed) = (self.host.clone(), Arc::clone(&self.passed));
        let count = Mutex::new(0_usize);
        let crash = move |point: &str| {
            passed.lock().unwrap().insert(point.to_owned());
            let mut count = count.lock().unwrap();
            *count += 1;
            let here = matches!(death, Death::Point(n) if n == *count);
            drop(count);
            if here {
                host.kill_daemon();
            }
            if host.crashed() {
                resume_unwind(Box::new(Died));
            }
        };
        match death {
            Death::Before(n) => self.host.crash_before(n),
            Death::HalfWay(n) => self.host.crash_half_way(n),
            Death::After(n) => self.host.crash_after(n),
            Death::Never | Death::Point(_) => self.host.no_crash(),
        };
        self.engine_with(crash)
    }

    /// An engine whose daemon dies the first time that it passes a point of that name.
    pub(crate) fn engine_that_dies_at(&self, name: &'static str) -> Engine {
        let host = self.host.clone();
        self.engine_with(move |point| {
            if point == name {
                host.kill_daemon();
            }
            if host.crashed() {
                resume_unwind(Box::new(Died));
            }
        })
    }

    /// An engine that calls `hook` with the name of every point that it passes.
    pub(crate) fn engine_with(&self, hook: impl Fn(&str) + Send + Sync + 'static) -> Engine {
        let host = Arc::new(self.host.clone());
        let node = NodeDoc {
            schema: SCHEMA,
            id: self.host.node(),
            pool: PoolSpec::Btrfs {
                directory: "/pool".into(),
            },
            network: self.network.clone(),
        };
        Engine::new(Deps {
            node,
            store: Arc::clone(&self.store),
            storage: host.clone(),
            runtime: host.clone(),
            templates: host.clone(),
            network: host.clone(),
            keep_node: Arc::new(|_| Ok(())),
            clock: host,
            reserved: Vec::new(),
            crash: Arc::new(hook),
        })
    }

    /// Carries out what `act` asks for, all that follows from it, and the reaper's part. True when the daemon lived.
    pub(crate) fn live(&self, engine: &Engine, act: impl Fn(&Engine)) -> bool {
        let lived = catch_unwind(AssertUnwindSafe(|| {
            act(engine);
            settle(engine);
        }));
        match lived {
            Ok(()) => !self.host.crashed(),
            Err(payload) if payload.is::<Died>() => false,
            Err(payload) => resume_unwind(payload),
        }
    }

    /// A daemon that starts, recovers and settles; it does not die.
    pub(crate) fn recover(&self) -> Engine {
        let engine = self.engine(Death::Never);
        engine.recover().expect("recovery converges");
        settle(&engine);
        engine
    }

    /// What holds after every recovery.
    pub(crate) fn assert_sound(&self, what: &str) {
        let engine = self.engine(Death::Never);
        let vpses = engine.vpses().unwrap();
        let told = || {
            format!(
                "{what}\ncalls: {:#?}\noperations: {:#?}",
                self.host.calls(),
                summaries(&engine)
            )
        };
        assert_eq!(self.host.catastrophes(), Vec::<String>::new(), "{}", told());
        assert_eq!(self.host.losses(), Vec::<String>::new(), "{}", told());
        assert_eq!(
            self.host.orphans(&vpses),
            Vec::<String>::new(),
            "{}",
            told()
        );
        for op in engine.operations().unwrap() {
            assert!(
                op.state.is_over(),
                "{} is not over: {}",
                op.request.verb(),
                told()
            );
        }
        for doc in &vpses {
            assert_eq!(doc.lifecycle, Lifecycle::Ready, "{}", told());
            let runs = self.host.is_running(doc.id);
            assert_eq!(
                runs,
                doc.run.is_some(),
                "{} runs: {runs}, recorded: {:?}; {}",
                doc.id,
                doc.run,
                told()
            );
            assert_eq!(
                runs,
                doc.desired == Desired::Running,
                "{} ought to be {:?}; {}",
                doc.id,
                doc.desired,
                told()
            );
            let held = self.host.limits_of(doc.id);
            assert!(held.is_none_or(|held| held == doc.limits), "{}", told());
            let held = self.host.features_of(doc.id);
            assert!(held.is_none_or(|held| held == doc.features), "{}", told());
            if let (true, Some(run)) = (runs, &doc.run) {
                assert_eq!(
                    self.host.root_of(doc.id).as_ref(),
                    Some(&run.root),
                    "{}",
                    told()
                );
            }
        }
    }
}

fn summaries(engine: &Engine) -> Vec<String> {
    let one = |op: OperationDoc| {
        format!(
            "{} by {}: {:?} after {} steps, {:?}",
            op.request.verb(),
            op.by,
            op.state,
            op.steps_done,
            op.error
        )
    };
    engine.operations().unwrap().into_iter().map(one).collect()
}

/// Everything that waits, and what follows from it, until nothing does.
pub(crate) fn settle(engine: &Engine) {
    loop {
        engine.drain();
        if !engine.settle_ends(Duration::ZERO) {
            break;
        }
    }
    let _ = engine.reap_once();
    engine.mirror_once();
}

/// Asks for something; a refusal at once is fine, the scenario may have been cut off before.
pub(crate) fn ask(engine: &Engine, intent: Intent) {
    let id = match &intent {
        Intent::Create { .. }
        | Intent::TemplateBuild { .. }
        | Intent::TemplateImport { .. }
        | Intent::TemplatePull { .. }
        | Intent::TemplateRemove { .. } => None,
        _ => Some(vps()),
    };
    let _ = engine.submit(id, intent, "test");
}

/// The VPS of the scenario, made from a template.
pub(crate) fn create(template: &str, start: bool) -> Intent {
    create_as(Some(vps()), template, start)
}

/// The same with another number, or with the next that is free.
pub(crate) fn create_as(id: Option<VpsId>, template: &str, start: bool) -> Intent {
    let input = CreateInput {
        id,
        hostname: None,
        disk: Some(Bytes::gib(30)),
        memory: None,
        cpu_percent: None,
        impermanence: false,
        features: [].into(),
        ssh_keys: None,
    };
    Intent::Create {
        input,
        template: template.parse().unwrap(),
        start,
    }
}

/// Its document.
pub(crate) fn doc(engine: &Engine) -> VpsDoc {
    engine.vps(&vps().to_string()).unwrap()
}
