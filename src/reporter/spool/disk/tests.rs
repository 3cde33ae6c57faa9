//! The folder through appends, takes, restarts, damage and lack of room.

use super::*;
use crate::reporter::tests::span;

const WRITER: u64 = 7;
const LIMITS: Limits = Limits {
    size: 1 << 20,
    sync: false,
};

fn open(folder: &Path) -> Disk {
    Disk::open(folder, LIMITS, WRITER).unwrap()
}

/// Appends a batch of one span with this id.
fn append(disk: &mut Disk, id: u64) -> Lost {
    let mut lost = Lost::default();
    let (record, spans) = record::encode(&[span(id)]);
    disk.append(&record, spans, &mut lost).unwrap();
    lost
}

/// Takes and forgets batches until there are none; their ids.
fn drain(disk: &mut Disk) -> (Vec<u64>, Lost) {
    let (mut ids, mut lost) = (Vec::new(), Lost::default());
    while let Some((ticket, spans)) = disk.take(&mut lost) {
        ids.extend(spans.iter().map(|span| span.context.span_id.to_u64()));
        disk.done(ticket);
    }
    (ids, lost)
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == EXTENSION))
        .collect();
    paths.sort();
    paths
}

#[test]
fn batches_come_back_in_order_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = open(folder.path());
    for id in 1..=5 {
        append(&mut disk, id);
    }
    assert_eq!(disk.spans(), (5, 0));
    assert_eq!(drain(&mut disk), (vec![1, 2, 3, 4, 5], Lost::default()));
    assert_eq!((disk.size(), disk.spans()), (0, (0, 0)));
    assert_eq!(segments(folder.path()).len(), 0);
}

#[test]
fn a_batch_that_was_not_done_is_there_for_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = open(folder.path());
    for id in 1..=4 {
        append(&mut disk, id);
    }
    let (ticket, _) = disk.take(&mut Lost::default()).unwrap();
    disk.done(ticket);
    disk.take(&mut Lost::default()).unwrap();
    drop(disk);
    let mut next = Disk::open(folder.path(), LIMITS, WRITER + 1).unwrap();
    assert_eq!(next.spans(), (0, 3), "of an earlier process");
    append(&mut next, 9);
    assert_eq!(next.spans(), (1, 3));
    assert_eq!(drain(&mut next).0, [2, 3, 4, 9]);
}

#[test]
fn a_folder_is_one_process_s_and_nobody_else_reads_it() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/b");
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let mut disk = open(&folder);
    append(&mut disk, 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&segments(&folder)[0]), 0o600);
    let second = Disk::open(&folder, LIMITS, WRITER);
    assert!(matches!(second, Err(OpenError::InUse(_))));
    drop(disk);
    open(&folder);
}

#[test]
fn a_folder_that_cannot_be_is_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Disk::open(&file.path().join("x"), LIMITS, WRITER).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

#[test]
fn a_torn_end_is_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = open(folder.path());
    for id in 1..=3 {
        append(&mut disk, id);
    }
    let path = segments(folder.path()).remove(0);
    drop(disk);
    let whole = fs::read(&path).unwrap();
    let record = (whole.len() - SEGMENT_HEADER as usize) / 3;
    for cut in [1, record::HEADER_LEN, record - 1] {
        fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let mut next = Disk::open(folder.path(), LIMITS, WRITER + 1).unwrap();
        assert_eq!((next.damaged, next.spans()), (1, (0, 2)), "{cut} bytes");
        assert_eq!(drain(&mut next).0, [1, 2]);
    }
}

#[test]
fn what_is_damaged_keeps_nothing_else_from_being_read() {
    for (place, left, why) in [
        (0, vec![], "a segment of another format"),
        (SEGMENT_HEADER as usize, vec![2, 3], "a mark"),
        (SEGMENT_HEADER as usize + 5, vec![2, 3], "a length"),
        (SEGMENT_HEADER as usize + 9, vec![2, 3], "a number of spans"),
        (SEGMENT_HEADER as usize + 40, vec![2, 3], "a payload"),
        (SENT_AT as usize + 1, vec![1, 2, 3], "how far it was sent"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = open(folder.path());
        for id in 1..=3 {
            append(&mut disk, id);
        }
        drop(disk);
        let path = segments(folder.path()).remove(0);
        let mut bytes = fs::read(&path).unwrap();
        bytes[place] ^= 0xff;
        fs::write(&path, bytes).unwrap();
        let mut next = Disk::open(folder.path(), LIMITS, WRITER + 1).unwrap();
        append(&mut next, 9);
        let expected: Vec<u64> = left.iter().copied().chain([9]).collect();
        assert_eq!(drain(&mut next).0, expected, "{why}");
        assert_eq!(next.damaged, u64::from(left.len() < 3), "{why}");
    }
}

#[test]
fn damage_under_our_eyes_costs_the_very_batches_it_hit() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = open(folder.path());
    for id in 1..=3 {
        append(&mut disk, id);
    }
    let path = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let record = (bytes.len() - SEGMENT_HEADER as usize) / 3;
    bytes[SEGMENT_HEADER as usize + record + 40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let lost = Lost { own: 1, earlier: 0 };
    assert_eq!(drain(&mut disk), (vec![1, 3], lost));
    append(&mut disk, 4);
    fs::remove_file(&segments(folder.path())[0]).unwrap();
    assert_eq!(drain(&mut disk), (vec![], lost), "somebody removed it");
    append(&mut disk, 5);
    assert_eq!(drain(&mut disk).0, [5]);
}

#[test]
fn the_oldest_goes_for_the_newest_and_each_span_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = open(folder.path());
    let (mut lost, mut n) = (Lost::default(), 0);
    while lost.own == 0 {
        n += 1;
        lost = append(&mut disk, n);
        assert!(disk.size() <= LIMITS.size);
    }
    let on_disk: u64 = segments(folder.path())
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert_eq!(on_disk, disk.size());
    assert!(on_disk > LIMITS.size / 2, "{on_disk}");
    let expected: Vec<u64> = (lost.own + 1..=n).collect();
    assert_eq!(drain(&mut disk).0, expected);
}

#[test]
fn a_batch_that_is_being_sent_is_not_lost_when_its_segment_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = open(folder.path());
    append(&mut disk, 1);
    let (ticket, _) = disk.take(&mut Lost::default()).unwrap();
    let (mut lost, mut n) = (Lost::default(), 1);
    while disk.holds(ticket) {
        n += 1;
        lost = append(&mut disk, n);
    }
    disk.done(ticket);
    let (left, _) = drain(&mut disk);
    assert_eq!(
        lost.own + left.len() as u64 + 1,
        n,
        "the one under way is nobody's loss"
    );
}

#[test]
fn a_batch_larger_than_the_spool_is_lost_without_harm_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = open(folder.path());
    append(&mut disk, 1);
    let mut lost = Lost::default();
    let record = vec![0; LIMITS.size as usize];
    disk.append(&record, 100, &mut lost).unwrap();
    assert_eq!(lost.own, 100);
    assert_eq!(drain(&mut disk).0, [1]);
}
