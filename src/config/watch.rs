//! When to load the configuration again: SIGHUP, a changed file, or an order from the admin port.
//!
//! The directory is watched rather than the file, because editors replace files and Kubernetes swaps a symbolic link
//! beside them. Events are gathered for a moment, and a file counts as changed only when its content did. Watching may
//! be impossible (network file systems, exhausted inotify); a look every 30 seconds finds the change then. Standard
//! input is read once, at the start: a second reading would find it empty, or wait for a terminal.
//!
//! Nothing is applied here: the owner of the running configuration takes the [`Event`] and answers it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use notify::RecommendedWatcher;
use notify::RecursiveMode;
use notify::Watcher as _;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::config::error::ConfigErrors;
use crate::config::load;
use crate::config::load::Loaded;
use crate::config::load::Sources;

/// Events within this time are one change.
const GATHER: Duration = Duration::from_millis(200);
/// How often the content is compared although nothing was heard.
const POLL: Duration = Duration::from_secs(30);
/// Orders that may wait; further ones are refused.
const MAX_ORDERS: usize = 16;

/// Why the configuration was loaded again. Logs show it as `SIGHUP`, `file` or `request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGHUP.
    Signal,
    /// The file's content changed.
    File,
    /// [`Trigger::reload`].
    Order,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal => "SIGHUP",
            Self::File => "file",
            Self::Order => "request",
        })
    }
}

/// A configuration loaded again, or the reasons why it cannot be.
#[derive(Debug)]
pub struct Event {
    /// Why.
    pub cause: Cause,
    /// What was loaded. On error the running configuration stays.
    pub outcome: Result<Loaded, ConfigErrors>,
    answer: Option<oneshot::Sender<Answer>>,
}

/// What came of a reload, in words.
pub type Answer = Result<String, String>;

/// Orders a reload from anywhere. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Trigger(mpsc::Sender<oneshot::Sender<Answer>>);

/// Waits for reasons to reload. Held by the task that applies configurations; dropping it ends the watching.
#[derive(Debug)]
pub struct Watch {
    sources: Sources,
    /// The content loaded last; `None` when the file could not be read.
    content: Option<String>,
    hangup: Signal,
    orders: mpsc::Receiver<oneshot::Sender<Answer>>,
    touched: mpsc::Receiver<()>,
    /// When to look at the file because something touched it.
    due: Option<Instant>,
    poll: Interval,
    /// Stops watching when dropped.
    _watcher: Option<RecommendedWatcher>,
}

/// Starts to watch what `loaded` was made from.
///
/// # Errors
/// The signal handler cannot be set up. A file that cannot be watched is looked at from time to time.
pub fn watch(sources: Sources, loaded: &Loaded) -> io::Result<(Watch, Trigger)> {
    let (touch, touched) = mpsc::channel(1);
    let watcher = directory(&sources).and_then(|dir| match watcher(&dir, touch) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(%error, dir = %dir.display(), every = ?POLL, "cannot watch the configuration, looking at it from time to time");
            None
        }
    });
    let (trigger, orders) = mpsc::channel(MAX_ORDERS);
    let mut poll = tokio::time::interval_at(Instant::now() + POLL, POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch {
        content: Some(loaded.text.clone()),
        sources,
        hangup: signal(SignalKind::hangup())?,
        orders,
        touched,
        due: None,
        poll,
        _watcher: watcher,
    };
    Ok((watch, Trigger(trigger)))
}

impl Watch {
    /// The next reload. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Event {
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => return self.load(Cause::Signal, None),
                Some(answer) = self.orders.recv() => return self.load(Cause::Order, Some(answer)),
                Some(()) = self.touched.recv() => {
                    self.due.get_or_insert(Instant::now() + GATHER);
                    continue;
                }
                () = until(self.due) => self.due = None,
                _ = self.poll.tick() => {}
            }
            if self.is_changed() {
                return self.load(Cause::File, None);
            }
        }
    }

    /// True when the file's content is not what was loaded last.
    fn is_changed(&self) -> bool {
        if self.sources.file.is_none() || self.is_standard_input() {
            return false;
        }
        load::read(&self.sources).ok().flatten() != self.content
    }

    fn is_standard_input(&self) -> bool {
        let file = self.sources.file.as_ref();
        file.is_some_and(|file| file.as_os_str() == "-")
    }

    fn load(&mut self, cause: Cause, answer: Option<oneshot::Sender<Answer>>) -> Event {
        let read = match self.is_standard_input() {
            true => Ok(self.content.clone()),
            false => load::read(&self.sources),
        };
        let outcome = match read {
            Ok(text) => {
                self.content = Some(text.clone().unwrap_or_default());
                load::load_text(&self.sources, text)
            }
            Err(errors) => {
                self.content = None;
                Err(errors)
            }
        };
        Event {
            cause,
            outcome,
            answer,
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Event {
    /// Tells whoever ordered the reload what came of it; nobody when it was a signal or the file.
    pub fn answer(self, answer: Answer) {
        if let Some(sender) = self.answer {
            // The one who asked may have gone away.
            sender.send(answer).ok();
        }
    }
}

impl Trigger {
    /// Orders a reload and waits for what comes of it.
    ///
    /// # Errors
    /// Why the running configuration stays.
    pub async fn reload(&self) -> Answer {
        let (sender, receiver) = oneshot::channel();
        if self.0.try_send(sender).is_err() {
            return Err("too many reloads are waiting".to_owned());
        }
        let lost = |_| Err("the reload was given up".to_owned());
        receiver.await.unwrap_or_else(lost)
    }
}

fn directory(sources: &Sources) -> Option<PathBuf> {
    let file = sources.file.as_ref().filter(|f| f.as_os_str() != "-")?;
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => Some(dir.to_owned()),
        _ => Some(PathBuf::from(".")),
    }
}

fn watcher(dir: &std::path::Path, touch: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let reading = event.is_ok_and(|event| event.kind.is_access());
        if !reading {
            // Full means that a look at the file is due already.
            touch.try_send(()).ok();
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn start(dir: &tempfile::TempDir, text: &str) -> (Watch, Trigger, PathBuf) {
        let file = dir.path().join("pillion.yaml");
        fs::write(&file, text).unwrap();
        let sources = Sources {
            file: Some(file.clone()),
            ..Sources::default()
        };
        let loaded = load::load(&sources).unwrap();
        let (watch, trigger) = watch(sources, &loaded).unwrap();
        (watch, trigger, file)
    }

    async fn next(watch: &mut Watch) -> Event {
        tokio::time::timeout(DEADLINE, watch.next()).await.unwrap()
    }

    #[tokio::test]
    async fn a_changed_file_is_loaded_again_and_a_bad_one_reported() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, _trigger, file) = start(&dir, "workers: 1\n");
        fs::write(&file, "workers: 2\n").unwrap();
        let event = next(&mut watch).await;
        assert_eq!(event.cause, Cause::File);
        assert_eq!(event.outcome.unwrap().config.workers, 2);

        fs::write(&file, "wrokers: 3\n").unwrap();
        let errors = next(&mut watch).await.outcome.unwrap_err();
        let [line] = &errors.lines()[..] else {
            panic!("{errors}")
        };
        assert!(
            line.ends_with("pillion.yaml:1:1: unknown key `wrokers`"),
            "{line}"
        );
    }

    #[tokio::test]
    async fn a_swapped_symbolic_link_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("v1")).unwrap();
        fs::create_dir(at("v2")).unwrap();
        fs::write(at("v1/pillion.yaml"), "workers: 1\n").unwrap();
        fs::write(at("v2/pillion.yaml"), "workers: 2\n").unwrap();
        std::os::unix::fs::symlink("v1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/pillion.yaml", at("pillion.yaml")).unwrap();
        let sources = Sources {
            file: Some(at("pillion.yaml")),
            ..Sources::default()
        };
        let loaded = load::load(&sources).unwrap();
        let (mut watch, _trigger) = watch(sources, &loaded).unwrap();

        std::os::unix::fs::symlink("v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(next(&mut watch).await.outcome.unwrap().config.workers, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_dropped_while_events_are_gathered_loses_none() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, _trigger, file) = start(&dir, "workers: 1\n");
        let (touch, touched) = mpsc::channel(1);
        (watch.touched, watch._watcher) = (touched, None);
        fs::write(&file, "workers: 2\n").unwrap();
        touch.try_send(()).unwrap();
        let dropped = tokio::time::timeout(GATHER / 2, watch.next()).await;
        assert!(dropped.is_err(), "{dropped:?}");
        let event = tokio::time::timeout(GATHER, watch.next()).await.unwrap();
        assert_eq!(event.outcome.unwrap().config.workers, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn without_events_a_change_is_found_by_looking() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, _trigger, file) = start(&dir, "workers: 1\n");
        watch._watcher = None;
        while watch.touched.try_recv().is_ok() {}
        fs::write(&file, "workers: 2\n").unwrap();
        let event = tokio::time::timeout(POLL * 2, watch.next()).await.unwrap();
        assert_eq!(event.outcome.unwrap().config.workers, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_content_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, _trigger, file) = start(&dir, "workers: 1\n");
        fs::write(&file, "workers: 1\n").unwrap();
        let waited = tokio::time::timeout(POLL * 5, watch.next()).await;
        assert!(waited.is_err(), "{waited:?}");
    }

    #[tokio::test]
    async fn an_order_is_carried_out_and_answered() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, trigger, _file) = start(&dir, "workers: 1\n");
        let order = tokio::spawn(async move { trigger.reload().await });
        let event = next(&mut watch).await;
        assert_eq!(event.cause, Cause::Order);
        assert!(event.outcome.is_ok());
        event.answer(Ok("nothing changed".to_owned()));
        assert_eq!(order.await.unwrap(), Ok("nothing changed".to_owned()));
    }

    #[tokio::test]
    async fn standard_input_is_read_once() {
        let sources = Sources {
            file: Some("-".into()),
            ..Sources::default()
        };
        let loaded = load::load_text(&sources, Some("workers: 2\n".to_owned())).unwrap();
        let (mut watch, trigger) = watch(sources, &loaded).unwrap();
        let order = tokio::spawn(async move { trigger.reload().await });
        let event = next(&mut watch).await;
        assert_eq!(event.outcome.as_ref().unwrap().config.workers, 2);
        event.answer(Ok("nothing".to_owned()));
        assert_eq!(order.await.unwrap(), Ok("nothing".to_owned()));
    }

    #[tokio::test]
    async fn an_order_that_nobody_takes_fails() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, trigger, _file) = start(&dir, "");
        drop(watch);
        assert!(trigger.reload().await.is_err());
    }
}
