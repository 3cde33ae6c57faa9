//! The `failover` reporter: several collectors of which one is enough.
//!
//! Its members are senders of any kind under one queue, one retry and one book. A member that says "later" or cannot be
//! reached passes the batch to the next; only when all have is it repeated after a wait. A batch that a member refuses for
//! good is refused.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use tokio::time::Instant;

use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::model::Span;
use crate::reporter;
use crate::reporter::BuildError;
use crate::reporter::Settings;
use crate::reporter::queue;
use crate::reporter::retry;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;
use crate::reporter::sender::Sender;
use crate::reporter::sender::Sending;

/// Settings of the `failover` reporter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The collectors, each written like a reporter. Their own `queue` and `retry` are not used.
    ///
    /// Unit: list of reporters. Default: one `otlp` with its defaults. Reload: live.
    pub members: Vec<Member>,

    /// Who is asked first: `in_order`, the first member that is not set aside; `in_turn`, each batch the next one.
    ///
    /// Values: `in_order`, `in_turn`. Default: `in_order`. Reload: live.
    pub choose: Choose,

    /// Time for which a member that failed is set aside, unless all are.
    ///
    /// Unit: duration. Default: `30s`. Reload: live.
    pub set_aside: HumanDuration,

    /// How spans wait. Reload: live.
    pub queue: queue::Config,

    /// How batches are repeated that every member failed to take. Reload: live.
    pub retry: retry::Config,
}

/// Who is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choose {
    /// The first that is not set aside.
    #[default]
    InOrder,
    /// Each batch the next.
    InTurn,
}

/// A reporter inside another; its schema is told by the list it is written like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Member(Box<reporter::Config>);

impl JsonSchema for Member {
    fn schema_name() -> Cow<'static, str> {
        "FailoverMember".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "description": "Any reporter but another failover, such as { otlp: { endpoint: \"http://collector:4318\" } }.",
            "minProperties": 1,
            "maxProperties": 1
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            members: vec![Member(Box::new(reporter::Config::Otlp(
                reporter::otlp::Config::default(),
            )))],
            choose: Choose::default(),
            set_aside: HumanDuration::from_secs(30),
            queue: queue::Config::default(),
            retry: retry::Config::default(),
        }
    }
}

impl Settings for Config {
    const EXAMPLE: &'static str = "failover: { members: [ { otlp: { endpoint: 'http://a:4318' } }, \
         { otlp: { endpoint: 'http://b:4318' } } ], choose: in_turn }";

    fn queue(&self) -> &queue::Config {
        &self.queue
    }

    fn collector(&self) -> Option<HostPort> {
        self.members.iter().find_map(|member| member.0.collector())
    }

    fn destinations(&self) -> Vec<HostPort> {
        let members = self.members.iter();
        members.flat_map(|member| member.0.destinations()).collect()
    }

    fn wants_dated_ids(&self) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.0.wants_dated_ids())
    }

    fn retry(&self) -> retry::Config {
        self.retry.clone()
    }

    /// One such member, as a file is, decides for all.
    fn is_stream(&self) -> bool {
        let is_stream = |member: &Member| member.0.is_stream();
        self.retry == retry::Config::never() || self.members.iter().any(is_stream)
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
        if self.members.is_empty() {
            return Err(BuildError::Conflict("failover needs members"));
        }
        let mut members = Vec::new();
        for Member(config) in &self.members {
            if matches!(**config, reporter::Config::Failover(_)) {
                return Err(BuildError::Conflict("a failover cannot hold another"));
            }
            if config.queue().spool.folder.is_some() {
                return Err(BuildError::Conflict(
                    "spans wait in the failover's own queue: write the spool there, not at a member",
                ));
            }
            members.push(Candidate {
                sender: config.sender()?,
                aside_until: None,
            });
        }
        Ok(Box::new(Failover {
            members,
            choose: self.choose,
            set_aside: self.set_aside.0,
            turn: 0,
        }))
    }
}

struct Failover {
    members: Vec<Candidate>,
    choose: Choose,
    set_aside: Duration,
    /// Who is asked first.
    turn: usize,
}

struct Candidate {
    sender: Box<dyn Sender>,
    /// It failed; the others are asked first until then.
    aside_until: Option<Instant>,
}

impl Sender for Failover {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(self.ask_around(batch))
    }

    fn refresh(&mut self) -> Result<(), String> {
        let mut result = Ok(());
        // All of them, whatever the first one says.
        for member in &mut self.members {
            result = result.and(member.sender.refresh());
        }
        result
    }
}

impl Failover {
    async fn ask_around(&mut self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        let mut causes = Vec::new();
        let mut after: Option<Duration> = None;
        for place in self.order(Instant::now()) {
            let Some(member) = self.members.get_mut(place) else {
                continue;
            };
            match member.sender.send(batch).await {
                Err(SendError::Retry { after: wait, cause }) => {
                    member.aside_until = Some(Instant::now() + self.set_aside);
                    causes.push(cause);
                    // The one that is ready first is worth asking first.
                    after = match (after, wait) {
                        (Some(one), Some(other)) => Some(one.min(other)),
                        (one, other) => one.or(other),
                    };
                }
                settled => {
                    member.aside_until = None;
                    return settled;
                }
            }
        }
        Err(SendError::Retry {
            after,
            cause: causes.join("; "),
        })
    }

    /// Everybody once: first those in favour, from whose turn it is on, then those set aside.
    fn order(&mut self, now: Instant) -> Vec<usize> {
        let count = self.members.len();
        let start = self.turn;
        if self.choose == Choose::InTurn {
            self.turn = (self.turn + 1) % count.max(1);
        }
        let is_aside = |place: &usize| {
            let member = self.members.get(*place);
            let until = member.and_then(|member| member.aside_until);
            until.is_some_and(|until| until > now)
        };
        let mut order: Vec<_> = (0..count).map(|step| (start + step) % count).collect();
        order.sort_by_key(is_aside);
        order
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use parking_lot::Mutex;

    use super::*;
    use crate::reporter::ledger::Reason;
    use crate::reporter::tests::span;

    /// Notes its name and answers after its script, then always with success.
    struct Scripted {
        name: char,
        script: VecDeque<SendError>,
        asked: Arc<Mutex<String>>,
    }

    impl Sender for Scripted {
        fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
            self.asked.lock().push(self.name);
            let answer = match self.script.pop_front() {
                Some(error) => Err(error),
                None => Ok(Delivery::all(batch.len())),
            };
            Box::pin(async move { answer })
        }
    }

    fn later() -> SendError {
        SendError::retry("later")
    }

    /// Sends so many batches; who was asked, and what the last one came to.
    async fn asked(
        choose: Choose,
        scripts: Vec<Vec<SendError>>,
        batches: usize,
    ) -> (String, Result<Delivery, SendError>) {
        let asked = Arc::new(Mutex::new(String::new()));
        let members = ('a'..).zip(scripts).map(|(name, script)| Candidate {
            sender: Box::new(Scripted {
                name,
                script: script.into(),
                asked: Arc::clone(&asked),
            }),
            aside_until: None,
        });
        let mut failover = Failover {
            members: members.collect(),
            choose,
            set_aside: Duration::from_secs(30),
            turn: 0,
        };
        let mut last = Ok(Delivery::default());
        for _ in 0..batches {
            last = failover.send(&[span(1)]).await;
            asked.lock().push(' ');
            tokio::time::advance(Duration::from_secs(20)).await;
        }
        let asked = asked.lock().trim_end().to_owned();
        (asked, last)
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_fails_is_set_aside_for_a_while() {
        let (order, last) = asked(Choose::InOrder, vec![vec![later()], vec![]], 4).await;
        assert_eq!(order, "ab b a a", "20 seconds pass between batches");
        assert_eq!(last, Ok(Delivery::all(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn members_take_turns() {
        let scripts = vec![vec![], vec![later()], vec![]];
        let (order, _) = asked(Choose::InTurn, scripts, 5).await;
        assert_eq!(order, "a bc c a b");
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_batch_is_still_ours() {
        let (order, last) = asked(Choose::InOrder, vec![vec![later()], vec![later()]], 1).await;
        assert_eq!(order, "ab");
        assert_eq!(last, Err(SendError::retry("later; later")));
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_refuses_for_good_is_not_offered_to_others() {
        let refused = SendError::rejected("no");
        let (order, last) = asked(Choose::InOrder, vec![vec![refused], vec![]], 1).await;
        assert_eq!(order, "a");
        assert!(matches!(
            last,
            Err(SendError::Drop {
                reason: Reason::Rejected,
                ..
            })
        ));
    }

    #[test]
    fn members_are_checked() {
        for (yaml, why) in [
            ("members: []", "nobody"),
            ("members: [ { failover: {} } ]", "nested"),
            (
                "members: [ { jaeger_http: { bearer_token: \"a\\nb\" } } ]",
                "a bad member",
            ),
            (
                "members: [ { otlp: { queue: { spool: { folder: /var/lib/s } } } } ]",
                "a spool that nothing would reach",
            ),
        ] {
            let config: Config = serde_saphyr::from_str(yaml).unwrap();
            assert!(config.sender().is_err(), "{why}");
        }
        let misspelt = "members: [ { otlp: { endpont: 'http://a' } } ]";
        assert!(serde_saphyr::from_str::<Config>(misspelt).is_err());
    }
}
