//! The network: one interface, taken from the firmware, under smoltcp.
//!
//! It is polled from the prompt and from the commands that wait. Once it has an address, it
//! answers pings and serves TCP echo on port 7.

mod e1000;
mod interface;
mod virtio;

use crate::acpi::Acpi;
use crate::clock::Clock;
use crate::firmware::Firmware;
use crate::pci::Pci;
use crate::reason::Reason;
use alloc::vec;
use alloc::vec::Vec;
use interface::NetworkInterface;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, icmp, tcp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, Ipv4Address, Ipv4Cidr,
};

/// How many clients the echo service has at a time.
const ECHO_CLIENTS: usize = 4;
const ECHO_PORT: u16 = 7;
/// The first of the ports that are for anybody (RFC 6335).
const FIRST_OWN_PORT: u16 = 49152;
/// Marks our echo requests.
const PING_IDENTIFIER: u16 = 0x5e1f;
/// For both directions of a connection.
const BUFFER_BYTES: usize = 16 * 1024;

/// An address that DHCP gave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Cidr,
    pub gateway: Option<Ipv4Address>,
}

/// The interface and what is open on it.
pub struct Network {
    device: NetworkInterface,
    interface: Interface,
    sockets: SocketSet<'static>,
    echoes: Vec<SocketHandle>,
    ping: SocketHandle,
    /// Present once an address was asked for, and then for renewals.
    dhcp: Option<SocketHandle>,
    lease: Option<Lease>,
    /// A lease that came after it was last asked for.
    fresh_lease: Option<Lease>,
    next_own_port: u16,
    next_sequence: u16,
}

impl Network {
    /// Finds the interface and starts it, without an address.
    pub fn take_over(firmware: &Firmware, acpi: Option<&Acpi>, clock: &Clock) -> Result<Network, Reason> {
        let no_interface = || Reason::from("no network interface");
        let mut pci = Pci::find(acpi).map_err(|_| no_interface())?;
        let mut functions = pci.functions().into_iter();
        let function = functions.find(NetworkInterface::knows).ok_or_else(no_interface)?;
        firmware.release(function.place);
        let mut device = NetworkInterface::open(&mut pci, &function)?;

        let address = HardwareAddress::Ethernet(EthernetAddress(device.mac()));
        let mut config = Config::new(address);
        config.random_seed = clock.microseconds();
        let interface = Interface::new(config, &mut device, now(clock));
        let mut sockets = SocketSet::new(vec![]);
        let echoes = (0..ECHO_CLIENTS).map(|_| sockets.add(new_connection())).collect();
        let ping = sockets.add(new_ping());
        Ok(Network {
            device,
            interface,
            sockets,
            echoes,
            ping,
            dhcp: None,
            lease: None,
            fresh_lease: None,
            next_own_port: FIRST_OWN_PORT + clock.microseconds() as u16 % 0x3000,
            next_sequence: 1,
        })
    }

    /// The name of the driver.
    pub fn driver(&self) -> &'static str {
        self.device.driver()
    }

    /// The interface's own address.
    pub fn mac(&self) -> EthernetAddress {
        EthernetAddress(self.device.mac())
    }

    /// The address that DHCP gave.
    pub fn lease(&self) -> Option<Lease> {
        self.lease
    }

    /// Moves frames in and out, and serves whoever calls. Returns whether there was something to do.
    pub fn poll(&mut self, clock: &Clock) -> bool {
        let result = self.interface.poll(now(clock), &mut self.device, &mut self.sockets);
        self.follow_dhcp();
        self.serve_echo();
        result == PollResult::SocketStateChanged
    }

    fn follow_dhcp(&mut self) {
        let Some(dhcp) = self.dhcp else { return };
        match self.sockets.get_mut::<dhcpv4::Socket>(dhcp).poll() {
            None => {}
            Some(dhcpv4::Event::Configured(config)) => {
                let lease = Lease { address: config.address, gateway: config.router };
                self.fresh_lease = Some(lease);
                self.use_lease(Some(lease));
            }
            Some(dhcpv4::Event::Deconfigured) => self.use_lease(None),
        }
    }

    /// A lease that we already have is left alone, with the neighbours that were met under it.
    fn use_lease(&mut self, lease: Option<Lease>) {
        if self.lease == lease {
            return;
        }
        self.lease = lease;
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(lease) = lease {
                addresses.push(IpCidr::Ipv4(lease.address)).expect("there is room for one");
            }
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        if let Some(gateway) = lease.and_then(|lease| lease.gateway) {
            routes.add_default_ipv4_route(gateway).expect("there is room for one");
        }
    }

    fn serve_echo(&mut self) {
        for handle in &self.echoes {
            let socket = self.sockets.get_mut::<tcp::Socket>(*handle);
            if !socket.is_open() {
                // Refused only for port 0 or an open socket.
                let _ = socket.listen(ECHO_PORT);
            }
            if socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity() - socket.send_queue();
                let received = socket.recv(|data| {
                    let count = data.len().min(room);
                    (count, data[..count].to_vec())
                });
                if let Ok(data) = received {
                    let _ = socket.send_slice(&data); // there is room, as was asked before
                }
            }
            if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
                socket.close();
            }
        }
    }

    /// Asks for an address until there is one.
    pub fn ask_for_address(&mut self, clock: &Clock, seconds: u64) -> Result<Lease, Reason> {
        if let Some(dhcp) = self.dhcp.take() {
            self.sockets.remove(dhcp);
        }
        let mut socket = dhcpv4::Socket::new();
        // A new socket begins with saying that it has no lease. The old one is good until then.
        let _ = socket.poll();
        self.dhcp = Some(self.sockets.add(socket));
        self.fresh_lease = None;
        self.wait(clock, seconds, |network| network.fresh_lease)
            .ok_or_else(|| Reason::from(format_seconds("no answer", seconds)))
    }

    /// Sends one echo request; returns the time until its reply, in milliseconds.
    pub fn ping(&mut self, clock: &Clock, to: Ipv4Address, seconds: u64) -> Result<u64, Reason> {
        self.require_address()?;
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        let request = Icmpv4Repr::EchoRequest { ident: PING_IDENTIFIER, seq_no: sequence, data: b"selftest" };
        let checksums = self.interface_checksums();
        let socket = self.sockets.get_mut::<icmp::Socket>(self.ping);
        let room = socket.send(request.buffer_len(), IpAddress::Ipv4(to));
        let room = room.map_err(|_| "cannot send")?;
        request.emit(&mut Icmpv4Packet::new_unchecked(room), &checksums);

        let begin = clock.microseconds();
        let answered = self.wait(clock, seconds, |network| {
            let socket = network.sockets.get_mut::<icmp::Socket>(network.ping);
            let (data, from) = socket.recv().ok()?;
            let packet = Icmpv4Packet::new_checked(data).ok()?;
            let reply = Icmpv4Repr::parse(&packet, &checksums).ok()?;
            let ours = matches!(reply, Icmpv4Repr::EchoReply { seq_no, .. } if seq_no == sequence);
            (ours && from == IpAddress::Ipv4(to)).then_some(())
        });
        match answered {
            Some(()) => Ok((clock.microseconds() - begin) / 1000),
            None => Err(Reason::from(format_seconds("no reply", seconds))),
        }
    }

    fn interface_checksums(&self) -> smoltcp::phy::ChecksumCapabilities {
        use smoltcp::phy::Device;
        self.device.capabilities().checksum
    }

    /// Connects, sends a line, and returns the first line that comes back.
    pub fn exchange_line(
        &mut self,
        clock: &Clock,
        to: (Ipv4Address, u16),
        line: &str,
        seconds: u64,
    ) -> Result<Vec<u8>, Reason> {
        self.require_address()?;
        let own_port = self.next_own_port;
        self.next_own_port = own_port.checked_add(1).unwrap_or(FIRST_OWN_PORT);
        let handle = self.sockets.add(new_connection());
        let answer = self.exchange_on(handle, clock, to, own_port, line, seconds);
        // Told goodbye, or cut off where there was an error; then a moment for the last frames.
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        match answer {
            Ok(_) => socket.close(),
            Err(_) => socket.abort(),
        }
        self.poll(clock);
        self.sockets.remove(handle);
        answer
    }

    fn exchange_on(
        &mut self,
        handle: SocketHandle,
        clock: &Clock,
        to: (Ipv4Address, u16),
        own_port: u16,
        line: &str,
        seconds: u64,
    ) -> Result<Vec<u8>, Reason> {
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket
            .connect(self.interface.context(), (IpAddress::Ipv4(to.0), to.1), own_port)
            .map_err(|_| "cannot connect")?;
        let connected =
            self.wait(clock, seconds, |network| match network.sockets.get::<tcp::Socket>(handle).state() {
                tcp::State::SynSent | tcp::State::SynReceived => None,
                tcp::State::Closed => Some(Err(Reason::from("connection refused"))),
                _ => Some(Ok(())),
            });
        connected.unwrap_or_else(|| Err(Reason::from(format_seconds("no connection", seconds))))?;

        let mut message = line.as_bytes().to_vec();
        message.push(b'\n');
        let mut sent = 0;
        let mut answer = Vec::new();
        let done = self.wait(clock, seconds, |network| {
            let socket = network.sockets.get_mut::<tcp::Socket>(handle);
            if sent < message.len() {
                sent += socket.send_slice(&message[sent..]).unwrap_or(0);
            }
            let received = socket.recv(|data| (data.len(), data.to_vec()));
            answer.extend(received.unwrap_or_default());
            if answer.contains(&b'\n') {
                return Some(Ok(()));
            }
            (!socket.may_recv()).then(|| Err(Reason::from("closed without a line")))
        });
        done.unwrap_or_else(|| Err(Reason::from(format_seconds("no answer", seconds))))?;
        let end = answer.iter().position(|byte| *byte == b'\n').unwrap_or(answer.len());
        answer.truncate(end);
        if answer.last() == Some(&b'\r') {
            answer.pop();
        }
        Ok(answer)
    }

    fn require_address(&self) -> Result<(), Reason> {
        match self.lease {
            Some(_) => Ok(()),
            None => Err(Reason::from("no address yet, ask for one with `dhcp`")),
        }
    }

    /// Polls until `done` has something or the time is over.
    fn wait<T>(
        &mut self,
        clock: &Clock,
        seconds: u64,
        mut done: impl FnMut(&mut Network) -> Option<T>,
    ) -> Option<T> {
        let end = clock.milliseconds().saturating_add(seconds.saturating_mul(1000));
        loop {
            self.poll(clock);
            if let Some(value) = done(self) {
                return Some(value);
            }
            if clock.milliseconds() >= end {
                return None;
            }
        }
    }
}

fn format_seconds(what: &str, seconds: u64) -> alloc::string::String {
    alloc::format!("{what} in {seconds} s")
}

fn now(clock: &Clock) -> Instant {
    Instant::from_micros(clock.microseconds() as i64)
}

fn new_connection() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // A client that vanished does not hold the echo service for ever.
    socket.set_timeout(Some(Duration::from_secs(30)));
    socket.set_keep_alive(Some(Duration::from_secs(10)));
    socket.set_nagle_enabled(false);
    socket
}

fn new_ping() -> icmp::Socket<'static> {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(PING_IDENTIFIER)).expect("a new socket is not bound");
    socket
}
