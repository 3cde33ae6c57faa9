//! From formatted lines to the writer: escaping, a bounded queue, one thread.

use std::fmt::Write as _;
use std::io;
use std::io::Write;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::telemetry::metrics::Counter;

/// Lines that wait for a slow reader.
const QUEUE: usize = 4_096;

/// The near end of the queue. Cloning shares it; the thread ends with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Output {
    queue: SyncSender<Message>,
    lost: Option<Counter>,
}

#[derive(Debug)]
enum Message {
    Line(String),
    Flush(SyncSender<()>),
}

impl Output {
    pub(super) fn start<W: Write + Send + 'static>(
        writer: W,
        lost: Option<Counter>,
    ) -> io::Result<Self> {
        let (queue, messages) = mpsc::sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("logs".to_owned())
            .stack_size(128 << 10)
            .spawn(move || run(messages, writer))?;
        Ok(Self { queue, lost })
    }

    /// Waits until everything queued before is written, at most `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let (done, finished) = mpsc::sync_channel(1);
        // A full queue means a reader that stalls: there is nothing to wait for.
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            finished.recv_timeout(timeout).unwrap_or_default();
        }
    }
}

/// Nobody could be told that a write failed, so it is ignored: standard error may be closed.
fn run<W: Write>(messages: Receiver<Message>, mut writer: W) {
    for message in messages {
        match message {
            Message::Line(line) => writer.write_all(line.as_bytes()).unwrap_or_default(),
            Message::Flush(done) => {
                writer.flush().unwrap_or_default();
                done.send(()).unwrap_or_default();
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = &'a Output;

    fn make_writer(&'a self) -> &'a Output {
        self
    }
}

impl Write for &Output {
    /// Takes one whole event, as the formatting layer writes it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = escape(&String::from_utf8_lossy(event));
        if self.queue.try_send(Message::Line(line)).is_err()
            && let Some(lost) = &self.lost
        {
            lost.increment(1);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line: everything but its end is free of characters that end lines, move a cursor or turn text around. They
/// become `\n` or `\u001b`, which is valid inside a JSON string too.
fn escape(event: &str) -> String {
    let body = event.strip_suffix('\n').unwrap_or(event);
    let mut line = String::with_capacity(body.len() + 1);
    for char in body.chars() {
        match char {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() || is_format(c) => {
                // Writing to a String cannot fail.
                write!(line, "\\u{:04x}", u32::from(c)).unwrap_or_default();
            }
            c => line.push(c),
        }
    }
    line.push('\n');
    line
}

/// Line and paragraph separators, and the marks that change the direction of text.
fn is_format(char: char) -> bool {
    matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{061c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_written() {
        for (event, line) in [
            ("plain ü ✓\n", "plain ü ✓\n"),
            ("no end", "no end\n"),
            ("a\nb\r\n", "a\\nb\\r\n"),
            ("\u{1b}[31mred\n", "\\u001b[31mred\n"),
            ("c1 \u{9b}31m del \u{7f}\n", "c1 \\u009b31m del \\u007f\n"),
            ("bidi \u{202e}txt\u{2066}\n", "bidi \\u202etxt\\u2066\n"),
            ("tab\there\n", "tab\\there\n"),
            ("\n\n", "\\n\n"),
            ("\n", "\n"),
        ] {
            assert_eq!(escape(event), line, "{event:?}");
        }
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_no_time() {
        /// Takes the first write when it is told to.
        struct Stalled(Receiver<()>, mpsc::Sender<String>);
        impl Write for Stalled {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.recv().unwrap_or_default();
                self.1
                    .send(String::from_utf8_lossy(bytes).into_owned())
                    .unwrap_or_default();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let metrics = crate::telemetry::metrics::Metrics::new();
        let (go, stalled) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let output = Output::start(Stalled(stalled, written), Some(metrics.logs().lost)).unwrap();
        // One may be with the writer already, so that one more finds a place.
        for _ in 0..QUEUE + 10 {
            (&output).write_all(b"line\n").unwrap();
        }
        let rendered = metrics.render();
        let lost: u64 = rendered
            .lines()
            .find_map(|line| line.strip_prefix("pillion_log_lost_total "))
            .unwrap()
            .parse()
            .unwrap();
        assert!((9..=10).contains(&lost), "{lost}");
        output.flush(Duration::ZERO);
        drop(go);
        let kept = QUEUE + 10 - lost as usize;
        for _ in 0..kept {
            let line = lines.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(line, "line\n");
        }
    }
}
