//! The node and its pool.

use axum::Json;
use axum::extract::State;
use mayfly_api::{NodeView, PoolDatasetView, PoolView, ShareView, VpsState};
use mayfly_core::ids::NodeId;
use mayfly_core::observed::{MarkSeen, Role};
use mayfly_engine::PoolReport;
use utoipa_axum::routes;

use crate::AppState;
use crate::router::{Answer, Routes};

/// The addresses of this file.
pub(crate) fn routes() -> Routes {
    Routes::default()
        .routes(routes!(show))
        .routes(routes!(pool))
}

/// The node at a glance.
#[utoipa::path(
    get,
    path = "/v1/node",
    responses((status = 200, description = "The node.", body = NodeView)),
)]
pub(crate) async fn show(State(state): State<AppState>) -> Answer<NodeView> {
    let view = state.blocking(|state| {
        let engine = state.engine();
        let vpses: Vec<_> = engine
            .vpses()?
            .into_iter()
            .map(|doc| state.view(doc))
            .collect();
        let count = |wanted: VpsState| vpses.iter().filter(|v| v.state == wanted).count();
        let (space, mut trouble) = match engine.pool() {
            Ok(report) => (Some(share(&report)), report.reports),
            Err(refusal) => (None, vec![refusal.message]),
        };
        if let Some(why) = engine.network_trouble() {
            trouble.insert(0, format!("{} (next: {})", why.message, why.hint));
        }
        Ok(NodeView {
            id: engine.node().id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pool: engine.node().pool.clone(),
            running: count(VpsState::Running),
            needs_operator: count(VpsState::NeedsOperator),
            vpses: vpses.len(),
            templates: engine.templates()?.len(),
            operations: engine
                .operations()?
                .iter()
                .filter(|op| !op.state.is_over())
                .count(),
            space,
            network: engine.network(),
            trouble,
        })
    });
    Ok(Json(view.await?))
}

/// The pool: its space, and all that lies in it.
///
/// A pool that cannot be looked at is refused, never shown as empty.
#[utoipa::path(
    get,
    path = "/v1/pool",
    responses((status = 200, description = "The pool.", body = PoolView)),
)]
pub(crate) async fn pool(State(state): State<AppState>) -> Answer<PoolView> {
    let view = state.blocking(|state| {
        let node = state.engine().node();
        let report = state.engine().pool()?;
        let space = share(&report);
        let datasets = report
            .seen
            .datasets
            .iter()
            .map(|(name, seen)| PoolDatasetView {
                dataset: name.to_string(),
                role: role(&seen.mark, &node.id).to_owned(),
                quota_bytes: seen.quota,
                used_bytes: seen.used,
            })
            .collect();
        let waiting = report.waiting.iter().map(ToString::to_string).collect();
        Ok(PoolView {
            pool: node.pool.clone(),
            space,
            datasets,
            waiting,
            reports: report.reports,
        })
    });
    Ok(Json(view.await?))
}

fn share(report: &PoolReport) -> ShareView {
    let (capacity, promised) = (report.seen.capacity, report.promised);
    let percent = (u128::from(promised.0) * 100)
        .checked_div(u128::from(capacity.0))
        .unwrap_or(0);
    ShareView {
        capacity_bytes: capacity,
        free_bytes: report.seen.free,
        promised_bytes: promised,
        promised_percent: u64::try_from(percent).unwrap_or(u64::MAX),
    }
}

fn role(mark: &MarkSeen, node: &NodeId) -> &'static str {
    match mark {
        MarkSeen::Local(mark) if mark.node != *node => "foreign",
        MarkSeen::Local(mark) => match mark.role {
            Role::Persistent => "persistent",
            Role::Temporary => "temporary",
            Role::Replaced => "replaced",
            Role::Base => "base",
            Role::Template => "template",
        },
        MarkSeen::NotLocal => "foreign",
        MarkSeen::Unset => "unmarked",
        MarkSeen::Unreadable(_) => "unreadable",
    }
}
