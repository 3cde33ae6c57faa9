//! A second, third, ... send at once, for collectors that are far away: a task that takes full batches from a queue that
//! fills faster than one send after another empties it. What is over, the flush and the end belong to the first task.

use std::sync::Arc;

use crate::reporter::run::Runner;
use crate::reporter::run::told_to_stop;

/// The task's state.
pub(in crate::reporter) struct Spare {
    runner: Runner,
}

impl Spare {
    /// Beside the reporter's first task: same queue, same ledger, a sender of its own.
    pub(in crate::reporter) fn new(runner: Runner) -> Self {
        Self { runner }
    }

    /// Runs until told to stop.
    pub(in crate::reporter) async fn run(mut self) {
        let runner = &mut self.runner;
        let batch = runner.config.queue().batch;
        loop {
            let queue = Arc::clone(&runner.queue);
            tokio::select! {
                biased;
                () = told_to_stop(&mut runner.stop) => return,
                () = queue.pressed() => {}
            }
            while queue.is_pressed() && !runner.stopping() {
                runner.refresh();
                runner.deliver(queue.take(batch)).await;
            }
        }
    }
}
