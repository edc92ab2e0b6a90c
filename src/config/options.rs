//! Every option of the configuration, in one place: the parser, the manual page, the commented example file and the
//! tests are made from this table.

use std::time::Duration;

/// 1024 times 1024 octets.
pub const MEBIBYTE: u64 = 1024 * 1024;

/// What values an option takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number in a range.
    Integer {
        /// The smallest that makes sense.
        min: u64,
        /// The largest that makes sense.
        max: u64,
    },
    /// A number of octets, such as "16MiB", or 0 for none.
    Size {
        /// The smallest that makes sense besides none.
        min: u64,
        /// The largest that makes sense.
        max: u64,
    },
    /// `true` or `false`.
    Boolean,
    /// A length of time such as "4s" or "1500ms".
    Duration {
        /// The shortest that makes sense.
        min: Duration,
        /// The longest that makes sense.
        max: Duration,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The path of a file.
    Path,
    /// A user or a group, by name or number.
    Account,
    /// Addresses to listen on.
    Addresses {
        /// The port of an address that names none.
        port: u16,
        /// Whether there may be none.
        optional: bool,
    },
    /// IP networks.
    Networks,
    /// Domain names.
    Domains,
    /// Plain resolvers to ask for the addresses of servers.
    Resolvers,
    /// Upstream servers.
    Servers {
        /// Whether they may be asked in plain DNS.
        plain: bool,
    },
}

impl Kind {
    /// What would be accepted, for error messages and the manual.
    pub fn accepted(&self) -> String {
        match self {
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Size { min, max } => {
                let (min, max) = (min / MEBIBYTE, max / MEBIBYTE);
                format!("\"0\" for none, or a size from {min}MiB to {max}MiB, such as \"16MiB\" or \"1GiB\"")
            }
            Kind::Boolean => "true or false".to_owned(),
            Kind::Duration { min, max } => {
                let (min, max) = (humantime::format_duration(*min), humantime::format_duration(*max));
                format!("a duration from {min} to {max}, such as \"2s\" or \"1500ms\"")
            }
            Kind::Choice(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
            Kind::Path => "the absolute path of a file, or \"credential:NAME\" for a credential of the unit".to_owned(),
            Kind::Account => "a name such as \"dot-proxy\", or a number in quotes".to_owned(),
            Kind::Addresses { port, .. } => {
                format!("an array of addresses such as \"127.0.0.1:{port}\", \"[::1]:{port}\" or \"0.0.0.0\"")
            }
            Kind::Networks => "an array of networks such as \"192.168.0.0/16\" or \"fd00::/8\"".to_owned(),
            Kind::Domains => "an array of domains such as \"corp.example\" or \"10.in-addr.arpa\"".to_owned(),
            Kind::Resolvers => {
                "an array of addresses of plain resolvers such as \"192.0.2.53\" or \"[2001:db8::53]:53\"".to_owned()
            }
            Kind::Servers { plain } => {
                let clear = if *plain { ", \"plain:10.0.0.53\" for plain DNS" } else { "" };
                let key = if *plain { ", transport" } else { "" };
                format!(
                    "an array of servers such as \"1.1.1.1#cloudflare-dns.com\", \"9.9.9.9:853#dns.quad9.net\", \
                     \"[2606:4700:4700::1111]:853#cloudflare-dns.com\", \"dns.example\", \"srv:_dot._tcp.dns.example\", \
                     \"ddr:192.168.1.1\"{clear}, or tables with the keys address, addresses, name, pins, ca-file, \
                     post-quantum, client-certificate, client-key{key}"
                )
            }
        }
    }
}

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Applies {
    /// At a reload; what is under way is not disturbed.
    Reload,
    /// At a restart, since it concerns what is done once, or what needs privileges that are given up.
    Restart,
}

/// One option.
#[derive(Debug, PartialEq)]
pub struct Opt {
    /// The table it stands in; empty for the top of the file.
    pub section: &'static str,
    /// Its key.
    pub key: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// When a change takes effect.
    pub applies: Applies,
    /// Its default as TOML text; empty where none can be written, and then `text` says what applies.
    pub default: &'static str,
    /// The command-line flag that replaces it.
    pub flag: Option<&'static str>,
    /// One line that says what it does.
    pub summary: &'static str,
    /// What else there is to know.
    pub text: &'static str,
}

impl Opt {
    /// Section and key as one word, such as `upstream.deadline`.
    pub fn path(&self) -> String {
        if self.section.is_empty() { self.key.to_owned() } else { format!("{}.{}", self.section, self.key) }
    }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A table of the file.
#[derive(Debug, Eq, PartialEq)]
pub struct Section {
    /// Its name; empty for the top of the file.
    pub name: &'static str,
    /// Whether it may stand many times, each as `[[name]]`.
    pub repeated: bool,
    /// What it is about.
    pub about: &'static str,
}

impl Section {
    const fn once(name: &'static str, about: &'static str) -> Section {
        Section { name, repeated: false, about }
    }

    /// Its header as the file writes it; empty for the top of the file.
    pub fn header(&self) -> String {
        match (self.name, self.repeated) {
            ("", _) => String::new(),
            (name, false) => format!("[{name}]"),
            (name, true) => format!("[[{name}]]"),
        }
    }
}

/// The sections in the order of the manual.
pub const SECTIONS: &[Section] = &[
    Section::once("", "The process."),
    Section::once("listen", "Where clients are served, and what one client may take."),
    Section::once(
        "upstream",
        "The resolvers that queries are relayed to, always inside TLS: all queries but those that a [[route]] takes.",
    ),
    Section {
        name: "route",
        repeated: true,
        about: "Other resolvers for some domains, such as those of a company's network. The table may stand any number of \
                times. A query goes to the route with the longest domain that its name is or lies below, in any case of \
                letters, whatever its type: a query of type DS for the domain itself as well. All others go to [upstream], and \
                neither helps out for the other. A route within home.arpa or resolver.arpa takes its queries from \
                [special-names]. Times, limits, hedge-share and connections are those of [upstream].",
    },
    Section::once(
        "cache",
        "Answers from memory. A query is answered from it only where a resolver could not tell it from the one that the \
         answer was given for: the same name, type, class, flags and EDNS. Queries with a cookie, a client subnet or an \
         option that is not known here, and signed ones, are always relayed.",
    ),
    Section::once(
        "privacy",
        "Changes to queries for the sake of privacy. All are off: requests are relayed as received.",
    ),
    Section::once("special-names", "Names that are answered here instead of being relayed."),
    Section::once("control", "How the running service is asked and told."),
    Section::once("log", "What is said, and to whom."),
];

/// The choices of `profile`, in `[upstream]` and in a route.
const PROFILES: Kind = Kind::Choice(&["strict", "opportunistic"]);
/// The choices of `policy`, in `[upstream]` and in a route.
const POLICIES: Kind = Kind::Choice(&["in-order", "fastest", "spread", "parallel"]);

macro_rules! options {
    ($($name:ident: $section:literal, $key:literal, $kind:expr, $applies:ident, $default:literal, $flag:expr, $summary:literal, $text:literal;)+) => {
        $(
            #[doc = $summary]
            pub static $name: Opt = Opt {
                section: $section,
                key: $key,
                kind: $kind,
                applies: Applies::$applies,
                default: $default,
                flag: $flag,
                summary: $summary,
                text: $text,
            };
        )+

        /// All options, section by section.
        pub static OPTIONS: &[&Opt] = &[$(&$name),+];
    };
}

options! {
    WORKERS: "", "workers", Kind::Integer { min: 1, max: 64 }, Restart, "", None,
        "Threads that serve queries, each with its own upstream connections.",
        "One serves as long as it has time, the others when it has none left. By default one for each processor, at most 4.";
    USER: "", "user", Kind::Account, Restart, "", None,
        "The user that serves, when started as root: root's rights are given up for good once the sockets are bound.",
        "By default dot-proxy, or nobody where there is no such user. Only \"root\" makes it serve as root. Started as another user, it stays that user.";
    GROUP: "", "group", Kind::Account, Restart, "", None,
        "The group that serves, when started as root.",
        "By default the user's own. The user's other groups are kept.";
    SANDBOX: "", "sandbox", Kind::Choice(&["best-effort", "required", "off"]), Restart, "\"best-effort\"", None,
        "Whether the process confines itself before it serves: files it may read, ports it may connect to, system calls it may make.",
        "With best-effort, what the kernel cannot do is said in one line of the log. With required, it is a reason not to start.";

    ADDRESSES: "listen", "addresses", Kind::Addresses { port: 53, optional: false }, Restart, r#"["127.0.0.1:53", "[::1]:53"]"#, Some("--listen"),
        "Addresses served over UDP and TCP.",
        "Without a port, 53. On a wildcard address each answer leaves from the address that was asked. Sockets handed over by systemd take the place of these addresses.";
    TLS_ADDRESSES: "listen", "tls-addresses", Kind::Addresses { port: 853, optional: true }, Restart, "[]", None,
        "Addresses served over TLS, for clients on other machines and in containers.",
        "Without a port, 853. They need tls-certificate and tls-key, and other machines' networks in allow. A socket handed over by systemd serves TLS if it is called tls (FileDescriptorName=), and takes the place of these addresses.";
    TLS_CERTIFICATE: "listen", "tls-certificate", Kind::Path, Reload, "", None,
        "The certificate that clients on TLS see: a PEM file with the server's certificate first, then those that issued it.",
        "Read at the start, and again at a reload for the connections that begin afterwards. Unset, no client is served over TLS.";
    TLS_KEY: "listen", "tls-key", Kind::Path, Reload, "", None,
        "The private key of tls-certificate: a PEM file.",
        "At the start it is read before root's rights are given up. For a renewal by reload the user or the group of the service must be able to read it.";
    TLS_CLIENT_CA: "listen", "tls-client-ca", Kind::Path, Reload, "", None,
        "A PEM file with CA certificates: clients on TLS must present a certificate that one of them has issued.",
        "By default clients need no certificate.";
    FREE_BIND: "listen", "free-bind", Kind::Boolean, Restart, "false", None,
        "Bind addresses that this machine does not have yet (IP_FREEBIND).",
        "For an address that comes with a network that is up only later, or with a floating address.";
    ALLOW: "listen", "allow", Kind::Networks, Reload,
        r#"["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7", "fe80::/10"]"#,
        None,
        "Networks whose clients are served; all others are answered REFUSED, and on TLS addresses not spoken to.",
        "The default is the loopback and private networks, so that no address makes an open resolver by accident.";
    UDP_PAYLOAD_LIMIT: "listen", "udp-payload-limit", Kind::Integer { min: 512, max: 65_507 }, Reload, "1232", None,
        "The largest answer over UDP, in octets; a larger one is cut and the client told to ask over TCP.",
        "1232 fits every path without fragments (DNS flag day 2020, RFC 9715). A client's own limit applies as well.";
    TCP_IDLE_TIMEOUT: "listen", "tcp-idle-timeout", Kind::Duration { min: millis(200), max: seconds(3600) }, Reload, "\"10s\"", None,
        "How long a client's connection stays open without a whole query and with nothing to answer.",
        "Clients that ask with the edns-tcp-keepalive option are told this time (RFC 7828).";
    TCP_WRITE_TIMEOUT: "listen", "tcp-write-timeout", Kind::Duration { min: millis(200), max: seconds(600) }, Reload, "\"10s\"", None,
        "How long answers may wait for a client that does not read, before its connection is closed.",
        "";
    TCP_CONNECTIONS: "listen", "tcp-connections", Kind::Integer { min: 1, max: 1_000_000 }, Reload, "1000", None,
        "How many connections clients may hold in all.",
        "At the limit the connection that has been idle longest makes room.";
    TCP_CONNECTIONS_PER_CLIENT: "listen", "tcp-connections-per-client", Kind::Integer { min: 1, max: 1_000_000 }, Reload, "200", None,
        "How many connections one client may hold: one IPv4 address, or one IPv6 network of 64 bits.",
        "";
    TCP_IN_FLIGHT: "listen", "tcp-in-flight", Kind::Integer { min: 1, max: 65_535 }, Reload, "128", None,
        "How many queries of one connection are asked at the same time; at this number no more is read from it.",
        "";
    TCP_UNREAD: "listen", "tcp-unread", Kind::Integer { min: 65_537, max: 67_108_864 }, Reload, "131072", None,
        "How many octets of answers may wait for one connection; at this number no more queries are read from it.",
        "The answers to queries already read come on top. At least one answer of the largest size must fit.";

    SERVERS: "upstream", "servers", Kind::Servers { plain: false }, Reload,
        r#"["1.1.1.1#cloudflare-dns.com", "1.0.0.1#cloudflare-dns.com", "[2606:4700:4700::1111]#cloudflare-dns.com", "[2606:4700:4700::1001]#cloudflare-dns.com"]"#,
        Some("--upstream"),
        "The resolvers, in order of preference, as address[:port][#name] or as a name.",
        "The port is 853 unless given. The certificate must carry the name, or, without a name, the address. \
         A name, as \"dns.example[:port]\", stands for all addresses of the host, looked up at the plain resolvers of bootstrap, again whenever their TTL ends (after 5 seconds at the earliest, an hour at the latest) and when the network changes; the certificate must carry the name, or another one that is given as \"dns.example#name\". \
         \"srv:_dot._tcp.dns.example[#name]\" stands for all hosts and ports of a service (SRV), by priority and, among equals, by weight; without a name the hosts must lie within the domain behind the labels with an underscore, since each is verified by its own name, which anybody on the way could have forged. \
         \"ddr:192.168.1.1\" stands for the resolvers on TLS that this plain resolver designates (RFC 9462); each must have a certificate for its name and for the address of the resolver that designated it, whatever the profile. \
         Look-ups that fail take no address away, and where none is known yet clients hear so. A port other than 853 that only a look-up tells is out of the sandbox's reach, unless some server of the configuration has it at the start. \
         In place of a string, a table can say more: { address = \"192.0.2.1:853\", name = \"dns.example\", pins = [\"base64 SHA-256 of the SubjectPublicKeyInfo\"], ca-file = \"/path\", post-quantum = false, client-certificate = \"/path\", client-key = \"/path\" }. Pins and a name must both match; with pins alone the key decides. A table whose address is a name can give its addresses, which are then not looked up: { address = \"dns.example\", addresses = [\"192.0.2.1\", \"2001:db8::1\"] }.";
    BOOTSTRAP: "upstream", "bootstrap", Kind::Resolvers, Reload, "[]", None,
        "Plain resolvers that are asked for the addresses of servers that are given by name.",
        "They are asked in order, in plain DNS, for the names of resolvers alone: whoever is on the way learns which resolver is used, and no query of a client. What they answer is not trusted, since the certificate must carry the name. The port is 53 unless given. The system's own resolver is never asked, which may be dot-proxy.";
    PROFILE: "upstream", "profile", PROFILES, Reload, "\"strict\"", None,
        "What happens when a resolver cannot be authenticated: with strict no query is sent to it, with opportunistic it is used all the same (RFC 8310).",
        "Opportunistic protects from those who only listen, not from those who take the resolver's place; the failure is said once in the log. Nothing ever falls back from TLS to plain DNS.";
    POLICY: "upstream", "policy", POLICIES, Reload, "\"in-order\"", None,
        "Which resolver is asked first: with in-order the first that works, with fastest the one that answers soonest, with spread each in turn, with parallel all at once.",
        "With parallel the first good answer counts, and while one resolver works nobody notices that another does not; each of them sees every query, and has to answer it.";
    HEDGE_SHARE: "upstream", "hedge-share", Kind::Integer { min: 0, max: 100 }, Reload, "5", None,
        "How many queries in a hundred may be asked a second time, of another resolver, because the answer is later than is usual for the first one.",
        "0 turns this off. It does not concern the policy parallel, nor second tries after second-try-after or after a failure.";
    SECOND_OPINION: "upstream", "second-opinion", Kind::Boolean, Reload, "true", None,
        "Ask another resolver once when one answers SERVFAIL or REFUSED.",
        "Not where its extended error says that this is a judgement about the name or the client: a failed DNSSEC validation, or what is blocked, filtered or prohibited. What both cannot answer is answered as the first one did.";
    CONNECTIONS: "upstream", "connections", Kind::Integer { min: 1, max: 10_000 }, Reload, "32", None,
        "How many connections to one resolver may be open at the same time, those of all workers together.",
        "It must not be less than workers.";
    CA_FILE: "upstream", "ca-file", Kind::Path, Reload, "", None,
        "A PEM file with the CA certificates that may have issued the resolvers' certificates.",
        "By default the system's trust store.";
    CLIENT_CERTIFICATE: "upstream", "client-certificate", Kind::Path, Reload, "", None,
        "The certificate that is shown to resolvers that ask for one (mutual TLS): a PEM file, this certificate first, then those that issued it.",
        "It needs client-key. Read at the start, and again at a reload. By default none is shown.";
    CLIENT_KEY: "upstream", "client-key", Kind::Path, Reload, "", None,
        "The private key of client-certificate: a PEM file.",
        "At the start it is read before root's rights are given up. For a renewal by reload the user or the group of the service must be able to read it.";
    POST_QUANTUM: "upstream", "post-quantum", Kind::Boolean, Reload, "true", None,
        "Offer the post-quantum hybrid key exchange X25519MLKEM768 first.",
        "Turn it off for a resolver or a network that fails with large greetings; a server's own table can do so for it alone.";
    DEADLINE: "upstream", "deadline", Kind::Duration { min: millis(500), max: seconds(30) }, Reload, "\"4s\"", None,
        "The time that one query may take in all: waiting, connecting, asking, asking again.",
        "Then the client gets SERVFAIL with the reason. The default is just below the 5 seconds after which common stub resolvers ask again.";
    CONNECT_TIMEOUT: "upstream", "connect-timeout", Kind::Duration { min: millis(100), max: seconds(30) }, Reload, "\"1500ms\"", None,
        "The time that one attempt to connect may take, TCP and TLS together. It must be shorter than the deadline.",
        "Where connections to a resolver have always been made at once, an attempt is given up after little more than a second, and another one made.";
    SECOND_TRY_AFTER: "upstream", "second-try-after", Kind::Duration { min: millis(50), max: seconds(30) }, Reload, "\"1200ms\"", None,
        "A query unanswered for so long is also sent to the next server, or over a new connection if nothing came on the old one.",
        "The first answer counts. It must be shorter than the deadline.";
    IDLE_TIMEOUT: "upstream", "idle-timeout", Kind::Duration { min: millis(200), max: seconds(3600) }, Reload, "\"2m\"", None,
        "How long an unused connection to a resolver stays open, unless the resolver grants less, or has shown that it closes sooner.",
        "A resolver that twice closes what has been idle for so long has shown it: from then on dot-proxy closes first. While there are queries, a connection that ends sooner than this is made anew at once, so that the next query finds one.";
    IN_FLIGHT: "upstream", "in-flight", Kind::Integer { min: 1, max: 32_768 }, Reload, "4096", None,
        "How many queries may be in flight on one connection to a resolver; more wait.",
        "";
    QUEUE: "upstream", "queue", Kind::Integer { min: 1, max: 1_000_000 }, Reload, "4096", None,
        "How many queries may wait for one server in one worker; more go to the next one, and are answered SERVFAIL when all are full.",
        "";

    ROUTE_DOMAINS: "route", "domains", Kind::Domains, Reload, "", None,
        "The domains of this route: these names and all below.",
        "It must be given. A domain stands in one route only. The root is that of [upstream].";
    ROUTE_SERVERS: "route", "servers", Kind::Servers { plain: true }, Reload, "", None,
        "The resolvers of this route, in the forms of upstream.servers.",
        "It must be given. \"plain:10.0.0.53\", \"plain:[fd00::1]:53\" or a table with transport = \"plain\" is asked in plain DNS, which anybody on the way can read and change; the port is 53 unless given. Only a route can name such a server, and not beside servers on TLS.";
    ROUTE_BOOTSTRAP: "route", "bootstrap", Kind::Resolvers, Reload, "", None,
        "As upstream.bootstrap, for this route.",
        "By default that of [upstream].";
    ROUTE_PROFILE: "route", "profile", PROFILES, Reload, "\"strict\"", None,
        "As upstream.profile, for this route.",
        "That of [upstream] is not inherited.";
    ROUTE_POLICY: "route", "policy", POLICIES, Reload, "\"in-order\"", None,
        "As upstream.policy, for this route.",
        "That of [upstream] is not inherited.";
    ROUTE_CA_FILE: "route", "ca-file", Kind::Path, Reload, "", None,
        "As upstream.ca-file, for this route.",
        "By default that of [upstream].";
    ROUTE_CLIENT_CERTIFICATE: "route", "client-certificate", Kind::Path, Reload, "", None,
        "As upstream.client-certificate, for this route.",
        "By default that of [upstream], with its key.";
    ROUTE_CLIENT_KEY: "route", "client-key", Kind::Path, Reload, "", None,
        "As upstream.client-key, for this route.",
        "";
    ROUTE_POST_QUANTUM: "route", "post-quantum", Kind::Boolean, Reload, "", None,
        "As upstream.post-quantum, for this route.",
        "By default that of [upstream].";

    CACHE_SIZE: "cache", "size", Kind::Size { min: MEBIBYTE, max: 4096 * MEBIBYTE }, Restart, "\"16MiB\"", None,
        "How much memory answers may take, all that is kept beside them included; \"0\" remembers nothing.",
        "When it is full, what has been asked for once makes room for what is asked for again and again.";
    CACHE_MAX_TTL: "cache", "max-ttl", Kind::Duration { min: seconds(1), max: seconds(604_800) }, Reload, "\"1d\"", None,
        "The longest that an answer is used, whatever the TTLs of its records say.",
        "";
    CACHE_MIN_TTL: "cache", "min-ttl", Kind::Duration { min: seconds(0), max: seconds(3600) }, Reload, "\"0s\"", None,
        "The shortest that an answer is used, whatever the TTLs of its records say.",
        "More than 0 keeps answers for longer than their owners allow (RFC 1035): what moves is found late.";
    CACHE_MAX_NEGATIVE_TTL: "cache", "max-negative-ttl", Kind::Duration { min: seconds(1), max: seconds(10_800) }, Reload, "\"1h\"", None,
        "The longest that an answer is used which says that there is no such name or no such record.",
        "Such an answer is kept for as long as its SOA record says (RFC 2308), and not without one.";
    CACHE_FAILURE_TTL: "cache", "failure-ttl", Kind::Duration { min: seconds(0), max: seconds(300) }, Reload, "\"1s\"", None,
        "How long a resolver's SERVFAIL is given to whoever repeats the question (RFC 9520); 0 asks each time.",
        "";
    CACHE_STALE: "cache", "stale", Kind::Duration { min: seconds(0), max: seconds(259_200) }, Reload, "\"0s\"", None,
        "How long after its time an answer may still be given when no resolver has a better one (RFC 8767), such as \"1d\"; 0 for never.",
        "The resolvers are asked first, and for 1.8 seconds, or not at all while they are known to be out of reach. A stale answer has a TTL of 30 seconds and says that it is stale (extended error 3, or 19 for a name that did not exist).";
    CACHE_PREFETCH: "cache", "prefetch", Kind::Boolean, Reload, "true", None,
        "Ask for a popular name anew in the last tenth of its answer's time, so that nobody waits for it.",
        "Popular is what was asked for at least three times meanwhile. Each such query repeats one that a client has just sent.";
    CACHE_PERSIST: "cache", "persist", Kind::Boolean, Restart, "false", None,
        "Keep the answers over a restart: in the file cache of the state directory that the service manager gives.",
        "They are written at an orderly stop, every 15 minutes and when some are forgotten, and read at the start unless the resolvers are others than before. The file tells whoever can read it which names were asked for; it is the service's own (mode 0600).";

    PADDING: "privacy", "padding", Kind::Boolean, Reload, "false", None,
        "Pad queries to a multiple of 128 octets, so that their length says little (RFC 8467).",
        "A client's own padding is replaced, and padding that comes back is removed.";
    REMOVE_CLIENT_SUBNET: "privacy", "remove-client-subnet", Kind::Boolean, Reload, "false", None,
        "Ask resolvers to pass on no part of a client's address (RFC 7871, source prefix length 0).",
        "";

    HOME_ARPA: "special-names", "home-arpa", Kind::Choice(&["local", "forward"]), Reload, "\"local\"", None,
        "Names of the home network, below home.arpa: answered as not existing, or forwarded to a resolver that serves them.",
        "RFC 8375 forbids to let them out to others.";
    RESOLVER_ARPA: "special-names", "resolver-arpa", Kind::Choice(&["local", "forward"]), Reload, "\"local\"", None,
        "Names below resolver.arpa, by which clients discover encrypted resolvers: answered without data, or forwarded.",
        "Forwarded, the answer may lead clients past this proxy (RFC 9462).";

    ONION: "special-names", "onion", Kind::Choice(&["local", "forward"]), Reload, "\"local\"", None,
        "Names below onion, which no resolver knows: answered as not existing, or forwarded.",
        "RFC 7686 asks this of whoever keeps answers in memory: without a cache they are forwarded in any case.";

    CONTROL_SOCKET: "control", "socket", Kind::Path, Restart, "", None,
        "The socket of the commands status and reload, for the user and the group of the service alone.",
        "By default control in the service manager's runtime directory, or else /run/dot-proxy/control. One that is set and cannot be made is a reason not to start; the default one is not.";

    LOG_LEVEL: "log", "level", Kind::Choice(&["error", "warn", "info", "debug", "trace"]), Reload, "\"info\"", None,
        "The least important lines that are written.",
        "Single queries appear at debug and below only.";
    LOG_TARGET: "log", "target", Kind::Choice(&["stderr", "syslog"]), Restart, "\"stderr\"", None,
        "Where lines go: standard error, which the journal reads under systemd, or the system log.",
        "";
}

/// The option with this section and key.
pub fn find(section: &str, key: &str) -> Option<&'static Opt> {
    OPTIONS.iter().copied().find(|option| option.section == section && option.key == key)
}

/// Whether the section of an option may stand many times.
pub fn is_repeated(option: &Opt) -> bool {
    SECTIONS.iter().any(|section| section.repeated && section.name == option.section)
}

#[cfg(test)]
mod tests {
    use super::{Applies, OPTIONS, SECTIONS, is_repeated};

    #[test]
    fn every_option_stands_in_a_known_section_and_only_once() {
        for (index, option) in OPTIONS.iter().enumerate() {
            assert!(SECTIONS.iter().any(|section| section.name == option.section), "{}", option.path());
            assert!(OPTIONS[..index].iter().all(|other| other.path() != option.path()), "{}", option.path());
            assert!(!is_repeated(option) || option.applies == Applies::Reload, "{}", option.path());
            assert!(option.summary.ends_with('.') && !option.summary.contains('\n'), "{}", option.path());
        }
    }
}
