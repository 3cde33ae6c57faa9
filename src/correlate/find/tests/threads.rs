//! What is said of the thread that sends a call, by the program's side and by the kernel.

use super::*;

#[test]
fn a_thread_points_at_the_request_on_the_connection_it_serves() {
    let in_flight = InFlight::new(2);
    let preload = Config {
        preload: true,
        ..Config::default()
    };
    let a = enter(&in_flight, 1, "/", "");
    let b = enter(&in_flight, 2, "/", "");
    a.inbound().passed_on_from(40_001, Some(Moment::now()));
    let before = Moment::now();
    while Moment::now() == before {}
    b.inbound().passed_on_from(40_002, Some(Moment::now()));
    let served_at = |config: &Config, served| {
        let given = Given {
            served,
            ..Given::default()
        };
        outcome(config, &in_flight, &given)
    };
    let call = |config: &Config, port: Option<u16>| {
        served_at(config, port.map(|port| (port, Moment::now())))
    };
    assert_eq!(call(&preload, Some(40_002)), (Some(2), "thread", "high", 1));
    assert_eq!(call(&preload, None), (None, "none", "none", 2));
    assert_eq!(
        call(&preload, Some(40_003)),
        (None, "none", "none", 2),
        "no such connection"
    );
    assert_eq!(
        call(&Config::default(), Some(40_002)),
        (None, "none", "none", 2),
        "off"
    );
    assert_eq!(
        served_at(&preload, Some((40_002, before))),
        (None, "none", "none", 2),
        "what was served there before it"
    );
    let other_stream = enter(&in_flight, 3, "/", "");
    other_stream
        .inbound()
        .passed_on_from(40_002, Some(Moment::now()));
    assert_eq!(
        call(&preload, Some(40_002)),
        (None, "none", "none", 2),
        "two requests share the connection"
    );
}

#[test]
fn the_kernel_points_at_the_request_that_was_on_the_connection_then() {
    let in_flight = InFlight::new(1);
    let a = enter(&in_flight, 1, "/", "");
    let b = enter(&in_flight, 2, "/", "");
    a.inbound().passed_on_from(40_001, Some(Moment::now()));
    let before = Moment::now();
    while Moment::now() == before {}
    b.inbound().passed_on_from(40_002, Some(Moment::now()));
    let call = |witnesses: &[(Method, u16, Moment)]| {
        let witnesses = witnesses
            .iter()
            .map(|&(method, port, at)| Witness { method, port, at });
        let given = Given {
            witnesses: witnesses.collect(),
            ..Given::default()
        };
        let eager = Config {
            mode: Mode::Eager,
            exclusive: false,
            ..Config::default()
        };
        [Config::default(), eager].map(|config| outcome(&config, &in_flight, &given))
    };
    let now = Moment::now();
    let (thread, lineage) = (Method::Thread, Method::Lineage);
    let nothing = (None, "none", "none", 2);
    for (witnesses, expected, why) in [
        (
            vec![(thread, 40_001, now)],
            [(Some(1), "thread", "high", 1); 2],
            "one",
        ),
        (
            vec![(lineage, 40_002, now)],
            [nothing, (Some(2), "lineage", "low", 1)],
            "the other, in the mode that believes it",
        ),
        (
            vec![(thread, 40_002, before)],
            [nothing; 2],
            "the call was sent before the request came: another one had the connection then",
        ),
        (
            vec![(thread, 40_003, now)],
            [nothing; 2],
            "no such connection",
        ),
        (
            vec![(thread, 40_001, now), (lineage, 40_002, now)],
            [(Some(1), "thread", "high", 1); 2],
            "the thread is surer than the event",
        ),
    ] {
        assert_eq!(call(&witnesses), expected, "{why}");
    }
}

#[test]
fn threads_say_nothing_where_the_kernel_does_not_know_them() {
    for (class, expected) in [
        (correlate::Class::Unknown, (Some(2), "thread", "high", 1)),
        (correlate::Class::Threads, (Some(2), "thread", "high", 1)),
        (correlate::Class::GreenThreads, (None, "none", "none", 2)),
    ] {
        let in_flight = of_class(class);
        let _a = enter(&in_flight, 1, "/", "");
        let b = enter(&in_flight, 2, "/", "");
        b.inbound().passed_on_from(40_002, Some(Moment::now()));
        let preload = Config {
            preload: true,
            ..Config::default()
        };
        let given = Given {
            served: Some((40_002, Moment::now())),
            ..Given::default()
        };
        assert_eq!(outcome(&preload, &in_flight, &given), expected, "{class:?}");
    }
}

#[test]
fn a_call_from_a_thread_that_serves_nobody_is_not_the_only_requests_at_first_sight() {
    for (class, is_watched, expected) in [
        (correlate::Class::Threads, false, Some(1)),
        (correlate::Class::Threads, true, None),
        (correlate::Class::EventLoop, true, Some(1)),
    ] {
        let in_flight = of_class(class);
        let _a = enter(&in_flight, 1, "/", "");
        let given = Given {
            is_watched,
            ..Given::default()
        };
        let parent = outcome(&Config::default(), &in_flight, &given).0;
        assert_eq!(parent, expected, "{class:?}, {is_watched}");
    }
}
