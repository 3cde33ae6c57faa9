//! The `log` reporter: one JSON line a span on standard output or standard error.
//!
//! A pipe whose reader stands still would block whoever writes; a thread of its own does that, and the reporter waits
//! for it no longer than the timeout.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::codec::json_span;
use crate::model::HumanDuration;
use crate::model::Span;
use crate::reporter::BuildError;
use crate::reporter::Settings;
use crate::reporter::ledger::Reason;
use crate::reporter::queue;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;
use crate::reporter::sender::Sender;
use crate::reporter::sender::Sending;

/// Settings of the `log` reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the lines go.
    ///
    /// Values: `stdout`, `stderr`. Default: `stdout`. Reload: live.
    pub output: Output,

    /// Longest wait for a reader that stands still; the batch is then dropped (`send_failed`).
    ///
    /// Unit: duration. Default: `5s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,

    /// How spans wait. Reload: live.
    pub queue: queue::Config,
}

/// The stream that takes the lines.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            output: Output::default(),
            timeout: HumanDuration::from_secs(5),
            queue: queue::Config::default(),
        }
    }
}

impl Settings for Config {
    const EXAMPLE: &'static str = "log: { output: stderr }";

    fn queue(&self) -> &queue::Config {
        &self.queue
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
        let output: Box<dyn Write + Send> = match self.output {
            Output::Stdout => Box::new(std::io::stdout()),
            Output::Stderr => Box::new(std::io::stderr()),
        };
        Ok(Box::new(Log::new(output, self.timeout.0)))
    }
}

/// Lines to write and where to say what came of it.
type Job = (Vec<u8>, oneshot::Sender<std::io::Result<()>>);

/// The sender; the `file` reporter is another output of it.
pub(super) struct Log {
    /// The writer thread's inbox, one job deep. The thread starts with the first batch and ends when this is dropped
    /// (or stays in its write for as long as the reader stands still, holding nothing but its lines).
    jobs: Option<mpsc::SyncSender<Job>>,
    output: Option<Box<dyn Write + Send>>,
    timeout: Duration,
    encode: Encode,
}

/// A batch as lines.
type Encode = fn(&[Arc<Span>]) -> Vec<u8>;

fn lines(batch: &[Arc<Span>]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(batch.len() * 512);
    for span in batch {
        json_span::write_line(span, &mut lines);
    }
    lines
}

impl Log {
    pub(super) fn new(output: Box<dyn Write + Send>, timeout: Duration) -> Self {
        Self {
            jobs: None,
            output: Some(output),
            timeout,
            encode: lines,
        }
    }

    /// Writes batches in this form instead of one line a span.
    pub(super) fn with_encoder(mut self, encode: Encode) -> Self {
        self.encode = encode;
        self
    }

    fn jobs(&mut self) -> Result<&mpsc::SyncSender<Job>, SendError> {
        if let Some(mut output) = self.output.take() {
            let (jobs, inbox) = mpsc::sync_channel::<Job>(1);
            std::thread::Builder::new()
                .name("span-log".to_owned())
                .spawn(move || {
                    while let Ok((lines, done)) = inbox.recv() {
                        let written = output.write_all(&lines).and_then(|()| output.flush());
                        // Nobody waits any more after a timeout.
                        let _unheard = done.send(written).is_err();
                    }
                })
                .map_err(|error| failed(error.to_string()))?;
            self.jobs = Some(jobs);
        }
        self.jobs
            .as_ref()
            .ok_or_else(|| failed("the writing thread could not be started"))
    }

    async fn write(&mut self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        let lines = (self.encode)(batch);
        let (done, written) = oneshot::channel();
        let timeout = self.timeout;
        self.jobs()?
            .try_send((lines, done))
            .map_err(|_| failed("the reader of our output stands still"))?;
        match tokio::time::timeout(timeout, written).await {
            Ok(Ok(Ok(()))) => Ok(Delivery::all(batch.len())),
            Ok(Ok(Err(error))) => Err(failed(error.to_string())),
            Ok(Err(_)) => Err(failed("the writing thread ended")),
            Err(_) => Err(failed(format!("no line taken within {timeout:?}"))),
        }
    }
}

fn failed(cause: impl Into<String>) -> SendError {
    SendError::Drop {
        reason: Reason::SendFailed,
        cause: cause.into(),
    }
}

impl Sender for Log {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(self.write(batch))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::reporter::tests::span;

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Blocks in `write` until its other end is dropped.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            let _ended = self.0.recv().is_err();
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn each_span_is_one_line_of_json() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let output = Box::new(Shared(Arc::clone(&lines)));
        let mut log = Log::new(output, Duration::from_secs(5));
        let batch = [span(1), span(2)];
        assert_eq!(log.send(&batch).await, Ok(Delivery::all(2)));
        let lines = lines.lock().unwrap();
        let parsed: Vec<serde_json::Value> = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[1]["name"], "GET /users/{id}");
    }

    #[tokio::test]
    async fn a_reader_that_stands_still_costs_spans_but_never_the_reporter() {
        let (_keep, stuck) = mpsc::channel();
        let mut log = Log::new(Box::new(Stuck(stuck)), Duration::from_millis(20));
        let batch = [span(1)];
        for _ in 0..4 {
            assert!(matches!(
                log.send(&batch).await,
                Err(SendError::Drop {
                    reason: Reason::SendFailed,
                    ..
                })
            ));
        }
    }
}
