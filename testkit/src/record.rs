//! Resource records, the OPT record and names, as they stand in a message.

/// Record types the bench knows by name.
pub mod rtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// EDNS pseudo record.
    pub const OPT: u16 = 41;
    /// Transaction signature.
    pub const TSIG: u16 = 250;
}

/// The DO bit in the OPT record's flags.
pub const DO: u16 = 0x8000;

/// One of the three record sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Answer.
    Answer,
    /// Authority.
    Authority,
    /// Additional.
    Additional,
}

/// One resource record; the owner name is in wire form and may be a compression pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rr {
    /// Owner name, wire form.
    pub name: Vec<u8>,
    /// Type.
    pub rtype: u16,
    /// Class.
    pub class: u16,
    /// Time to live.
    pub ttl: u32,
    /// RDATA as it stands in the message.
    pub rdata: Vec<u8>,
}

impl Rr {
    /// A record of class IN.
    pub fn new(name: &str, rtype: u16, ttl: u32, rdata: &[u8]) -> Self {
        Self { name: name_wire(name), rtype, class: 1, ttl, rdata: rdata.to_vec() }
    }

    /// An A record.
    pub fn a(name: &str, address: [u8; 4], ttl: u32) -> Self {
        Self::new(name, rtype::A, ttl, &address)
    }

    /// An AAAA record.
    pub fn aaaa(name: &str, address: [u8; 16], ttl: u32) -> Self {
        Self::new(name, rtype::AAAA, ttl, &address)
    }

    /// A CNAME record.
    pub fn cname(name: &str, target: &str, ttl: u32) -> Self {
        Self::new(name, rtype::CNAME, ttl, &name_wire(target))
    }

    /// A TXT record, cut into strings of 255 octets: the easy way to a large answer.
    pub fn txt(name: &str, text: &[u8], ttl: u32) -> Self {
        let mut rdata = Vec::new();
        for part in text.chunks(255) {
            rdata.push(u8::try_from(part.len()).unwrap());
            rdata.extend_from_slice(part);
        }
        Self::new(name, rtype::TXT, ttl, &rdata)
    }

    /// A SOA record with the given TTL and MINIMUM.
    pub fn soa(zone: &str, ttl: u32, minimum: u32) -> Self {
        let mut rdata = name_wire("ns.test");
        rdata.extend(name_wire("hostmaster.test"));
        for word in [1, 7200, 900, 1_209_600, minimum] {
            rdata.extend_from_slice(&u32::to_be_bytes(word));
        }
        Self::new(zone, rtype::SOA, ttl, &rdata)
    }

    /// A TSIG record of the right shape; its signature is made up.
    pub fn tsig(original_id: u16) -> Self {
        let mut rdata = name_wire("hmac-sha256");
        rdata.extend_from_slice(&[0, 0, 0x65, 0, 0, 0, 1, 0x2c, 0, 32]);
        rdata.extend_from_slice(&[0x5a; 32]);
        rdata.extend_from_slice(&original_id.to_be_bytes());
        rdata.extend_from_slice(&[0, 0, 0, 0]);
        Self { class: 255, ..Self::new("key.test", rtype::TSIG, 0, &rdata) }
    }

    /// The same record with another class.
    #[must_use]
    pub fn class(mut self, class: u16) -> Self {
        self.class = class;
        self
    }

    /// The record as it stands in a message.
    pub fn wire(&self) -> Vec<u8> {
        let mut wire = self.name.clone();
        wire.extend_from_slice(&self.rtype.to_be_bytes());
        wire.extend_from_slice(&self.class.to_be_bytes());
        wire.extend_from_slice(&self.ttl.to_be_bytes());
        wire.extend_from_slice(&u16::try_from(self.rdata.len()).expect("RDATA up to 65,535 octets").to_be_bytes());
        wire.extend_from_slice(&self.rdata);
        wire
    }
}

/// The OPT pseudo record, to be built or as read from a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opt {
    /// The sender's UDP payload size.
    pub udp_size: u16,
    /// The upper eight bits of the RCODE.
    pub ext_rcode: u8,
    /// EDNS version.
    pub version: u8,
    /// All 16 flag bits, DO first.
    pub flags: u16,
    /// The options in their order.
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Opt {
    /// Version 0, no flags, no options.
    pub fn new(udp_size: u16) -> Self {
        Self { udp_size, ext_rcode: 0, version: 0, flags: 0, options: Vec::new() }
    }

    /// Sets the upper bits of the RCODE.
    #[must_use]
    pub fn ext_rcode(mut self, bits: u8) -> Self {
        self.ext_rcode = bits;
        self
    }

    /// Sets the version.
    #[must_use]
    pub fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// Sets all 16 flag bits.
    #[must_use]
    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// Adds an option.
    #[must_use]
    pub fn option(mut self, code: u16, data: &[u8]) -> Self {
        self.options.push((code, data.to_vec()));
        self
    }

    /// The record as it stands in a message.
    pub fn record(&self) -> Rr {
        let mut rdata = Vec::new();
        for (code, data) in &self.options {
            rdata.extend_from_slice(&code.to_be_bytes());
            rdata.extend_from_slice(&u16::try_from(data.len()).expect("an option up to 65,535 octets").to_be_bytes());
            rdata.extend_from_slice(data);
        }
        let [high, low] = self.flags.to_be_bytes();
        let ttl = u32::from_be_bytes([self.ext_rcode, self.version, high, low]);
        Rr { name: vec![0], rtype: rtype::OPT, class: self.udp_size, ttl, rdata }
    }
}

/// A name in wire form; "" and "." are the root, a trailing dot changes nothing, there are no escapes.
pub fn name_wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.trim_end_matches('.').split('.').filter(|label| !label.is_empty()) {
        assert!(label.len() <= 63, "label {label} is too long");
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}
