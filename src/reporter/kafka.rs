//! The `kafka` reporter: spans to a topic, one record each, in the forms that Jaeger's ingesters read.
//!
//! A batch goes to one partition, each batch to the next, so that one answer settles it. It is acknowledged by every replica
//! in step. A batch whose answer is lost is sent again: a record may then be there twice.
//!
//! The messages are written here (`codec::kafka`): the clients there are bring a TLS provider or more code than the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::codec::DecodeError;
use crate::codec::jaeger;
use crate::codec::jaeger_proto;
use crate::codec::kafka;
use crate::codec::kafka::Packing;
use crate::codec::kafka::Record;
use crate::model::ByteSize;
use crate::model::HostPort;
use crate::model::HumanDuration;
use crate::model::Span;
use crate::net::tls::Alpn;
use crate::net::tls::ClientConfig;
use crate::net::tls::ClientTls;
use crate::net::tls::MaybeTls;
use crate::reporter::BuildError;
use crate::reporter::Settings;
use crate::reporter::jaeger_http::BasicAuth;
use crate::reporter::post::Compression;
use crate::reporter::post::encode_error;
use crate::reporter::queue;
use crate::reporter::retry;
use crate::reporter::sender::Delivery;
use crate::reporter::sender::SendError;
use crate::reporter::sender::Sender;
use crate::reporter::sender::Sending;
use crate::reporter::sender::chain;

/// Settings of the `kafka` reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Brokers that are asked, in this order, where the topic is.
    ///
    /// Unit: list of `HOST:PORT`. Default: `[localhost:9092]`. Reload: live.
    pub brokers: Vec<HostPort>,

    /// The topic.
    ///
    /// Default: `jaeger-spans`. Reload: live.
    pub topic: String,

    /// The form of each record.
    ///
    /// Values: `protobuf`, `json`. Default: `protobuf`. Reload: live.
    pub encoding: Encoding,

    /// How batches are compressed.
    ///
    /// Values: `none`, `gzip`. Default: `none`. Reload: live.
    pub compression: Compression,

    /// User and password, shown by SASL `PLAIN`.
    ///
    /// Default: none. Reload: live.
    pub sasl_plain: Option<BasicAuth>,

    /// Speak TLS to the brokers; `{}`: with the system's CA certificates.
    ///
    /// Default: none, in the clear. Reload: live.
    pub tls: Option<ClientConfig>,

    /// Longest wait for the answer to one send.
    ///
    /// Unit: duration. Default: `10s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,

    /// Largest batch; larger ones go out in halves, a larger span is dropped (`too_large`).
    ///
    /// Unit: size. Default: `1000kB`, below the brokers' usual limit. Reload: live.
    #[serde(deserialize_with = "ByteSize::above_zero")]
    pub max_request_size: ByteSize,

    /// How spans wait. Reload: live.
    pub queue: queue::Config,

    /// How failed sends are repeated. Reload: live.
    pub retry: retry::Config,
}

/// The form of each record.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Jaeger's `model.Span`.
    #[default]
    Protobuf,
    /// The same in protobuf's JSON.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            brokers: vec![HostPort::new("localhost", 9092)],
            topic: "jaeger-spans".to_owned(),
            encoding: Encoding::default(),
            compression: Compression::default(),
            sasl_plain: None,
            tls: None,
            timeout: HumanDuration::from_secs(10),
            max_request_size: ByteSize(1_000_000),
            queue: queue::Config::default(),
            retry: retry::Config::default(),
        }
    }
}

/// Kafka's own limit.
const MAX_TOPIC: usize = 249;

impl Settings for Config {
    const EXAMPLE: &'static str = "kafka: { brokers: [ 'kafka:9092' ], topic: jaeger-spans }";

    fn queue(&self) -> &queue::Config {
        &self.queue
    }

    fn retry(&self) -> retry::Config {
        self.retry.clone()
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
        if self.brokers.is_empty() {
            return Err(BuildError::Conflict("kafka needs brokers"));
        }
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=MAX_TOPIC).contains(&self.topic.len())
            || !self.topic.bytes().all(is_allowed)
            || matches!(self.topic.as_str(), "." | "..")
        {
            return Err(BuildError::Conflict(
                "a topic's name has 1 to 249 letters, digits, dots, dashes and underscores",
            ));
        }
        let tls = self.tls.as_ref().map(ClientTls::new).transpose();
        Ok(Box::new(Kafka {
            tls: tls.map_err(|error| BuildError::Client(Box::new(error)))?,
            config: self.clone(),
            brokers: Vec::new(),
            partitions: Vec::new(),
            looked: Instant::now(),
            conns: HashMap::new(),
            turn: fastrand::usize(..1 << 16),
        }))
    }
}

/// How long what is known of a topic is good.
const FRESH: Duration = Duration::from_secs(300);
/// Brokers close what is idle for ten minutes.
const IDLE: Duration = Duration::from_secs(240);
/// Longest answer that is read: metadata of thousands of partitions.
const MAX_ANSWER: usize = 4 << 20;

struct Kafka {
    config: Config,
    tls: Option<ClientTls>,
    brokers: Vec<(i32, HostPort)>,
    /// With the number of each one's leader; empty: to be asked for.
    partitions: Vec<(i32, i32)>,
    looked: Instant,
    /// By the leader's number. One that is in use is not here, so that what is broken off is not used again.
    conns: HashMap<i32, Conn>,
    turn: usize,
}

struct Conn {
    io: MaybeTls<TcpStream>,
    /// Requests so far.
    number: i32,
    used: Instant,
}

/// Why a batch is not there.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("connection to {0} failed")]
    Connect(HostPort, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} says nothing")]
    Silent(HostPort),
    #[error("the broker's connection broke")]
    Io(#[from] std::io::Error),
    #[error("the broker's answer is none")]
    Answer(#[from] DecodeError),
    #[error("the broker refuses user and password (error {0})")]
    Credentials(i16),
    #[error("the topic cannot be written to (error {0})")]
    Topic(i16),
    #[error("the broker answered error {0}")]
    Produce(i16),
}

/// How much smaller gzip is taken to make a batch: what is larger goes out in halves, as each record repeats its process.
const MOST_PACKED: usize = 32;
/// `MESSAGE_TOO_LARGE`, `RECORD_LIST_TOO_LARGE`.
const TOO_LARGE: [i16; 2] = [10, 18];
/// `INVALID_TIMESTAMP`, `INVALID_RECORD`: one record or more, which the others need not go with.
const SOME_RECORD: [i16; 2] = [32, 87];
/// What no repetition changes: rights, names, and messages that this broker does not take.
const FOR_GOOD: [i16; 6] = [17, 29, 35, 42, 43, 76];

impl Sender for Kafka {
    fn send<'a>(&'a mut self, batch: &'a [Arc<Span>]) -> Sending<'a> {
        Box::pin(self.produce(batch))
    }

    fn refresh(&mut self) -> Result<(), String> {
        let reloaded = self.tls.as_ref().map(ClientTls::reload).transpose();
        reloaded.map(drop).map_err(|error| chain(&error))
    }
}

impl Kafka {
    async fn produce(&mut self, batch: &[Arc<Span>]) -> Result<Delivery, SendError> {
        let packing = match self.config.compression {
            Compression::None => Packing::Plain,
            Compression::Gzip => Packing::Gzip,
        };
        let most = self.config.max_request_size.as_usize();
        let unpacked = most.saturating_mul(match packing {
            Packing::Plain => 1,
            Packing::Gzip => MOST_PACKED,
        });
        let Some(records) = records(batch, self.config.encoding, unpacked) else {
            return Err(SendError::too_large(batch));
        };
        let bytes = kafka::record_batch(&records, packing).map_err(|error| encode_error(&error))?;
        if bytes.len() > most {
            return Err(SendError::too_large(batch));
        }
        let limit = self.config.timeout.0;
        let failure = match tokio::time::timeout(limit, self.exchange(&bytes)).await {
            Ok(Ok(())) => return Ok(Delivery::all(batch.len())),
            Ok(Err(failure)) => failure,
            Err(_) => {
                self.partitions.clear();
                return Err(SendError::retry(format!("no answer within {limit:?}")));
            }
        };
        self.partitions.clear();
        match failure {
            Failure::Produce(error)
                if TOO_LARGE.contains(&error) || SOME_RECORD.contains(&error) =>
            {
                match batch.len() {
                    0 | 1 => Err(SendError::rejected(chain(&failure))),
                    // In halves, until what is refused is alone.
                    _ => Err(SendError::too_large(batch)),
                }
            }
            Failure::Produce(error) | Failure::Topic(error) if FOR_GOOD.contains(&error) => {
                Err(SendError::rejected(chain(&failure)))
            }
            Failure::Credentials(_) => Err(SendError::rejected(chain(&failure))),
            _ => Err(SendError::retry(chain(&failure))),
        }
    }

    async fn exchange(&mut self, batch: &[u8]) -> Result<(), Failure> {
        if self.partitions.is_empty() || self.looked.elapsed() > FRESH {
            self.look().await?;
        }
        let place = self.turn % self.partitions.len().max(1);
        self.turn = self.turn.wrapping_add(1);
        let Some(&(partition, leader)) = self.partitions.get(place) else {
            return Err(Failure::Topic(0));
        };
        let idle = self.conns.remove(&leader);
        let mut conn = match idle.filter(|conn| conn.used.elapsed() < IDLE) {
            Some(conn) => conn,
            None => {
                let broker = self.brokers.iter().find(|(number, _)| *number == leader);
                let (_, at) = broker.ok_or(Failure::Topic(0))?;
                self.connect(at).await?
            }
        };
        let wait = i32::try_from(self.config.timeout.0.as_millis()).unwrap_or(i32::MAX);
        let topic = &self.config.topic;
        let write = |number| kafka::produce_request(number, topic, partition, wait, batch);
        let error = conn.ask(write, kafka::produce_response).await?;
        conn.used = Instant::now();
        self.conns.insert(leader, conn);
        match error {
            0 => Ok(()),
            error => Err(Failure::Produce(error)),
        }
    }

    /// Asks where the topic is: the first broker that answers, none of which may take the time of the others.
    async fn look(&mut self) -> Result<(), Failure> {
        let topic = &self.config.topic;
        let mut last = Failure::Topic(0);
        let shares = u32::try_from(self.config.brokers.len() + 1).unwrap_or(u32::MAX);
        let share = self.config.timeout.0 / shares;
        for at in &self.config.brokers {
            let asked = async {
                let mut conn = self.connect(at).await?;
                let write = |number| kafka::metadata_request(number, topic);
                conn.ask(write, kafka::metadata_response).await
            };
            let asked = tokio::time::timeout(share, asked).await;
            match asked.unwrap_or_else(|_| Err(Failure::Silent(at.clone()))) {
                Ok(found) if found.error != 0 || found.partitions.is_empty() => {
                    last = Failure::Topic(found.error);
                }
                Ok(found) => {
                    self.brokers = found.brokers;
                    self.partitions = found.partitions;
                    self.looked = Instant::now();
                    self.conns.clear();
                    return Ok(());
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn connect(&self, at: &HostPort) -> Result<Conn, Failure> {
        let failed =
            |error: Box<dyn std::error::Error + Send + Sync>| Failure::Connect(at.clone(), error);
        let tcp = TcpStream::connect((at.host.as_str(), at.port)).await;
        let tcp = tcp.map_err(|error| failed(error.into()))?;
        tcp.set_nodelay(true)?;
        let io = match &self.tls {
            None => MaybeTls::Plain(tcp),
            Some(tls) => {
                let stream = tls.connect(&at.host, tcp, Alpn::None).await;
                let stream = stream.map_err(|error| failed(error.into()))?;
                MaybeTls::Tls(Box::new(stream.into()))
            }
        };
        let mut conn = Conn {
            io,
            number: 0,
            used: Instant::now(),
        };
        if let Some(BasicAuth { user, password }) = &self.config.sasl_plain {
            let hello = kafka::sasl_handshake_request;
            let error = conn.ask(hello, kafka::sasl_response).await?;
            let error = match error {
                0 => {
                    let write = |n| kafka::sasl_plain_request(n, user, password.expose());
                    conn.ask(write, kafka::sasl_response).await?
                }
                error => error,
            };
            if error != 0 {
                return Err(Failure::Credentials(error));
            }
        }
        Ok(conn)
    }
}

impl Conn {
    /// Sends one request and reads its answer.
    async fn ask<T>(
        &mut self,
        write: impl FnOnce(i32) -> Vec<u8>,
        read: impl FnOnce(&[u8], i32) -> Result<T, DecodeError>,
    ) -> Result<T, Failure> {
        self.number = self.number.wrapping_add(1);
        self.io.write_all(&write(self.number)).await?;
        self.io.flush().await?;
        let length = usize::try_from(self.io.read_i32().await?).unwrap_or(usize::MAX);
        if length > MAX_ANSWER {
            return Err(Failure::Answer(DecodeError::TooMany("bytes in an answer")));
        }
        let mut answer = vec![0; length];
        self.io.read_exact(&mut answer).await?;
        Ok(read(&answer, self.number)?)
    }
}

/// A record for each span, under the name of its trace as Jaeger's collectors write it. `None`: more bytes than `most`.
fn records(batch: &[Arc<Span>], encoding: Encoding, most: usize) -> Option<Vec<Record>> {
    let mut records = Vec::with_capacity(batch.len());
    let mut left = most;
    for group in jaeger::groups(batch) {
        for span in &group.spans {
            let value = match encoding {
                Encoding::Protobuf => jaeger_proto::encode_span(&group.process, span),
                Encoding::Json => jaeger_proto::encode_span_json(&group.process, span),
            };
            let key = match span.trace_id_high {
                0 => format!("{:016x}", span.trace_id_low),
                high => format!("{high:016x}{:016x}", span.trace_id_low),
            };
            left = left.checked_sub(value.len())?;
            records.push(Record {
                key: key.into_bytes(),
                value,
                time: span.start.saturating_add(span.duration) / 1_000,
            });
        }
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reporter::tests::span;

    #[test]
    fn no_more_is_written_than_may_be_sent() {
        let batch: Vec<_> = (1..=100).map(span).collect();
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let all = records(&batch, encoding, usize::MAX).unwrap();
            let size: usize = all.iter().map(|record| record.value.len()).sum();
            assert_eq!(records(&batch, encoding, size), Some(all));
            assert_eq!(records(&batch, encoding, size - 1), None);
        }
    }

    #[test]
    fn settings_that_name_nobody_or_nothing_are_refused() {
        for (yaml, why) in [
            ("brokers: []", "nobody"),
            ("topic: ''", "nothing"),
            ("tls: { ca_file: /no/such/file }", "no certificates"),
        ] {
            let config: Config = serde_saphyr::from_str(yaml).unwrap();
            assert!(config.sender().is_err(), "{why}");
        }
        for topic in ["bad topic!", "..", ".", "thémes"] {
            let config = Config {
                topic: topic.to_owned(),
                ..Config::default()
            };
            assert!(config.sender().is_err(), "{topic}");
        }
        let long = Config {
            topic: "t".repeat(250),
            ..Config::default()
        };
        assert!(long.sender().is_err());
    }
}
