//! What kind of program calls, and which evidence may assert anything about that kind.
//!
//! Each kind of evidence rests on a way of working: a thread that serves one request at a time, a loop that handles one
//! event at a time. Where a program is known to work otherwise the evidence is not asked.

use crate::correlate::Method;
use crate::net::process::EventLoop;
use crate::net::process::Program;
use crate::net::process::Runtime;

/// A kind of program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Class {
    /// Nothing is known: it may not be looked at, or its processes are of different kinds.
    #[default]
    Unknown,
    /// Threads that each serve one request at a time.
    Threads,
    /// One thread that handles one event at a time.
    EventLoop,
    /// Tasks that a runtime moves between threads.
    Tasks,
    /// Threads that the kernel does not know.
    GreenThreads,
}

impl Class {
    /// Every kind, in the order of its numbers.
    const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Threads,
        Self::EventLoop,
        Self::Tasks,
        Self::GreenThreads,
    ];

    /// The kind of program that these processes are. One with green threads makes all of them so.
    pub fn of(programs: &[Program]) -> Self {
        let mut classes = programs.iter().map(of_one);
        let Some(first) = classes.next() else {
            return Self::Unknown;
        };
        classes.fold(first, |all, one| match (all, one) {
            (Self::GreenThreads, _) | (_, Self::GreenThreads) => Self::GreenThreads,
            (all, one) if all == one => all,
            _ => Self::Unknown,
        })
    }

    /// The kind of this number; unknown beyond them.
    pub(super) fn from_number(number: u8) -> Self {
        let class = Self::ALL.get(usize::from(number));
        class.copied().unwrap_or_default()
    }

    /// False when this evidence says nothing sound about such a program.
    ///
    /// Where nothing is known a layer may speak that proves its own ground: `thread` looks at connections alone that are
    /// read with blocking calls, `runtime` comes from probes that fit one runtime.
    pub fn allows(self, method: Method) -> bool {
        match method {
            Method::Thread | Method::Lineage => self != Self::GreenThreads,
            // Rest is seen where its threads are.
            Method::Pacing => matches!(self, Self::Threads | Self::EventLoop | Self::Tasks),
            _ => true,
        }
    }
}

fn of_one(program: &Program) -> Class {
    if program.green_threads {
        return Class::GreenThreads;
    }
    match (program.runtime, program.event_loop) {
        (Runtime::Node, _) => Class::EventLoop,
        (Runtime::Go | Runtime::Tokio, _) => Class::Tasks,
        (Runtime::Python, EventLoop::Asyncio | EventLoop::Uvloop) => Class::EventLoop,
        (_, EventLoop::Unknown) => Class::Unknown,
        (Runtime::Python | Runtime::Ruby | Runtime::Php | Runtime::Java, _) => Class::Threads,
        _ => Class::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(runtime: Runtime, event_loop: EventLoop, green_threads: bool) -> Program {
        Program {
            pid: 1,
            started: 1,
            name: "p".into(),
            runtime,
            version: "".into(),
            event_loop,
            threads: 1,
            green_threads,
            children: "".into(),
            probes: Vec::new(),
        }
    }

    #[test]
    fn processes_make_a_kind_and_the_kind_a_gate() {
        let node = || program(Runtime::Node, EventLoop::Libuv, false);
        let python = |event_loop| program(Runtime::Python, event_loop, false);
        let gevent = || program(Runtime::Python, EventLoop::Other, true);
        let cases = [
            (vec![], Class::Unknown, "not found"),
            (vec![node()], Class::EventLoop, "node"),
            (vec![python(EventLoop::None)], Class::Threads, "no loop"),
            (vec![python(EventLoop::Uvloop)], Class::EventLoop, "uvloop"),
            (vec![python(EventLoop::Unknown)], Class::Unknown, "not seen"),
            (vec![node(), gevent()], Class::GreenThreads, "the weakest"),
            (
                vec![node(), python(EventLoop::None)],
                Class::Unknown,
                "mixed",
            ),
            (
                vec![program(Runtime::Java, EventLoop::Other, true)],
                Class::GreenThreads,
                "virtual threads",
            ),
            (
                vec![program(Runtime::Go, EventLoop::Netpoll, false)],
                Class::Tasks,
                "go",
            ),
        ];
        for (programs, class, why) in cases {
            assert_eq!(Class::of(&programs), class, "{why}");
            assert_eq!(Class::from_number(class as u8), class, "{why}");
        }
        for (class, thread, pacing) in [
            (Class::Unknown, true, false),
            (Class::Threads, true, true),
            (Class::EventLoop, true, true),
            (Class::Tasks, true, true),
            (Class::GreenThreads, false, false),
        ] {
            let allowed = [Method::Thread, Method::Pacing].map(|method| class.allows(method));
            assert_eq!(allowed, [thread, pacing], "{class:?}");
            assert!(class.allows(Method::Forwarded) && class.allows(Method::Shim));
        }
        assert_eq!(Class::from_number(250), Class::Unknown);
    }
}
