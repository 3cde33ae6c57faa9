//! What one wire must offer: take a batch, say truthfully what became of it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::model::Span;
use crate::reporter::ledger::Reason;

/// The last step of one wire. Owned by its reporter's task; a panic costs the batch and the sender, which is rebuilt.
pub(super) trait Sender: Send {
    /// Sends a batch and says what became of it. Must end by itself (timeouts are the sender's own).
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a>;

    /// Reads again what changes beneath us without a new configuration, such as certificate files. Called now and then.
    ///
    /// # Errors
    /// A text for the log; what was in use stays in use.
    fn refresh(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// A send under way.
pub(super) type Sending<'a> =
    Pin<Box<dyn Future<Output = Result<Delivery, SendError>> + Send + 'a>>;

/// A send that is over: each span of the batch is in exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Delivery {
    pub(super) exported: usize,
    pub(super) dropped: Vec<(Reason, usize)>,
    /// What people should hear about it: the collector's message, the operating system's error.
    pub(super) remark: Option<String>,
}

/// A send after which the whole batch is still ours.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SendError {
    /// Worth repeating, not before `after` if the collector said so.
    Retry {
        after: Option<Duration>,
        cause: String,
    },
    /// Lost for good.
    Drop { reason: Reason, cause: String },
    /// Not for one message: these parts, which together are the batch, are to be sent one by one.
    Split(Vec<Vec<Arc<Span>>>),
}

impl Delivery {
    pub(super) fn all(spans: usize) -> Self {
        Self {
            exported: spans,
            ..Self::default()
        }
    }

    /// Notes that `spans` of the exported ones were in fact lost; never more than there are.
    pub(super) fn lose(&mut self, reason: Reason, spans: usize) {
        let spans = spans.min(self.exported);
        if spans > 0 {
            self.exported -= spans;
            self.dropped.push((reason, spans));
        }
    }
}

impl SendError {
    pub(super) fn retry(cause: impl Into<String>) -> Self {
        Self::Retry {
            after: None,
            cause: cause.into(),
        }
    }

    /// For a batch that is too large for one message: its halves, or the end of a single span.
    pub(super) fn too_large(batch: &[Arc<Span>]) -> Self {
        if batch.len() < 2 {
            return Self::Drop {
                reason: Reason::TooLarge,
                cause: "one span exceeds the largest message".to_owned(),
            };
        }
        let (first, second) = batch.split_at(batch.len() / 2);
        Self::Split(vec![first.to_vec(), second.to_vec()])
    }

    pub(super) fn rejected(cause: impl Into<String>) -> Self {
        Self::Drop {
            reason: Reason::Rejected,
            cause: cause.into(),
        }
    }
}

/// An error with its causes in one line, for `last_error` and logs.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
