//! The linking benchmark: real programs, unmodified, behind the real binary; every parent it asserts is judged.
//!
//! The driver sends requests with signed ids to a program through Pillion. The program calls the backend through
//! Pillion; each call's URL holds a digest of the request's id that nobody but the judge can read, so that no evidence
//! in the bytes can win by accident. The spans that Pillion reports are then compared with what was caused by what.

pub(crate) mod apps;
pub(crate) mod backend;
pub(crate) mod collector;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod profiles;
pub(crate) mod report;
pub(crate) mod row;
pub(crate) mod score;
pub(crate) mod summary;
pub(crate) mod truth;
