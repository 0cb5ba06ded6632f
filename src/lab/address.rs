//! The loopback address of a DUT: each has one of its own, so that devices held at the same time can have the
//! same ports, and a program that only knows an address finds the one it means.
//!
//! Nothing is held: an address is free if its ports can be listened on, and the machine takes them at once.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::qemu::arguments::Reach;

/// How many addresses are tried; on a host with so many devices something else is wrong.
const TRIES: u32 = 256;

/// An address of 127.0.0.0/8, all of which is the loopback interface's on Linux, with these TCP ports free.
///
/// Ports that only root may listen on (`ip_unprivileged_port_start`, ip(7)) are left for QEMU to replace by
/// others. Fails if no address has them free.
pub fn claim(ports: Vec<u16>) -> io::Result<Reach> {
    let first_free_port = first_unprivileged_port();
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let address = next_address();
        let same = ports.iter().copied().filter(|port| *port >= first_free_port);
        match same.map(|port| TcpListener::bind((address, port))).collect::<io::Result<Vec<_>>>() {
            Ok(_) => return Ok(Reach { address, ports, first_free_port }),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Spread by process and by device, away from 127.0.0.0/16 where everybody else is.
fn next_address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // Knuth's multiplicative hash: neighbours land far apart.
    let spread = process::id().wrapping_add(count << 22).wrapping_mul(2_654_435_761);
    let [_, high, middle, low] = (spread >> 8).to_be_bytes();
    Ipv4Addr::new(127, 64 + high % 128, middle, 1 + low % 254)
}

fn first_unprivileged_port() -> u16 {
    if nix::unistd::geteuid().is_root() {
        return 0;
    }
    let told = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    // 1024 is what Unix has always had.
    told.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_with_the_same_ports_have_different_addresses() {
        let held: Vec<_> = (0..4)
            .map(|_| {
                let reach = claim(vec![22222]).unwrap();
                (reach.address, TcpListener::bind((reach.address, 22222)).unwrap())
            })
            .collect();
        for (index, (address, _)) in held.iter().enumerate() {
            assert!(address.is_loopback());
            assert!(held[..index].iter().all(|(other, _)| other != address));
        }
    }
}
