//! tokio: which task runs, which one made it, and which one woke it?
//!
//! What is attached to are functions that every program with tokio has in its file, unless its symbols were stripped:
//! those in tasks' tables of functions and those behind their wakers. How such a table says where a task's number is, is
//! read from one; where in a thread's context the running task's number is, the programs in the kernel find out while
//! tasks begin to run.

use crate::net::kernel::probes::attach::Place;
use crate::net::kernel::probes::elf::Elf;
use crate::net::kernel::probes::elf::Symbol;
use crate::net::kernel::probes::target::Memory;
use crate::net::kernel::probes::target::Target;

/// Until the programs in the kernel have found what they need.
pub(super) const SEARCHES: &str = "too few of its tasks have been seen yet";
/// When they never will.
pub(super) const FITS_NOT: &str = "its tasks do not look like those of a tokio that is known";

/// How names of tokio's own begin, mangled in one way, and everybody's in the other.
const NAMES: [&str; 2] = ["_ZN5tokio7runtime", "_R"];
/// Bytes of a thread's context, which is looked at as far as this.
const CONTEXT: std::ops::RangeInclusive<u64> = 32..=256;
const MAX_CONTEXT: u64 = 128;
/// Most kinds of tasks that are followed.
const MAX_TASKS: usize = 8_192;
/// Most bytes of a program's data that are searched, and how many at a time.
const MAX_DATA: u64 = 64 << 20;
const PIECE: usize = 64 << 10;
/// Functions in a table, and what its offsets are below.
const FUNCTIONS: std::ops::RangeInclusive<usize> = 6..=8;
const MAX_OFFSET: u64 = 1 << 20;
/// In a task, from the kind of its scheduler to its number.
const NEAR: u64 = 256;

/// Where things lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// From a thread's context to its own block of memory.
    pub(super) context_before: u64,
    pub(super) context_size: u32,
    /// In a task's table: where its number is in the task.
    pub(super) number_at: u32,
}

/// Where probes belong, always and as long as is searched.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) places: Vec<Place>,
    pub(super) search: Vec<Place>,
}

/// The functions of one program.
#[derive(Debug, Default)]
struct Functions {
    polls: Vec<u64>,
    wakes: Vec<u64>,
    makes: Vec<u64>,
}

/// Finds where things lie, and where to look.
///
/// # Errors
/// What is missing or does not fit.
pub(super) fn inspect(target: &Target) -> Result<(Layout, Places), &'static str> {
    let program = target.program().map_err(|_| "its file cannot be read")?;
    let (functions, context) = functions_of(&program.elf)?;
    let address = |symbol: &u64| symbol.wrapping_add(program.shift);
    let polls: Vec<u64> = functions.polls.iter().map(address).collect();
    let layout = Layout {
        context_before: context.before,
        context_size: context.size.min(MAX_CONTEXT) as u32,
        number_at: number_at(target, &program.data, &program.code, &polls).ok_or(FITS_NOT)?,
    };
    let place = |name, symbols: &[u64]| {
        let places = symbols
            .iter()
            .map(|symbol| Place::new(name, &program, *symbol, false));
        places.collect::<Option<Vec<Place>>>()
    };
    let found = || {
        let mut places = place("on_task_woken", &functions.wakes)?;
        places.extend(place("on_task_made", &functions.makes)?);
        let search = place("on_task_polled", &functions.polls)?;
        Some(Places { places, search })
    };
    Ok((layout, found().ok_or("it is loaded in another way")?))
}

/// A thread's context: how far before its block of memory, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Context {
    before: u64,
    size: u64,
}

fn functions_of(elf: &Elf) -> Result<(Functions, Context), &'static str> {
    let mut functions = Functions::default();
    let mut contexts = Vec::new();
    let seen = elf.each_symbol(&NAMES, |symbol| {
        functions.add(symbol);
        if is_context(symbol)
            && let Some(before) = elf.before_block(symbol)
        {
            let size = symbol.size;
            contexts.push(Context { before, size });
        }
    });
    seen.map_err(|_| "its file has no symbols")?;
    functions.sort();
    contexts.sort_unstable();
    contexts.dedup();
    if functions.polls.is_empty() || functions.wakes.is_empty() || contexts.is_empty() {
        return Err("its symbols were stripped");
    }
    let [context] = contexts[..] else {
        return Err("it has several versions of tokio");
    };
    if functions.makes.is_empty() {
        return Err("its tokio does not name what makes tasks");
    }
    if functions.polls.len() > MAX_TASKS {
        return Err("it has too many kinds of tasks");
    }
    Ok((functions, context))
}

impl Functions {
    /// Names are mangled in one of two ways; in both, a path's parts follow one another.
    fn add(&mut self, symbol: &Symbol<'_>) {
        if symbol.is_thread_local || symbol.address == 0 {
            return;
        }
        let after = |path: &str| {
            let path = path.as_bytes();
            let at = symbol
                .name
                .windows(path.len())
                .position(|part| part == path)?;
            symbol.name.get(at + path.len()..)
        };
        let is_closure = symbol.name.starts_with(b"_RNC") || after("10spawn_task28_").is_some();
        if after("5tokio7runtime8blocking4pool").is_some()
            && after("7Spawner10spawn_task").is_some()
            && !is_closure
        {
            self.makes.push(symbol.address);
            return;
        }
        let Some(rest) = after("5tokio7runtime4task") else {
            return;
        };
        let list = if rest.starts_with(b"3raw4poll") {
            &mut self.polls
        } else if rest.starts_with(b"5waker11wake_by_val")
            || rest.starts_with(b"5waker11wake_by_ref")
        {
            &mut self.wakes
        } else if rest.starts_with(b"4list")
            && after("10OwnedTasks").or(after("19OwnedTasks")).is_some()
            && after("10bind_inner").is_some()
        {
            &mut self.makes
        } else {
            return;
        };
        list.push(symbol.address);
    }

    fn sort(&mut self) {
        for list in [&mut self.polls, &mut self.wakes, &mut self.makes] {
            list.sort_unstable();
            list.dedup();
        }
    }
}

fn is_context(symbol: &Symbol<'_>) -> bool {
    let path = b"5tokio7runtime7context7CONTEXT";
    symbol.is_thread_local
        && CONTEXT.contains(&symbol.size)
        && symbol.name.windows(path.len()).any(|part| part == path)
}

/// Where the tables of tasks that begin with these functions have the offset of the number. They must agree.
fn number_at(
    memory: &impl Memory,
    data: &[(u64, u64)],
    code: &[(u64, u64)],
    polls: &[u64],
) -> Option<u32> {
    let is_code = |word: u64| {
        let mut code = code.iter();
        code.any(|(start, end)| (*start..*end).contains(&word))
    };
    let (Some(first), Some(last)) = (polls.first(), polls.last()) else {
        return None;
    };
    let is_poll = |word: &u64| (first..=last).contains(&word) && polls.binary_search(word).is_ok();
    let mut found = None;
    let mut left = MAX_DATA;
    for (start, end) in data {
        let mut at = *start;
        while at < *end && left > 0 {
            let words = memory.words(at, PIECE.min((*end - at) as usize) / 8);
            let places = words.iter().enumerate();
            for (index, _) in places.filter(|(_, word)| is_poll(word)) {
                let table = memory.words(at + 8 * index as u64, FUNCTIONS.end() + 3);
                let Some(number) = number_in(&table, is_code) else {
                    continue;
                };
                if found.is_some_and(|found| found != number) {
                    return None;
                }
                found = Some(number);
            }
            at = at.saturating_add(PIECE as u64);
            left = left.saturating_sub(PIECE as u64);
        }
    }
    found
}

/// After a table's functions: where the trailer is in the task, the scheduler and the number. `None`: it is none.
fn number_in(table: &[u64], is_code: impl Fn(u64) -> bool) -> Option<u32> {
    let count = table.iter().take_while(|word| is_code(**word)).count();
    let &[trailer, scheduler, number, ..] = table.get(count..)? else {
        return None;
    };
    let is_in_order = scheduler < number && number - scheduler <= NEAR && number < trailer;
    (FUNCTIONS.contains(&count) && is_in_order && trailer < MAX_OFFSET)
        .then_some(8 * (count as u32 + 2))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::io::Write;

    use super::*;
    use crate::net::kernel::probes::target::fake::Words;

    #[test]
    fn this_very_program_is_understood() {
        let target = Target::open(std::process::id()).unwrap();
        let (layout, found) = inspect(&target).unwrap();
        assert!(layout.context_before >= u64::from(layout.context_size));
        assert!(
            matches!(layout.number_at, 64 | 72),
            "six or seven functions, and two numbers"
        );
        assert!(found.places.len() >= 3 && !found.search.is_empty());
    }

    #[test]
    fn a_stripped_program_is_refused() {
        let mut bytes = Vec::new();
        let mut own = std::fs::File::open("/proc/self/exe").unwrap();
        own.read_to_end(&mut bytes).unwrap();
        bytes[60..62].fill(0);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let refused = functions_of(&Elf::read(file).unwrap()).map(|(_, context)| context);
        assert_eq!(refused, Err("its symbols were stripped"));
    }

    #[test]
    fn functions_are_known_by_both_kinds_of_names() {
        for (name, list) in [
            ("_ZN5tokio7runtime4task3raw4poll17h1720b024584ec094E", 0),
            (
                "_ZN5tokio7runtime4task3raw4poll17h820fb1e1ddf652b8E.llvm.12140749476947528801",
                0,
            ),
            (
                "_RINvNtNtNtCsNcv2hvjF0L_5tokio7runtime4task3raw4pollNCNvCsbEy_5basic10background0E",
                0,
            ),
            (
                "_ZN5tokio7runtime4task5waker11wake_by_ref17h2bb8c1b49c955debE",
                1,
            ),
            (
                "_RNvNtNtNtCsNcv2hvjF0L_5tokio7runtime4task5waker11wake_by_val",
                1,
            ),
            (
                "_ZN5tokio7runtime4task4list19OwnedTasks$LT$S$GT$10bind_inner17h25e0454a0e76b293E",
                2,
            ),
            (
                "_RNvMNtNtNtCsNcv2hvjF0L_5tokio7runtime4task4listINtB2_10OwnedTasksE10bind_inner",
                2,
            ),
            (
                "_ZN5tokio7runtime8blocking4pool7Spawner10spawn_task17h8e0edc6f18c11ffcE",
                2,
            ),
            (
                "_RNvMs5_NtNtNtCsNcv2hvjF0L_5tokio7runtime8blocking4poolNtB5_7Spawner10spawn_task",
                2,
            ),
            (
                "_ZN5tokio7runtime8blocking4pool7Spawner10spawn_task28_$u7b$$u7b$closure$u7d$$u7d$E",
                3,
            ),
            (
                "_RNCNvMs5_NtNtNtCsN_5tokio7runtime8blocking4poolNtB7_7Spawner10spawn_task0Bd_",
                3,
            ),
            ("_ZN5tokio7runtime4task3raw8schedule17h1e356559b8bbed5eE", 3),
            (
                "_ZN5tokio7runtime4task5waker10drop_waker17hfcf34f2a0817b334E",
                3,
            ),
            ("main", 3),
            ("", 3),
        ] {
            let mut functions = Functions::default();
            functions.add(&Symbol {
                name: name.as_bytes(),
                address: 4_096,
                size: 8,
                is_thread_local: false,
            });
            let found = [&functions.polls, &functions.wakes, &functions.makes];
            for (index, found) in found.into_iter().enumerate() {
                assert_eq!(found.len(), usize::from(index == list), "{name}");
            }
        }
    }

    const DATA: (u64, u64) = (0x10_0000, 0x10_1000);
    const CODE: (u64, u64) = (0x20_0000, 0x20_1000);
    const POLL: u64 = 0x20_0100;

    /// A table: so many functions, then offsets.
    fn table(words: &mut Words, at: u64, functions: u64, offsets: [u64; 3]) {
        for index in 0..functions {
            words.put(at + 8 * index, POLL + 16 * index);
        }
        for (index, offset) in offsets.into_iter().enumerate() {
            words.put(at + 8 * (functions + index as u64), offset);
        }
    }

    fn found(tables: &[(u64, [u64; 3])]) -> Option<u32> {
        let mut words = Words::default();
        words.block(DATA.0, (DATA.1 - DATA.0) / 8);
        for (index, (functions, offsets)) in tables.iter().enumerate() {
            table(
                &mut words,
                DATA.0 + 256 * index as u64,
                *functions,
                *offsets,
            );
        }
        number_at(&words, &[DATA], &[CODE], &[POLL])
    }

    #[test]
    fn a_table_says_where_numbers_are() {
        assert_eq!(found(&[(7, [640, 40, 48]), (7, [96, 40, 48])]), Some(72));
        assert_eq!(found(&[(6, [640, 32, 40])]), Some(64));
    }

    #[test]
    fn tables_that_do_not_fit_are_refused() {
        for (tables, why) in [
            (&[][..], "no table"),
            (&[(3, [640, 40, 48])], "too few functions"),
            (&[(7, [40, 640, 648])], "the trailer is not last"),
            (&[(7, [640, 48, 40])], "the number before the scheduler"),
            (&[(7, [640, 40, 400])], "far from the scheduler"),
            (&[(7, [u64::MAX, 40, 48])], "no offset"),
            (&[(7, [640, 40, 48]), (6, [640, 40, 48])], "they differ"),
        ] {
            assert_eq!(found(tables), None, "{why}");
        }
        assert_eq!(
            number_at(&Words::default(), &[DATA], &[CODE], &[POLL]),
            None
        );
    }
}
