//! `cargo xtask layout`: which functions a query passes through, for the linker. Scattered over the whole program they take
//! more than twice as many pages, each to be looked up anew for a query that comes after a while.
//!
//! Behind them lie those that a start takes, and then those of a first query and its handshake. The kernel brings in 64 KiB
//! around what is looked for: where they are scattered, a program that has only started holds most of itself in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::proxy_process::Signal;
use testkit::{Act, DotServer, Pki, Proxy, Received, UdpClient, answer_to, query};

/// Where the linker finds it.
const FILE: &str = "layout/hot.ld";
const SERVER: &str = "upstream.test";
/// Queries of the two runs whose difference counts: what the start takes, and the handshake, falls away.
const QUERIES: [u32; 2] = [500, 2500];
/// Queries on their way at once, where they are not alone.
const WINDOW: u32 = 4;
/// Functions that are called for fewer than one query in so many are not listed.
const RARE: u64 = 10;
/// How many percent of the functions that every query passes through may be missing from the list before it is stale.
const MISSING: usize = 10;
/// How long an answer may take: under valgrind everything does.
const PATIENCE: Duration = Duration::from_secs(20);

const HEAD: &str = "\
/* The functions that a query passes through, one after the other: so they take few pages, and the processor finds them at
   once also when it has done something else meanwhile. Then those that a start takes, and those of a first query: so the rest
   of the program need not be in memory. The linker puts them before all others; what it does not find it leaves out.
   Made by `cargo xtask layout`. */

SECTIONS
{
  .text :
  {
";
const TAIL: &str = "    *(.text .text.*)
  }
}
INSERT BEFORE .init;
";

/// What callgrind saw: for each function, which it called, and how often.
#[derive(Default)]
struct Calls {
    /// Those of the program itself, and how often each was called.
    called: BTreeMap<String, u64>,
    /// Whom each of them called.
    by: BTreeMap<String, Vec<String>>,
}

/// Runs of the program under callgrind.
struct Bench {
    pki: Pki,
    server: DotServer,
    program: PathBuf,
}

/// The name as it is in every build: the compiler ends it with a hash, or with a number.
fn lasting(name: &str) -> String {
    let name = name.split('\'').next().unwrap_or(name);
    let name = name.split('.').next().filter(|stem| !stem.is_empty() && !name.contains("..")).unwrap_or(name);
    if let Some((stem, hash)) = name.rsplit_once("17h")
        && hash.len() >= 17
        && hash.as_bytes()[..16].iter().all(u8::is_ascii_hexdigit)
    {
        return format!("{stem}17h*");
    }
    // the version of the cryptographic library is part of its names
    match name.strip_prefix("aws_lc_") {
        Some(rest) => {
            format!("aws_lc_*{}", rest.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '_'))
        }
        None => format!("{name}*"),
    }
}

/// Where the compiler puts it: apart in `.text.unlikely` if it should be called seldom, in `.text.startup` if only once.
fn section(name: &str) -> String {
    format!("*(.text*.{name})")
}

/// Reads what callgrind wrote of this program.
fn read(text: &str, program: &str) -> Calls {
    let (mut names, mut calls) = (BTreeMap::new(), Calls::default());
    let (mut object, mut function, mut target, mut target_object) = Default::default();
    // a name is written once, and is a number from then on
    let mut named = |kind: &str, value: &str| {
        let Some((number, name)) = value.split_once(')') else { return value.to_owned() };
        let key = (kind.to_owned(), number.to_owned());
        if !name.is_empty() {
            names.insert(key.clone(), name.trim().to_owned());
        }
        names.get(&key).cloned().unwrap_or_default()
    };
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        match key {
            "ob" => object = named("object", value),
            "cob" => target_object = Some(named("object", value)),
            "fn" => function = named("function", value),
            "cfn" => target = named("function", value),
            "calls" => {
                let is_ours = |object: &str| object.ends_with(program);
                // what has no name has an address, or one of callgrind's own, such as "(below main)"
                let is_named = !target.starts_with('(') && !target.starts_with("0x");
                if is_named && is_ours(target_object.as_deref().unwrap_or(&object)) {
                    let count = value.split(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
                    *calls.called.entry(lasting(&target)).or_default() += count;
                    calls.by.entry(lasting(&function)).or_default().push(lasting(&target));
                }
                target_object = None;
            }
            _ => {}
        }
    }
    calls
}

fn answer(received: &Received) -> Vec<Act> {
    vec![Act::Answer(answer_to(&received.message).a([192, 0, 2, 7], 300).build())]
}

fn put(file: &Path, text: &str, mode: u32) -> Result<(), String> {
    let written = fs::write(file, text).and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(mode)));
    written.map_err(|error| format!("{}: {error}", file.display()))
}

impl Bench {
    fn new(program: &Path) -> Bench {
        let pki = Pki::new();
        let server = DotServer::builder().identity(pki.server(&[SERVER])).script(answer).start();
        Bench { pki, server, program: program.to_owned() }
    }

    /// What a start calls, as most have it: with the system's trust store, and confined.
    fn start(&self) -> Result<Calls, String> {
        // valgrind knows none of the system calls that confine: they are tried, and fail, and the count can be written
        self.count("", "", |_| Ok(()))
    }

    /// What a start and so many queries call.
    fn queries(&self, queries: u32) -> Result<Calls, String> {
        // only what queries call is wanted here, from one worker
        let process = "workers = 1\nsandbox = \"off\"\n";
        self.count(process, &format!("ca-file = \"{}\"\n", self.pki.ca_file().display()), |proxy| {
            let client = UdpClient::connect(proxy.address());
            let ask = |number: u32| {
                let id = u16::try_from(number).unwrap_or_default();
                client.send(&query(id, &format!("n{number}.example"), 1));
            };
            let answered = || client.recv(PATIENCE).map(drop).ok_or_else(|| format!("no answer:\n{}", proxy.log()));
            // one alone goes through all of the runtime, and only together do some find what is made for many
            let alone = queries / 2;
            for number in 0..alone {
                ask(number);
                answered()?;
            }
            (alone..alone + WINDOW).for_each(ask);
            for number in alone + WINDOW..queries + WINDOW {
                answered()?;
                ask(number);
            }
            Ok(())
        })
    }

    /// What the program calls while it is used so, with these lines more in its configuration.
    fn count(
        &self,
        process: &str,
        upstream: &str,
        used: impl FnOnce(&Proxy) -> Result<(), String>,
    ) -> Result<Calls, String> {
        let address = self.server.address();
        let config = format!(
            "{process}[listen]\naddresses = [\"127.0.0.1:0\"]\n[upstream]\nservers = [\"{address}#{SERVER}\"]\n{upstream}"
        );
        let place = self.pki.ca_file().parent().map(Path::to_owned).unwrap_or_default();
        let (counter, counts) = (place.join("counter"), place.join("counts"));
        let script = format!(
            "#!/bin/sh\nexec valgrind --tool=callgrind --demangle=no --callgrind-out-file={} {} \"$@\"\n",
            counts.display(),
            self.program.display()
        );
        // the program has given up its rights by the time that the count is written
        put(&counter, &script, 0o755)?;
        put(&counts, "", 0o666)?;
        let mut proxy = Proxy::builder(&counter).config(&config).start();
        used(&proxy)?;
        proxy.signal(Signal::SIGTERM);
        proxy.wait_exit(PATIENCE).ok_or("it does not end")?;
        let text = fs::read_to_string(&counts).map_err(|error| format!("{}: {error}", counts.display()))?;
        let name = self.program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let calls = read(&text, name);
        if calls.called.is_empty() { Err(format!("nothing was counted:\n{}", proxy.log())) } else { Ok(calls) }
    }
}

/// The functions that queries pass through, each before those that it calls, and how many queries of a hundred do.
fn passed(few: &Calls, many: &Calls) -> Vec<(String, u64)> {
    let more = u64::from(QUERIES[1] - QUERIES[0]);
    let mut hot = BTreeMap::new();
    for (name, count) in &many.called {
        let count = count.saturating_sub(few.called.get(name).copied().unwrap_or_default());
        if count * RARE >= more {
            hot.insert(name, count * 100 / more);
        }
    }
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    let mut first: Vec<_> = hot.keys().copied().collect();
    // those that are called least often call the others
    first.sort_by_key(|name| (hot.get(name), *name));
    let mut waiting: Vec<&String> = first.into_iter().rev().collect();
    while let Some(name) = waiting.pop() {
        let Some(&count) = hot.get(name) else { continue };
        if seen.insert(name) {
            order.push((name.clone(), count));
            waiting.extend(many.by.get(name).into_iter().flatten().rev());
        }
    }
    order
}

/// Writes which functions lie together, or with `check` says whether what is written still holds.
///
/// # Errors
/// The program cannot be counted, or many of the functions that every query passes through are not listed.
pub fn run(root: &Path, program: &Path, check: bool) -> Result<String, String> {
    let (bench, file) = (Bench::new(program), root.join(FILE));
    let [few, many] = [bench.queries(QUERIES[0])?, bench.queries(QUERIES[1])?];
    let passed = passed(&few, &many);
    if !check {
        let start = bench.start()?;
        let (mut text, mut listed) = (HEAD.to_owned(), BTreeSet::new());
        let names = passed.iter().map(|(name, _)| name).chain(start.called.keys()).chain(many.called.keys());
        for name in names.filter(|name| listed.insert(*name)) {
            let _ = writeln!(text, "    {}", section(name));
        }
        text.push_str(TAIL);
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        return Ok(format!("{FILE}: {} functions, {} of them for queries", listed.len(), passed.len()));
    }
    let known = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let every: Vec<_> = passed.iter().filter(|(_, percent)| *percent >= 90).map(|(name, _)| name).collect();
    let missing: Vec<_> = every.iter().filter(|name| !known.contains(&section(name))).collect();
    let said =
        format!("{FILE}: {} of {} functions that every query passes through are missing", missing.len(), every.len());
    if every.is_empty() || missing.len() * 100 > every.len() * MISSING {
        return Err(format!("{said}; run `cargo xtask layout`: {missing:?}"));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::{lasting, read};

    #[test]
    fn names_are_kept_without_what_the_next_build_changes() {
        for (name, kept) in [
            ("_ZN9dot_proxy4pace12before_sleep17h0123456789abcdefE", "_ZN9dot_proxy4pace12before_sleep17h*"),
            ("_ZN5tokio7runtime4task3raw4poll17hfedcba9876543210E'2", "_ZN5tokio7runtime4task3raw4poll17h*"),
            ("_ZN4core3ptr8drop$LT$a..b$GT$17h0123456789abcdefE.llvm.12", "_ZN4core3ptr8drop$LT$a..b$GT$17h*"),
            ("_RNvXsZ_6string5write.591", "_RNvXsZ_6string5write*"),
            ("aws_lc_0_47_0_gcm_ghash_avx", "aws_lc_*gcm_ghash_avx"),
            ("aead_aes_gcm_open_gather", "aead_aes_gcm_open_gather*"),
        ] {
            assert_eq!(lasting(name), kept);
        }
    }

    #[test]
    fn calls_are_counted_of_the_programs_own_functions() {
        let text = "\
ob=(1) /usr/sbin/dot-proxy
fn=(1) judge
cfn=(2) look
calls=3 0
1 10
cob=(2) /lib/libc.so.6
cfn=(3) memcpy
calls=9 0
1 10
cfn=(5) 0x000000000037f050
calls=1 0
1 10
cfn=(6) (below main)
calls=1 0
1 10
fn=(4) receive
cfn=(1)
calls=2 0
1 10
cfn=(2)
calls=4 0
1 10
";
        let calls = read(text, "dot-proxy");
        let called: Vec<_> = calls.called.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(called, [("judge*", 2), ("look*", 7)]);
        assert_eq!(calls.by.get("receive*"), Some(&vec!["judge*".to_owned(), "look*".to_owned()]));
    }
}
