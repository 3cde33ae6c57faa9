//! CPython from 3.8 on: which context does a thread run in?
//!
//! Where things lie differs from version to version, and no table says it: they are found by what they must look like,
//! in the process itself. A thread's state points to its interpreter and knows the address of the thread's own block of
//! memory, which points to itself; the block points to the state; the state points to an object of the type Context.

use std::cell::Cell;

use crate::net::kernel::probes::attach::Place;
use crate::net::kernel::probes::target::Memory;
use crate::net::kernel::probes::target::Target;

/// How far into each thing is looked, in words.
const RUNTIME: usize = 256;
const INTERPRETER: usize = 2_048;
const STATE: usize = 64;
const NEAR: usize = 4;
const BLOCK: std::ops::Range<usize> = 32..192;
/// Most states that are compared.
const MAX_STATES: usize = 64;
/// Most looks at the memory: a Python takes some thousand, what leads round in circles has no end.
const MAX_LOOKS: u32 = 65_536;

/// Where things lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// From a thread's block to the pointer to its state.
    pub(super) state_at: u32,
    /// In the state: the address of the block.
    pub(super) id_at: u32,
    /// In the state: the context.
    pub(super) context_at: u32,
    /// The type of contexts.
    pub(super) context_type: u64,
    /// A loop outside Python reads from sockets.
    pub(super) reads_outside: bool,
}

/// Finds where things lie, and where to look.
///
/// # Errors
/// What is missing or does not fit.
pub(super) fn inspect(target: &Target) -> Result<(Layout, Vec<Place>), &'static str> {
    let library = target.library("libpython");
    let python = library.or_else(|_| target.program());
    let python = python.map_err(|_| "its Python cannot be read")?;
    let [runtime, kind, copied, copy, new, entered] = python
        .elf
        .symbols([
            "_PyRuntime",
            "PyContext_Type",
            "PyContext_CopyCurrent",
            "PyContext_Copy",
            "PyContext_New",
            "PyContext_Enter",
        ])
        .map_err(|_| "its Python has no symbols")?;
    let (Some(runtime), Some(kind), Some(copied), Some(new)) = (runtime, kind, copied, new) else {
        return Err("its Python does not name its contexts");
    };
    let address = |symbol: u64| symbol.wrapping_add(python.shift);
    let mut layout = find(target, address(runtime), address(kind))?;
    layout.reads_outside = target.has("/uvloop/");
    let place = |program, symbol, is_return| Place::new(program, &python, symbol, is_return);
    let mut places = vec![
        place("on_context_copied", copied, true),
        place("on_context_made", new, true),
    ];
    places.extend(copy.map(|copy| place("on_context_made", copy, true)));
    if layout.reads_outside {
        let entered = entered.ok_or("its Python does not name its contexts")?;
        places.push(place("on_context_entered", entered, false));
    }
    let libc = target
        .library("libc.so")
        .or_else(|_| target.library("libc-2"));
    let libc = libc.map_err(|_| "its C library is not known")?;
    let accepting = libc.elf.symbols(["accept", "accept4"]);
    let [Some(accept), Some(accept4)] = accepting.map_err(|_| "its C library has no symbols")?
    else {
        return Err("its C library does not name accept");
    };
    for symbol in [accept, accept4] {
        places.push(Place::new("on_accepted", &libc, symbol, true));
    }
    let places: Option<Vec<Place>> = places.into_iter().collect();
    Ok((layout, places.ok_or("its Python is loaded in another way")?))
}

/// Memory that can be looked at so often and no more.
struct Patient<'a, M> {
    memory: &'a M,
    left: Cell<u32>,
}

impl<'a, M: Memory> Patient<'a, M> {
    fn new(memory: &'a M) -> Self {
        Self {
            memory,
            left: Cell::new(MAX_LOOKS),
        }
    }
}

impl<M: Memory> Memory for Patient<'_, M> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0 && self.memory.read(address, buffer)
    }

    fn is_written(&self, address: u64) -> bool {
        self.memory.is_written(address)
    }
}

/// What a state looks like.
struct State {
    address: u64,
    words: Vec<u64>,
}

fn find(memory: &impl Memory, runtime: u64, context_type: u64) -> Result<Layout, &'static str> {
    let memory = &Patient::new(memory);
    let interpreters = memory.words(runtime, RUNTIME);
    for interpreter in interpreters {
        if !memory.is_written(interpreter) {
            continue;
        }
        let states = states_of(memory, interpreter);
        if states.is_empty() {
            continue;
        }
        let layout = fit(memory, &states, context_type);
        // What was not looked at might not fit.
        if let Some(layout) = layout.filter(|_| memory.left.get() > 0) {
            return Ok(layout);
        }
    }
    Err("its threads do not look like those of a Python that is known")
}

/// The states of an interpreter's threads.
fn states_of(memory: &impl Memory, interpreter: u64) -> Vec<State> {
    let mut states: Vec<State> = Vec::new();
    let mut waiting = memory.words(interpreter, INTERPRETER);
    waiting.reverse();
    let mut seen = std::collections::HashSet::new();
    while let Some(address) = waiting.pop() {
        if states.len() >= MAX_STATES {
            break;
        }
        if !memory.is_written(address) || !seen.insert(address) {
            continue;
        }
        if !memory.words(address, NEAR).contains(&interpreter) {
            continue;
        }
        let words = memory.words(address, STATE);
        if words.len() == STATE && own_blocks(memory, &words).next().is_some() {
            // Neighbours in the list.
            waiting.extend(words.iter().take(2));
            states.push(State { address, words });
        }
    }
    states
}

/// Where a state has the address of something that points to itself, as threads' blocks do.
fn own_blocks(memory: &impl Memory, words: &[u64]) -> impl Iterator<Item = usize> {
    let refers = |(_, word): &(usize, &u64)| {
        memory.is_written(**word) && memory.word(**word) == Some(**word)
    };
    let found = words.iter().enumerate().filter(refers);
    found.map(|(index, _)| index)
}

/// The layout that fits all states, if there is exactly one.
fn fit(memory: &impl Memory, states: &[State], context_type: u64) -> Option<Layout> {
    let is_context =
        |word: u64| memory.is_written(word) && memory.word(word + 8) == Some(context_type);
    let mut found = None;
    for id in 0..STATE {
        let blocks = states.iter().map(|state| state.words.get(id).copied());
        let blocks: Option<Vec<u64>> = blocks.collect();
        let blocks = blocks.unwrap_or_default();
        let is_block =
            |block: &u64| memory.is_written(*block) && memory.word(*block) == Some(*block);
        if blocks.is_empty() || !blocks.iter().all(is_block) {
            continue;
        }
        for slot in BLOCK {
            let refers = |(state, block): (&State, &u64)| {
                memory.word(block + 8 * slot as u64) == Some(state.address)
            };
            if !states.iter().zip(&blocks).all(refers) {
                continue;
            }
            for context in 0..STATE {
                let all = states.iter().filter_map(|state| state.words.get(context));
                let (mut any, mut fits) = (false, true);
                for word in all {
                    any |= is_context(*word);
                    fits &= *word == 0 || is_context(*word);
                }
                if !any || !fits {
                    continue;
                }
                if found.is_some() {
                    return None;
                }
                found = Some(Layout {
                    state_at: 8 * slot as u32,
                    id_at: 8 * id as u32,
                    context_at: 8 * context as u32,
                    context_type,
                    reads_outside: false,
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::kernel::probes::target::fake::Words;

    const RUNTIME_AT: u64 = 0x10_0000;
    const INTERPRETER_AT: u64 = 0x20_0000;
    const STATES: [u64; 2] = [0x30_0000, 0x30_1000];
    const BLOCKS: [u64; 2] = [0x40_0000, 0x40_1000];
    const CONTEXT: u64 = 0x50_0000;
    const TYPE: u64 = 0x60_0000;

    /// Two threads, the first one in a context.
    fn process() -> Words {
        let mut words = Words::default();
        words.block(RUNTIME_AT, RUNTIME as u64);
        words.put(RUNTIME_AT + 40, INTERPRETER_AT);
        words.block(INTERPRETER_AT, INTERPRETER as u64);
        words.put(INTERPRETER_AT + 72, STATES[0]);
        for (state, block) in STATES.into_iter().zip(BLOCKS) {
            words.block(state, STATE as u64);
            words.put(state + 16, INTERPRETER_AT);
            words.put(state + 152, block);
            words.block(block, 256);
            words.put(block, block);
            words.put(block + 0x328, state);
        }
        words.put(STATES[0] + 8, STATES[1]);
        words.block(CONTEXT, 8);
        words.put(CONTEXT + 8, TYPE);
        words.put(STATES[0] + 208, CONTEXT);
        words
    }

    fn found(words: &Words) -> Option<Layout> {
        find(words, RUNTIME_AT, TYPE).ok()
    }

    #[test]
    fn the_layout_is_found_by_what_things_look_like() {
        let layout = Layout {
            state_at: 0x328,
            id_at: 152,
            context_at: 208,
            context_type: TYPE,
            reads_outside: false,
        };
        assert_eq!(found(&process()), Some(layout));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        type Change = fn(&mut Words);
        let changes: [(Change, &str); 6] = [
            (|words| words.put(CONTEXT + 8, TYPE + 8), "another type"),
            (|words| words.put(STATES[0] + 216, CONTEXT), "two contexts"),
            (|words| words.put(BLOCKS[0], 7), "the block is not one"),
            (
                |words| words.put(BLOCKS[1] + 0x328, 0),
                "one thread differs",
            ),
            (
                |words| words.put(BLOCKS[0] + 0x328, STATES[1]),
                "another's state",
            ),
            (
                |words| words.put(RUNTIME_AT + 40, 0x99_0000),
                "leads nowhere",
            ),
        ];
        for (change, why) in changes {
            let mut words = process();
            change(&mut words);
            assert_eq!(found(&words), None, "{why}");
        }
        assert_eq!(found(&Words::default()), None, "no memory");
    }

    #[test]
    fn what_leads_round_in_circles_is_refused_in_time() {
        let mut words = Words::default();
        for index in 0..4_096 {
            words.put(RUNTIME_AT + 8 * index, RUNTIME_AT + 8 * (index * 7 % 4_096));
        }
        let memory = Patient::new(&words);
        assert!(find(&memory, RUNTIME_AT, TYPE).is_err());
        assert!(memory.left.get() == 0, "it was tried");
    }
}
