//! A probability for each operation, with a guaranteed number of traces a second for those that are rarely picked.
//!
//! Not chosen in the configuration: a backend sends it to the remote sampler. For each operation a probabilistic
//! sampler is asked first; where it says no, a bucket at the lower bound may still say yes (`lowerbound`). A yes of the
//! first also spends a credit of the second. Operations that the backend did not list take the default probability and a
//! bucket of their own while fewer than the maximum are known, and the default probability alone beyond that.
//!
//! An update keeps the bucket of every operation still listed. A learned operation is forgotten with an update once its
//! bucket is full again, because learning it anew then makes no difference. Where the lower bound is zero nothing is
//! learned, because there is nothing to remember.
//!
//! Source: jaeger-client-go `sampler.go` (`GuaranteedThroughputProbabilisticSampler`, `PerOperationSampler`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::model::Text;
use crate::model::TraceId;
use crate::sampling::Decision;
use crate::sampling::OperationRates;
use crate::sampling::Sampler;
use crate::sampling::TracesPerSecond;
use crate::sampling::bucket::Bucket;
use crate::sampling::probabilistic::Probabilistic;

/// Decides by operation. Reading takes no lock; meeting a new operation takes one once.
#[derive(Debug)]
pub struct PerOperation {
    table: ArcSwap<Table>,
    /// Held while a table is replaced, so that no replacement undoes another.
    replacing: Mutex<()>,
    max_operations: usize,
}

#[derive(Debug, Clone)]
struct Table {
    default: Probabilistic,
    lower_bound: TracesPerSecond,
    operations: HashMap<Text, GuaranteedThroughput>,
}

#[derive(Debug, Clone)]
struct GuaranteedThroughput {
    probabilistic: Probabilistic,
    /// Shared with the table before, so that credits taken there are gone here.
    bucket: Arc<Bucket>,
}

impl PerOperation {
    /// Starts with full buckets. `max_operations` limits what is learned, not what the backend lists.
    pub fn new(rates: &OperationRates, max_operations: usize) -> Self {
        let operations = rates
            .operations
            .iter()
            .map(|(operation, rate)| {
                let bucket = Arc::new(Bucket::new(rates.lower_bound));
                (operation.clone(), GuaranteedThroughput::new(*rate, bucket))
            })
            .collect();
        Self {
            table: ArcSwap::from_pointee(Table {
                default: Probabilistic::new(rates.default),
                lower_bound: rates.lower_bound,
                operations,
            }),
            replacing: Mutex::new(()),
            max_operations,
        }
    }

    /// Takes over new rates, keeping the credits of operations that are known.
    pub fn update(&self, rates: &OperationRates, now: Instant) {
        let _replacing = self.replacing.lock();
        let old = self.table.load();
        let default = Probabilistic::new(rates.default);
        let same_bound = old.lower_bound == rates.lower_bound;
        let carry = |bucket: &Arc<Bucket>| match same_bound {
            true => Arc::clone(bucket),
            false => Arc::new(bucket.with_rate(rates.lower_bound, now)),
        };
        let mut operations: HashMap<_, _> = old
            .operations
            .iter()
            .filter(|(_, known)| !rates.lower_bound.is_zero() && !known.bucket.is_full(now))
            .map(|(operation, known)| {
                let kept = GuaranteedThroughput {
                    probabilistic: default,
                    bucket: carry(&known.bucket),
                };
                (operation.clone(), kept)
            })
            .collect();
        for (operation, rate) in &rates.operations {
            let bucket = match old.operations.get(operation) {
                Some(known) => carry(&known.bucket),
                None => Arc::new(Bucket::new(rates.lower_bound)),
            };
            operations.insert(operation.clone(), GuaranteedThroughput::new(*rate, bucket));
        }
        self.table.store(Arc::new(Table {
            default,
            lower_bound: rates.lower_bound,
            operations,
        }));
    }

    /// How many operations have rates or buckets of their own.
    pub fn operations(&self) -> usize {
        self.table.load().operations.len()
    }

    /// Gives an unlisted operation its own bucket, if there is room.
    #[cold]
    fn learn(&self, operation: &str, trace_id: TraceId, now: Instant) -> Decision {
        let _replacing = self.replacing.lock();
        let mut table = Table::clone(&self.table.load());
        if !table.may_learn(self.max_operations) && !table.operations.contains_key(operation) {
            return table.default.sample(trace_id, operation, now);
        }
        let (default, lower_bound) = (table.default, table.lower_bound);
        let known = table
            .operations
            .entry(Text::new(operation))
            .or_insert_with(|| GuaranteedThroughput {
                probabilistic: default,
                bucket: Arc::new(Bucket::new(lower_bound)),
            });
        let decision = known.sample(trace_id, operation, now);
        self.table.store(Arc::new(table));
        decision
    }
}

impl Sampler for PerOperation {
    fn sample(&self, trace_id: TraceId, operation: &str, now: Instant) -> Decision {
        let table = self.table.load();
        if let Some(known) = table.operations.get(operation) {
            return known.sample(trace_id, operation, now);
        }
        if table.may_learn(self.max_operations) {
            return self.learn(operation, trace_id, now);
        }
        table.default.sample(trace_id, operation, now)
    }

    fn description(&self) -> String {
        let table = self.table.load();
        format!(
            "per operation, default probabilistic {}, lower bound {}/s",
            table.default.rate(),
            table.lower_bound
        )
    }
}

impl Table {
    fn may_learn(&self, max_operations: usize) -> bool {
        !self.lower_bound.is_zero() && self.operations.len() < max_operations
    }
}

impl GuaranteedThroughput {
    fn new(rate: crate::sampling::Probability, bucket: Arc<Bucket>) -> Self {
        Self {
            probabilistic: Probabilistic::new(rate),
            bucket,
        }
    }

    fn sample(&self, trace_id: TraceId, operation: &str, now: Instant) -> Decision {
        let decision = self.probabilistic.sample(trace_id, operation, now);
        let credit = self.bucket.take(now);
        if decision.sampled || !credit {
            return decision;
        }
        // `sampler.param` stays the probability: adaptive sampling compares it with what it sent.
        Decision {
            sampled: true,
            kind: "lowerbound",
            ..decision
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sampling::Param;
    use crate::sampling::Probability;

    fn rates(default: f64, lower_bound: f64, operations: &[(&str, f64)]) -> OperationRates {
        OperationRates {
            default: Probability::new(default).unwrap(),
            lower_bound: TracesPerSecond::new(lower_bound).unwrap(),
            operations: operations
                .iter()
                .map(|(name, rate)| (Text::new(name), Probability::new(*rate).unwrap()))
                .collect(),
        }
    }

    fn ask(sampler: &PerOperation, operation: &str, now: Instant) -> &'static str {
        let never_likely = TraceId::from_halves(0, u64::MAX >> 1).unwrap();
        let decision = sampler.sample(never_likely, operation, now);
        if decision.sampled {
            decision.kind
        } else {
            "no"
        }
    }

    #[test]
    fn the_lower_bound_speaks_where_the_probability_says_no() {
        let now = Instant::now();
        let sampler = PerOperation::new(&rates(0.0, 1.0, &[("all", 1.0), ("rare", 0.25)]), 2000);
        assert_eq!(ask(&sampler, "rare", now), "lowerbound");
        assert_eq!(ask(&sampler, "rare", now), "no", "one a second");
        assert_eq!(
            ask(&sampler, "unlisted", now),
            "lowerbound",
            "has its own bucket"
        );
        assert_eq!(ask(&sampler, "unlisted", now), "no");
        assert_eq!(
            ask(&sampler, "rare", now + Duration::from_secs(1)),
            "lowerbound"
        );

        let likely = TraceId::from_halves(0, 1).unwrap();
        let later = now + Duration::from_secs(5);
        let decision = sampler.sample(likely, "rare", later);
        assert_eq!(
            (decision.kind, decision.param),
            ("probabilistic", Param::F64(0.25))
        );
        assert_eq!(
            ask(&sampler, "rare", later),
            "no",
            "the yes spent the credit"
        );
    }

    #[test]
    fn lowerbound_carries_the_probability_as_parameter() {
        let sampler = PerOperation::new(&rates(0.0, 1.0, &[("rare", 0.25)]), 2000);
        let unlikely = TraceId::from_halves(0, u64::MAX >> 1).unwrap();
        let decision = sampler.sample(unlikely, "rare", Instant::now());
        assert_eq!(
            (decision.kind, decision.param),
            ("lowerbound", Param::F64(0.25))
        );
    }

    #[test]
    fn beyond_the_maximum_only_the_default_probability_counts() {
        let now = Instant::now();
        let sampler = PerOperation::new(&rates(0.5, 1.0, &[("a", 0.0), ("b", 0.0), ("c", 0.0)]), 4);
        assert_eq!(sampler.operations(), 3);
        assert_eq!(ask(&sampler, "learned", now), "lowerbound");
        assert_eq!(sampler.operations(), 4);
        assert_eq!(ask(&sampler, "one too many", now), "no");
        assert_eq!(sampler.operations(), 4);
        let crowded = PerOperation::new(&rates(0.5, 1.0, &[("a", 0.0), ("b", 0.0)]), 1);
        assert_eq!(
            ask(&crowded, "b", now),
            "lowerbound",
            "listed operations are all kept"
        );
    }

    #[test]
    fn without_a_lower_bound_nothing_is_learned() {
        let sampler = PerOperation::new(&rates(0.0, 0.0, &[]), 2000);
        assert_eq!(ask(&sampler, "anything", Instant::now()), "no");
        assert_eq!(sampler.operations(), 0);
    }

    #[test]
    fn updates_keep_credits_and_forget_what_can_be_learned_again() {
        let now = Instant::now();
        let sampler =
            PerOperation::new(&rates(0.0, 0.1, &[("listed", 0.2), ("dropped", 0.2)]), 2000);
        for operation in ["listed", "dropped", "learned"] {
            assert_eq!(ask(&sampler, operation, now), "lowerbound");
        }
        sampler.update(&rates(0.0, 0.1, &[("listed", 0.3)]), now);
        for operation in ["listed", "dropped", "learned"] {
            assert_eq!(
                ask(&sampler, operation, now),
                "no",
                "{operation}: bucket kept"
            );
        }
        let later = now + Duration::from_secs(11);
        sampler.update(&rates(0.0, 0.1, &[("listed", 0.3)]), later);
        assert_eq!(
            sampler.operations(),
            1,
            "full buckets of unlisted operations are forgotten"
        );

        assert_eq!(ask(&sampler, "listed", later), "lowerbound");
        sampler.update(&rates(0.0, 0.2, &[("listed", 0.3)]), later);
        assert_eq!(
            ask(&sampler, "listed", later),
            "no",
            "empty under the new bound too"
        );
        assert_eq!(
            ask(&sampler, "listed", later + Duration::from_secs(5)),
            "lowerbound"
        );
        sampler.update(&rates(1.0, 0.0, &[]), later);
        assert_eq!(ask(&sampler, "listed", later), "probabilistic");
    }

    #[test]
    fn threads_that_meet_a_new_operation_together_share_one_bucket() {
        let sampler = PerOperation::new(&rates(0.0, 1.0, &[]), 2000);
        let now = Instant::now();
        let sampled: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..100)
                            .filter(|_| ask(&sampler, "new", now) != "no")
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(sampled, 1);
    }
}
