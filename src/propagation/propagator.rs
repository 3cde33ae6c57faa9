//! Reads the configured formats in order and writes the configured ones so that no two of them disagree.
//!
//! The first format with valid ids gives the parent; malformed ones are noted and passed over. Baggage of all formats is
//! merged. On the way out every id header of every written format is replaced, stale headers of the same family are
//! removed, and everything else stays byte for byte: a format that is read but not written belongs to its author.

use http::HeaderMap;
use http::HeaderName;
use smallvec::SmallVec;

use crate::model::Baggage;
use crate::model::SamplingState;
use crate::model::SpanContext;
use crate::net::headers::remove_in_order;
use crate::propagation::Caller;
use crate::propagation::Config;
use crate::propagation::Extracted;
use crate::propagation::Format;
use crate::propagation::Found;
use crate::propagation::Items;
use crate::propagation::Lines;
use crate::propagation::Name;
use crate::propagation::lines::Lined;
use crate::propagation::owns;

/// Names of formats; no allocation for up to four.
pub type FormatList = SmallVec<[&'static str; 4]>;

/// What the headers of one request said, and how well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extraction {
    /// Parent, decision, debug id and baggage.
    pub extracted: Extracted,
    /// The format that gave the parent or, without a parent, the decision. `None`: neither.
    pub format: Option<&'static str>,
    /// The formats whose headers were present but malformed, in order, each once.
    pub malformed: FormatList,
    /// Two formats carried valid ids of different traces. Different spans of one trace are no conflict: a format that
    /// somebody on the way reads but does not write stays at an older span.
    pub conflict: bool,
}

/// Reads and writes trace headers as configured. Shared by all workers; holds nothing that changes.
pub struct Propagator {
    /// In reading order.
    extract: Vec<&'static dyn Format>,
    /// Both forms of B3 are read, each by itself.
    is_split: bool,
    inject: Vec<&'static dyn Format>,
    /// Every configured format once: whose baggage headers count as the program's own.
    all: Vec<&'static dyn Format>,
    /// What `inject` replaces or removes.
    writes: Vec<&'static HeaderName>,
    /// What readers of the written formats would read, and nobody writes.
    stale: Vec<&'static HeaderName>,
    /// How the header names begin that any configured format reads: one look rules out most headers.
    beginnings: [bool; 1024],
    caller: Caller,
    names_endpoint: bool,
    lined: Option<Lined>,
}

impl Propagator {
    /// Resolves the names. A name listed twice counts once.
    pub fn new(config: &Config) -> Self {
        let extract = resolve(&config.extract);
        let inject = resolve(&config.inject);
        let both: Vec<_> = [&config.extract[..], &config.inject[..]].concat();
        let all = resolve(&both);
        let mut writes: Vec<&'static HeaderName> = Vec::new();
        for format in &inject {
            writes.extend(format.writes());
        }
        let mut stale: Vec<&'static HeaderName> = Vec::new();
        for name in inject.iter().flat_map(|format| format.companions()) {
            if !writes.contains(name) && !stale.contains(name) {
                stale.push(name);
            }
        }
        let beginnings = beginnings(&all);
        let lined = Lined::of(&inject, writes.iter().chain(&stale).copied());
        Self {
            names_endpoint: inject.iter().any(|format| format.names_endpoint()),
            is_split: is_split(&extract),
            extract,
            inject,
            all,
            writes,
            stale,
            beginnings,
            caller: Caller::default(),
            lined,
        }
    }

    /// Under this name formats write that name the caller.
    pub fn with_caller(mut self, caller: Caller) -> Self {
        self.caller = caller;
        self
    }

    /// True when a written format wants to know the operation through which a request came in.
    pub fn names_endpoint(&self) -> bool {
        self.names_endpoint
    }

    /// Reads everything the headers say about the trace. Costs one pass over the names when there is nothing to read.
    pub fn extract(&self, headers: &HeaderMap) -> Extraction {
        let mut answer = Extraction::default();
        let present = self.present(&self.extract, headers);
        if present == 0 {
            return answer;
        }
        let mut items = Items::default();
        for (index, format) in self.extract.iter().enumerate() {
            if present & (1 << index) == 0 {
                continue;
            }
            let found = if self.is_split {
                format.extract_own(headers)
            } else {
                format.extract(headers)
            };
            items.begin_source();
            let baggage = format.baggage(headers, &mut items);
            if found.is_err() || baggage.is_err() {
                answer.malformed.push(format.name());
            }
            if let Ok(Some(found)) = found {
                answer.take(found, format.name());
            }
            if answer.extracted.debug_id.is_none() {
                answer.extracted.debug_id = format.debug_id(headers);
            }
        }
        answer.settle(items.into());
        answer
    }

    /// Writes the context into the headers of a request on its way out.
    ///
    /// Baggage that the request carries in any configured format is its author's and is left alone; forms it lacks
    /// are filled with the same items, or with the context's when it carries none. A context without baggage adds none.
    pub fn inject(&self, context: &SpanContext, headers: &mut HeaderMap) {
        if !self.stale.is_empty() {
            remove_in_order(headers, |name| self.stale.contains(&name));
        }
        for format in &self.inject {
            format.inject_by(&self.caller, context, headers);
        }
        if context.baggage.is_empty() {
            return;
        }
        let own = self.own_baggage(headers);
        let items = match own.as_slice() {
            [] => context.baggage.items(),
            own => own,
        };
        for format in &self.inject {
            format.inject_baggage(items, headers);
        }
    }

    /// What [`Propagator::inject`] would do to these headers, as lines that stand for every field of their names. `None`:
    /// it would do more than that.
    pub fn lines<'a>(&'a self, context: &'a SpanContext, headers: &HeaderMap) -> Option<Lines<'a>> {
        self.lined.as_ref()?.lines(context, headers)
    }

    /// Removes the ids and decisions of every format that is read, for a caller who is not believed: what would pass
    /// because nobody writes it could come back on a call of the program as if it were ours. Baggage stays.
    pub fn forget(&self, headers: &mut HeaderMap) {
        remove_in_order(headers, |name| {
            let mut read = self.extract.iter();
            read.any(|format| {
                format.writes().contains(&name) || format.companions().contains(&name)
            })
        });
    }

    /// The headers that [`Propagator::inject`] replaces or removes, baggage aside.
    pub fn fields(&self) -> impl Iterator<Item = &'static HeaderName> + '_ {
        self.writes.iter().chain(&self.stale).copied()
    }

    /// The names of all configured formats, each once, those that are read first: the labels metrics need.
    pub fn formats(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.all.iter().map(|format| format.name())
    }

    fn own_baggage(&self, headers: &HeaderMap) -> Items {
        let present = self.present(&self.all, headers);
        let mut items = Items::default();
        for (index, format) in self.all.iter().enumerate() {
            if present & (1 << index) != 0 {
                items.begin_source();
                // Malformed items were counted when the request was read.
                format.baggage(headers, &mut items).ok();
            }
        }
        items
    }

    /// One bit for each of `formats` that has a header here.
    fn present(&self, formats: &[&'static dyn Format], headers: &HeaderMap) -> u32 {
        let mut present = 0;
        for name in headers.keys() {
            if !self.beginnings[beginning(name.as_str())] {
                continue;
            }
            for (index, format) in formats.iter().enumerate() {
                if present & (1 << index) == 0 && owns(*format, name) {
                    present |= 1 << index;
                }
            }
        }
        present
    }
}

impl std::fmt::Debug for Propagator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |formats: &[&'static dyn Format]| -> Vec<_> {
            formats.iter().map(|format| format.name()).collect()
        };
        f.debug_struct("Propagator")
            .field("extract", &names(&self.extract))
            .field("inject", &names(&self.inject))
            .finish()
    }
}

impl Extraction {
    /// Adds what the next format in order says.
    fn take(&mut self, found: Found, format: &'static str) {
        match (found, &mut self.extracted.parent) {
            (Found::Parent(mut parent), none @ None) => {
                // A decision that came first is binding for whoever's ids.
                parent.state = self.extracted.decision.take().unwrap_or(parent.state);
                if let Some(start) = self.extracted.start.take()
                    && start.trace_id == parent.trace_id
                {
                    parent.carried = parent.carried.and(&start.carried);
                }
                *none = Some(parent);
                self.format = Some(format);
            }
            (Found::Parent(other), Some(parent)) if same_trace(parent, &other) => {
                complete(parent, other);
            }
            (Found::Parent(_), Some(_)) => self.conflict = true,
            // A load balancer starts traces without looking for others: a parent outranks it in any order.
            (Found::Start(start), None) if self.extracted.start.is_none() => {
                self.extracted.start = Some(start);
                self.format = Some(format);
            }
            (Found::Start(start), Some(parent)) if start.trace_id == parent.trace_id => {
                parent.carried = parent.carried.and(&start.carried);
            }
            (Found::Start(_), _) => {}
            (Found::Decision(state), None) if self.extracted.decision.is_none() => {
                self.extracted.decision = Some(state);
                self.format = Some(format);
            }
            (Found::Decision(_), _) => {}
        }
    }

    /// Hands out the baggage and drops what a parent outranks.
    fn settle(&mut self, baggage: Baggage) {
        let extracted = &mut self.extracted;
        if let Some(parent) = &mut extracted.parent {
            parent.baggage = baggage.clone();
            extracted.debug_id = None;
            extracted.start = None;
        } else if extracted.debug_id.is_some() {
            extracted.decision = Some(SamplingState::Debug);
        } else if let Some(start) = &extracted.start
            && start.state != SamplingState::Defer
        {
            extracted.decision = extracted.decision.or(Some(start.state));
        }
        extracted.baggage = baggage;
    }
}

/// A later format may know of the same trace what the first one has no word for.
fn complete(parent: &mut SpanContext, other: SpanContext) {
    if parent.trace_state.0.is_none() {
        parent.trace_state = other.trace_state;
    }
    parent.carried = parent.carried.and(&other.carried);
    parent.random |= other.random;
    parent.firehose |= other.firehose;
    // W3C has no word for debug; only the same span's other header can speak for it.
    let is_same_span = parent.span_id == other.span_id;
    if is_same_span && parent.state == SamplingState::Accept && other.state == SamplingState::Debug
    {
        parent.state = SamplingState::Debug;
    }
}

/// Peers that know 64-bit ids only pass the low half on.
fn same_trace(one: &SpanContext, other: &SpanContext) -> bool {
    let (high, other_high) = (one.trace_id.high(), other.trace_id.high());
    one.trace_id.low() == other.trace_id.low()
        && (high == other_high || high == 0 || other_high == 0)
}

fn resolve(names: &[Name]) -> Vec<&'static dyn Format> {
    let mut formats: Vec<&'static dyn Format> = Vec::new();
    for format in names.iter().filter_map(|name| name.format()) {
        if !formats.iter().any(|known| known.name() == format.name()) {
            formats.push(format);
        }
    }
    formats
}

/// True when one of these formats writes all that another reads besides its own.
fn is_split(formats: &[&'static dyn Format]) -> bool {
    formats.iter().any(|reader| {
        let companions = reader.companions();
        let writes_them = |writer: &&'static dyn Format| {
            let mut names = companions.iter();
            names.all(|name| writer.writes().contains(name))
        };
        !companions.is_empty() && formats.iter().any(writes_them)
    })
}

fn beginnings(formats: &[&'static dyn Format]) -> [bool; 1024] {
    let mut known = [false; 1024];
    for format in formats {
        let names = format.reads().iter().map(|name| name.as_str());
        for name in names.chain(format.prefixes().iter().copied()) {
            known[beginning(name)] = true;
        }
    }
    known
}

/// The first two letters of a name; prefixes have more.
fn beginning(name: &str) -> usize {
    match name.as_bytes() {
        [one, two, ..] => usize::from(one & 31) << 5 | usize::from(two & 31),
        _ => 0,
    }
}
