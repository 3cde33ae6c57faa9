//! How far a caller's trace context is believed, by listener and by peer address.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Instant;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

/// What happens to a context that comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The caller's span is the parent and its decision is binding.
    #[default]
    Trust,
    /// A new trace starts here and links to the caller's span.
    Restart,
    /// The caller's context is not looked at.
    Ignore,
    /// The caller's span is the parent, but the decision is ours. Chosen when the rate cap is exceeded.
    #[serde(skip)]
    Undecided,
}

/// Trust of one listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrustConfig {
    /// For peers that no entry of `peers` names: `trust`, `restart` or `ignore`.
    ///
    /// Default: `trust`. Reload: new connections.
    pub default: Policy,
    /// Exceptions by peer address, first match wins.
    ///
    /// Default: none. Reload: new connections.
    pub peers: Vec<PeerTrust>,
    /// Most traces a second that callers may force by a sampled flag; beyond it the sampler decides. `0`: no cap.
    ///
    /// Unit: traces per second. Default: `0`. Reload: new connections.
    pub max_forced_per_second: f64,
}

/// Trust of the peers in one address range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerTrust {
    /// Address range, such as `10.0.0.0/8` or `fd00::/8`.
    pub cidr: Cidr,
    /// `trust`, `restart` or `ignore`.
    pub policy: Policy,
}

impl Default for TrustConfig {
    fn default() -> Self {
        Self {
            default: Policy::Trust,
            peers: Vec::new(),
            max_forced_per_second: 0.0,
        }
    }
}

/// The trust of one listener, with the balance of its rate cap.
#[derive(Debug)]
pub struct Trust {
    config: TrustConfig,
    balance: Mutex<(f64, Option<Instant>)>,
}

impl Trust {
    /// A full balance.
    pub fn new(config: TrustConfig) -> Self {
        let balance = Mutex::new((config.max_forced_per_second.max(1.0), None));
        Self { config, balance }
    }

    /// The policy for a peer.
    pub fn of(&self, peer: IpAddr) -> Policy {
        self.config
            .peers
            .iter()
            .find(|entry| entry.cidr.contains(peer))
            .map_or(self.config.default, |entry| entry.policy)
    }

    /// Spends one unit of the cap on a trace that the caller forces; `false` when none is left.
    pub fn admit_forced(&self, now: Instant) -> bool {
        let rate = self.config.max_forced_per_second;
        if rate <= 0.0 {
            return true;
        }
        let mut balance = self.balance.lock();
        let (credit, last) = &mut *balance;
        if let Some(last) = last.replace(now) {
            let refill = now.saturating_duration_since(last).as_secs_f64() * rate;
            *credit = (*credit + refill).min(rate.max(1.0));
        }
        if *credit < 1.0 {
            return false;
        }
        *credit -= 1.0;
        true
    }
}

/// An IPv4 or IPv6 address range.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why an address range was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address range: write an address and a prefix length, such as 10.0.0.0/8")]
pub struct CidrError(String);

impl Cidr {
    /// True when the address lies in the range. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                (u32::from(range) ^ u32::from(address)) & mask == 0
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix);
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                (u128::from(range) ^ u128::from(address)) & mask == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix
            .map_or(Ok(longest), str::parse)
            .map_err(|_| error())?;
        if prefix > longest {
            return Err(error());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "An address range, such as 10.0.0.0/8." })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn peers_find_their_policy() {
        let trust = Trust::new(TrustConfig {
            default: Policy::Restart,
            peers: vec![
                PeerTrust {
                    cidr: "10.1.0.0/16".parse().unwrap(),
                    policy: Policy::Ignore,
                },
                PeerTrust {
                    cidr: "10.0.0.0/8".parse().unwrap(),
                    policy: Policy::Trust,
                },
                PeerTrust {
                    cidr: "fd00::/8".parse().unwrap(),
                    policy: Policy::Trust,
                },
            ],
            ..TrustConfig::default()
        });
        for (peer, policy) in [
            ("10.1.2.3", Policy::Ignore),
            ("10.2.2.3", Policy::Trust),
            ("::ffff:10.2.2.3", Policy::Trust),
            ("11.0.0.1", Policy::Restart),
            ("fd12::1", Policy::Trust),
            ("fe80::1", Policy::Restart),
        ] {
            assert_eq!(trust.of(peer.parse().unwrap()), policy, "{peer}");
        }
    }

    #[test]
    fn malformed_ranges_are_refused() {
        for (text, why) in [
            ("10.0.0.0/33", "prefix too long"),
            ("ten/8", "no address"),
            ("10.0.0.0/x", "no number"),
            ("", "empty"),
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{why}");
        }
        assert!(
            "0.0.0.0/0"
                .parse::<Cidr>()
                .unwrap()
                .contains("1.2.3.4".parse().unwrap())
        );
    }

    #[test]
    fn forced_traces_are_capped() {
        let trust = Trust::new(TrustConfig {
            max_forced_per_second: 2.0,
            ..TrustConfig::default()
        });
        let start = Instant::now();
        let admitted = (0..10).filter(|_| trust.admit_forced(start)).count();
        assert_eq!(admitted, 2);
        assert!(trust.admit_forced(start + Duration::from_millis(500)));
        assert!(!trust.admit_forced(start + Duration::from_millis(500)));
    }
}
