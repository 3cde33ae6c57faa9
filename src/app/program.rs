//! What is seen of the program: looked for again and again, and told to whoever asks what kind it is.

use std::io;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tracing::info;

use crate::app::run::Running;
use crate::correlate::Class;
use crate::net::process::Program;
use crate::net::process::Search;

/// Between two searches: soon at first, seldom when nothing is found or nothing changes.
const SOON: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(5);
/// Where requests are paced: until then a child that the program has started holds that up.
const PACED: Duration = Duration::from_secs(1);

/// What is seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Sight {
    programs: Vec<Program>,
    class: Class,
    /// Processes that may not be looked into: one of them may be the program.
    hidden: usize,
}

impl Running {
    /// Looks for the program until the proxy ends, where some evidence depends on what it is.
    pub(super) fn watch_program(&self) {
        let config = self.config.lock();
        let Some(app) = config.app.as_ref() else {
            return;
        };
        let (port, inside) = (app.port, self.inside());
        let (shared, sight) = (self.shared.clone(), self.sight.clone());
        let watching = async move {
            let search = blocking(move || match inside {
                Some(inside) => inside.run(move || Search::new(port))?,
                None => Search::new(port),
            });
            let Ok(mut search) = search.await else {
                return;
            };
            let mut pause = SOON;
            loop {
                let kernel = shared.kernel.get();
                let named = kernel.map(|kernel| kernel.probed.named());
                let looked = blocking(move || {
                    let is_changed = search.again(&named.unwrap_or_default());
                    Ok((search, is_changed))
                });
                let Ok((again, is_changed)) = looked.await else {
                    return;
                };
                search = again;
                if let Some(pacer) = &shared.pacer {
                    pacer.look_at(search.found.clone());
                }
                if is_changed {
                    let class = Class::of(&search.found);
                    shared.in_flight.is_of(class);
                    tell(&search.found, class);
                    // It may still be starting.
                    pause = SOON;
                }
                sight.store(std::sync::Arc::new(Sight {
                    programs: search.found.clone(),
                    class: shared.in_flight.class(),
                    hidden: search.hidden,
                }));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(match shared.pacer.is_some() {
                    true => PACED,
                    false => SELDOM,
                });
            }
        };
        let cancel = self.cancel.clone();
        tokio::spawn(async move { cancel.run_until_cancelled(watching).await });
    }

    /// What is seen of the program, for `/linking`.
    pub(super) fn program_state(&self) -> Value {
        let sight = self.sight.load();
        let mut programs = sight.programs.clone();
        let kernel = self.shared.kernel.get();
        let probed = kernel.map(|kernel| kernel.probed.list());
        for (pid, probe) in probed.into_iter().flatten() {
            let program = programs.iter_mut().find(|program| program.pid == pid);
            if let Some(program) = program {
                program.probes.push(probe);
            }
        }
        let mut state = json!({ "class": sight.class, "processes": programs });
        if sight.programs.is_empty() {
            state["needs"] = match sight.hidden {
                0 => "a program that listens in this network and in a process that is seen from here (in Kubernetes: shareProcessNamespace)",
                _ => "CAP_SYS_PTRACE (and CAP_DAC_READ_SEARCH in the profile restricted), or the program's user",
            }
            .into();
        }
        state
    }
}

fn tell(programs: &[Program], class: Class) {
    let Some(first) = programs.first() else {
        return;
    };
    let (name, version) = (&first.name, &first.version);
    let runtime = first.runtime;
    info!(%name, ?runtime, %version, ?class, processes = programs.len(), "the program is seen");
}

async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(job)
        .await
        .map_err(io::Error::other)?
}
