//! Builds DNS messages octet by octet, so that a test can also build what no library would let it build.

use std::net::Ipv4Addr;

use crate::inspect;
use crate::record::{Opt, Rr, Section, name_wire};

/// Bits of the header's second 16-bit word.
pub mod flag {
    /// Response.
    pub const QR: u16 = 0x8000;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// The reserved bit.
    pub const Z: u16 = 0x0040;
    /// Authentic data.
    pub const AD: u16 = 0x0020;
    /// Checking disabled.
    pub const CD: u16 = 0x0010;
}

/// A message under construction: query or answer, right or wrong.
#[derive(Clone, Debug)]
pub struct MessageBuilder {
    id: u16,
    flags: u16,
    questions: Vec<Vec<u8>>,
    sections: [Vec<Vec<u8>>; 3],
    counts: [Option<u16>; 4],
    opt: Option<Opt>,
    last: Vec<Rr>,
    trailing: Vec<u8>,
}

/// A plain query: RD set, class IN, nothing else.
pub fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    MessageBuilder::query(id, name, qtype).build()
}

/// An answer to `query`: same ID, question octets, opcode, RD and CD; QR and RA set, NOERROR, empty sections.
pub fn answer_to(query: &[u8]) -> MessageBuilder {
    let asked = if query.len() >= 4 { u16::from_be_bytes([query[2], query[3]]) } else { 0 };
    let mut builder = MessageBuilder::empty(if query.len() >= 2 { inspect::id(query) } else { 0 });
    builder.flags = flag::QR | flag::RA | (asked & (0x7800 | flag::RD | flag::CD));
    builder.questions = inspect::question_octets(query).into_iter().collect();
    builder
}

impl MessageBuilder {
    /// A message with nothing but an ID.
    pub fn empty(id: u16) -> Self {
        Self {
            id,
            flags: 0,
            questions: Vec::new(),
            sections: [const { Vec::new() }; 3],
            counts: [None; 4],
            opt: None,
            last: Vec::new(),
            trailing: Vec::new(),
        }
    }

    /// A query with RD set.
    pub fn query(id: u16, name: &str, qtype: u16) -> Self {
        let mut builder = Self::empty(id).question(name, qtype, 1);
        builder.flags = flag::RD;
        builder
    }

    /// Changes the ID.
    #[must_use]
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// Sets all 16 flag bits (opcode and RCODE are among them).
    #[must_use]
    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// Sets or clears bits of [`flag`].
    #[must_use]
    pub fn bit(mut self, bits: u16, on: bool) -> Self {
        self.flags = if on { self.flags | bits } else { self.flags & !bits };
        self
    }

    /// Sets RD.
    #[must_use]
    pub fn rd(self, on: bool) -> Self {
        self.bit(flag::RD, on)
    }

    /// Sets AD.
    #[must_use]
    pub fn ad(self, on: bool) -> Self {
        self.bit(flag::AD, on)
    }

    /// Sets CD.
    #[must_use]
    pub fn cd(self, on: bool) -> Self {
        self.bit(flag::CD, on)
    }

    /// Sets TC.
    #[must_use]
    pub fn tc(self, on: bool) -> Self {
        self.bit(flag::TC, on)
    }

    /// Sets the opcode.
    #[must_use]
    pub fn opcode(mut self, opcode: u8) -> Self {
        self.flags = (self.flags & !0x7800) | (u16::from(opcode & 15) << 11);
        self
    }

    /// Sets the RCODE; one above 15 goes into the OPT record, which is added if there is none.
    #[must_use]
    pub fn rcode(mut self, rcode: u16) -> Self {
        self.flags = (self.flags & !15) | (rcode & 15);
        let upper = u8::try_from(rcode >> 4).expect("an RCODE has 12 bits");
        if upper != 0 || self.opt.is_some() {
            self.opt.get_or_insert_with(|| Opt::new(1232)).ext_rcode = upper;
        }
        self
    }

    /// Adds a question.
    #[must_use]
    pub fn question(self, name: &str, qtype: u16, qclass: u16) -> Self {
        let mut wire = name_wire(name);
        wire.extend_from_slice(&qtype.to_be_bytes());
        wire.extend_from_slice(&qclass.to_be_bytes());
        self.question_octets(&wire)
    }

    /// Adds a question as octets, whatever they are.
    #[must_use]
    pub fn question_octets(mut self, octets: &[u8]) -> Self {
        self.questions.push(octets.to_vec());
        self
    }

    /// Removes all questions.
    #[must_use]
    pub fn no_question(mut self) -> Self {
        self.questions.clear();
        self
    }

    /// Changes the class of the last question.
    #[must_use]
    pub fn qclass(mut self, qclass: u16) -> Self {
        let question = self.questions.last_mut().expect("a question");
        let class_at = question.len() - 2;
        question[class_at..].copy_from_slice(&qclass.to_be_bytes());
        self
    }

    /// Adds a record.
    #[must_use]
    pub fn record(self, section: Section, record: &Rr) -> Self {
        self.record_octets(section, &record.wire())
    }

    /// Adds a record as octets, whatever they are.
    #[must_use]
    pub fn record_octets(mut self, section: Section, octets: &[u8]) -> Self {
        self.sections[section as usize].push(octets.to_vec());
        self
    }

    /// Adds a record to the answer section.
    #[must_use]
    pub fn answer(self, record: &Rr) -> Self {
        self.record(Section::Answer, record)
    }

    /// Adds an A record for the question's name to the answer section (owner: a pointer to the question).
    #[must_use]
    pub fn a(self, address: [u8; 4], ttl: u32) -> Self {
        let record = Rr { name: vec![0xc0, 12], ..Rr::a(".", address, ttl) };
        self.answer(&record)
    }

    /// Adds the OPT record: the last of the additional section but for [`Self::tsig`].
    #[must_use]
    pub fn opt(mut self, opt: Opt) -> Self {
        self.opt = Some(opt);
        self
    }

    /// Adds a TSIG-like record at the very end.
    #[must_use]
    pub fn tsig(mut self) -> Self {
        self.last.push(Rr::tsig(self.id));
        self
    }

    /// Overwrites QDCOUNT.
    #[must_use]
    pub fn qdcount(mut self, count: u16) -> Self {
        self.counts[0] = Some(count);
        self
    }

    /// Overwrites the count of a section.
    #[must_use]
    pub fn count(mut self, section: Section, count: u16) -> Self {
        self.counts[section as usize + 1] = Some(count);
        self
    }

    /// Adds octets behind the last record.
    #[must_use]
    pub fn trailing(mut self, octets: &[u8]) -> Self {
        self.trailing.extend_from_slice(octets);
        self
    }

    /// The message.
    pub fn build(&self) -> Vec<u8> {
        let mut sections = self.sections.clone();
        sections[2].extend(self.opt.iter().map(|opt| opt.record().wire()));
        sections[2].extend(self.last.iter().map(Rr::wire));
        let lengths = [self.questions.len(), sections[0].len(), sections[1].len(), sections[2].len()];

        let mut message = self.id.to_be_bytes().to_vec();
        message.extend_from_slice(&self.flags.to_be_bytes());
        for (length, forced) in lengths.into_iter().zip(self.counts) {
            let count = forced.unwrap_or_else(|| u16::try_from(length).expect("up to 65,535 records"));
            message.extend_from_slice(&count.to_be_bytes());
        }
        for part in self.questions.iter().chain(sections.iter().flatten()) {
            message.extend_from_slice(part);
        }
        message.extend_from_slice(&self.trailing);
        message
    }
}

/// A message with its two-octet length in front.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message up to 65,535 octets");
    [&length.to_be_bytes(), message].concat()
}

/// The address the default script gives to a name: it depends on nothing but the lower-cased name, so an answer proves
/// which query it belongs to.
pub fn a_for(name: &str) -> [u8; 4] {
    // FNV-1a: stable for ever, unlike the standard library's hasher
    let mut hash: u32 = 0x811c_9dc5;
    for octet in name.trim_end_matches('.').bytes() {
        hash = (hash ^ u32::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0193);
    }
    let [_, second, third, fourth] = (hash ^ (hash >> 24)).to_be_bytes();
    Ipv4Addr::new(10, second, third, fourth).octets()
}
