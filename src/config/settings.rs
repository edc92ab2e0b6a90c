//! Validated settings (placeholder until the parser lands).
#![allow(missing_docs, reason = "placeholder")]
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use ipnet::IpNet;
#[derive(Clone, Debug, PartialEq)]
pub struct Settings { pub workers: usize, pub listen: Listen, pub upstream: Upstream, pub privacy: Privacy, pub special_names: SpecialNames }
#[derive(Clone, Debug, PartialEq)]
pub struct Listen { pub addresses: Vec<SocketAddr>, pub allow: Vec<IpNet>, pub udp_payload_limit: u16, pub tcp_idle_timeout: Duration, pub tcp_write_timeout: Duration, pub tcp_connections: usize, pub tcp_connections_per_client: usize, pub tcp_in_flight: usize, pub tcp_unread: usize }
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream { pub servers: Vec<Server>, pub deadline: Duration, pub connect_timeout: Duration, pub second_try_after: Duration, pub idle_timeout: Duration, pub in_flight: usize, pub queue: usize }
#[derive(Clone, Debug, PartialEq)]
pub struct Server { pub label: String, pub address: SocketAddr, pub authentication: Authentication, pub roots: Roots, pub post_quantum: bool }
#[derive(Clone, Debug, PartialEq)]
pub enum Roots { System, File(PathBuf) }
#[derive(Clone, Debug, PartialEq)]
pub enum Authentication { Name(String), Address, Pins(Vec<Pin>), NameAndPins(String, Vec<Pin>) }
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pin(pub [u8; 32]);
impl Pin { pub fn of(spki: &[u8]) -> Pin { let d = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki); let mut b = [0; 32]; b.copy_from_slice(d.as_ref()); Pin(b) } }
#[derive(Clone, Debug, PartialEq)]
pub struct Privacy { pub padding: bool, pub remove_client_subnet: bool }
#[derive(Clone, Debug, PartialEq)]
pub struct SpecialNames { pub home_arpa: LocalOrForward, pub resolver_arpa: LocalOrForward }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalOrForward { Local, Forward }
