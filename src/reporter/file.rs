//! The `file` reporter: JSON lines in a file that is turned over by size.
//!
//! `spans.jsonl` becomes `spans.jsonl.1`, that `.2`, and so on up to the last, which is deleted. A line is never split
//! between two files. Writing is done by the thread of the `log` reporter; spans that a full or broken disk does not take
//! are dropped and counted (`send_failed`).

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use crate::codec::otlp;
use crate::model::ByteSize;
use crate::model::HumanDuration;
use crate::reporter::BuildError;
use crate::reporter::Settings;
use crate::reporter::log::Log;
use crate::reporter::queue;
use crate::reporter::sender::Sender;

/// Settings of the `file` reporter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The file that is written to; older ones lie beside it. Its folder must exist.
    ///
    /// Unit: path. Default: `spans.jsonl`, in the working directory. Reload: live.
    pub path: PathBuf,

    /// What a line is: `spans`, one span in the form of the `log` reporter, or `otlp_json`, one batch as OTLP JSON, which
    /// the OpenTelemetry Collector's `otlpjsonfile` receiver reads.
    ///
    /// Values: `spans`, `otlp_json`. Default: `spans`. Reload: live.
    pub encoding: Encoding,

    /// Size beyond which the next batch goes into a new file. `0`: never.
    ///
    /// Unit: size. Default: `100MiB`. Reload: live.
    pub max_size: ByteSize,

    /// Older files kept beside the one that is written to.
    ///
    /// Unit: files. Default: `5`. Reload: live.
    pub max_files: u32,

    /// Longest wait for the disk; the batch is then dropped (`send_failed`).
    ///
    /// Unit: duration. Default: `5s`. Reload: live.
    #[serde(deserialize_with = "HumanDuration::above_zero")]
    pub timeout: HumanDuration,

    /// How spans wait. Reload: live.
    pub queue: queue::Config,
}

/// What a line is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// One span.
    #[default]
    Spans,
    /// One batch as OTLP JSON.
    OtlpJson,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::from("spans.jsonl"),
            encoding: Encoding::default(),
            max_size: ByteSize(100 << 20),
            max_files: 5,
            timeout: HumanDuration::from_secs(5),
            queue: queue::Config::default(),
        }
    }
}

impl Settings for Config {
    const EXAMPLE: &'static str = "file: { path: /var/log/spans.jsonl, max_size: 10MiB }";

    fn queue(&self) -> &queue::Config {
        &self.queue
    }

    fn sender(&self) -> Result<Box<dyn Sender>, BuildError> {
        let output = Turning {
            path: self.path.clone(),
            max_size: self.max_size.0,
            max_files: self.max_files,
            open: None,
        };
        let log = Log::new(Box::new(output), self.timeout.0);
        Ok(Box::new(match self.encoding {
            Encoding::Spans => log,
            Encoding::OtlpJson => log.with_encoder(|batch| {
                let mut line = otlp::encode_json(batch);
                line.push(b'\n');
                line
            }),
        }))
    }
}

/// A file that is opened with the first write and turned over before the write that would exceed its size.
struct Turning {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    open: Option<Open>,
}

struct Open {
    file: File,
    size: u64,
    /// Only here may the file be turned over.
    at_line_start: bool,
}

impl Write for Turning {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len() as u64;
        let is_full = |open: &Open| {
            let exceeds = open.size > 0 && open.size.saturating_add(len) > self.max_size;
            self.max_size > 0 && open.at_line_start && exceeds
        };
        if self.open.is_none() {
            self.open = Some(append_to(&self.path)?);
        }
        if self.open.as_ref().is_some_and(is_full) {
            self.open = None;
            turn_over(&self.path, self.max_files)?;
            self.open = Some(append_to(&self.path)?);
        }
        let Some(open) = &mut self.open else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let written = open.file.write(bytes).inspect_err(|_| self.open = None)?;
        if let Some(open) = &mut self.open {
            open.size += written as u64;
            open.at_line_start = bytes.get(..written).is_some_and(|b| b.ends_with(b"\n"));
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<Open> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = file.map_err(named)?;
    Ok(Open {
        size: file.metadata()?.len(),
        file,
        at_line_start: true,
    })
}

/// Moves each file one number up; the last is overwritten, or the only one deleted when none is kept.
fn turn_over(path: &Path, max_files: u32) -> io::Result<()> {
    if max_files == 0 {
        return fs::remove_file(path);
    }
    for number in (1..max_files).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(path, 1))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec::Limits;
    use crate::reporter::sender::Delivery;
    use crate::reporter::tests::span;

    fn lines(path: &Path) -> usize {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n'), "{}: a line was split", path.display());
        text.lines().count()
    }

    #[test]
    fn files_are_turned_over_between_lines_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spans.jsonl");
        let mut file = Turning {
            path: path.clone(),
            max_size: 25,
            max_files: 2,
            open: None,
        };
        for number in 0..10 {
            file.write_all(format!("line {number}\n").as_bytes())
                .unwrap();
        }
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(text(&path), "line 9\n");
        assert_eq!(text(&numbered(&path, 1)), "line 6\nline 7\nline 8\n");
        assert_eq!(text(&numbered(&path, 2)), "line 3\nline 4\nline 5\n");
        assert!(!numbered(&path, 3).exists());
        // A new process goes on where the last one stopped.
        file.open = None;
        file.write_all(b"line 10\n").unwrap();
        assert_eq!(text(&path), "line 9\nline 10\n");
        file.write_all(&[b'x'; 100]).unwrap();
        file.write_all(b"\n").unwrap();
        assert_eq!(lines(&path), 1, "an oversized line stays whole");
    }

    #[tokio::test]
    async fn both_encodings_are_lines_of_json() {
        let folder = tempfile::tempdir().unwrap();
        for (encoding, n_lines) in [(Encoding::Spans, 2), (Encoding::OtlpJson, 1)] {
            let config = Config {
                path: folder.path().join(format!("{encoding:?}")),
                encoding,
                ..Config::default()
            };
            let batch = [span(1), span(2)];
            let sent = config.sender().unwrap().send(&batch).await;
            assert_eq!(sent, Ok(Delivery::all(2)));
            assert_eq!(lines(&config.path), n_lines);
            if encoding == Encoding::OtlpJson {
                let line = fs::read(&config.path).unwrap();
                let read = otlp::decode_json(&line, Limits::default()).unwrap();
                assert_eq!(read.spans.len(), 2);
            }
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_missing_costs_spans_and_is_told() {
        let config = Config {
            path: PathBuf::from("/nowhere/at/all/spans.jsonl"),
            ..Config::default()
        };
        let batch = [Arc::clone(&span(1))];
        let sent = config.sender().unwrap().send(&batch).await;
        let told = format!("{:?}", sent.unwrap_err());
        assert!(
            told.contains("/nowhere/at/all/spans.jsonl: No such file"),
            "{told}"
        );
    }
}
