//! What a configuration gives: each option's value, where it was written, and the settings that the values make.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::options::{self, Opt};
use super::settings::{
    Cache, ClientCertificate, ClientTls, Listen, LocalOrForward, LogSettings, LogTarget, Policy, Privacy, Process,
    Profile, Roots, Route, Sandbox, ServerGroup, Settings, SpecialNames, Upstream,
};
use super::values::{GroupTerms, ServerEntry, Value};
use crate::dns::name::Domain;

/// Workers used without being told: more gain little for a forwarder, and each keeps its own connections.
const DEFAULT_WORKERS_AT_MOST: usize = 4;

/// Values by the path of their option, such as `upstream.deadline`.
pub type Values = HashMap<String, Value>;

/// What a configuration gives, or one of its routes.
#[derive(Default)]
pub struct Given {
    /// The name of the file; of a route also the line at which it begins.
    pub name: String,
    /// Values, defaults included.
    pub values: Values,
    /// Where those were written that were: file and line, or a flag.
    pub places: HashMap<String, String>,
    /// The routes, which have none themselves.
    pub routes: Vec<Given>,
}

impl Given {
    /// Where an option was written, or else the file or the begin of the route.
    pub fn place(&self, option: &Opt) -> &str {
        self.places.get(&option.path()).map_or(&self.name, String::as_str)
    }

    /// Whether an option has a value that says something.
    pub fn is_set(&self, option: &Opt) -> bool {
        match self.values.get(&option.path()) {
            Some(Value::Addresses(addresses)) => !addresses.is_empty(),
            found => found.is_some(),
        }
    }

    /// Addresses; none if the option has no value.
    pub fn addresses(&self, option: &Opt) -> &[SocketAddr] {
        match self.values.get(&option.path()) {
            Some(Value::Addresses(addresses)) => addresses,
            _ => &[],
        }
    }

    /// A length of time.
    pub fn duration(&self, option: &Opt) -> Duration {
        match self.values.get(&option.path()) {
            Some(Value::Duration(duration)) => *duration,
            _ => Duration::ZERO,
        }
    }

    /// Domains; none if the option has no value.
    pub fn domains(&self, option: &Opt) -> &[Domain] {
        match self.values.get(&option.path()) {
            Some(Value::Domains(domains)) => domains,
            _ => &[],
        }
    }

    /// Servers; none if the option has no value.
    pub fn servers(&self, option: &Opt) -> &[ServerEntry] {
        match self.values.get(&option.path()) {
            Some(Value::Servers(entries)) => entries,
            _ => &[],
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// If the option has no value, or one that is too large for the type.
    pub fn number<T: TryFrom<u64>>(&self, option: &Opt) -> Result<T, String> {
        match self.values.get(&option.path()) {
            Some(Value::Integer(number)) => {
                T::try_from(*number).map_err(|_| format!("{}: too large here", option.path()))
            }
            _ => Err(format!("{}: no value", option.path())),
        }
    }

    fn boolean(&self, option: &Opt) -> bool {
        self.values.get(&option.path()) == Some(&Value::Boolean(true))
    }

    fn word(&self, option: &Opt) -> &str {
        match self.values.get(&option.path()) {
            Some(Value::Word(word)) => word,
            _ => "",
        }
    }

    fn path(&self, option: &Opt) -> Option<PathBuf> {
        match self.values.get(&option.path()) {
            Some(Value::Path(path)) => Some(PathBuf::from(path)),
            _ => None,
        }
    }

    fn account(&self, option: &Opt) -> Option<String> {
        match self.values.get(&option.path()) {
            Some(Value::Account(name)) => Some(name.clone()),
            _ => None,
        }
    }

    fn local_or_forward(&self, option: &Opt) -> LocalOrForward {
        if self.word(option) == "forward" { LocalOrForward::Forward } else { LocalOrForward::Local }
    }

    /// A pure relay keeps no names to itself for the sake of those who keep answers (RFC 7686 §2.4).
    fn onion(&self) -> LocalOrForward {
        match self.number(&options::CACHE_SIZE) {
            Ok(0_usize) => LocalOrForward::Forward,
            _ => self.local_or_forward(&options::ONION),
        }
    }

    /// How many threads serve queries.
    ///
    /// # Errors
    /// A value that should have been refused before.
    pub fn workers(&self) -> Result<usize, String> {
        match self.values.get(&options::WORKERS.path()) {
            Some(_) => self.number(&options::WORKERS),
            None => Ok(std::thread::available_parallelism().map_or(1, usize::from).min(DEFAULT_WORKERS_AT_MOST)),
        }
    }

    /// The settings that these values make; they have been checked one by one and with each other.
    ///
    /// # Errors
    /// A value that should have been refused before.
    pub fn settings(&self) -> Result<Settings, String> {
        let terms = self.group_terms();
        Ok(Settings {
            workers: self.workers()?,
            process: Process {
                user: self.account(&options::USER),
                group: self.account(&options::GROUP),
                sandbox: match self.word(&options::SANDBOX) {
                    "required" => Sandbox::Required,
                    "off" => Sandbox::Off,
                    _ => Sandbox::BestEffort,
                },
            },
            listen: self.listen()?,
            upstream: self.upstream(&terms)?,
            routes: self.routes.iter().map(|route| route.route(&terms)).collect::<Result<_, _>>()?,
            cache: self.cache()?,
            privacy: Privacy {
                padding: self.boolean(&options::PADDING),
                remove_client_subnet: self.boolean(&options::REMOVE_CLIENT_SUBNET),
            },
            special_names: SpecialNames {
                home_arpa: self.local_or_forward(&options::HOME_ARPA),
                resolver_arpa: self.local_or_forward(&options::RESOLVER_ARPA),
                onion: self.onion(),
            },
            control: self.path(&options::CONTROL_SOCKET),
            log: LogSettings {
                level: self.word(&options::LOG_LEVEL).parse().map_err(|_| "log.level: no value".to_owned())?,
                target: if self.word(&options::LOG_TARGET) == "syslog" { LogTarget::Syslog } else { LogTarget::Stderr },
            },
        })
    }

    fn listen(&self) -> Result<Listen, String> {
        let Some(Value::Networks(allow)) = self.values.get(&options::ALLOW.path()) else {
            return Err("listen.allow: no value".to_owned());
        };
        let tls = match (self.path(&options::TLS_CERTIFICATE), self.path(&options::TLS_KEY)) {
            (Some(certificate), Some(key)) => {
                Some(ClientTls { certificate, key, client_ca: self.path(&options::TLS_CLIENT_CA) })
            }
            _ => None,
        };
        Ok(Listen {
            addresses: self.addresses(&options::ADDRESSES).to_vec(),
            tls_addresses: self.addresses(&options::TLS_ADDRESSES).to_vec(),
            tls,
            free_bind: self.boolean(&options::FREE_BIND),
            allow: allow.clone(),
            udp_payload_limit: self.number(&options::UDP_PAYLOAD_LIMIT)?,
            tcp_idle_timeout: self.duration(&options::TCP_IDLE_TIMEOUT),
            tcp_write_timeout: self.duration(&options::TCP_WRITE_TIMEOUT),
            tcp_connections: self.number(&options::TCP_CONNECTIONS)?,
            tcp_connections_per_client: self.number(&options::TCP_CONNECTIONS_PER_CLIENT)?,
            tcp_in_flight: self.number(&options::TCP_IN_FLIGHT)?,
            tcp_unread: self.number(&options::TCP_UNREAD)?,
        })
    }

    fn upstream(&self, terms: &GroupTerms) -> Result<Upstream, String> {
        Ok(Upstream {
            group: self.group(&options::SERVERS, &options::POLICY, terms)?,
            deadline: self.duration(&options::DEADLINE),
            connect_timeout: self.duration(&options::CONNECT_TIMEOUT),
            second_try_after: self.duration(&options::SECOND_TRY_AFTER),
            idle_timeout: self.duration(&options::IDLE_TIMEOUT),
            in_flight: self.number(&options::IN_FLIGHT)?,
            queue: self.number(&options::QUEUE)?,
            hedge_share: self.number(&options::HEDGE_SHARE)?,
            second_opinion: self.boolean(&options::SECOND_OPINION),
            connections: self.number(&options::CONNECTIONS)?,
        })
    }

    fn cache(&self) -> Result<Cache, String> {
        Ok(Cache {
            size: self.number(&options::CACHE_SIZE)?,
            max_ttl: self.duration(&options::CACHE_MAX_TTL),
            min_ttl: self.duration(&options::CACHE_MIN_TTL),
            max_negative_ttl: self.duration(&options::CACHE_MAX_NEGATIVE_TTL),
            failure_ttl: self.duration(&options::CACHE_FAILURE_TTL),
            stale: self.duration(&options::CACHE_STALE),
            prefetch: self.boolean(&options::CACHE_PREFETCH),
            persist: self.boolean(&options::CACHE_PERSIST),
        })
    }

    /// What `[upstream]` says for servers that leave it open.
    fn group_terms(&self) -> GroupTerms {
        GroupTerms {
            roots: self.path(&options::CA_FILE).map_or(Roots::System, Roots::File),
            post_quantum: self.boolean(&options::POST_QUANTUM),
            client: self.client(&options::CLIENT_CERTIFICATE, &options::CLIENT_KEY),
            profile: self.profile(&options::PROFILE),
            bootstrap: self.addresses(&options::BOOTSTRAP).to_vec(),
        }
    }

    /// A route, with what it inherits from `[upstream]`: never the profile, which would weaken it unasked.
    fn route(&self, upstream: &GroupTerms) -> Result<Route, String> {
        let own_client = self.client(&options::ROUTE_CLIENT_CERTIFICATE, &options::ROUTE_CLIENT_KEY);
        let own_bootstrap = self.addresses(&options::ROUTE_BOOTSTRAP);
        let post_quantum = match self.values.get(&options::ROUTE_POST_QUANTUM.path()) {
            Some(_) => self.boolean(&options::ROUTE_POST_QUANTUM),
            None => upstream.post_quantum,
        };
        let terms = GroupTerms {
            roots: self.path(&options::ROUTE_CA_FILE).map_or_else(|| upstream.roots.clone(), Roots::File),
            post_quantum,
            client: own_client.or_else(|| upstream.client.clone()),
            profile: self.profile(&options::ROUTE_PROFILE),
            bootstrap: if own_bootstrap.is_empty() { upstream.bootstrap.clone() } else { own_bootstrap.to_vec() },
        };
        let domains = self.domains(&options::ROUTE_DOMAINS).to_vec();
        Ok(Route { domains, group: self.group(&options::ROUTE_SERVERS, &options::ROUTE_POLICY, &terms)? })
    }

    fn group(&self, servers: &Opt, policy: &Opt, terms: &GroupTerms) -> Result<ServerGroup, String> {
        let entries = self.servers(servers);
        if entries.is_empty() {
            return Err(format!("{}: no value", servers.path()));
        }
        Ok(ServerGroup {
            members: entries.iter().flat_map(|entry| entry.members(terms)).collect(),
            profile: terms.profile,
            policy: match self.word(policy) {
                "fastest" => Policy::Fastest,
                "spread" => Policy::Spread,
                "parallel" => Policy::Parallel,
                _ => Policy::InOrder,
            },
        })
    }

    fn client(&self, certificate: &Opt, key: &Opt) -> Option<ClientCertificate> {
        Some(ClientCertificate { certificate: self.path(certificate)?, key: self.path(key)? })
    }

    fn profile(&self, option: &Opt) -> Profile {
        if self.word(option) == "opportunistic" { Profile::Opportunistic } else { Profile::Strict }
    }
}
