//! What the host's kernel is told besides: to forward, and to keep quiet on Hull's bridges.
//!
//! Documentation/networking/ip-sysctl.rst. Owner: [`super::host::HostNetworks`], behind its lock. Invariants: forwarding is
//! turned on where it is needed and nowhere else as far as the kernel can tell links apart; what was off before is
//! remembered before it is turned on.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::NetworkError;
use super::links::{Link, PREFIX};
use crate::state::State;

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

fn get(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(name))?.trim().to_owned())
}

/// Sets a kernel parameter.
///
/// # Errors
/// When the kernel refuses.
pub fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    fs::write(path(name), value).map_err(|error| NetworkError::Parameter(name.to_owned(), error))
}

/// Sets a parameter that not every kernel has.
fn set_if_there(name: &str, value: &str) -> Result<bool, NetworkError> {
    if !path(name).exists() {
        return Ok(false);
    }
    set(name, value).map(|()| true)
}

/// A bridge of Hull's: nobody on it may tell the host addresses or routes.
///
/// # Errors
/// When the kernel refuses.
pub fn quiet(bridge: &str) -> Result<(), NetworkError> {
    for (name, value) in [("accept_ra", "0"), ("autoconf", "0"), ("accept_redirects", "0")] {
        set_if_there(&format!("net/ipv6/conf/{bridge}/{name}"), value)?;
    }
    for (name, value) in [("accept_redirects", "0"), ("send_redirects", "0"), ("forwarding", "1")] {
        set(&format!("net/ipv4/conf/{bridge}/{name}"), value)?;
    }
    set_if_there(&format!("net/ipv6/conf/{bridge}/force_forwarding"), "1").map(drop)
}

/// Lets the host forward between Hull's bridges and its other links; those for which that is new.
///
/// # Errors
/// When the kernel refuses, or it cannot be remembered.
pub fn open(links: &[Link], state: &State) -> Result<Vec<String>, NetworkError> {
    let mut opened = Vec::new();
    let own = |link: &&Link| !link.loopback && !link.name.starts_with(PREFIX);
    for Link { name, .. } in links.iter().filter(own) {
        let mut new = turn_on(&format!("net/ipv4/conf/{name}/forwarding"), state)?;
        // Where the kernel forwards IPv6 for the whole host or not at all, see below.
        new |= turn_on(&format!("net/ipv6/conf/{name}/force_forwarding"), state)?;
        if new {
            tracing::info!("forwarding is now on for {name}, for what guests send and receive");
            opened.push(name.clone());
        }
    }
    if !path("net/ipv6/conf/all/force_forwarding").exists() {
        forward_all6(links, state)?;
    }
    Ok(opened)
}

/// Before Linux 6.17 IPv6 is forwarded on all links or on none. A host that forwards stops listening to router
/// advertisements unless it is told not to.
fn forward_all6(links: &[Link], state: &State) -> Result<(), NetworkError> {
    const ALL: &str = "net/ipv6/conf/all/forwarding";
    if get(ALL).map_or(true, |now| now != "0") {
        return Ok(());
    }
    for Link { name, .. } in links.iter().filter(|link| !link.name.starts_with(PREFIX)) {
        let accept = format!("net/ipv6/conf/{name}/accept_ra");
        if get(&accept).is_ok_and(|now| now == "1") {
            state.remember_parameter(&accept, "1")?;
            set(&accept, "2")?;
        }
    }
    if turn_on(ALL, state)? {
        tracing::info!("this kernel forwards IPv6 for all links or none: it is now on for all");
    }
    Ok(())
}

/// Whether it was off until now.
fn turn_on(name: &str, state: &State) -> Result<bool, NetworkError> {
    if !get(name).is_ok_and(|now| now == "0") {
        return Ok(false);
    }
    state.remember_parameter(name, "0")?;
    set(name, "1")?;
    Ok(true)
}

/// The links that forward only because of Hull.
///
/// # Errors
/// When the state cannot be read.
pub fn opened(state: &State) -> Result<Vec<String>, NetworkError> {
    // Hull never sets this one: its administrator has made the host a router by now.
    if get("net/ipv4/ip_forward").is_ok_and(|now| now == "1") {
        return Ok(Vec::new());
    }
    let parameters = state.parameters()?;
    let links = parameters.iter().filter_map(|(name, _)| {
        let link = name.strip_prefix("net/ipv4/conf/").or_else(|| name.strip_prefix("net/ipv6/conf/"))?;
        let (link, what) = link.split_once('/')?;
        (link != "all" && matches!(what, "forwarding" | "force_forwarding")).then(|| link.to_owned())
    });
    let mut links: Vec<String> =
        links.filter(|link| path(&format!("net/ipv4/conf/{link}")).exists()).collect();
    links.sort();
    links.dedup();
    Ok(links)
}

/// Sets everything back to what it was.
///
/// # Errors
/// When the state cannot be read or written.
pub fn close(state: &State) -> Result<(), NetworkError> {
    for (name, before) in state.parameters()? {
        // The link may have gone with its parameters.
        if get(&name).is_ok() {
            set(&name, &before)?;
            tracing::info!("{name} is {before} again");
        }
        state.forget_parameter(&name)?;
    }
    Ok(())
}
