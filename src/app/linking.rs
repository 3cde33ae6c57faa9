//! What `/linking` says: which evidence is in force, what the rest would need, how often it was right.

use serde_json::Value;
use serde_json::json;

use crate::app::run::Running;
use crate::correlate;

impl Running {
    /// The layers in force for new connections.
    pub(super) fn linking_state(&self) -> Value {
        let snapshot = self.shared.snapshot.load();
        let config = &snapshot.correlate;
        let in_flight = &self.shared.in_flight;
        let preload = match (config.preload, self.shared.evidence.is_some()) {
            (true, true) => Ok(()),
            (true, false) => Err("memory that the program can write to; the log says why not"),
            (false, _) => Err("pillion exec --preload"),
        };
        let shims = match (config.shims, in_flight.shim_speaks()) {
            (true, true) => Ok(()),
            (true, false) => Err("a call with the token of a shim: none has come yet"),
            (false, _) => {
                Err("pillion exec --shims, or the files of pillion shims and linking.shims")
            }
        };
        let kernel = match (config.kernel, self.shared.kernel.get().is_some()) {
            (_, true) => Ok(()),
            (correlate::Kernel::Off, false) => Err("linking.kernel"),
            (_, false) => Err("CAP_BPF and CAP_PERFMON; the log says what was refused"),
        };
        let lineage = match config.mode.follows_events() {
            true => kernel,
            false => Err("linking.mode: eager, at the start"),
        };
        let setting = |on, name| if on { Ok(()) } else { Err(name) };
        let layers = [
            ("forwarded", setting(config.forwarded, "linking.forwarded")),
            ("shim", shims),
            ("thread, preload", preload),
            ("thread, kernel", kernel),
            ("lineage, kernel", lineage),
            ("value", setting(config.values, "linking.values")),
            ("exclusive", setting(config.exclusive, "linking.exclusive")),
        ];
        let layers: Vec<Value> = layers
            .iter()
            .map(|(layer, state)| match state {
                Ok(()) => json!({ "layer": layer, "active": true }),
                Err(needs) => json!({ "layer": layer, "active": false, "needs": needs }),
            })
            .collect();
        let profile = match self.shared.kernel.get().is_some() {
            true => "bpf",
            false => "restricted",
        };
        json!({
            "profile": profile,
            "mode": config.mode,
            "tracing": snapshot.tracer.is_some(),
            "requests_in_flight": in_flight.len(),
            "layers": layers,
            "audit": in_flight.audit(),
            "exclusive": in_flight.learned(),
        })
    }
}
