//! Hull's rules in the kernel's packet filter: two tables of its own, with a fixed number of rules. What changes with
//! networks and microVMs are [`super::elements`] of their sets and maps.
//!
//! libnftables-json(5); nft(8) for the hooks and their order. Pure. Invariants: nothing here names a table of anybody
//! else's; what comes from a guest passes only where a rule says so; the first wall is the VMM, which checks the same
//! before a frame reaches the tap.

mod words;

use serde_json::{Value, json};

use self::words::{
    FAMILIES, Table, accept, by_state, count, goto, is, is_in, is_not, meta, payload, translated,
};

/// The name of Hull's tables.
pub const TABLE: &str = "hull";

/// What both tables are made of, in place of what there was.
pub fn skeleton() -> Vec<Value> {
    let mut commands = Vec::new();
    for family in ["inet", "bridge"] {
        let table = json!({ "table": { "family": family, "name": TABLE } });
        // Deleting needs it to be there.
        commands.extend([json!({ "add": table }), json!({ "delete": table }), json!({ "add": table })]);
    }
    inet(&mut Table { family: "inet", commands: &mut commands });
    bridge(&mut Table { family: "bridge", commands: &mut commands });
    commands
}

/// Removes both tables.
pub fn removal() -> Vec<Value> {
    let table = |family| json!({ "table": { "family": family, "name": TABLE } });
    ["inet", "bridge"]
        .iter()
        .flat_map(|family| [json!({ "add": table(family) }), json!({ "delete": table(family) })])
        .collect()
}

fn inet(table: &mut Table<'_>) {
    inet_sets(table);
    for name in [
        "refuse",
        "allowed",
        "allow_vm",
        "deny_vm",
        "allow_net",
        "deny_net",
        "resolver",
        "from_guest",
        "to_guest",
        "publish",
    ] {
        table.chain(name, None);
    }
    table.chain("forward", Some(("filter", "forward", 0)));
    table.chain("input", Some(("filter", "input", 0)));
    table.chain("prerouting", Some(("nat", "prerouting", -100)));
    table.chain("output", Some(("nat", "output", -100)));
    table.chain("postrouting", Some(("nat", "postrouting", 100)));
    forward(table);
    policies(table);
    input(table);
    publish(table);
    masquerade(table);
}

fn inet_sets(table: &mut Table<'_>) {
    // Bridges, those of them without a way out, and links that forward only because Hull lets them.
    for name in ["bridges", "internal", "opened"] {
        table.set(name, &["ifname"], &[]);
    }
    table.set("within", &["ifname", "ifname"], &[]);
    for (family, address) in [("4", "ipv4_addr"), ("6", "ipv6_addr")] {
        let named = |name: &str| format!("{name}{family}");
        let flow = [address, address, "inet_proto", "inet_service"];
        // The bridges' own addresses, where names are resolved.
        table.set(&named("resolvers"), &["ifname", address], &[]);
        // Each bridge with its subnet, and the subnets that are seen outside under the host's address.
        table.set(&named("subnets"), &["ifname", address], &["interval"]);
        table.set(&named("masqueraded"), &[address], &["interval"]);
        // Exceptions of the policies of microVMs and networks, by source, and those by name, while they last.
        table.set(&named("vm_rules"), &flow, &["interval"]);
        table.set(&named("net_rules"), &flow, &["interval"]);
        table.set(&named("names"), &[address, address], &["timeout"]);
        table.set(&named("name_ports"), &flow, &["timeout"]);
        table.map(&named("vm_policy"), &[address], "verdict");
        table.map(&named("refused_vm"), &[address], "counter");
        // Published ports: to which address and port, on any address of the host's or on one.
        let port = ["inet_proto", "inet_service"];
        let at = [address, "inet_proto", "inet_service"];
        table.map(&named("any_address"), &port, address);
        table.map(&named("any_port"), &port, "inet_service");
        table.map(&named("one_address"), &at, address);
        table.map(&named("one_port"), &at, "inet_service");
    }
    table.map("net_policy", &["ifname"], "verdict");
    table.map("refused_net", &["ifname"], "counter");
}

/// What passes through the host.
fn forward(table: &mut Table<'_>) {
    // Within a network: what a bridge carries comes by here where the host has br_netfilter, as Docker's have.
    let within = json!({ "concat": [meta("iifname"), meta("oifname")] });
    table.rule("forward", vec![is(within, "@within"), accept()]);
    table.rule("forward", vec![is(meta("iifname"), "@bridges"), goto("from_guest")]);
    table.rule("forward", vec![is(meta("oifname"), "@bridges"), goto("to_guest")]);
    // A host that forwarded nothing before Hull came is no router between its own links.
    let new = is_in(json!({ "ct": { "key": "state" } }), "new");
    let opened = [is(meta("iifname"), "@opened"), is(meta("oifname"), "@opened")];
    table.rule("forward", [vec![new], opened.to_vec(), vec![json!({ "drop": null })]].concat());

    table.rule("from_guest", vec![by_state()]);
    table.rule("from_guest", vec![is(meta("iifname"), "@internal"), goto("refuse")]);
    for family in FAMILIES {
        let source = json!({ "concat": [meta("iifname"), family.saddr()] });
        table.rule("from_guest", vec![is_not(source, family.set("subnets")), goto("refuse")]);
        table.rule("from_guest", vec![is(family.daddr(), family.metadata()), goto("refuse")]);
    }
    for family in FAMILIES {
        table.rule(
            "from_guest",
            vec![json!({ "vmap": { "key": family.saddr(), "data": family.set("vm_policy") } })],
        );
    }
    table.rule("from_guest", vec![json!({ "vmap": { "key": meta("iifname"), "data": "@net_policy" } })]);
    table.rule("from_guest", vec![goto("allowed")]);

    // Out of the host, or to a published port; never from network to network.
    table.rule("allowed", vec![is_not(meta("oifname"), "@bridges"), accept()]);
    table.rule("allowed", vec![translated(), accept()]);
    table.rule("allowed", vec![goto("refuse")]);

    table.rule("to_guest", vec![by_state()]);
    table.rule("to_guest", vec![translated(), accept()]);
    table.rule("to_guest", vec![json!({ "drop": null })]);

    table.rule("refuse", vec![count(meta("iifname"), "@refused_net")]);
    for family in FAMILIES {
        table.rule("refuse", vec![count(family.saddr(), family.set("refused_vm"))]);
    }
    table.rule("refuse", vec![json!({ "reject": { "type": "icmpx", "expr": "admin-prohibited" } })]);
}

/// Egress: the exceptions of whoever has a policy of its own, else of its network.
fn policies(table: &mut Table<'_>) {
    for (whose, rules) in [("vm", "vm_rules"), ("net", "net_rules")] {
        for (verdict, exception, else_) in [("allow", "refuse", "allowed"), ("deny", "allowed", "refuse")] {
            let chain = format!("{verdict}_{whose}");
            for family in FAMILIES {
                let pair = vec![family.saddr(), family.daddr()];
                let ports = [meta("l4proto"), payload("th", "dport")];
                let flow = json!({ "concat": ([pair.as_slice(), &ports].concat()) });
                table.rule(&chain, vec![is(flow.clone(), family.set(rules)), goto(exception)]);
                table.rule(&chain, vec![is(json!({ "concat": pair }), family.set("names")), goto(exception)]);
                table.rule(&chain, vec![is(flow, family.set("name_ports")), goto(exception)]);
            }
            table.rule(&chain, vec![goto(else_)]);
        }
    }
}

/// What reaches the host itself: from guests only questions for names, and answers.
fn input(table: &mut Table<'_>) {
    table.rule("input", vec![is_not(meta("iifname"), "@bridges"), accept()]);
    table.rule("input", vec![by_state()]);
    let neighbours = json!({ "set": ["nd-neighbor-solicit", "nd-neighbor-advert"] });
    table.rule("input", vec![is(payload("icmpv6", "type"), neighbours), accept()]);
    for family in FAMILIES {
        let place = json!({ "concat": [meta("iifname"), family.daddr()] });
        table.rule("input", vec![is(place, family.set("resolvers")), goto("resolver")]);
    }
    // Announcements to all are nothing that anybody was refused.
    table.rule("input", vec![is_not(meta("pkttype"), "host"), json!({ "drop": null })]);
    table.rule("input", vec![goto("refuse")]);

    let protocols = json!({ "set": ["tcp", "udp"] });
    table.rule("resolver", vec![is(meta("l4proto"), protocols), is(payload("th", "dport"), 53), accept()]);
    table.rule("resolver", vec![is(payload("icmp", "type"), "echo-request"), accept()]);
    table.rule("resolver", vec![is(payload("icmpv6", "type"), "echo-request"), accept()]);
    table.rule("resolver", vec![goto("refuse")]);
}

/// Published ports, for what arrives and for what the host itself sends. What the host sends to its loopback is left to
/// a proxy: such a source address may not leave it.
fn publish(table: &mut Table<'_>) {
    for family in FAMILIES {
        // A published port 53 does not take the networks' resolver away.
        let place = json!({ "concat": [meta("iifname"), family.daddr()] });
        let resolver = is(place, family.set("resolvers"));
        table.rule("prerouting", vec![resolver, is(payload("th", "dport"), 53), json!({ "return": null })]);
    }
    table.rule("prerouting", vec![json!({ "jump": { "target": "publish" } })]);
    table.rule("output", vec![json!({ "jump": { "target": "publish" } })]);
    for family in FAMILIES {
        let port = vec![meta("l4proto"), payload("th", "dport")];
        let at = [vec![family.daddr()], port.clone()].concat();
        table.rule("publish", vec![is_not(family.daddr(), family.loopback()), family.translate("one", at)]);
        let local = is(json!({ "fib": { "result": "type", "flags": ["daddr"] } }), "local");
        table.rule(
            "publish",
            vec![is_not(family.daddr(), family.loopback()), local, family.translate("any", port)],
        );
    }
}

/// Guests are seen outside under the host's address; and inside their own network where they go through the host to a
/// port that one of them publishes, so that the answer takes the same way.
fn masquerade(table: &mut Table<'_>) {
    let masquerade = || json!({ "masquerade": null });
    for family in FAMILIES {
        let outward = is_not(meta("oifname"), "@bridges");
        table.rule("postrouting", vec![is(family.saddr(), family.set("masqueraded")), outward, masquerade()]);
        let within = json!({ "concat": [meta("oifname"), family.saddr()] });
        table.rule("postrouting", vec![translated(), is(within, family.set("subnets")), masquerade()]);
    }
}

/// What a guest's card may say at all, by the tap that it comes from.
fn bridge(table: &mut Table<'_>) {
    table.set("ports", &["ifname"], &[]);
    table.set("cards", &["ifname", "ether_addr"], &[]);
    table.set("addresses4", &["ifname", "ipv4_addr"], &[]);
    table.set("addresses6", &["ifname", "ipv6_addr"], &[]);
    table.set("targets", &["ifname", "mark"], &[]);
    table.map("forged", &["ifname"], "counter");
    for name in ["refuse", "arp", "ip", "ip6"] {
        table.chain(name, None);
    }
    table.chain("guard", Some(("filter", "prerouting", -300)));
    let port_and = |what: Value| json!({ "concat": [meta("iifname"), what] });

    table.rule("guard", vec![is_not(meta("iifname"), "@ports"), accept()]);
    table.rule("guard", vec![is_not(port_and(payload("ether", "saddr")), "@cards"), goto("refuse")]);
    // Nothing else: no VLAN, no spanning tree.
    let kinds = ["arp", "ip", "ip6"].map(|kind| json!([kind, goto(kind)]));
    let by_kind = json!({ "vmap": { "key": payload("ether", "type"), "data": { "set": kinds } } });
    table.rule("guard", vec![by_kind]);
    table.rule("guard", vec![goto("refuse")]);

    let operations = json!({ "set": ["request", "reply"] });
    table.rule("arp", vec![is_not(payload("arp", "operation"), operations), goto("refuse")]);
    table.rule("arp", vec![is_not(port_and(payload("arp", "saddr ether")), "@cards"), goto("refuse")]);
    // A probe claims nothing (RFC 5227, section 1.1).
    table.rule("arp", vec![is(payload("arp", "saddr ip"), "0.0.0.0"), accept()]);
    table.rule("arp", vec![is_not(port_and(payload("arp", "saddr ip")), "@addresses4"), goto("refuse")]);

    table.rule("ip", vec![is_not(port_and(payload("ip", "saddr")), "@addresses4"), goto("refuse")]);
    table.rule("ip", vec![is(payload("udp", "sport"), 67), is(payload("udp", "dport"), 68), goto("refuse")]);

    let unconfigured =
        json!({ "set": ["nd-neighbor-solicit", "mld-listener-report", "mld2-listener-report"] });
    let nobody = is(payload("ip6", "saddr"), "::");
    table.rule("ip6", vec![nobody, is(payload("icmpv6", "type"), unconfigured), accept()]);
    table.rule("ip6", vec![is_not(port_and(payload("ip6", "saddr")), "@addresses6"), goto("refuse")]);
    let routers = json!({ "set": ["nd-router-advert", "nd-redirect"] });
    table.rule("ip6", vec![is(payload("icmpv6", "type"), routers), goto("refuse")]);
    table.rule(
        "ip6",
        vec![is(payload("udp", "sport"), 547), is(payload("udp", "dport"), 546), goto("refuse")],
    );
    // Whose neighbour it says it is: the target's last 32 bits, which tell the addresses of a network apart. They
    // pass through the mark, because a set's key is no raw part of a packet.
    let advert = || is(payload("icmpv6", "type"), "nd-neighbor-advert");
    let mark = |value: Value| json!({ "mangle": { "key": meta("mark"), "value": value } });
    let target = json!({ "payload": { "base": "th", "offset": 160, "len": 32 } });
    table.rule("ip6", vec![advert(), mark(target)]);
    table.rule("ip6", vec![advert(), is_not(port_and(meta("mark")), "@targets"), goto("refuse")]);
    table.rule("ip6", vec![advert(), mark(json!(0))]);

    table.rule("refuse", vec![count(meta("iifname"), "@forged")]);
    table.rule("refuse", vec![json!({ "drop": null })]);
}
