//! Which of many domains a name is or lies below: the longest one, by whole labels and without regard to the case of
//! letters (pure; RFC 4343 §3).
//!
//! A look-up allocates nothing. Of the suffixes of a name only those are looked up that are as long as some domain, so
//! that a name costs a few steps over its labels, and nothing at all where there are no domains.

use std::collections::HashMap;

use super::name::{Domain, MAX_NAME};

/// Domains, and what belongs to each.
#[derive(Clone, Debug)]
pub struct Suffixes<T> {
    /// Clients choose the names that are looked up here: the map's own hash is safe against that.
    domains: HashMap<Box<[u8]>, T>,
    /// For each length in octets whether a domain has it.
    lengths: [bool; MAX_NAME + 1],
}

impl<T> Default for Suffixes<T> {
    fn default() -> Suffixes<T> {
        Suffixes { domains: HashMap::new(), lengths: [false; MAX_NAME + 1] }
    }
}

impl<T> Suffixes<T> {
    /// Adds a domain.
    pub fn insert(&mut self, domain: &Domain, value: T) {
        self.lengths[domain.wire().len()] = true;
        self.domains.insert(domain.wire().into(), value);
    }

    /// What belongs to the domains, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.domains.values()
    }

    /// The longest domain that the uncompressed `name` is or lies below: its octets in wire form, and what belongs to it.
    pub fn longest(&self, name: &[u8]) -> Option<(&[u8], &T)> {
        if self.domains.is_empty() || name.len() > MAX_NAME {
            return None;
        }
        let mut lower = [0; MAX_NAME];
        let lower = &mut lower[..name.len()];
        lower.copy_from_slice(name);
        // length octets are below 64 and so never taken for letters
        lower.make_ascii_lowercase();
        let mut rest = &*lower;
        while let [length @ 1..=63, tail @ ..] = rest {
            if self.lengths[rest.len()]
                && let Some((domain, value)) = self.domains.get_key_value(rest)
            {
                return Some((domain, value));
            }
            rest = tail.get(usize::from(*length)..)?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::Suffixes;
    use crate::dns::name::{Domain, MAX_NAME, is_within};

    fn wire(text: &str) -> Vec<u8> {
        let labels = text.split('.').filter(|label| !label.is_empty());
        let mut name: Vec<u8> =
            labels.flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()).collect();
        name.push(0);
        name
    }

    fn table(domains: &[&'static str]) -> Suffixes<&'static str> {
        let mut table = Suffixes::default();
        for domain in domains {
            table.insert(&Domain::parse(domain).unwrap(), *domain);
        }
        table
    }

    fn found(table: &Suffixes<&'static str>, name: &str) -> Option<&'static str> {
        table.longest(&wire(name)).map(|(_, value)| *value)
    }

    #[test]
    fn the_longest_domain_wins_whatever_the_case() {
        let table = table(&["example", "corp.example", "a.b.corp.example", "10.in-addr.arpa"]);
        for (name, domain) in [
            ("CORP.Example", Some("corp.example")),
            ("www.corp.eXample", Some("corp.example")),
            ("b.corp.example", Some("corp.example")),
            ("a.b.corp.example", Some("a.b.corp.example")),
            ("x.y.A.B.corp.example", Some("a.b.corp.example")),
            ("other.example", Some("example")),
            ("1.2.3.10.in-addr.arpa", Some("10.in-addr.arpa")),
            ("110.in-addr.arpa", None),
            ("in-addr.arpa", None),
            ("test", None),
            ("", None),
        ] {
            assert_eq!(found(&table, name), domain, "{name}");
        }
    }

    #[test]
    fn only_whole_labels_count() {
        let table = table(&["corp.example"]);
        for name in ["mycorp.example", "corp.example.test", "example", "corp"] {
            assert_eq!(found(&table, name), None, "{name}");
        }
        // the octets of the domain inside a label are not its labels
        assert!(table.longest(b"\x0fx\x04corp\x07examp!\0").is_none());
        let inside = [&b"\x0dx"[..], &wire("corp.example")[..12], b"\0"].concat();
        assert!(table.longest(&inside).is_none());
    }

    #[test]
    fn nothing_is_found_where_there_is_nothing_and_nothing_breaks_on_what_is_no_name() {
        assert!(Suffixes::<()>::default().longest(&wire("a.test")).is_none());
        let table = table(&["test"]);
        for odd in [&b""[..], b"\x05ab", b"\xc0\x0c", b"\x04test", &[b'a'; 300]] {
            assert!(table.longest(odd).is_none(), "{odd:?}");
        }
        assert!(table.longest(&vec![1; MAX_NAME]).is_none());
    }

    /// Against the comparison of one name with one domain, over all pairs of short names.
    #[test]
    fn it_agrees_with_a_comparison_one_by_one() {
        let labels = ["a", "b", "aa"];
        let mut names: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        for _ in 0..2 {
            let longer: Vec<String> =
                names.iter().flat_map(|name| labels.iter().map(move |label| format!("{label}.{name}"))).collect();
            names.extend(longer);
        }
        let domains: Vec<Domain> = names.iter().step_by(5).map(|name| Domain::parse(name).unwrap()).collect();
        let mut table = Suffixes::default();
        for domain in &domains {
            table.insert(domain, ());
        }
        let mut hits = 0;
        for name in &names {
            let name = wire(name);
            let holding = domains.iter().map(Domain::wire).filter(|domain| is_within(&name, domain));
            let longest = holding.max_by_key(|domain| domain.len());
            assert_eq!(table.longest(&name).map(|(domain, ())| domain), longest);
            hits += usize::from(longest.is_some());
        }
        assert!(hits > 10 && hits < names.len());
    }
}
