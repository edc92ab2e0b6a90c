//! A DNS message as received: a checked view that reads and never changes it (RFC 1035 §4, RFC 6891 §6).
//!
//! [`Message::parse`] walks the message once, without allocation, and remembers what a relay asks about again and again:
//! where the question ends, where the OPT record stands, whether the message is signed, and where its last record ends.

use super::name;

/// Length of the fixed header.
pub const HEADER: usize = 12;

/// Operation codes with a meaning to a relay.
pub mod opcode {
    /// A standard query (RFC 1035).
    pub const QUERY: u8 = 0;
    /// DNS Stateful Operations (RFC 8490).
    pub const DSO: u8 = 6;
    /// Operations whose messages have the four sections of RFC 1035: QUERY, IQUERY, STATUS, NOTIFY, UPDATE.
    pub const WITH_SECTIONS: [u8; 5] = [0, 1, 2, 4, 5];
}

/// Response codes that this program writes or judges.
pub mod rcode {
    /// No error.
    pub const NOERROR: u8 = 0;
    /// The query could not be understood.
    pub const FORMERR: u8 = 1;
    /// No answer could be had.
    pub const SERVFAIL: u8 = 2;
    /// The name does not exist.
    pub const NXDOMAIN: u8 = 3;
    /// The operation is not offered.
    pub const NOTIMP: u8 = 4;
    /// The client may not ask.
    pub const REFUSED: u8 = 5;
}

/// Types that a relay treats apart from all others.
pub mod rtype {
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// SIG, of which the form that covers type 0 signs a message (RFC 2931).
    pub const SIG: u16 = 24;
    /// The EDNS pseudo record (RFC 6891).
    pub const OPT: u16 = 41;
    /// Delegation signer.
    pub const DS: u16 = 43;
    /// Key negotiation (RFC 2930).
    pub const TKEY: u16 = 249;
    /// A message signed with a shared key (RFC 8945).
    pub const TSIG: u16 = 250;
    /// Incremental transfer (RFC 1995).
    pub const IXFR: u16 = 251;
    /// Whole-zone transfer (RFC 5936).
    pub const AXFR: u16 = 252;
}

/// The class IN.
pub const CLASS_IN: u16 = 1;

/// Bits of the third and fourth octet of a header.
mod bit {
    pub(super) const QR: u8 = 0x80;
    pub(super) const TC: u8 = 0x02;
}

/// Why a message cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// Shorter than a header.
    Short,
    /// A question runs past the end, or its name cannot be read.
    Question,
    /// A record runs past the end, or its owner name cannot be read.
    Record,
}

/// How a message is signed. A signed message passes with nothing changed but, under TSIG, its ID.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signature {
    /// RFC 8945: keeps the original ID inside, so the ID of the header may change.
    Tsig,
    /// RFC 2931: signs the header too, so that even the ID must stay.
    Sig0,
}

/// The two octets at `at`, which the caller knows to be there.
#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The message ID of at least a header.
#[inline]
pub fn id(bytes: &[u8]) -> u16 {
    u16_at(bytes, 0)
}

/// Gives the message another ID.
#[inline]
pub fn set_id(bytes: &mut [u8], id: u16) {
    bytes[..2].copy_from_slice(&id.to_be_bytes());
}

/// Whether QR says that this is a response.
#[inline]
pub fn is_response(bytes: &[u8]) -> bool {
    bytes[2] & bit::QR != 0
}

/// The only question of a message.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// QNAME, QTYPE and QCLASS as they stand in the message.
    pub bytes: &'a [u8],
}

impl<'a> Question<'a> {
    /// QNAME in wire form, in the case in which it was sent.
    pub fn name(&self) -> &'a [u8] {
        &self.bytes[..self.bytes.len() - 4]
    }

    /// QTYPE.
    pub fn qtype(&self) -> u16 {
        u16_at(self.bytes, self.bytes.len() - 4)
    }

    /// QCLASS.
    pub fn qclass(&self) -> u16 {
        u16_at(self.bytes, self.bytes.len() - 2)
    }

    /// Whether both ask the same: type, class, and the name without its case (RFC 5452 §9.1).
    #[inline]
    pub fn same(&self, other: &Question<'_>) -> bool {
        let (left, right) = (self.bytes, other.bytes);
        left.len() == right.len()
            && left[left.len() - 4..] == right[right.len() - 4..]
            && name::same(self.name(), other.name())
    }
}

/// Where an OPT record stands in its message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OptSpan {
    /// Where its owner name, the root, stands.
    pub start: usize,
    /// Behind its last option.
    pub end: usize,
}

/// The OPT record of a message (RFC 6891 §6.1.2).
#[derive(Clone, Copy, Debug)]
pub struct Opt<'a> {
    bytes: &'a [u8],
}

impl<'a> Opt<'a> {
    /// Octets of an OPT record before its options: root, type, class, TTL, RDLENGTH.
    pub const FIXED: usize = 11;

    /// The sender's largest UDP payload. Values below 512 mean 512 (RFC 6891 §6.2.3); here it is as sent.
    pub fn udp_size(&self) -> u16 {
        u16_at(self.bytes, 3)
    }

    /// The upper eight bits of the response code.
    pub fn extended_rcode(&self) -> u8 {
        self.bytes[5]
    }

    /// The EDNS version.
    pub fn version(&self) -> u8 {
        self.bytes[6]
    }

    /// DO and the other fifteen flags.
    pub fn flags(&self) -> u16 {
        u16_at(self.bytes, 7)
    }

    /// All options, as sent.
    pub fn rdata(&self) -> &'a [u8] {
        &self.bytes[Self::FIXED..]
    }

    /// The options in their order. What follows an option that runs past the end is not given.
    pub fn options(&self) -> Options<'a> {
        Options { rest: self.rdata() }
    }

    /// The content of the first option with this code.
    pub fn option(&self, code: u16) -> Option<&'a [u8]> {
        self.options().find(|option| option.code == code).map(|option| option.data)
    }
}

/// One EDNS option.
#[derive(Clone, Copy, Debug)]
pub struct EdnsOption<'a> {
    /// OPTION-CODE.
    pub code: u16,
    /// OPTION-DATA.
    pub data: &'a [u8],
    /// The option with its code and length, as it stands in the record.
    pub bytes: &'a [u8],
}

/// Iterator over the options of an OPT record.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
}

impl<'a> Options<'a> {
    /// Whether nothing but whole options was found.
    pub fn is_exhausted(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = EdnsOption<'a>;

    fn next(&mut self) -> Option<EdnsOption<'a>> {
        if self.rest.len() < 4 {
            return None;
        }
        let end = 4 + usize::from(u16_at(self.rest, 2));
        if self.rest.len() < end {
            return None;
        }
        let (bytes, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(EdnsOption { code: u16_at(bytes, 0), data: &bytes[4..], bytes })
    }
}

/// The section that a record stands in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Section {
    /// Answers; prerequisites of an UPDATE.
    Answer,
    /// Authority; the updates of an UPDATE.
    Authority,
    /// Additional data.
    Additional,
}

/// One resource record, by its places in the message.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The section it stands in.
    pub section: Section,
    /// Where its owner name begins in the message.
    pub start: usize,
    /// TYPE.
    pub rtype: u16,
    /// RDATA as sent.
    pub rdata: &'a [u8],
    /// Behind its RDATA.
    pub end: usize,
}

/// Iterator over the records of a message that [`Message::parse`] has checked.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    left: [u16; 3],
}

impl<'a> Records<'a> {
    fn read(&mut self) -> Result<Option<Record<'a>>, Malformed> {
        const SECTIONS: [Section; 3] = [Section::Answer, Section::Authority, Section::Additional];
        let Some(index) = self.left.iter().position(|&left| left > 0) else { return Ok(None) };
        let start = self.at;
        let fixed = name::skip(self.bytes, start).ok_or(Malformed::Record)?;
        if self.bytes.len() < fixed + 10 {
            return Err(Malformed::Record);
        }
        let end = fixed + 10 + usize::from(u16_at(self.bytes, fixed + 8));
        let rdata = self.bytes.get(fixed + 10..end).ok_or(Malformed::Record)?;
        self.left[index] -= 1;
        self.at = end;
        Ok(Some(Record { section: SECTIONS[index], start, rtype: u16_at(self.bytes, fixed), rdata, end }))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        self.read().ok().flatten()
    }
}

/// What was found of a message when it was read: of use with its octets alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Form {
    /// Octets of the message.
    length: usize,
    questions_end: usize,
    opt: Option<OptSpan>,
    opt_count: u16,
    signature: Option<Signature>,
    end: usize,
}

/// A message whose header, questions and records were found to lie inside it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message<'a> {
    bytes: &'a [u8],
    form: Form,
}

/// A message with its form, if it could be read: whoever has it need not read it again.
#[derive(Clone, Debug)]
pub struct ReadMessage {
    bytes: Vec<u8>,
    form: Option<Form>,
}

impl ReadMessage {
    /// Reads a message.
    pub fn new(bytes: Vec<u8>) -> ReadMessage {
        let form = Message::parse(&bytes).ok().map(|view| view.form);
        ReadMessage { bytes, form }
    }

    /// A copy of a message that `view` is of, if it could be read, written in `room`, which holds nothing.
    pub fn copied(bytes: &[u8], view: Option<&Message<'_>>, mut room: Vec<u8>) -> ReadMessage {
        room.extend_from_slice(bytes);
        ReadMessage { bytes: room, form: view.map(|view| view.form) }
    }

    /// The view of it; nothing if it could not be read.
    pub fn view(&self) -> Option<Message<'_>> {
        Message::again(&self.bytes, self.form?)
    }

    /// Its octets.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its octets, to be changed.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl<'a> Message<'a> {
    /// Reads a message of the form of RFC 1035 §4.1. What follows its last record is let be.
    pub fn parse(bytes: &'a [u8]) -> Result<Message<'a>, Malformed> {
        if bytes.len() < HEADER {
            return Err(Malformed::Short);
        }
        let mut message = Message::parse_questions(bytes)?;
        let mut records = message.records();
        while let Some(record) = records.read()? {
            message.form.end = record.end;
            if record.section != Section::Additional {
                continue;
            }
            // the signature, where there is one, is the last record (RFC 8945 §5.1, RFC 2931 §3.1)
            message.form.signature = match record.rtype {
                rtype::TSIG => Some(Signature::Tsig),
                rtype::SIG if record.rdata.starts_with(&[0, 0]) => Some(Signature::Sig0),
                _ => None,
            };
            if record.rtype == rtype::OPT {
                message.form.opt_count += 1;
                // an OPT record that is not owned by the root is none (RFC 6891 §6.1.2)
                if bytes[record.start] == 0 && message.form.opt.is_none() {
                    message.form.opt = Some(OptSpan { start: record.start, end: record.end });
                }
            }
        }
        Ok(message)
    }

    /// Reads the header and the questions alone, for operations whose further form is unknown.
    pub fn parse_questions(bytes: &'a [u8]) -> Result<Message<'a>, Malformed> {
        if bytes.len() < HEADER {
            return Err(Malformed::Short);
        }
        let questions_end = skip_questions(bytes)?;
        let (opt, opt_count, signature, end) = (None, 0, None, questions_end);
        Ok(Message { bytes, form: Form { length: bytes.len(), questions_end, opt, opt_count, signature, end } })
    }

    /// The view of octets that were found to have this form; nothing if they were others.
    pub fn again(bytes: &'a [u8], form: Form) -> Option<Message<'a>> {
        (bytes.len() == form.length).then_some(Message { bytes, form })
    }

    /// What was found of it.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The whole message as received.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Message ID.
    pub fn id(&self) -> u16 {
        id(self.bytes)
    }

    /// QR.
    pub fn is_response(&self) -> bool {
        is_response(self.bytes)
    }

    /// OPCODE.
    pub fn opcode(&self) -> u8 {
        opcode_of(self.bytes)
    }

    /// TC.
    pub fn is_truncated(&self) -> bool {
        self.bytes[2] & bit::TC != 0
    }

    /// RCODE: the four bits of the header, without the extension in OPT.
    pub fn rcode(&self) -> u8 {
        self.bytes[3] & 0x0f
    }

    /// QDCOUNT.
    pub fn question_count(&self) -> u16 {
        u16_at(self.bytes, 4)
    }

    /// ANCOUNT.
    pub fn answer_count(&self) -> u16 {
        u16_at(self.bytes, 6)
    }

    /// NSCOUNT.
    pub fn authority_count(&self) -> u16 {
        u16_at(self.bytes, 8)
    }

    /// ARCOUNT.
    pub fn additional_count(&self) -> u16 {
        u16_at(self.bytes, 10)
    }

    /// The question, if there is exactly one.
    pub fn question(&self) -> Option<Question<'a>> {
        (self.question_count() == 1).then(|| Question { bytes: &self.bytes[HEADER..self.form.questions_end] })
    }

    /// Where the questions end.
    pub fn questions_end(&self) -> usize {
        self.form.questions_end
    }

    /// Where the last record ends; behind it may stand octets that belong to nothing.
    pub fn end(&self) -> usize {
        self.form.end
    }

    /// The first OPT record.
    pub fn opt(&self) -> Option<Opt<'a>> {
        self.form.opt.map(|span| Opt { bytes: &self.bytes[span.start..span.end] })
    }

    /// Where the first OPT record stands.
    pub fn opt_span(&self) -> Option<OptSpan> {
        self.form.opt
    }

    /// How many records of type OPT the additional section has; more than one is an error of form (RFC 6891 §6.1.1).
    pub fn opt_count(&self) -> u16 {
        self.form.opt_count
    }

    /// How the message is signed, if it is.
    pub fn signature(&self) -> Option<Signature> {
        self.form.signature
    }

    /// All records in their order.
    pub fn records(&self) -> Records<'a> {
        let left = [self.answer_count(), self.authority_count(), self.additional_count()];
        Records { bytes: self.bytes, at: self.form.questions_end, left }
    }
}

/// OPCODE of at least a header.
#[inline]
pub fn opcode_of(bytes: &[u8]) -> u8 {
    (bytes[2] >> 3) & 0x0f
}

fn skip_questions(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut at = HEADER;
    for _ in 0..u16_at(bytes, 4) {
        let end = name::skip_uncompressed(bytes, at).ok_or(Malformed::Question)?;
        at = end + 4;
        if bytes.len() < at {
            return Err(Malformed::Question);
        }
    }
    Ok(at)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod message_tests;
