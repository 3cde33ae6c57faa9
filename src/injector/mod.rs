//! The admission webhook that puts Pillion into pods: what Kubernetes asks, what it is told, what a pod becomes.
//!
//! [`Injector::review`] takes the bytes of an AdmissionReview and gives those of the answer; [`serve`] is the HTTPS port in
//! front of it. No access to the API server is needed: everything that is decided is read from the pod. A pod stays a
//! JSON value, so that fields of any Kubernetes version pass.
//!
//! Source: Kubernetes, "Dynamic Admission Control" and "Sidecar Containers"; RFC 6902 (JSON Patch).

mod annotations;
mod config;
mod decide;
mod identity;
mod patch;
mod pod;
mod probes;
mod program;
mod quantity;
mod review;
mod server;
mod sidecar;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::telemetry::metrics::ReviewOutcome;

pub use annotations::{ANNOTATIONS, Annotation, DOMAIN, INJECTED_LABEL};
pub use config::{Capabilities, Config, ConfigError, PullPolicy};
pub use quantity::Resources;
pub use review::ReviewError;
pub use server::{Hooks, serve};

use decide::Decision;
use patch::Draft;
use pod::Pod;
use review::Request;

/// The variables that make a program load what lies in a directory: from the directory and what the program's
/// environment holds.
pub type Variables = fn(&str, &BTreeMap<String, String>) -> Vec<(&'static str, String)>;

/// What programs can be made to load from the directory of shims.
#[derive(Debug, Clone, Copy)]
pub struct Loads {
    /// The start-up shims of runtimes.
    pub shims: Variables,
    /// The library that tells about threads; `None` where this build has none.
    pub preload: Option<Variables>,
}

/// Whether a pod that says nothing is injected: its namespace's label decides, which API server matched before it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unless {
    /// Only pods that ask for it.
    Asked,
    /// All pods that do not refuse.
    Refused,
}

/// Decides about pods. One for each configuration; requests share it.
pub struct Injector {
    config: Config,
    loads: Loads,
}

/// The answer to a review.
#[derive(Debug)]
pub struct Answer {
    /// An AdmissionReview as JSON.
    pub body: Vec<u8>,
    /// What was decided, for metrics.
    pub outcome: ReviewOutcome,
    /// The pod in words, for the log.
    pub pod: String,
    /// What the API server shows to whoever made the pod.
    pub warnings: Vec<String>,
}

impl Injector {
    /// Checks the settings.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn new(config: Config, loads: Loads) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { config, loads })
    }

    /// Answers an AdmissionReview. Whatever is wrong with a pod lets it pass as it is, with a warning.
    ///
    /// # Errors
    /// The bytes are no review that can be answered.
    pub fn review(&self, body: &[u8], unless: Unless) -> Result<Answer, ReviewError> {
        let request = Request::parse(body)?;
        let Some(object) = request.pod()? else {
            let what = format!("{} of {}", request.operation, request.kind);
            let warning = format!("pillion injects into pods as they are created, this is {what}");
            let outcome = ReviewOutcome::NotAsked;
            return Ok(answer(&request, what, outcome, vec![warning], &[]));
        };
        let pod = Pod::new(object, request.namespace.as_deref());
        let name = pod.display_name();
        let (outcome, warnings, operations) = self.decide(&pod, unless);
        Ok(answer(&request, name, outcome, warnings, &operations))
    }

    fn decide(&self, pod: &Pod<'_>, unless: Unless) -> (ReviewOutcome, Vec<String>, Vec<Value>) {
        let (outcome, reason, mut warnings) = match decide::decide(pod, &self.config, unless) {
            Decision::Inject(plan) => {
                let mut warnings = plan.warnings.clone();
                let mut draft = Draft::new(pod.object.clone());
                warnings.extend(program::apply(&mut draft, pod, &plan, &self.loads));
                sidecar::apply(&mut draft, pod, &plan, &self.config);
                sidecar::mark(&mut draft, &plan);
                return (ReviewOutcome::Injected, warnings, draft.into_operations());
            }
            Decision::Already => return (ReviewOutcome::Already, Vec::new(), Vec::new()),
            Decision::NotAsked(warnings) => return (ReviewOutcome::NotAsked, warnings, Vec::new()),
            Decision::Cannot(reason) => (ReviewOutcome::Skipped, reason, Vec::new()),
            Decision::Invalid(reason, more) => (ReviewOutcome::Invalid, reason, more),
        };
        // Controllers make most pods, and nobody reads the warnings that they get: the pod itself says it too.
        let mut draft = Draft::new(pod.object.clone());
        draft.annotate(annotations::STATUS, &format!("not injected: {reason}"));
        warnings.insert(0, format!("pillion is not injected: {reason}"));
        (outcome, warnings, draft.into_operations())
    }
}

fn answer(
    request: &Request,
    pod: String,
    outcome: ReviewOutcome,
    warnings: Vec<String>,
    operations: &[Value],
) -> Answer {
    Answer {
        body: review::answer(&request.uid, operations, &warnings, outcome),
        outcome,
        pod,
        warnings,
    }
}

impl std::fmt::Debug for Injector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Injector")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
