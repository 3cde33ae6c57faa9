//! The judge: spans against truth.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;

use serde::Deserialize;
use serde::Serialize;

use super::collector::Span;
use super::truth::Moment;
use super::truth::Pattern;
use super::truth::Truth;

/// What became of the calls of one row.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Score {
    /// Calls that a request caused while it was served.
    pub(crate) calls: usize,
    /// With the right parent.
    pub(crate) right: usize,
    /// With another request as parent.
    pub(crate) wrong: usize,
    /// Without a parent.
    pub(crate) unknown: usize,
    /// Without a span: the program did not call, or the span was lost.
    pub(crate) missing: usize,
    /// Wrong ones among `exact` and `high`: asserted as certain.
    pub(crate) wrong_and_sure: usize,
    /// Right ones among `exact` and `high`.
    pub(crate) right_and_sure: usize,
    /// Requests that were paced, their calls, those with the right parent, and calls that got one of them wrongly.
    pub(crate) paced: usize,
    pub(crate) paced_calls: usize,
    pub(crate) paced_right: usize,
    pub(crate) paced_wrong: usize,
    /// Calls of the program's own jobs.
    pub(crate) background: usize,
    /// Those that got a parent.
    pub(crate) false_parents: usize,
    /// Those that got one as `exact` or `high`.
    pub(crate) false_parents_sure: usize,
    /// Calls after the response.
    pub(crate) late: usize,
    /// Those that got another request as parent.
    pub(crate) late_wrong: usize,
    /// Requests.
    pub(crate) requests: usize,
    /// Requests with exactly their own calls below them.
    pub(crate) whole: usize,
    /// Right and wrong parents (of any call) by method and confidence.
    pub(crate) methods: BTreeMap<String, (usize, usize)>,
    /// Right and wrong parents by how likely to be right each was called, in thousandths.
    pub(crate) stated: BTreeMap<u16, (usize, usize)>,
}

/// Compares a row's spans with what was caused by what.
pub(crate) fn judge(pattern: Pattern, truth: &Truth, spans: &[Span]) -> Score {
    let mut score = Score {
        requests: truth.targets.len(),
        ..Score::default()
    };
    let servers: HashMap<&[u8], usize> = spans
        .iter()
        .filter(|span| span.is_server)
        .filter_map(|span| Some((span.id.as_slice(), truth.request(&span.path)?)))
        .collect();
    let paced: HashSet<usize> = spans
        .iter()
        .filter(|span| span.is_server && span.is_paced)
        .filter_map(|span| truth.request(&span.path))
        .collect();
    score.paced = paced.len();
    let mut own_calls = vec![0; truth.targets.len()];
    let mut spoilt = HashSet::new();
    for call in spans.iter().filter(|span| !span.is_server) {
        let cause = truth.request(&call.path);
        let asserted = servers.get(call.parent.as_slice()).copied();
        let sure = matches!(call.confidence.as_str(), "exact" | "high");
        score.count(pattern.moment, cause, asserted, sure);
        let is_paceds = |request: Option<usize>| request.is_some_and(|one| paced.contains(&one));
        score.paced_calls += usize::from(is_paceds(cause));
        score.paced_right += usize::from(is_paceds(cause) && asserted == cause);
        score.paced_wrong += usize::from(is_paceds(asserted) && asserted != cause);
        let Some(asserted) = asserted else { continue };
        let is_right = cause == Some(asserted);
        let name = format!("{}/{}", call.method, call.confidence);
        let record = score.methods.entry(name).or_default();
        let stated = score.stated.entry(thousandths(call)).or_default();
        if is_right {
            record.0 += 1;
            stated.0 += 1;
            own_calls[asserted] += 1;
        } else {
            record.1 += 1;
            stated.1 += 1;
            spoilt.insert(asserted);
        }
    }
    let expected = match pattern.moment {
        Moment::After => None,
        _ => Some(pattern.spans()),
    };
    score.whole = own_calls
        .iter()
        .enumerate()
        .filter(|(request, own)| {
            expected.is_none_or(|expected| **own == expected) && !spoilt.contains(request)
        })
        .count();
    if expected.is_some() {
        score.missing = (score.requests * pattern.spans()).saturating_sub(score.calls);
        score.calls += score.missing;
    }
    score
}

impl Score {
    fn count(&mut self, moment: Moment, cause: Option<usize>, asserted: Option<usize>, sure: bool) {
        let is_right = cause == asserted;
        match (cause, moment) {
            (None, _) => {
                self.background += 1;
                self.false_parents += usize::from(asserted.is_some());
                self.false_parents_sure += usize::from(asserted.is_some() && sure);
            }
            (Some(_), Moment::After) => {
                self.late += 1;
                self.late_wrong += usize::from(asserted.is_some() && !is_right);
            }
            _ => {
                self.calls += 1;
                self.unknown += usize::from(asserted.is_none());
                self.right += usize::from(asserted.is_some() && is_right);
                self.right_and_sure += usize::from(asserted.is_some() && is_right && sure);
                self.wrong += usize::from(asserted.is_some() && !is_right);
                self.wrong_and_sure += usize::from(asserted.is_some() && !is_right && sure);
            }
        }
    }

    /// Adds another row's.
    pub(crate) fn add(&mut self, other: &Score) {
        let Score {
            calls,
            right,
            wrong,
            unknown,
            missing,
            paced,
            paced_calls,
            paced_right,
            paced_wrong,
            wrong_and_sure,
            right_and_sure,
            background,
            false_parents,
            false_parents_sure,
            late,
            late_wrong,
            requests,
            whole,
            methods,
            stated,
        } = other;
        self.calls += calls;
        self.right += right;
        self.wrong += wrong;
        self.unknown += unknown;
        self.missing += missing;
        self.paced += paced;
        self.paced_calls += paced_calls;
        self.paced_right += paced_right;
        self.paced_wrong += paced_wrong;
        self.wrong_and_sure += wrong_and_sure;
        self.right_and_sure += right_and_sure;
        self.background += background;
        self.false_parents += false_parents;
        self.false_parents_sure += false_parents_sure;
        self.late += late;
        self.late_wrong += late_wrong;
        self.requests += requests;
        self.whole += whole;
        for (name, (right, wrong)) in methods {
            let record = self.methods.entry(name.clone()).or_default();
            record.0 += right;
            record.1 += wrong;
        }
        for (p, (right, wrong)) in stated {
            let record = self.stated.entry(*p).or_default();
            record.0 += right;
            record.1 += wrong;
        }
    }

    /// How far what was said to be likely is from what was right, weighted by how often; `None` when nothing was said.
    pub(crate) fn calibration_error(&self) -> Option<f64> {
        let (mut distance, mut asserted) = (0.0, 0);
        for (p, (right, wrong)) in &self.stated {
            let n = right + wrong;
            asserted += n;
            distance += (f64::from(*p) / 1e3 * n as f64 - *right as f64).abs();
        }
        (asserted > 0).then(|| distance / asserted as f64)
    }

    /// Every parent asserted that is not the cause, late and background calls included.
    pub(crate) fn wrong_merges(&self) -> usize {
        self.wrong + self.false_parents + self.late_wrong
    }

    /// Parents asserted, right and wrong ones.
    pub(crate) fn asserted(&self) -> usize {
        self.right + self.wrong_merges()
    }

    /// Right ones among the asserted; `None` when nothing was asserted.
    pub(crate) fn precision(&self) -> Option<f64> {
        share(self.right, self.asserted())
    }

    /// Right ones among the calls that have a cause.
    pub(crate) fn recall(&self) -> Option<f64> {
        share(self.right, self.calls)
    }
}

/// What a span says of its parent; without a number, what its confidence promises.
fn thousandths(call: &Span) -> u16 {
    let p = call.p.unwrap_or(match call.confidence.as_str() {
        "exact" => 1.0,
        "high" => 0.999,
        _ => 0.9,
    });
    (p.clamp(0.0, 1.0) * 1e3).round() as u16
}

/// `part` of `all`; `None` of nothing.
pub(crate) fn share(part: usize, all: usize) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}
