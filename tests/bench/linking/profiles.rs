//! Which evidence is on. Each layer alone above the first two, then all that needs no privilege.

use serde_json::Value;
use serde_json::json;

/// A choice of layers.
#[derive(Debug)]
pub(crate) struct Profile {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// The layers above `forwarded` and `exclusive` that are on.
    layers: &'static [&'static str],
    /// What `pillion exec` is told.
    pub(crate) flags: &'static [&'static str],
}

/// The layer that the kernel permits or not.
const KERNEL: &str = "kernel";

/// Believes evidence that is less sure: what event loops handle.
const EAGER: &str = "eager";

/// One request in ten is paced; everything is asked.
const PACED: &str = "paced";

/// Layers that can be switched, besides `forwarded` and `exclusive`, which are always on here.
const LAYERS: &[&str] = &["values", "shims", "preload"];

/// Not even the first two layers: what the others' costs are measured against.
const NOTHING: &str = "nothing";

/// Every choice.
pub(crate) const PROFILES: &[Profile] = &[
    Profile {
        name: "off",
        layers: &[NOTHING],
        flags: &[],
    },
    Profile {
        name: "floor",
        layers: &[],
        flags: &[],
    },
    Profile {
        name: "values",
        layers: &["values"],
        flags: &[],
    },
    Profile {
        name: "shims",
        layers: &["shims"],
        flags: &["--shims"],
    },
    Profile {
        name: "preload",
        layers: &["preload"],
        flags: &["--preload"],
    },
    Profile {
        name: "bpf",
        layers: &[KERNEL],
        flags: &[],
    },
    Profile {
        name: "bpf-values",
        layers: &[KERNEL, "values"],
        flags: &[],
    },
    Profile {
        name: "bpf-eager",
        layers: &[KERNEL, EAGER],
        flags: &[],
    },
    Profile {
        name: "all",
        layers: &["values", "shims", "preload"],
        flags: &["--shims", "--preload"],
    },
    Profile {
        name: "paced",
        layers: &[PACED],
        flags: &[],
    },
];

impl Profile {
    /// The choice of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        PROFILES.iter().find(|profile| profile.name == name)
    }

    /// Its settings under `linking`.
    pub(crate) fn linking(&self) -> Value {
        let mut settings = json!({});
        for layer in LAYERS {
            settings[layer] = self.layers.contains(layer).into();
        }
        settings[KERNEL] = match self.layers.contains(&KERNEL) {
            true => "required".into(),
            false => "off".into(),
        };
        if self.layers.contains(&NOTHING) {
            settings["forwarded"] = false.into();
            settings["exclusive"] = false.into();
        }
        if self.layers.contains(&EAGER) {
            settings["mode"] = EAGER.into();
        }
        if self.layers.contains(&PACED) {
            settings["pacing"] = json!({ "share": 0.1 });
        }
        settings
    }
}
