//! What the rules say, as text for both tools.

use super::*;

fn parsed<T: FromStr<Err = ParseError>>(texts: &[&str]) -> Vec<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn usual() -> Rules {
    Rules {
        inbound: Some(Inbound {
            port: 15607,
            own_ports: vec![15606, 15607, 15690],
            exclude_ports: parsed(&["9000"]),
            ..Inbound::default()
        }),
        outbound: Some(Outbound {
            port: 15602,
            exclude_users: vec![65532],
            exclude_networks: parsed(&["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"]),
            ..Outbound::default()
        }),
        interfaces: Vec::new(),
        exclude_interfaces: parsed(&["docker+"]),
    }
}

#[test]
fn nft_gets_one_transaction() {
    let expected = "\
add table inet pillion
delete table inet pillion
table inet pillion {
\tchain output {
\t\ttype nat hook output priority -100; policy accept;
\t\tmeta l4proto != tcp return
\t\tmeta skuid { 65532 } return
\t\toifname { \"lo\" } return
\t\toifname { \"docker*\" } return
\t\ttcp dport { 53 } return
\t\tip daddr { 10.0.0.0/8 } return
\t\tip6 daddr { fd00::/8 } return
\t\tmeta l4proto tcp redirect to :15602
\t}
\tchain prerouting {
\t\ttype nat hook prerouting priority -100; policy accept;
\t\tmeta l4proto != tcp return
\t\tiifname { \"lo\" } return
\t\tiifname { \"docker*\" } return
\t\ttcp dport { 22, 9000, 15606-15607, 15690 } return
\t\tfib daddr type local meta l4proto tcp redirect to :15607
\t}
}
";
    assert_eq!(nft::install(&usual().chains()), expected);
}

#[test]
fn iptables_gets_chains_of_our_own_and_finds_its_old_ones() {
    let chains = usual().chains();
    let first = iptables::install(&chains, iptables::Family::Ipv4, "");
    let expected = "\
*nat
:PILLION_OUTPUT - [0:0]
:PILLION_PREROUTING - [0:0]
-A PILLION_OUTPUT -m owner --uid-owner 65532 -j RETURN
-A PILLION_OUTPUT -o lo -j RETURN
-A PILLION_OUTPUT -o docker+ -j RETURN
-A PILLION_OUTPUT -p tcp --dport 53 -j RETURN
-A PILLION_OUTPUT -d 10.0.0.0/8 -j RETURN
-A PILLION_OUTPUT -p tcp -j REDIRECT --to-ports 15602
-A OUTPUT -p tcp -j PILLION_OUTPUT
-A PILLION_PREROUTING -i lo -j RETURN
-A PILLION_PREROUTING -i docker+ -j RETURN
-A PILLION_PREROUTING -p tcp --dport 22 -j RETURN
-A PILLION_PREROUTING -p tcp --dport 9000 -j RETURN
-A PILLION_PREROUTING -p tcp --dport 15606:15607 -j RETURN
-A PILLION_PREROUTING -p tcp --dport 15690 -j RETURN
-A PILLION_PREROUTING -p tcp -m addrtype --dst-type LOCAL -j REDIRECT --to-ports 15607
-A PREROUTING -p tcp -j PILLION_PREROUTING
COMMIT
";
    assert_eq!(first, expected);
    let again = iptables::install(&chains, iptables::Family::Ipv6, expected);
    assert!(again.contains("-D OUTPUT -p tcp -j PILLION_OUTPUT\n"));
    assert!(again.contains("-D PREROUTING -p tcp -j PILLION_PREROUTING\n"));
    assert!(again.contains("-d fd00::/8"), "{again}");
    assert!(!again.contains("10.0.0.0"), "{again}");
    assert_eq!(
        iptables::remove(expected),
        "*nat\n:PILLION_OUTPUT - [0:0]\n:PILLION_PREROUTING - [0:0]\n\
         -D OUTPUT -p tcp -j PILLION_OUTPUT\n-D PREROUTING -p tcp -j PILLION_PREROUTING\n\
         -X PILLION_OUTPUT\n-X PILLION_PREROUTING\nCOMMIT\n"
    );
    assert_eq!(iptables::remove("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"), "");
}

#[test]
fn what_is_included_must_match_every_list() {
    let rules = Rules {
        inbound: None,
        outbound: Some(Outbound {
            port: 1,
            users: vec![1000, 1001],
            ports: parsed(&["80", "8000-8100", "8050-8200", "8201"]),
            networks: parsed(&["10.0.0.0/8"]),
            ..Outbound::default()
        }),
        interfaces: parsed(&["eth0"]),
        exclude_interfaces: Vec::new(),
    };
    let text = nft::install(&rules.chains());
    for line in [
        "oifname != { \"eth0\" } return",
        "meta skuid != { 1000, 1001 } return",
        "tcp dport != { 80, 8000-8201 } return",
        "meta nfproto ipv6 return",
        "ip daddr != { 10.0.0.0/8 } return",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let text = iptables::install(&rules.chains(), iptables::Family::Ipv4, "");
    for line in [
        "-A PILLION_OUTPUT -o eth0 -g PILLION_OUTPUT_2",
        "-A PILLION_OUTPUT_2 -m owner --uid-owner 1001 -g PILLION_OUTPUT_3",
        "-A PILLION_OUTPUT_3 -p tcp --dport 8000:8201 -g PILLION_OUTPUT_4",
        "-A PILLION_OUTPUT_4 -d 10.0.0.0/8 -g PILLION_OUTPUT_5",
        "-A PILLION_OUTPUT_5 -p tcp -j REDIRECT --to-ports 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn tproxy_stands_in_mangle() {
    let mut rules = usual();
    if let Some(inbound) = &mut rules.inbound {
        (inbound.tproxy, inbound.ports) = (true, parsed(&["22"]));
    }
    rules.outbound = None;
    let text = nft::install(&rules.chains());
    assert!(
        text.contains("type filter hook prerouting priority -150"),
        "{text}"
    );
    assert!(
        text.contains("tproxy to :15607") && !text.contains("redirect"),
        "{text}"
    );
    assert!(
        text.contains("tcp dport != { 22 } return"),
        "named, so wanted: {text}"
    );
    let text = iptables::install(&rules.chains(), iptables::Family::Ipv4, "");
    assert!(text.starts_with("*mangle\n"), "{text}");
    assert!(text.contains("-j TPROXY --on-port 15607"), "{text}");
}

#[test]
fn what_leaves_by_tproxy_is_marked_and_comes_back_over_loopback() {
    let mut rules = usual();
    if let Some(inbound) = &mut rules.inbound {
        (inbound.tproxy, inbound.keep_source) = (true, true);
    }
    if let Some(outbound) = &mut rules.outbound {
        outbound.tproxy = true;
    }
    assert_eq!(rules.marks(), [LEAVING, KEPT]);
    let text = nft::install(&rules.chains());
    let expected = "\
\tchain output {
\t\ttype route hook output priority -150; policy accept;
\t\tmeta l4proto != tcp return
\t\tct direction original ct mark 0x70696d meta mark set 0x70696d return
\t\tct state != new return
\t\tmeta skuid { 65532 } return
\t\tmeta mark { 7367022 } return
\t\toifname { \"lo\" } return
\t\toifname { \"docker*\" } return
\t\ttcp dport { 53 } return
\t\tip daddr { 10.0.0.0/8 } return
\t\tip6 daddr { fd00::/8 } return
\t\tct mark set 0x70696d meta mark set 0x70696d
\t}
\tchain divert {
\t\ttype filter hook prerouting priority -150; policy accept;
\t\tmeta l4proto != tcp return
\t\tiifname \"lo\" meta mark 0x70696d meta l4proto tcp tproxy to :15602
\t}
";
    assert!(text.contains(expected), "{text}");
    let expected = "\
\t\tmeta mark 0x70696e ct mark set 0x70696e
\t\tct direction reply ct mark 0x70696e meta mark set 0x70696e
";
    assert!(text.contains(expected), "{text}");
    let text = iptables::install(&rules.chains(), iptables::Family::Ipv4, "");
    for line in [
        "-A PILLION_OUTPUT -m conntrack ! --ctstate NEW -j RETURN",
        "-A PILLION_OUTPUT -p tcp -j CONNMARK --set-mark 0x70696d",
        "-A PILLION_OUTPUT -p tcp -j MARK --set-mark 0x70696d",
        "-A PILLION_DIVERT -p tcp -i lo -m mark --mark 0x70696d -j TPROXY --on-port 15602",
        "-A PREROUTING -p tcp -j PILLION_DIVERT",
        "-A OUTPUT -p tcp -j PILLION_KEPT",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("*nat"), "{text}");
}

#[test]
fn routes_change_by_what_is_missing_and_what_is_too_much() {
    const BOTH: &str = "0:\tfrom all lookup local\n32764:\tfrom all fwmark 0x70696e lookup 15602\n\
        32765:\tfrom all fwmark 0x70696d lookup 15602 \n32766:\tfrom all lookup main\n\
        local default dev lo scope host \n";
    for (marks, saved, expected) in [
        (
            &[LEAVING][..],
            "0:\tfrom all lookup local\n",
            "route add local default dev lo table 15602\nrule add fwmark 0x70696d lookup 15602\n",
        ),
        (&[LEAVING, KEPT], BOTH, ""),
        (&[KEPT], BOTH, "rule del fwmark 0x70696d lookup 15602\n"),
        (
            &[],
            BOTH,
            "rule del fwmark 0x70696e lookup 15602\nrule del fwmark 0x70696d lookup 15602\n\
             route del local default dev lo table 15602\n",
        ),
        (&[], "0:\tfrom all lookup local\n", ""),
    ] {
        assert_eq!(route::install(marks, saved), expected);
    }
}

#[test]
fn what_failed_half_way_is_put_back() {
    let before = "*nat\n:OUTPUT ACCEPT [0:0]\n:PILLION_OUTPUT - [0:0]\n-A OUTPUT -p tcp -j PILLION_OUTPUT\n\
        -A PILLION_OUTPUT -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n";
    let now = "*nat\n:PILLION_OUTPUT - [0:0]\n:PILLION_OUTPUT_2 - [0:0]\n-A OUTPUT -p tcp -j PILLION_OUTPUT\n\
        -A PILLION_OUTPUT -g PILLION_OUTPUT_2\nCOMMIT\n";
    assert_eq!(
        iptables::put_back(before, now),
        "*nat\n:PILLION_OUTPUT - [0:0]\n:PILLION_OUTPUT_2 - [0:0]\n-D OUTPUT -p tcp -j PILLION_OUTPUT\n\
         -A OUTPUT -p tcp -j PILLION_OUTPUT\n-A PILLION_OUTPUT -p tcp -j REDIRECT --to-ports 1\n\
         -X PILLION_OUTPUT_2\nCOMMIT\n"
    );
}

#[test]
fn texts_that_could_say_something_else_are_refused() {
    for text in ["", "0", "65536", "80-", "90-80", "http", "80;flush ruleset"] {
        assert!(text.parse::<Ports>().is_err(), "{text}");
    }
    for text in ["10.0.0.0/33", "::/129", "10.0.0", "10.0.0.0/x", "a.example"] {
        assert!(text.parse::<Network>().is_err(), "{text}");
    }
    for text in ["", "eth0\"", "a b", "interface-too-long", "eth0;"] {
        assert!(text.parse::<Interface>().is_err(), "{text}");
    }
    assert_eq!(
        "10.0.0.1".parse::<Network>().unwrap().to_string(),
        "10.0.0.1/32"
    );
}
