//! The folder of one spool: segments of records, oldest first, under a lock, never larger than allowed.
//!
//! A segment is one file: a header with who wrote it and how far it has been sent, then records. What a process that was
//! killed left half written is found by its checksum and left out. All of this blocks: it runs on the spool's own thread.

use std::collections::VecDeque;
use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::Span;
use crate::reporter::spool::record;

/// Bytes before a segment's records: format, writer, how far it has been sent.
const SEGMENT_HEADER: u64 = 24;
const FORMAT: [u8; 8] = *b"PLNSPL01";
const SENT_AT: u64 = 16;
const EXTENSION: &str = "spans";

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    #[error("{path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What the folder may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of all segments together.
    pub(super) size: u64,
    /// Wait for the disk itself after each record.
    pub(super) sync: bool,
}

/// Spans that are here no longer without having been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lost {
    /// Of this process.
    pub(super) own: u64,
    /// Of a process before it.
    pub(super) earlier: u64,
}

/// A batch that is being sent. It stays on the disk until it is [`Disk::done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::reporter) struct Ticket {
    segment: u64,
    spans: u64,
    /// True for spans of this process.
    pub(in crate::reporter) is_own: bool,
}

/// An opened folder. Dropping it releases the lock.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    limits: Limits,
    /// Which process writes: segments of others are of an earlier one.
    writer: u64,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The last segment, when this process may append to it.
    writing: Option<File>,
    reading: Option<(u64, File)>,
    next: u64,
    /// The segment of the batch that is being sent.
    taken: Option<Ticket>,
    /// Records that could not be read, all together.
    pub(super) damaged: u64,
    _lock: File,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    is_own: bool,
    /// Bytes on the disk.
    size: u64,
    /// What is still to be sent.
    records: VecDeque<Record>,
    /// The spans of these records.
    spans: u64,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    at: u64,
    /// With its header.
    len: u64,
    spans: u64,
}

impl Disk {
    /// Takes possession of the folder, which is made if there is none, and reads what is in it.
    pub(super) fn open(folder: &Path, limits: Limits, writer: u64) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io {
            path: folder.to_owned(),
            source,
        };
        make_private(folder).map_err(failed)?;
        let lock = new_file(&folder.join("lock"), false).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(folder.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut disk = Self {
            folder: folder.to_owned(),
            limits,
            writer,
            segments: VecDeque::new(),
            writing: None,
            reading: None,
            next: 1,
            taken: None,
            damaged: 0,
            _lock: lock,
        };
        disk.read_folder().map_err(failed)?;
        Ok(disk)
    }

    fn read_folder(&mut self) -> io::Result<()> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = PathBuf::from(entry?.file_name());
            let is_segment = name.extension().is_some_and(|found| found == EXTENSION);
            let number = name.file_stem().and_then(|stem| stem.to_str());
            let number = number.and_then(|stem| u64::from_str_radix(stem, 16).ok());
            numbers.extend(number.filter(|_| is_segment));
        }
        numbers.sort_unstable();
        for number in numbers {
            self.next = self.next.max(number.saturating_add(1));
            let path = self.path(number);
            // A file that cannot be read keeps nobody from reading the others.
            let Ok(bytes) = fs::read(&path) else {
                self.damaged += 1;
                continue;
            };
            let found = Found::of(&bytes);
            self.damaged += found.damaged;
            if found.records.is_empty() {
                fs::remove_file(&path)?;
                continue;
            }
            self.segments.push_back(Segment {
                number,
                is_own: found.writer == Some(self.writer),
                size: bytes.len() as u64,
                spans: found.records.iter().map(|record| record.spans).sum(),
                records: found.records,
            });
        }
        Ok(())
    }

    /// Bytes on the disk.
    pub(super) fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// Spans still to be sent: those of this process and those of earlier ones.
    pub(super) fn spans(&self) -> (u64, u64) {
        let of = |own: bool| {
            let segments = self.segments.iter().filter(|segment| segment.is_own == own);
            segments.map(|segment| segment.spans).sum()
        };
        (of(true), of(false))
    }

    /// Adds a record at the end. `lost` counts what went for it: the oldest, where there is no room.
    pub(super) fn append(&mut self, record: &[u8], spans: u32, lost: &mut Lost) -> io::Result<()> {
        let len = record.len() as u64;
        if len + SEGMENT_HEADER > self.limits.size {
            lost.own += u64::from(spans);
            return Ok(());
        }
        let segment_size = (self.limits.size / 32).clamp(MIN_SEGMENT, MAX_SEGMENT);
        if self
            .segments
            .back()
            .is_some_and(|last| last.size + len > segment_size)
        {
            self.writing = None;
        }
        let header = if self.writing.is_some() {
            0
        } else {
            SEGMENT_HEADER
        };
        while self.size() + len + header > self.limits.size && !self.segments.is_empty() {
            self.drop_oldest(lost)?;
        }
        match self.write(record, spans) {
            // Where the whole disk is full, ours is what can be given up for the newest.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.segments.len() > 1 => {
                self.drop_oldest(lost)?;
                self.write(record, spans)
            }
            written => written,
        }
    }

    fn write(&mut self, record: &[u8], spans: u32) -> io::Result<()> {
        let file = match &self.writing {
            Some(file) => file,
            None => {
                let file = self.begin_segment()?;
                self.writing.insert(file)
            }
        };
        let Some(segment) = self.segments.back_mut() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let written = file.write_all_at(record, segment.size);
        let written = written.and_then(|()| match self.limits.sync {
            true => file.sync_data(),
            false => Ok(()),
        });
        if let Err(error) = written {
            // What was written of it goes again; where even that fails, its checksum tells.
            if file.set_len(segment.size).is_err() {
                self.writing = None;
            }
            return Err(error);
        }
        segment.records.push_back(Record {
            at: segment.size,
            len: record.len() as u64,
            spans: u64::from(spans),
        });
        segment.size += record.len() as u64;
        segment.spans += u64::from(spans);
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<File> {
        let number = self.next;
        let path = self.path(number);
        let file = new_file(&path, true)?;
        let mut header = Vec::with_capacity(SEGMENT_HEADER as usize);
        header.extend(FORMAT);
        header.extend(self.writer.to_le_bytes());
        header.extend(SEGMENT_HEADER.to_le_bytes());
        if let Err(error) = file.write_all_at(&header, 0) {
            fs::remove_file(&path).ok();
            return Err(error);
        }
        if self.limits.sync {
            File::open(&self.folder)?.sync_all()?;
        }
        self.next += 1;
        self.segments.push_back(Segment {
            number,
            is_own: true,
            size: SEGMENT_HEADER,
            records: VecDeque::new(),
            spans: 0,
        });
        Ok(file)
    }

    /// The oldest batch, which then counts as being sent. `lost` counts batches before it that cannot be read.
    pub(super) fn take(&mut self, lost: &mut Lost) -> Option<(Ticket, Vec<Arc<Span>>)> {
        self.taken = None;
        loop {
            let segment = self.segments.front()?;
            let (number, is_own) = (segment.number, segment.is_own);
            let Some(record) = segment.records.front().copied() else {
                self.remove_oldest();
                continue;
            };
            let ticket = Ticket {
                segment: number,
                spans: record.spans,
                is_own,
            };
            if let Some(spans) = self.read(number, record) {
                self.taken = Some(ticket);
                return Some((ticket, spans));
            }
            self.damaged += 1;
            lost.add(is_own, record.spans);
            self.taken = Some(ticket);
            self.done(ticket);
        }
    }

    fn read(&mut self, segment: u64, at: Record) -> Option<Vec<Arc<Span>>> {
        if self
            .reading
            .as_ref()
            .is_none_or(|(open, _)| *open != segment)
        {
            self.reading = Some((segment, File::open(self.path(segment)).ok()?));
        }
        let (_, file) = self.reading.as_ref()?;
        let mut bytes = vec![0; usize::try_from(at.len).ok()?];
        file.read_exact_at(&mut bytes, at.at).ok()?;
        let header = record::header(&bytes)?;
        let payload = bytes.get(record::HEADER_LEN..)?;
        let spans = record::decode(payload).filter(|_| record::is_whole(header, payload))?;
        (spans.len() as u64 == at.spans).then_some(spans)
    }

    /// True while the batch is still on the disk: it may have gone as the oldest.
    pub(super) fn holds(&self, ticket: Ticket) -> bool {
        self.taken == Some(ticket)
    }

    /// Forgets the batch that was sent. A process that dies before this sends it again.
    pub(super) fn done(&mut self, ticket: Ticket) {
        if self.taken.take() != Some(ticket) {
            return;
        }
        let Some(segment) = self.segments.front_mut() else {
            return;
        };
        let (number, sent) = (segment.number, segment.records.pop_front());
        segment.spans -= ticket.spans;
        if segment.records.is_empty() {
            self.remove_oldest();
        } else if let Some(sent) = sent {
            // Without this mark the batch is sent twice at worst.
            let path = self.path(number);
            let file = OpenOptions::new().write(true).open(path);
            let end = sent.at + sent.len;
            let _marked = file.and_then(|file| file.write_all_at(&end.to_le_bytes(), SENT_AT));
        }
    }

    fn drop_oldest(&mut self, lost: &mut Lost) -> io::Result<()> {
        let Some(segment) = self.segments.front() else {
            return Ok(());
        };
        let mut spans = segment.spans;
        let is_own = segment.is_own;
        if let Some(ticket) = self.taken.filter(|ticket| ticket.segment == segment.number) {
            // What is being sent is lost only if that fails.
            spans -= ticket.spans;
            self.taken = None;
        }
        fs::remove_file(self.path(segment.number))?;
        lost.add(is_own, spans);
        self.forget_oldest();
        Ok(())
    }

    fn remove_oldest(&mut self) {
        if let Some(segment) = self.segments.front() {
            // A file that stays is read again by the next process: its spans arrive twice at worst.
            let _removed = fs::remove_file(self.path(segment.number));
        }
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        self.segments.pop_front();
        self.reading = None;
        if self.segments.is_empty() {
            self.writing = None;
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:016x}.{EXTENSION}"))
    }
}

impl Lost {
    fn add(&mut self, is_own: bool, spans: u64) {
        match is_own {
            true => self.own += spans,
            false => self.earlier += spans,
        }
    }
}

const MIN_SEGMENT: u64 = 64 << 10;
const MAX_SEGMENT: u64 = 8 << 20;

/// What a segment's bytes hold.
#[derive(Debug, Default)]
struct Found {
    writer: Option<u64>,
    records: VecDeque<Record>,
    damaged: u64,
}

impl Found {
    /// Finds the records that are whole and not yet sent. After what is damaged it goes on at the next mark.
    fn of(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        if !bytes.starts_with(&FORMAT) {
            found.damaged = u64::from(!bytes.is_empty());
            return found;
        }
        found.writer = number(FORMAT.len());
        let begin = SEGMENT_HEADER as usize;
        let sent = number(SENT_AT as usize).and_then(|sent| usize::try_from(sent).ok());
        let mut at = sent
            .filter(|sent| (begin..=bytes.len()).contains(sent))
            .unwrap_or(begin);
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let header = record::header(rest);
            let whole = header.filter(|header| {
                let payload = rest.get(record::HEADER_LEN..record::HEADER_LEN + header.len);
                payload.is_some_and(|payload| record::is_whole(*header, payload))
            });
            let Some(header) = whole else {
                found.damaged += 1;
                match record::next_mark(bytes, at + 1) {
                    Some(next) => at = next,
                    None => break,
                }
                continue;
            };
            let len = record::HEADER_LEN + header.len;
            found.records.push_back(Record {
                at: at as u64,
                len: len as u64,
                spans: u64::from(header.spans),
            });
            at += len;
        }
        found
    }
}

/// Makes the folder, for nobody else to read: spans hold what users did.
fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    if fs::metadata(folder)?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn new_file(path: &Path, must_be_new: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(!must_be_new)
        .create_new(must_be_new)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests;
