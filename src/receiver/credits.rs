//! Credits for clients that ask before they force a trace: so many a second for each client and operation, handed out as
//! they ask.
//!
//! Source: jaeger-client-go `internal/throttler/remote/throttler.go`, jaeger-client-python `throttler.py`.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

/// Operations of all clients remembered at once.
const MAX_KNOWN: usize = 4_000;
/// What a client that was silent for long gets at most, in seconds of its rate.
const LONGEST: Duration = Duration::from_secs(10);

/// When each client asked last for each operation.
pub(super) struct Credits {
    rate: f64,
    asked: HashMap<(String, String), Instant>,
}

impl Credits {
    /// `rate`: credits a second, for each operation of each client.
    pub(super) fn new(rate: f64) -> Self {
        Self {
            rate,
            asked: HashMap::new(),
        }
    }

    /// What to add to the balance of this operation of this client.
    pub(super) fn give(&mut self, client: &str, operation: &str, now: Instant) -> f64 {
        let key = (client.to_owned(), operation.to_owned());
        if let Some(last) = self.asked.get_mut(&key) {
            let since = now.saturating_duration_since(*last).min(LONGEST);
            *last = now;
            return self.rate * since.as_secs_f64();
        }
        if self.asked.len() >= MAX_KNOWN {
            self.asked
                .retain(|_, last| now.saturating_duration_since(*last) < LONGEST);
        }
        if self.asked.len() >= MAX_KNOWN {
            return 0.0;
        }
        self.asked.insert(key, now);
        // Enough for the first trace: clients start with nothing.
        self.rate.max(1.0).min(self.rate * LONGEST.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_of_a_client_gets_its_rate_however_often_it_asks() {
        let start = Instant::now();
        let mut credits = Credits::new(2.0);
        assert_eq!(credits.give("a", "x", start), 2.0);
        let mut sum = 0.0;
        for tenth in 1..=50 {
            sum += credits.give("a", "x", start + Duration::from_millis(100 * tenth));
        }
        assert!((sum - 10.0).abs() < 0.001, "{sum} in five seconds");
        let later = start + Duration::from_secs(5);
        assert_eq!(credits.give("a", "y", later), 2.0, "for the first time");
        assert_eq!(credits.give("a", "y", later), 0.0, "again at once");
        assert_eq!(credits.give("b", "y", later), 2.0, "another client");
        assert_eq!(credits.give("a", "x", start + LONGEST * 100), 20.0);
        assert_eq!(Credits::new(0.0).give("a", "x", start), 0.0, "none");
    }

    #[test]
    fn no_more_is_remembered_than_the_bound() {
        let start = Instant::now();
        let mut credits = Credits::new(1.0);
        for n in 0..2 * MAX_KNOWN {
            credits.give(&n.to_string(), "x", start);
        }
        assert_eq!(credits.asked.len(), MAX_KNOWN);
        let later = start + LONGEST;
        assert_eq!(credits.give("new", "x", later), 1.0, "others have gone");
    }
}
