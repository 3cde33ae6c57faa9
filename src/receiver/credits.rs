//! Credits for clients that ask before they force a trace: so many a second for each client, handed out as they ask.
//!
//! Source: jaeger-client-go `internal/throttler/remote/throttler.go`, jaeger-client-python `throttler.py`.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

/// Clients remembered at once.
const MAX_CLIENTS: usize = 1_000;
/// What a client that was silent for long gets at most, in seconds of its rate.
const LONGEST: Duration = Duration::from_secs(10);

/// When each client asked last.
pub(super) struct Credits {
    rate: f64,
    asked: HashMap<String, Instant>,
}

impl Credits {
    /// `rate`: credits a second, for each operation of each client.
    pub(super) fn new(rate: f64) -> Self {
        Self {
            rate,
            asked: HashMap::new(),
        }
    }

    /// What to add to the balance of each operation that this client asked for.
    pub(super) fn give(&mut self, client: &str, now: Instant) -> f64 {
        if let Some(last) = self.asked.get_mut(client) {
            let since = now.saturating_duration_since(*last).min(LONGEST);
            *last = now;
            return self.rate * since.as_secs_f64();
        }
        if self.asked.len() >= MAX_CLIENTS {
            self.asked
                .retain(|_, last| now.saturating_duration_since(*last) < LONGEST);
        }
        if self.asked.len() >= MAX_CLIENTS {
            return 0.0;
        }
        self.asked.insert(client.to_owned(), now);
        // Enough for the first trace: clients start with nothing.
        self.rate.max(1.0).min(self.rate * LONGEST.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_rate_however_often_it_asks() {
        let start = Instant::now();
        let mut credits = Credits::new(2.0);
        assert_eq!(credits.give("a", start), 2.0);
        let mut sum = 0.0;
        for tenth in 1..=50 {
            sum += credits.give("a", start + Duration::from_millis(100 * tenth));
        }
        assert!((sum - 10.0).abs() < 0.001, "{sum} in five seconds");
        assert_eq!(credits.give("a", start + LONGEST * 100), 20.0);
        assert_eq!(Credits::new(0.0).give("a", start), 0.0, "none");
    }

    #[test]
    fn no_more_clients_are_remembered_than_the_bound() {
        let start = Instant::now();
        let mut credits = Credits::new(1.0);
        for n in 0..2 * MAX_CLIENTS {
            credits.give(&n.to_string(), start);
        }
        assert_eq!(credits.asked.len(), MAX_CLIENTS);
        assert_eq!(
            credits.give("new", start + LONGEST),
            1.0,
            "others have gone"
        );
    }
}
