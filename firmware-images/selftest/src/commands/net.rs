//! Commands that use the network.

use super::{argument, argument_or};
use crate::board::Board;
use crate::reason::Reason;
use crate::serial::say;
use alloc::string::String;
use smoltcp::wire::Ipv4Address;

/// How long commands wait if they are not told.
const USUAL_SECONDS: u64 = 10;

pub fn net(_: &[String], board: &mut Board) -> Result<(), Reason> {
    let network = board.network()?.0;
    say(format_args!("mac {} driver {}", network.mac(), network.driver()));
    if let Some(lease) = network.lease() {
        say(format_args!("address {}", lease.address));
    }
    Ok(())
}

pub fn dhcp(arguments: &[String], board: &mut Board) -> Result<(), Reason> {
    let seconds = argument_or(arguments, 0, USUAL_SECONDS)?;
    let (network, clock) = board.network()?;
    let lease = network.ask_for_address(clock, seconds)?;
    match lease.gateway {
        Some(gateway) => say(format_args!("address {} gateway {gateway}", lease.address)),
        None => say(format_args!("address {} gateway none", lease.address)),
    }
    Ok(())
}

pub fn ping(arguments: &[String], board: &mut Board) -> Result<(), Reason> {
    let to: Ipv4Address = argument(arguments, 0)?;
    let seconds = argument_or(arguments, 1, USUAL_SECONDS)?;
    let (network, clock) = board.network()?;
    let milliseconds = network.ping(clock, to, seconds)?;
    say(format_args!("reply from {to} in {milliseconds} ms"));
    Ok(())
}

pub fn tcp(arguments: &[String], board: &mut Board) -> Result<(), Reason> {
    let to: Ipv4Address = argument(arguments, 0)?;
    let port: u16 = argument(arguments, 1)?;
    let line = arguments[2..].join(" ");
    let (network, clock) = board.network()?;
    let answer = network.exchange_line(clock, (to, port), &line, USUAL_SECONDS)?;
    say(format_args!("{}", String::from_utf8_lossy(&answer)));
    Ok(())
}
