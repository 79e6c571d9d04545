//! The host's list of name servers, resolv.conf(5).
//!
//! Pure but for the names of links, which `/sys` turns into numbers. Invariant: whatever is in the file, there are at
//! least one and at most [`SERVERS_MAX`] servers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use super::PORT;

/// The most servers that are asked.
pub(super) const SERVERS_MAX: usize = 4;

/// The servers that the text of a `resolv.conf` names; the host itself when it names none.
pub(super) fn servers(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()).flatten().and_then(server)
    });
    let mut servers: Vec<SocketAddr> = Vec::new();
    for server in named {
        if servers.len() < SERVERS_MAX && !servers.contains(&server) {
            servers.push(server);
        }
    }
    if servers.is_empty() {
        servers.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT));
    }
    servers
}

/// An address, with a link's name or number behind `%` where it needs one; or `[address]:port`, as BSD systems have it.
fn server(text: &str) -> Option<SocketAddr> {
    if let Some((address, port)) = text.strip_prefix('[').and_then(|text| text.split_once("]:")) {
        return Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?));
    }
    let Some((address, link)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, PORT));
    };
    let number = link.parse().ok().or_else(|| link_number(link))?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, number).into())
}

fn link_number(link: &str) -> Option<u32> {
    if link.contains('/') || link.starts_with('.') {
        return None;
    }
    std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

    use proptest::prelude::*;

    use super::*;

    fn texts(text: &str) -> Vec<String> {
        servers(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_are_read_in_order() {
        let text = "# made by hand\nsearch example.org\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # second\n\
                    nameserver 127.0.0.53\nnameserver not-one\nnameserver\nnameserver 192.0.2.1\noptions edns0\n";
        assert_eq!(texts(text), ["192.0.2.1:53", "[2001:db8::1]:53", "127.0.0.53:53"]);
        assert_eq!(
            texts("nameserver fe80::1%7\nnameserver fe80::2%lo"),
            ["[fe80::1%7]:53", "[fe80::2%1]:53"]
        );
        assert_eq!(texts("nameserver fe80::1%../../x\nnameserver 192.0.2.1%lo"), ["127.0.0.1:53"]);
        assert_eq!(
            texts("nameserver [192.0.2.1]:5353\nnameserver [::1]:54\nnameserver [::1]"),
            ["192.0.2.1:5353", "[::1]:54"]
        );
        assert_eq!(texts(""), ["127.0.0.1:53"]);
        assert_eq!(
            servers(&(0..9).map(|n| format!("nameserver 192.0.2.{n}\n")).collect::<String>()).len(),
            4
        );
    }

    proptest! {
        #[test]
        fn any_text_names_some_servers(text in "(nameserver [0-9a-f:.%]{0,9}|[ -~]{0,20}\n){0,9}") {
            prop_assert!((1..=SERVERS_MAX).contains(&servers(&text).len()));
        }
    }
}
