//! What every handler has at hand.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use mayfly_api::{IfBusy, OperationView, PlanBody, VpsState, VpsView};
use mayfly_core::documents::VpsDoc;
use mayfly_core::error::Refusal;
use mayfly_engine::{Engine, Intent};
use tokio::sync::watch;

use crate::error::ApiError;
use crate::extract::{Caller, How};

/// How long one call may wait for something to happen.
pub(crate) const SLICE: Duration = Duration::from_secs(1);

/// A program that does something inside a VPS, ready to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachCommand {
    /// Absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
}

/// What belongs to a run and is not the engine's: programs inside it, and its console. Everything may block.
pub trait Consoles: Send + Sync {
    /// How to run `command` inside a VPS that runs, with `env` as its environment. With `tty` it is started on a terminal
    /// that it becomes the owner of.
    fn attach(
        &self,
        doc: &VpsDoc,
        command: &[String],
        env: &BTreeMap<String, String>,
        tty: bool,
    ) -> Result<AttachCommand, Refusal>;

    /// How to run Mayfly's helper with these arguments inside a VPS that runs.
    fn attach_helper(&self, doc: &VpsDoc, arguments: &[&str]) -> Result<AttachCommand, Refusal>;

    /// The socket of the present run's console; none where there is no run.
    fn console_socket(&self, doc: &VpsDoc) -> Option<PathBuf>;

    /// What the console's ring holds, 1 MiB at most; empty where nothing was ever printed.
    fn console_log(&self, doc: &VpsDoc) -> Result<Vec<u8>, Refusal>;

    /// Sets the size of the present run's console.
    fn resize(&self, doc: &VpsDoc, rows: u16, cols: u16) -> Result<(), Refusal>;
}

/// What every handler has at hand. Clones share it.
#[derive(Clone)]
pub struct AppState {
    engine: Engine,
    consoles: Arc<dyn Consoles>,
    ending: watch::Sender<bool>,
}

impl AppState {
    /// A state of these parts.
    pub fn new(engine: Engine, consoles: Arc<dyn Consoles>) -> Self {
        Self {
            engine,
            consoles,
            ending: watch::Sender::new(false),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Ends all that waits on purpose.
    pub(crate) fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Until the daemon ends.
    pub(crate) async fn ended(&self) {
        // The sender is in this very state.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }

    pub(crate) fn consoles(&self) -> &dyn Consoles {
        &*self.consoles
    }

    /// Does what blocks on a thread that may. Never for longer than [`SLICE`] where it waits on purpose: such a thread
    /// cannot be interrupted, and the end of the daemon waits for it.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, ApiError> {
        let state = self.clone();
        match tokio::task::spawn_blocking(move || what(&state)).await {
            Ok(done) => Ok(done?),
            Err(e) => Err(ApiError::internal(e)),
        }
    }

    /// Asks the engine for a change, or for the plan of one.
    pub(crate) async fn change(
        &self,
        caller: Caller,
        how: &How,
        vps: Option<String>,
        intent: Intent,
    ) -> Result<Response, ApiError> {
        let (dry_run, if_busy) = (how.dry_run, how.if_busy);
        self.blocking(move |state| {
            let vps = match &vps {
                None => None,
                Some(which) => Some(state.engine.vps(which)?.id),
            };
            if dry_run {
                let plan = state.engine.dry_run(vps, intent)?;
                return Ok((StatusCode::OK, Json(PlanBody::from(&plan))).into_response());
            }
            let if_busy = match if_busy {
                IfBusy::Wait => mayfly_engine::IfBusy::Wait,
                IfBusy::Refuse => mayfly_engine::IfBusy::Refuse,
            };
            let operation = state
                .engine
                .submit_when(vps, intent, &caller.by(), if_busy)?;
            Ok((StatusCode::ACCEPTED, Json(OperationView::from(operation))).into_response())
        })
        .await
    }

    /// A VPS as it is shown, without a look at the pool.
    pub(crate) fn view(&self, doc: VpsDoc) -> VpsView {
        match self.engine.run_state(&doc) {
            Ok(run) => VpsView::new(doc, run.as_ref()),
            Err(refusal) => {
                let mut view = VpsView::new(doc, None);
                if view.state == VpsState::Starting {
                    view.state = VpsState::Unknown;
                }
                view.notes.push(refusal.message);
                view
            }
        }
    }
}
