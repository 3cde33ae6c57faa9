//! Where a word about a connection lies in an array of 65,536 slots, for all who write one: the kernel's programs and the
//! preload library. Each connection has two places, so that two connections rarely overwrite each other's.

use super::kernel::Moment;

/// One of the two places of a connection, from its local port and its remote address as its writer folds it; as
/// `place_of` in `bpf/state.h` and `places_of` in `src/app/shims/slots.h` say.
pub(super) fn place(local: u16, fold: u16, is_second: bool) -> u16 {
    let factor = match is_second {
        true => fold.wrapping_mul(0x85eb) ^ 0x27d4,
        false => fold.wrapping_mul(0x9e37),
    };
    local.wrapping_mul(factor | 1).wrapping_add(fold)
}

/// What was written last in either place; `look` is asked for the first and for the second.
pub(super) fn latest<T>(look: impl Fn(bool) -> Option<T>, at: impl Fn(&T) -> Moment) -> Option<T> {
    match (look(false), look(true)) {
        (Some(one), Some(other)) if at(&one).is_until(at(&other)) => Some(other),
        (one, other) => one.or(other),
    }
}
