//! The command `query`: one question through the code of the service, with all that there is to say of the way: who
//! answered, what it presented, what was verified, and how long each stage took.
//!
//! The question goes out as those of clients do: to the servers of its name, over a stream that was authenticated before.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::timeout;

use crate::config::settings::{Member, Roots, ServerGroup, Settings, Source, Transport};
use crate::dns::crossing::{Link, Switches, to_resolver};
use crate::dns::finding;
use crate::dns::framing::{Inflow, put};
use crate::dns::message::{Message, Section, rcode, rtype, set_id};
use crate::dns::presentation::{
    extended_errors, flags_text, question_text, rcode_of, rcode_text, read_name, read_type, record_text,
};
use crate::dns::privacy::Family;
use crate::dns::special;
use crate::dns::suffix::Suffixes;
use crate::pins;
use crate::upstream::establish::{UpstreamStream, establish};
use crate::upstream::inflight::{Asked, Ids, InFlight, Match};
use crate::upstream::lookup::look_up;
use crate::upstream::plain;
use crate::upstream::server::{UpstreamServer, read_all};

/// Octets of plaintext read at once.
const READ_BUFFER: usize = 32 * 1024;
/// How long the goodbye to a server may take.
const GOODBYE: Duration = Duration::from_millis(50);

/// What is asked, and of whom.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The name, as people write it.
    pub name: &'a str,
    /// The type, by mnemonic or number.
    pub rtype: &'a str,
    /// Whether the servers are those that the route of the name leads to; otherwise those of `[upstream]`.
    pub is_routed: bool,
    /// Who may have issued their certificates, instead of what the configuration says.
    pub ca_file: Option<&'a Path>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// What was given cannot be used.
    Given(String),
    /// No server gave one.
    Unreached(String),
}

/// Asks, and hands each line of what there is to say to `tell`; whether the answer is NOERROR or
/// NXDOMAIN.
///
/// # Errors
/// If name, type or the files of the servers cannot be used, or no server has answered by the deadline.
pub fn show(wish: Wish<'_>, settings: &Settings, tell: impl FnMut(&str)) -> Result<bool, NoAnswer> {
    let (name, qtype) = read(wish).map_err(NoAnswer::Given)?;
    let bytes = finding::question(&name, qtype);
    let unreadable = || NoAnswer::Given(format!("{}: the question cannot be asked", wish.name));
    let view = Message::parse(&bytes).map_err(|_| unreadable())?;
    let (route, group) = routed(settings, &name).filter(|_| wish.is_routed).unzip();
    let asked = Rc::new(Asked::new(&view, &as_asked(&view, settings).ok_or_else(unreadable)?));
    let mut desk = Desk { settings, asked, deadline: Instant::now(), failures: Vec::new(), tell };
    if wish.is_routed
        && let Some(question) = view.question()
        && let Some(zone) = special::kept(settings.special_names, &question, false, route)
    {
        let is_said = desk.tell_answer(&special::answer(&view, &question, zone)).map_err(NoAnswer::Unreached)?;
        (desk.tell)("no server: the service answers this name itself, and nothing was sent");
        return Ok(is_said);
    }
    let mut group = group.unwrap_or(&settings.upstream.group).clone();
    if let Some(file) = wish.ca_file {
        trust(&mut group, file);
    }
    let given = |error: crate::upstream::tls::TlsError| NoAnswer::Given(error.to_string());
    let (servers, notes) = read_all(std::iter::once(&group), None).map_err(given)?;
    notes.iter().for_each(|note| (desk.tell)(note));
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(|error| NoAnswer::Unreached(error.to_string()))?;
    runtime.block_on(desk.ask(&group, servers.into_iter().flatten()))
}

/// The name in wire form, and the number of the type.
fn read(wish: Wish<'_>) -> Result<(Vec<u8>, u16), String> {
    let name = read_name(wish.name)?;
    let what = wish.rtype;
    let Some(number) = read_type(what) else {
        return Err(format!("{what:?} is no type; give a mnemonic such as AAAA, or its number as TYPE28"));
    };
    match number {
        rtype::IXFR | rtype::AXFR => {
            Err(format!("{what}: a transfer is more than one answer, ask for a type of record"))
        }
        0 | rtype::OPT | rtype::TKEY | rtype::TSIG => Err(format!("{what}: no name has records of this type")),
        number => Ok((name, number)),
    }
}

/// The domain and the servers of the route that the name leads to, if one takes it.
fn routed<'a>(settings: &'a Settings, name: &[u8]) -> Option<(&'a [u8], &'a ServerGroup)> {
    let mut routes = Suffixes::default();
    for route in &settings.routes {
        route.domains.iter().for_each(|domain| routes.insert(domain, (domain.wire(), &route.group)));
    }
    routes.longest(name).map(|(_, found)| *found)
}

/// The query as a resolver gets it under the privacy switches; `None` if they cannot be obeyed.
fn as_asked(query: &Message<'_>, settings: &Settings) -> Option<Box<[u8]>> {
    let privacy = settings.privacy;
    let switches = Switches { padding: privacy.padding, remove_client_subnet: privacy.remove_client_subnet };
    let link = Link::Datagram { limit: usize::from(settings.listen.udp_payload_limit) };
    let (changed, _) = to_resolver(query, switches, link, Family::V4).ok()?;
    Some(changed.unwrap_or_else(|| query.bytes().to_vec()).into())
}

/// Has the CA certificates of this file say who the servers are.
fn trust(group: &mut ServerGroup, file: &Path) {
    for member in &mut group.members {
        let terms = match member {
            Member::Server(server) => match &mut server.transport {
                Transport::Tls(terms) => terms,
                Transport::Plain => continue,
            },
            Member::Source(source) => &mut source.terms,
        };
        terms.roots = Roots::File(file.to_owned());
    }
}

/// A question under way.
struct Desk<'a, T> {
    settings: &'a Settings,
    asked: Rc<Asked>,
    deadline: Instant,
    /// Why servers were passed over.
    failures: Vec<String>,
    tell: T,
}

impl<T: FnMut(&str)> Desk<'_, T> {
    /// Asks the servers in their order until one answers.
    async fn ask(
        &mut self,
        group: &ServerGroup,
        entries: impl Iterator<Item = Arc<UpstreamServer>>,
    ) -> Result<bool, NoAnswer> {
        self.deadline = Instant::now() + self.settings.upstream.deadline;
        for (member, entry) in group.members.iter().zip(entries) {
            let servers = match member {
                Member::Server(_) => vec![entry],
                Member::Source(source) => {
                    let began = Instant::now();
                    let found = self.found(source, &entry).await;
                    // a look-up has limits of its own
                    self.deadline += began.elapsed();
                    found
                }
            };
            for server in servers {
                let answer = match server.is_plain() {
                    true => self.ask_plainly(&server).await,
                    false => self.ask_inside_tls(&server).await,
                };
                match answer {
                    Ok(is_said) => return Ok(is_said),
                    Err(why) => self.failures.push(format!("{}: {why}", server.label())),
                }
            }
        }
        Err(NoAnswer::Unreached(format!("no answer\n{}", self.failures.join("\n"))))
    }

    /// The servers that a source leads to.
    async fn found(&mut self, source: &Source, pattern: &UpstreamServer) -> Vec<Arc<UpstreamServer>> {
        let began = Instant::now();
        let found = match look_up(source.search.clone()).await {
            Ok(found) => found,
            Err(why) => {
                self.failures.push(format!("{}: {why}", source.label));
                return Vec::new();
            }
        };
        let places: Vec<String> = found.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        (self.tell)(&format!("{} is at {} (looked up in {})", source.label, places.join(", "), ms(began.elapsed())));
        let mut servers = Vec::new();
        for endpoint in &found.endpoints {
            match pattern.at(source.server(endpoint)) {
                Ok(server) => servers.push(Arc::new(server)),
                Err(why) => self.failures.push(why.to_string()),
            }
        }
        servers
    }

    /// What is left of the time.
    fn left(&self) -> Result<Duration, String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err("not asked: the deadline has passed".to_owned()) } else { Ok(left) }
    }

    async fn ask_plainly(&mut self, server: &UpstreamServer) -> Result<bool, String> {
        let limit = self.left()?.min(self.settings.upstream.connect_timeout);
        let began = Instant::now();
        let answer = match timeout(limit, plain::ask(server.settings().address, &self.asked)).await {
            Ok(answer) => answer.map_err(|error| format!("plain dns: {error}"))?,
            Err(_) => return Err(format!("plain dns: no answer within {}", ms(limit))),
        };
        let took = began.elapsed();
        let is_said = self.tell_answer(&answer)?;
        self.tell_server(server);
        self.tell_line("nothing was verified, and everybody on the way could read and change question and answer");
        self.tell_line(&format!("times: query {}", ms(took)));
        Ok(is_said)
    }

    async fn ask_inside_tls(&mut self, server: &UpstreamServer) -> Result<bool, String> {
        let limit = self.left()?.min(self.settings.upstream.connect_timeout);
        let (mut stream, took) = match establish(server, server.turn().await, limit).await {
            Ok(made) => made,
            Err(no_stream) => {
                if let Some(refusal) = &no_stream.refusal {
                    self.tell_server(server);
                    self.tell_chain(&refusal.chain);
                    self.tell_line(&format!("to be verified: {}", server.settings().transport));
                    self.tell_line(&format!("not authenticated, and not asked: {refusal}"));
                    self.tell_line(&format!("advice: {}", refusal.check.advice()));
                }
                return Err(no_stream.to_string());
            }
        };
        let began = Instant::now();
        let limit = self.left()?;
        let answer = timeout(limit, exchange(&mut stream, &self.asked)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {}", ms(limit))));
        let query = began.elapsed();
        let is_said = match &answer {
            Ok(answer) => self.tell_answer(answer),
            Err(why) => Err(why.clone()),
        };
        self.tell_server(server);
        self.tell_session(server, &stream);
        let times = format!("times: tcp {}, tls {}", ms(took.tcp), ms(took.tls));
        match &is_said {
            Ok(_) => self.tell_line(&format!("{times}, query {}", ms(query))),
            Err(why) => self.tell_line(&format!("{times}; {why} ({})", ms(query))),
        }
        // the server need not be there any more
        let _ = timeout(GOODBYE, stream.shutdown()).await;
        is_said
    }

    /// What the message says; whether it is NOERROR or NXDOMAIN.
    fn tell_answer(&mut self, answer: &[u8]) -> Result<bool, String> {
        let message = Message::parse(answer).map_err(|why| format!("the answer cannot be read: {why:?}"))?;
        let code = rcode_of(&message);
        (self.tell)(&format!("{}; flags {}; {} octets", rcode_text(code), flags_text(&message), answer.len()));
        if let Some(question) = message.question() {
            (self.tell)("question:");
            self.tell_line(&question_text(&question));
        }
        for (section, title) in
            [(Section::Answer, "answer:"), (Section::Authority, "authority:"), (Section::Additional, "additional:")]
        {
            let in_section = message.records().filter(|record| record.section == section && record.rtype != rtype::OPT);
            let lines: Vec<String> = in_section.map(|record| record_text(&message, &record)).collect();
            if !lines.is_empty() {
                (self.tell)(title);
                lines.iter().for_each(|line| self.tell_line(line));
            }
        }
        for error in extended_errors(&message) {
            (self.tell)(&format!("extended error {error}"));
        }
        Ok([rcode::NOERROR, rcode::NXDOMAIN].map(u16::from).contains(&code))
    }

    fn tell_server(&mut self, server: &UpstreamServer) {
        let label = server.label();
        let (address, is_plain) = (server.settings().address, server.is_plain());
        let how = if is_plain { ", in plain DNS, not encrypted" } else { "" };
        (self.tell)(&format!("server {label} ({address}){how}"));
    }

    /// What was agreed, what was presented, and what came of it.
    fn tell_session(&mut self, server: &UpstreamServer, stream: &UpstreamStream) {
        let session = &stream.get_ref().1;
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3".to_owned(),
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2".to_owned(),
            other => format!("TLS {other:?}"),
        };
        let exchange = session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
        let suite = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
        let alpn = session.alpn_protocol().map(|protocol| protocol.escape_ascii().to_string());
        let resumed = match session.handshake_kind() {
            Some(rustls::HandshakeKind::Resumed) => "resumed",
            Some(_) => "full handshake",
            None => "handshake not over",
        };
        let none = || "none".to_owned();
        let (exchange, suite) = (exchange.unwrap_or_else(none), suite.unwrap_or_else(none));
        let alpn = alpn.unwrap_or_else(none);
        self.tell_line(&format!("{version}, key exchange {exchange}, cipher {suite}, alpn {alpn}, {resumed}"));
        self.tell_chain(session.peer_certificates().unwrap_or_default());
        self.tell_line(&format!("to be verified: {}", server.settings().transport));
        match server.authenticity().and_then(|one| one.outcome()) {
            Some(Ok(())) => self.tell_line("authenticated"),
            Some(Err(refusal)) => {
                self.tell_line(&format!("not authenticated, and asked all the same (opportunistic): {refusal}"));
                self.tell_line(&format!("advice: {}", refusal.check.advice()));
            }
            None => self.tell_line("authenticated by the session that was resumed"),
        }
    }

    fn tell_chain(&mut self, chain: &[CertificateDer<'_>]) {
        pins::tell_chain(chain, &mut self.tell);
    }

    fn tell_line(&mut self, line: &str) {
        (self.tell)(&format!("  {line}"));
    }
}

/// Sends the query under a random ID, and waits for what answers it.
async fn exchange(stream: &mut UpstreamStream, asked: &Rc<Asked>) -> Result<Vec<u8>, String> {
    let (mut table, mut ids) = (InFlight::default(), Ids::default());
    let id = table.insert(asked.clone(), (), Instant::now(), || ids.draw());
    let mut framed = Vec::with_capacity(2 + asked.bytes().len());
    put(&mut framed, asked.bytes());
    set_id(&mut framed[2..], id);
    let ended = |error: std::io::Error| format!("the connection ended before an answer: {error}");
    stream.write_all(&framed).await.map_err(ended)?;
    stream.flush().await.map_err(ended)?;
    let mut inflow = Inflow::up_to(READ_BUFFER);
    loop {
        while let Some(message) = inflow.next_message() {
            match table.take(message) {
                Match::Answer((), ..) => return Ok(message.to_vec()),
                Match::Garbled(()) => return Err("the records of the answer run past its end".to_owned()),
                Match::NoResponse => return Err("the server sent something that is no response".to_owned()),
                // nothing that was asked for: the answer may still come
                Match::Stray => {}
            }
        }
        let count = stream.read(inflow.room()).await.map_err(ended)?;
        if count == 0 {
            return Err("the server closed the connection before it answered".to_owned());
        }
        inflow.filled(count);
    }
}

/// Milliseconds with a tenth.
fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
