//! Metrics for Prometheus, in OpenMetrics text: computed from the journal and the roots at each request, and never stored.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::engine::{AppEngine, NotTaken, ask_all};

/// The media type (OpenMetrics 1.0).
pub(crate) const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfApp {
    app: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    app: String,
    outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLive {
    app: String,
    release: String,
    commit: String,
}

/// The text about these apps.
pub(crate) fn text(engines: &[Arc<AppEngine>]) -> Result<String, NotTaken> {
    let mut registry = Registry::with_prefix("release_agent");
    let runs: Family<OfOutcome, Counter> = Family::default();
    let running: Family<OfApp, Gauge> = Family::default();
    let waiting: Family<OfApp, Gauge> = Family::default();
    let locked: Family<OfApp, Gauge> = Family::default();
    let stuck: Family<OfApp, Gauge> = Family::default();
    let disk_free: Family<OfApp, Gauge<f64, AtomicU64>> = Family::default();
    let live: Family<OfLive, Gauge> = Family::default();
    let answers: Family<OfApp, Gauge> = Family::default();
    let restarts: Family<OfApp, Counter> = Family::default();
    registry.register("runs", "Runs that ended, by outcome", runs.clone());
    registry.register("running", "Whether a run is under way", running.clone());
    registry.register("waiting", "Runs that wait for their turn", waiting.clone());
    registry.register("locked", "Whether the app is locked", locked.clone());
    registry.register("stuck", "Whether a run ended stuck and nobody has gone on from there", stuck.clone());
    registry.register("disk_free_bytes", "Bytes free on the file system of the root", disk_free.clone());
    registry.register("live_info", "The live release", live.clone());
    registry.register("answers", "Whether the live release answers as its checks say; not there when nothing was asked", answers.clone());
    registry.register("instance_restarts", "How often the live instance ended and was started again by the agent", restarts.clone());
    ask_all(engines);
    for engine in engines {
        let status = engine.status()?;
        let of_app = OfApp { app: status.name.clone() };
        for (outcome, count) in engine.outcomes()? {
            runs.get_or_create(&OfOutcome { app: status.name.clone(), outcome }).inc_by(count);
        }
        running.get_or_create(&of_app).set(i64::from(status.running.is_some()));
        waiting.get_or_create(&of_app).set(i64::try_from(status.waiting.len()).unwrap_or(i64::MAX));
        locked.get_or_create(&of_app).set(i64::from(status.lock.is_some()));
        stuck.get_or_create(&of_app).set(i64::from(status.stuck.is_some()));
        if let Some(does) = engine.health().and_then(|health| health.answers()) {
            answers.get_or_create(&of_app).set(i64::from(does));
        }
        restarts.get_or_create(&of_app).inc_by(status.started_again.as_ref().map_or(0, |again| u64::from(again.times)));
        #[expect(clippy::cast_precision_loss, reason = "a gauge of bytes is a float in Prometheus")]
        disk_free.get_or_create(&of_app).set(status.disk_free as f64);
        if let Some(release) = status.live {
            live.get_or_create(&OfLive { app: status.name, release: release.name, commit: release.commit }).set(1);
        }
    }
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = encode(&mut text, &registry);
    Ok(text)
}
