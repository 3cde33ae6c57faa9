//! Ids signed by the driver, and which call belongs to which request.

use std::collections::HashMap;
use std::fmt::Write as _;

use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

/// What a program does with one request. The programs know the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// First segment of the request's path.
    pub(crate) name: &'static str,
    /// Different calls.
    calls: usize,
    /// How often each is sent.
    tries: usize,
    /// When they are sent.
    pub(crate) moment: Moment,
}

/// When a pattern's calls are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// While the request is served.
    During,
    /// After its response: the request has ended, so no parent is right, and its own is not wrong.
    After,
    /// While it is served, and others by a job of the program's own at the same time.
    BesideJobs,
}

/// Every pattern.
pub(crate) const PATTERNS: &[Pattern] = &[
    Pattern::during("one", 1, 1),
    Pattern::during("seq2", 2, 1),
    Pattern::during("par2", 2, 1),
    Pattern::during("fan8", 8, 1),
    Pattern::during("sleep", 2, 1),
    Pattern::during("executor", 1, 1),
    Pattern::during("saturated", 2, 1),
    Pattern::during("retry", 1, 2),
    Pattern {
        name: "late",
        calls: 1,
        tries: 1,
        moment: Moment::After,
    },
    Pattern {
        name: "background",
        calls: 2,
        tries: 1,
        moment: Moment::BesideJobs,
    },
];

impl Pattern {
    const fn during(name: &'static str, calls: usize, tries: usize) -> Self {
        Self {
            name,
            calls,
            tries,
            moment: Moment::During,
        }
    }

    /// The pattern of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        PATTERNS
            .iter()
            .copied()
            .find(|pattern| pattern.name == name)
    }

    /// What the program is asked for: jobs run beside the plainest calls.
    fn path(self) -> &'static str {
        match self.moment {
            Moment::BesideJobs => "seq2",
            _ => self.name,
        }
    }

    /// Client spans that one request must bring.
    pub(crate) fn spans(self) -> usize {
        self.calls * self.tries
    }
}

/// What becomes of a request's id on the way through the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ids {
    /// Each call carries a digest of it.
    Blinded,
    /// Each call carries the id.
    Kept,
}

/// The requests of one row with the calls that they cause.
pub(crate) struct Truth {
    /// What to ask the program for, by request.
    pub(crate) targets: Vec<String>,
    ids: HashMap<String, usize>,
}

impl Truth {
    /// Draws the ids of this many requests.
    pub(crate) fn new(pattern: Pattern, ids: Ids, n_requests: usize) -> Self {
        let random = SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random).unwrap();
        let mut truth = Self {
            targets: Vec::with_capacity(n_requests),
            ids: HashMap::new(),
        };
        for request in 0..n_requests {
            let id = hex(&hmac::sign(&key, &request.to_be_bytes()).as_ref()[..16]);
            let query = match ids {
                Ids::Blinded => "",
                Ids::Kept => "?ids=kept",
            };
            truth
                .targets
                .push(format!("/{}/{id}{query}", pattern.path()));
            for call in 0..pattern.calls {
                truth.ids.insert(blinded(&id, call), request);
            }
            truth.ids.insert(id, request);
        }
        truth
    }

    /// The request that a path of either side belongs to; `None` for the program's own jobs.
    pub(crate) fn request(&self, path: &str) -> Option<usize> {
        let id = path.split(['/', '?']).nth(2)?;
        self.ids.get(id).copied()
    }
}

/// The id of a call, as the programs compute it.
fn blinded(id: &str, call: usize) -> String {
    let digest = digest::digest(&digest::SHA256, format!("{id}:{call}").as_bytes());
    hex(&digest.as_ref()[..16])
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}
