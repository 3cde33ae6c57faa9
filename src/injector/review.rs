//! AdmissionReview, version `admission.k8s.io/v1`: what the API server sends and what it wants back.
//!
//! Only what is used here is named; unknown fields of newer versions pass.
//!
//! Source: Kubernetes API reference, "AdmissionReview v1"; "Dynamic Admission Control", section "Response".

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::telemetry::metrics::Label;
use crate::telemetry::metrics::ReviewOutcome;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// The API server cuts longer warnings.
const MAX_WARNING: usize = 256;
/// Longest foreign text that an error repeats.
const MAX_QUOTED: usize = 80;

/// Why a body cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// No JSON, or JSON of another shape.
    #[error("the body is no AdmissionReview: {0}")]
    Json(#[source] serde_json::Error),
    /// Another kind of object.
    #[error("the body is of kind {0:?}, not AdmissionReview")]
    Kind(String),
    /// A version that is not spoken here.
    #[error(
        "AdmissionReview version {0:?} is not spoken here, only {API_VERSION}: set admissionReviewVersions: [v1] in the \
         webhook configuration"
    )]
    Version(String),
    /// A review without its question.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// An answer must repeat it.
    #[error("the request has no uid")]
    NoUid,
    /// Creating a pod without a pod.
    #[error("the request has no object")]
    NoObject,
}

#[derive(Deserialize)]
struct Review {
    #[serde(default, rename = "apiVersion")]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// What the API server asks.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) kind: GroupVersionKind,
    #[serde(default)]
    pub(super) operation: String,
    pub(super) namespace: Option<String>,
    #[serde(default)]
    object: Value,
}

/// A kind of object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

impl Request {
    /// Reads a review.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ReviewError> {
        // The envelope first: of a foreign object it matters what it is, not which of its fields do not fit.
        let whole: Value = serde_json::from_slice(body).map_err(ReviewError::Json)?;
        let text = |key: &str| whole.get(key).and_then(Value::as_str).unwrap_or_default();
        if whole.is_object() && text("kind") != KIND {
            return Err(ReviewError::Kind(quoted(text("kind"))));
        }
        if whole.is_object() && text("apiVersion") != API_VERSION {
            return Err(ReviewError::Version(quoted(text("apiVersion"))));
        }
        let review: Review = serde_json::from_value(whole).map_err(ReviewError::Json)?;
        debug_assert!(review.kind == KIND && review.api_version == API_VERSION);
        let request = review.request.ok_or(ReviewError::NoRequest)?;
        match request.uid.is_empty() {
            true => Err(ReviewError::NoUid),
            false => Ok(request),
        }
    }

    /// The pod to be created; `None` when the question is about something else.
    pub(super) fn pod(&self) -> Result<Option<&Value>, ReviewError> {
        let kind = &self.kind;
        let is_pod = kind.group.is_empty() && kind.version == "v1" && kind.kind == "Pod";
        match &self.object {
            _ if !is_pod || self.operation != "CREATE" => Ok(None),
            object if object.is_object() => Ok(Some(object)),
            _ => Err(ReviewError::NoObject),
        }
    }
}

impl fmt::Display for GroupVersionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = [&self.group, &self.version, &self.kind]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(|part| quoted(part))
            .collect::<Vec<_>>();
        f.write_str(&name.join("/"))
    }
}

/// The answer: always allowed, with a patch when there are operations.
pub(super) fn answer(
    uid: &str,
    operations: &[Value],
    warnings: &[String],
    outcome: ReviewOutcome,
) -> Vec<u8> {
    let mut response = json!({
        "uid": uid,
        "allowed": true,
        "auditAnnotations": { "outcome": outcome.as_str() },
    });
    if !operations.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(Value::from(operations).to_string()));
    }
    if !warnings.is_empty() {
        let warnings = warnings
            .iter()
            .map(|warning| shortened(warning, MAX_WARNING));
        response["warnings"] = warnings.collect::<Vec<_>>().into();
    }
    json!({ "apiVersion": API_VERSION, "kind": KIND, "response": response })
        .to_string()
        .into_bytes()
}

fn quoted(text: &str) -> String {
    shortened(text, MAX_QUOTED)
}

/// The text without control characters, at most `max` bytes long.
fn shortened(text: &str, max: usize) -> String {
    let mut short = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if short.len() + c.len_utf8() > max {
            break;
        }
        short.push(c);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_review_is_refused_in_words() {
        for (body, message) in [
            ("", "the body is no AdmissionReview: EOF"),
            ("pod", "the body is no AdmissionReview: expected"),
            ("[]", "the body is no AdmissionReview: invalid"),
            (r#"{"kind":"Pod"}"#, r#"kind "Pod", not AdmissionReview"#),
            ("{}", r#"kind "", not AdmissionReview"#),
            (
                r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1"}"#,
                r#"version "admission.k8s.io/v1beta1" is not spoken here"#,
            ),
            (
                r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v2"}"#,
                r#"version "admission.k8s.io/v2" is not spoken here"#,
            ),
            (
                r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#,
                "has no request",
            ),
            (
                r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{}}"#,
                "has no uid",
            ),
            (
                r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":7}}"#,
                "invalid type: integer `7`, expected a string",
            ),
        ] {
            let error = Request::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{body}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(
            Request::parse(deep.as_bytes()).is_err(),
            "nested without end"
        );
    }

    #[test]
    fn a_pod_to_be_created_is_found_and_nothing_else() {
        let review = |kind: &str, operation: &str, object: &str| {
            let text = format!(
                r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{{"uid":"u",
                "kind":{kind},"operation":"{operation}","object":{object}}}}}"#
            );
            Request::parse(text.as_bytes()).unwrap()
        };
        let pod = r#"{"group":"","version":"v1","kind":"Pod"}"#;
        assert!(review(pod, "CREATE", "{}").pod().unwrap().is_some());
        let error = review(pod, "CREATE", "null").pod().unwrap_err();
        assert_eq!(error.to_string(), "the request has no object");
        assert!(review(pod, "DELETE", "null").pod().unwrap().is_none());
        let deployment = review(
            r#"{"group":"apps","version":"v1","kind":"Deployment"}"#,
            "CREATE",
            "{}",
        );
        assert!(deployment.pod().unwrap().is_none());
        assert_eq!(deployment.kind.to_string(), "apps/v1/Deployment");
    }

    #[test]
    fn warnings_have_the_length_that_the_server_takes() {
        let long = "ä".repeat(200);
        let body = answer("u", &[], &[long], ReviewOutcome::Skipped);
        let body: Value = serde_json::from_slice(&body).unwrap();
        let warning = body["response"]["warnings"][0].as_str().unwrap();
        assert_eq!(warning.len(), 256);
        assert!(body["response"].get("patch").is_none(), "{body}");
    }
}
