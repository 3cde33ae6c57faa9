//! The few messages of Kafka's protocol that somebody needs who writes batches to one topic: requests to bytes, answers back.
//!
//! Versions are those that every broker from 0.11 to 4 understands, so none is asked for. Source: Apache Kafka, "Kafka
//! protocol guide" and "Record Batch".

use std::io;
use std::io::Write;

use crate::codec::DecodeError;
use crate::model::HostPort;

const PRODUCE: (i16, i16) = (0, 3);
const METADATA: (i16, i16) = (3, 4);
const SASL_HANDSHAKE: (i16, i16) = (17, 1);
const SASL_AUTHENTICATE: (i16, i16) = (36, 0);
const CLIENT: &str = "pillion";
/// Acknowledged by every replica that is in step.
const ALL_REPLICAS: i16 = -1;

/// One record: a span under its trace's name.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// Milliseconds since 1970.
    pub time: i64,
}

/// Where a topic's partitions are.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// Brokers by number.
    pub brokers: Vec<(i32, HostPort)>,
    /// What is wrong with the topic; 0: nothing.
    pub error: i16,
    /// Partitions that have a leader, with its number.
    pub partitions: Vec<(i32, i32)>,
}

/// Asks where a topic is; brokers that make topics when they are asked for make it.
pub fn metadata_request(number: i32, topic: &str) -> Vec<u8> {
    let mut out = Out::request(METADATA, number);
    out.i32(1);
    out.text(topic);
    out.0.push(1);
    out.framed()
}

/// Reads the answer, without its length.
///
/// # Errors
/// It is none, or one to another question.
pub fn metadata_response(bytes: &[u8], number: i32) -> Result<Metadata, DecodeError> {
    let mut input = In::answer(bytes, number)?;
    input.i32()?;
    let mut brokers = Vec::new();
    for _ in 0..input.i32()? {
        let broker = input.i32()?;
        let host = input.text()?.unwrap_or_default();
        let port = u16::try_from(input.i32()?).map_err(|_| MALFORMED)?;
        input.text()?;
        brokers.push((broker, HostPort::new(host, port)));
    }
    input.text()?;
    input.i32()?;
    let mut metadata = Metadata {
        brokers,
        error: UNKNOWN_TOPIC,
        partitions: Vec::new(),
    };
    for _ in 0..input.i32()? {
        metadata.error = input.i16()?;
        input.text()?;
        input.take(1)?;
        for _ in 0..input.i32()? {
            input.i16()?;
            let (partition, leader) = (input.i32()?, input.i32()?);
            for _replicas_and_those_in_step in 0..2 {
                for _ in 0..input.i32()? {
                    input.i32()?;
                }
            }
            if leader >= 0 {
                metadata.partitions.push((partition, leader));
            }
        }
    }
    Ok(metadata)
}

/// Brings a record batch to a partition.
pub fn produce_request(
    number: i32,
    topic: &str,
    partition: i32,
    wait_millis: i32,
    batch: &[u8],
) -> Vec<u8> {
    let mut out = Out::request(PRODUCE, number);
    // No transaction.
    out.i16(-1);
    out.i16(ALL_REPLICAS);
    out.i32(wait_millis);
    out.i32(1);
    out.text(topic);
    out.i32(1);
    out.i32(partition);
    out.bytes(batch);
    out.framed()
}

/// Reads the answer, without its length: 0, or what went wrong.
///
/// # Errors
/// It is none, or one to another question.
pub fn produce_response(bytes: &[u8], number: i32) -> Result<i16, DecodeError> {
    let mut input = In::answer(bytes, number)?;
    let (topics, _, partitions) = (input.i32()?, input.text()?, input.i32()?);
    if (topics, partitions) != (1, 1) {
        return Err(MALFORMED);
    }
    input.i32()?;
    input.i16()
}

/// Says that a user and a password follow.
pub fn sasl_handshake_request(number: i32) -> Vec<u8> {
    let mut out = Out::request(SASL_HANDSHAKE, number);
    out.text("PLAIN");
    out.framed()
}

/// The user and the password.
pub fn sasl_plain_request(number: i32, user: &str, password: &str) -> Vec<u8> {
    let mut out = Out::request(SASL_AUTHENTICATE, number);
    out.bytes(format!("\0{user}\0{password}").as_bytes());
    out.framed()
}

/// Reads the answer to either, without its length: 0, or what went wrong.
///
/// # Errors
/// It is none, or one to another question.
pub fn sasl_response(bytes: &[u8], number: i32) -> Result<i16, DecodeError> {
    In::answer(bytes, number)?.i16()
}

/// How a batch's records are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// With gzip.
    Gzip,
}

/// A record batch of format 2.
///
/// # Errors
/// The compressor's; writing to memory it has none.
pub fn record_batch(records: &[Record], packing: Packing) -> io::Result<Vec<u8>> {
    let times = || records.iter().map(|record| record.time);
    let (first, last) = (
        records.first().map_or(0, |record| record.time),
        times().max().unwrap_or(0),
    );
    let mut body = Vec::new();
    for (place, record) in (0i64..).zip(records) {
        let mut one = vec![0];
        varint(&mut one, record.time - first);
        varint(&mut one, place);
        for bytes in [&record.key, &record.value] {
            varint(&mut one, bytes.len() as i64);
            one.extend(bytes);
        }
        // No headers.
        varint(&mut one, 0);
        varint(&mut body, one.len() as i64);
        body.extend(one);
    }
    if packing == Packing::Gzip {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&body)?;
        body = encoder.finish()?;
    }
    let mut checked = Out(Vec::with_capacity(body.len() + 64));
    checked.i16(match packing {
        Packing::Plain => 0,
        Packing::Gzip => 1,
    });
    checked.i32(records.len().saturating_sub(1) as i32);
    checked.i64(first);
    checked.i64(last);
    // No producer that counts what it sends.
    checked.i64(-1);
    checked.i16(-1);
    checked.i32(-1);
    checked.i32(records.len() as i32);
    checked.0.extend(body);

    let mut batch = Out(Vec::with_capacity(checked.0.len() + 24));
    batch.i64(0);
    // What follows this number: the leader's epoch, the format, the checksum, and what it is of.
    batch.i32((checked.0.len() + 9) as i32);
    batch.i32(-1);
    batch.0.push(2);
    batch.i32(crc32c(&checked.0).cast_signed());
    batch.0.extend(checked.0);
    Ok(batch.0)
}

/// Zigzag, seven bits a byte, the low ones first.
fn varint(out: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Castagnoli's checksum, eight bits at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let step = |crc: u32, byte: &u8| {
        let place = (crc ^ u32::from(*byte)) & 0xff;
        TABLE.get(place as usize).copied().unwrap_or_default() ^ (crc >> 8)
    };
    !bytes.iter().fold(u32::MAX, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut place = 0;
    while place < 256 {
        let mut crc = place as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[place] = crc;
        place += 1;
    }
    table
}

const MALFORMED: DecodeError = DecodeError::Malformed("answer of Kafka");
/// `UNKNOWN_TOPIC_OR_PARTITION`.
const UNKNOWN_TOPIC: i16 = 3;

/// A request being written.
struct Out(Vec<u8>);

impl Out {
    /// The head, with room for the length.
    fn request((key, version): (i16, i16), number: i32) -> Self {
        let mut out = Self(vec![0; 4]);
        out.i16(key);
        out.i16(version);
        out.i32(number);
        out.text(CLIENT);
        out
    }

    fn framed(mut self) -> Vec<u8> {
        let length = (self.0.len() - 4) as i32;
        for (place, byte) in self.0.iter_mut().zip(length.to_be_bytes()) {
            *place = byte;
        }
        self.0
    }

    fn i16(&mut self, number: i16) {
        self.0.extend(number.to_be_bytes());
    }

    fn i32(&mut self, number: i32) {
        self.0.extend(number.to_be_bytes());
    }

    fn i64(&mut self, number: i64) {
        self.0.extend(number.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.i16(text.len() as i16);
        self.0.extend(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.i32(bytes.len() as i32);
        self.0.extend(bytes);
    }
}

/// An answer being read.
struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn answer(bytes: &'a [u8], number: i32) -> Result<Self, DecodeError> {
        let mut input = Self(bytes);
        match input.i32()? == number {
            true => Ok(input),
            false => Err(MALFORMED),
        }
    }

    fn take(&mut self, most: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(most).ok_or(MALFORMED)?;
        self.0 = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| MALFORMED)
    }

    fn i16(&mut self) -> Result<i16, DecodeError> {
        Ok(i16::from_be_bytes(self.fixed()?))
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.fixed()?))
    }

    /// `None` where nothing is said.
    fn text(&mut self) -> Result<Option<&'a str>, DecodeError> {
        let Ok(length) = usize::try_from(self.i16()?) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(self.take(length)?);
        text.map(Some).map_err(|_| MALFORMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn numbers_of_any_length_are_written_low_bits_first() {
        for (number, bytes) in [
            (0, &[0][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7e]),
            (64, &[0x80, 0x01]),
            (-65, &[0x81, 0x01]),
            (300, &[0xd8, 0x04]),
        ] {
            let mut out = Vec::new();
            varint(&mut out, number);
            assert_eq!(out, bytes, "{number}");
        }
    }

    #[test]
    fn a_batch_has_its_lengths_and_its_checksum() {
        let record = |time| Record {
            key: b"k".to_vec(),
            value: b"value".to_vec(),
            time,
        };
        let batch = record_batch(&[record(1_000), record(999)], Packing::Plain).unwrap();
        let at = |place: usize| i32::from_be_bytes(batch[place..place + 4].try_into().unwrap());
        assert_eq!(at(8) as usize, batch.len() - 12);
        assert_eq!(batch[16], 2, "the format");
        assert_eq!(at(17).cast_unsigned(), crc32c(&batch[21..]));
        assert_eq!((at(23), at(57)), (1, 2), "the last one's place, the number");
        assert_eq!(
            &batch[61..],
            b"\x18\0\0\0\x02k\x0avalue\0\x18\0\x01\x02\x02k\x0avalue\0"
        );
        let gzip = record_batch(&[record(1)], Packing::Gzip).unwrap();
        assert_eq!((gzip[22], &gzip[61..63]), (1, &[0x1f, 0x8b][..]));
    }

    #[test]
    fn answers_that_are_none_are_refused() {
        let metadata: &[u8] =
            b"\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0\x01\0\x01h\0\0\x23\x84\xff\xff\xff\xff\0\0\0\x01\
            \0\0\0\x01\0\0\0\x01t\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\0\
            \0\x05\0\0\0\x01\xff\xff\xff\xff\0\0\0\0\0\0\0\0";
        let read = metadata_response(metadata, 7).unwrap();
        assert_eq!(read.brokers, [(1, HostPort::new("h", 9092))]);
        assert_eq!((read.error, &read.partitions[..]), (0, &[(0, 1)][..]));
        assert!(metadata_response(metadata, 8).is_err(), "another question");
        for end in 0..metadata.len() {
            assert!(metadata_response(&metadata[..end], 7).is_err(), "{end}");
        }
        let produced = b"\0\0\0\x01\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\x06";
        assert_eq!(produce_response(produced, 1).unwrap(), 6);
        assert!(produce_response(b"\0\0\0\x01\0\0\0\0\0\0", 1).is_err());
    }
}
