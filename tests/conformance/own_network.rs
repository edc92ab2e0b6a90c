//! A network of one's own for a test, and a capture of all that moves in it: what leaves a proxy by another way than
//! the test expects is seen only by whoever sees everything.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use testkit::record::name_wire;

use super::namespace::{in_namespace, run, skipped};

/// Runs the test in a network namespace of its own: loopback, and a default route on which everything disappears.
/// Says so and does nothing where the rights are missing.
pub(crate) fn in_own_network(test: impl FnOnce() + Send + 'static) {
    in_namespace(&[], || {
        ip("link add sink type veth peer name drain");
        ip("link set drain up");
        ip("addr add 192.0.2.1/24 dev sink");
        ip("link set sink up");
        // nobody answers for the gateway unless its hardware address is known
        ip("neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 dev sink");
        ip("route add default via 192.0.2.254 dev sink");
        test();
    });
}

/// Runs `ip` in this thread's network.
pub(crate) fn ip(arguments: &str) {
    run(&format!("ip {arguments}"));
}

/// Everything that passes a network, until [`Self::packets`].
pub(crate) struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

/// Where the last datagram of a capture goes: the discard port.
const LAST: &str = "127.0.0.1:9";

impl Capture {
    /// Starts; `None`, and says so, if there is no tcpdump.
    pub(crate) fn start(directory: &Path) -> Option<Capture> {
        let file = directory.join("capture.pcap");
        let mut command = Command::new("tcpdump");
        // the kernel's ring has a place of the largest packet for each: of whole ones it would have eight, and lose the next
        let room = ["-s", "9000", "-B", "16384"];
        command.args(["-i", "any", "-n", "-U", "--immediate-mode", "-Z", "root"]).args(room).arg("-w").arg(&file);
        let Ok(mut tcpdump) = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn() else {
            skipped("needs tcpdump");
            return None;
        };
        let mut lines = BufReader::new(tcpdump.stderr.take().expect("a pipe")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("listening on"))), "tcpdump did not start");
        Some(Capture { tcpdump, file })
    }

    /// All packets so far, from their IP header on.
    pub(crate) fn packets(mut self) -> Vec<Vec<u8>> {
        let last = name_wire("last.packet.of.the.capture");
        let deadline = Instant::now() + Duration::from_secs(10);
        let octets = loop {
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&last, LAST).unwrap();
            thread::sleep(Duration::from_millis(20));
            let octets = fs::read(&self.file).unwrap();
            if contains(&octets, &last) {
                break octets;
            }
            assert!(Instant::now() < deadline, "the capture does not see its own last packet");
        };
        self.tcpdump.kill().unwrap();
        self.tcpdump.wait().unwrap();
        let packets = read_pcap(&octets);
        packets.into_iter().filter(|packet| !contains(packet, &last) && !is_icmp(packet)).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // its own handle: it has ended already, or a failed test left it
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// Whether `part` occurs in `octets`.
pub(crate) fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

/// The packets of a file as tcpdump writes it: behind the header of the file, each with a header of 16 octets, and,
/// captured on all interfaces, a header of its kind of link.
fn read_pcap(octets: &[u8]) -> Vec<Vec<u8>> {
    let number = |at: usize| octets.get(at..at + 4).map(|four| u32::from_ne_bytes(four.try_into().unwrap()));
    let link_header = match number(20) {
        Some(113) => 16,
        Some(276) => 20,
        other => panic!("an unknown kind of link: {other:?}"),
    };
    let (mut packets, mut at) = (Vec::new(), 24);
    while let Some(length) = number(at + 8) {
        let end = at + 16 + usize::try_from(length).unwrap();
        let Some(packet) = octets.get(at + 16 + link_header..end) else { break };
        packets.push(packet.to_vec());
        at = end;
    }
    packets
}

/// Complaints of the kernel, which repeat what they complain about.
fn is_icmp(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4) && packet.get(9) == Some(&1)
}

/// Source port, destination port and payload of a TCP segment or UDP datagram over IPv4; `None` for anything else.
pub(crate) fn ports_and_payload(packet: &[u8]) -> Option<(u16, u16, &[u8])> {
    let first = *packet.first()?;
    if first >> 4 != 4 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let transport = packet.get(usize::from(first & 15) * 4..total.min(packet.len()))?;
    let header = match packet[9] {
        6 => usize::from(transport.get(12)? >> 4) * 4,
        17 => 8,
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    Some((port(0), port(2), transport.get(header..)?))
}

/// The options of a TCP segment over IPv4 with SYN set and ACK clear, and its payload.
pub(crate) fn syn(packet: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, _, payload) = ports_and_payload(packet)?;
    let transport = &packet[usize::from(packet[0] & 15) * 4..];
    let is_syn = packet[9] == 6 && transport[13] & 0x12 == 0x02;
    is_syn.then(|| (&transport[20..usize::from(transport[12] >> 4) * 4], payload))
}
