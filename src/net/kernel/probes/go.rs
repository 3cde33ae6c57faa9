//! Go from 1.17 on (arguments in registers): which goroutine runs, and which one started it?
//!
//! Where a goroutine's number stands in its description is found in the process itself: the first goroutine has the
//! number 1, and no two have the same.

use std::collections::HashSet;

use crate::net::kernel::probes::attach::Place;
use crate::net::kernel::probes::target::Memory;
use crate::net::kernel::probes::target::Target;

/// Where in a description the number is looked for, in words.
const NUMBER: std::ops::Range<usize> = 14..32;
/// Most goroutines that are compared, and the fewest that tell anything.
const MAX_GOROUTINES: usize = 256;
const MIN_GOROUTINES: usize = 3;
/// No program has started as many.
const MAX_NUMBER: u64 = 1 << 40;

/// Where things lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// In a goroutine's description: its number.
    pub(super) number_at: u32,
    /// `runtime.newproc1` is told whether the new one is parked.
    pub(super) knows_parked: bool,
}

/// Finds where things lie, and where to look.
///
/// # Errors
/// What is missing or does not fit.
pub(super) fn inspect(target: &Target) -> Result<(Layout, Vec<Place>), &'static str> {
    let program = target.program().map_err(|_| "its file cannot be read")?;
    let [all, version, made, queued, handed_over, writer, dialled] = program
        .elf
        .symbols([
            "runtime.allgs",
            "runtime.buildVersion",
            "runtime.newproc1",
            "runtime.runqput",
            "net/http.(*persistConn).roundTrip",
            "net/http.persistConnWriter.Write",
            "net/http.(*Transport).dialConnFor",
        ])
        .map_err(|_| "its file has no symbols")?;
    let (Some(all), Some(version), Some(made), Some(queued)) = (all, version, made, queued) else {
        return Err("its symbols were stripped");
    };
    let address = |symbol: u64| symbol.wrapping_add(program.shift);
    let minor = minor_version(target, address(version)).ok_or("its version is not known")?;
    if minor < 17 {
        return Err("its Go is older than 1.17");
    }
    let layout = Layout {
        number_at: number_at(target, address(all))?,
        knows_parked: minor >= 23,
    };
    let mut places = vec![("on_goroutine_made", made), ("on_goroutine_queued", queued)];
    if let (Some(handed_over), Some(writer)) = (handed_over, writer) {
        places.push(("on_call_handed_over", handed_over));
        places.push(("on_writer_writes", writer));
    }
    places.extend(dialled.map(|dialled| ("on_dialled", dialled)));
    let places = places.into_iter();
    let places: Option<Vec<Place>> = places
        .map(|(name, symbol)| Place::new(name, &program, symbol, false))
        .collect();
    Ok((layout, places.ok_or("it is loaded in another way")?))
}

/// The 19 of `go1.19.8`, in the string that this leads to.
fn minor_version(memory: &impl Memory, address: u64) -> Option<u32> {
    let text = memory.word(address)?;
    let size = memory.word(address + 8)?.min(32);
    let mut bytes = vec![0; size as usize];
    if !memory.read(text, &mut bytes) {
        return None;
    }
    let version = std::str::from_utf8(&bytes).ok()?;
    let (_, minor) = version.split_once("go1.")?;
    let digits = minor.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn number_at(memory: &impl Memory, all: u64) -> Result<u32, &'static str> {
    let (list, count) = (memory.word(all), memory.word(all + 8));
    let (Some(list), Some(count)) = (list, count) else {
        return Err("its goroutines cannot be listed");
    };
    let count = (count as usize).min(MAX_GOROUTINES);
    let list = memory.words(list, count);
    if list.len() < MIN_GOROUTINES {
        return Err("its goroutines cannot be listed");
    }
    let all: Vec<Vec<u64>> = list
        .into_iter()
        .map(|g| memory.words(g, NUMBER.end))
        .collect();
    let fits = |at: &usize| {
        let numbers = all.iter().map(|words| words.get(*at).copied());
        let numbers: Option<Vec<u64>> = numbers.collect();
        let numbers = numbers.unwrap_or_default();
        let distinct: HashSet<u64> = numbers.iter().copied().collect();
        numbers.first() == Some(&1)
            && distinct.len() == numbers.len()
            && numbers
                .iter()
                .all(|number| (1..MAX_NUMBER).contains(number))
    };
    let mut fitting = NUMBER.filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(at), None) => Ok(8 * at as u32),
        _ => Err("its goroutines do not look like those of a Go that is known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::kernel::probes::target::fake::Words;

    const ALL: u64 = 0x10_0000;
    const LIST: u64 = 0x20_0000;
    const FIRST: u64 = 0x30_0000;

    fn process(number_at: u64, numbers: &[u64]) -> Words {
        let mut words = Words::default();
        words.put(ALL, LIST);
        words.put(ALL + 8, numbers.len() as u64);
        for (index, number) in numbers.iter().enumerate() {
            let g = FIRST + 0x1000 * index as u64;
            words.put(LIST + 8 * index as u64, g);
            words.block(g, NUMBER.end as u64);
            words.put(g + number_at, *number);
        }
        words
    }

    #[test]
    fn numbers_are_found_where_no_two_are_the_same() {
        for at in [152, 160] {
            let words = process(at, &[1, 2, 18, 3]);
            assert_eq!(number_at(&words, ALL), Ok(at as u32));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (numbers, why) in [
            (&[1, 2][..], "too few to tell"),
            (&[1, 2, 2], "two have the same"),
            (&[2, 3, 4], "the first has another"),
            (&[1, 2, 0], "one has none"),
            (&[1, 2, u64::MAX], "not a number"),
        ] {
            assert!(number_at(&process(152, numbers), ALL).is_err(), "{why}");
        }
        let mut words = process(152, &[1, 2, 3]);
        for (index, number) in [1, 5, 9].into_iter().enumerate() {
            words.put(FIRST + 0x1000 * index as u64 + 200, number);
        }
        assert!(number_at(&words, ALL).is_err(), "two places fit");
        assert!(number_at(&Words::default(), ALL).is_err(), "no memory");
    }

    #[test]
    fn versions_are_read() {
        for (text, minor) in [
            ("go1.19.8", Some(19)),
            ("go1.26", Some(26)),
            ("devel go1.27-abc", Some(27)),
            ("tip", None),
            ("", None),
        ] {
            let mut words = Words::default();
            words.put(ALL, LIST);
            words.put(ALL + 8, text.len() as u64);
            let mut bytes = [0; 32];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            for (index, word) in bytes.chunks(8).enumerate() {
                let word = u64::from_le_bytes(word.try_into().unwrap());
                words.put(LIST + 8 * index as u64, word);
            }
            assert_eq!(minor_version(&words, ALL), minor, "{text:?}");
        }
    }
}
