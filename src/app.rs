//! Composition root: configuration to listeners, tasks, reload and drain.
