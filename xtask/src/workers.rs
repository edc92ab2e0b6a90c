//! `cargo xtask workers`: how much more two workers serve than one.
//!
//! Clients and servers need processors as well: on a machine with two, which one worker and its clients fill, a second
//! worker cannot serve more, however good it is. So nearly all the work is the program's here: answers of many records, out
//! of its memory, that must be looked through and cut for UDP. A client asks again when it has its answer.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Act, DotServer, Pki, Proxy, Received, TcpClient, UdpClient, answer_to, keep_asking, query};

/// Names that are asked for: with one alone the workers would stand in line for it.
const NAMES: u16 = 64;
const SERVER: &str = "upstream.test";
const RECORDS: usize = 4000;
const ROUNDS: usize = 5;
/// Until all workers that are needed have been called.
const BEFORE: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(4);
/// Queries that the client has on their way.
const WINDOW: u16 = 64;

/// The query for one of the names.
fn ask_for(number: u16) -> Vec<u8> {
    query(number, &format!("many{}.example", number % NAMES), 1)
}

fn many_records(received: &Received) -> Vec<Act> {
    let answer = answer_to(&received.message);
    vec![Act::Answer((0..RECORDS).fold(answer, |all, _| all.a([192, 0, 2, 7], 3600)).build())]
}

/// Answers a second with so many workers.
fn served(program: &Path, server: &DotServer, pki: &Pki, workers: usize) -> Result<f64, String> {
    let (address, ca) = (server.address(), pki.ca_file().display());
    let config = format!(
        "workers = {workers}\n[listen]\naddresses = [\"127.0.0.1:0\"]\n[upstream]\nservers = [\"{address}#{SERVER}\"]\nca-file = \"{ca}\"\n"
    );
    let proxy = Proxy::builder(program).config(&config).start();
    // over TCP, whole, and so they are in the memory
    let mut client = TcpClient::connect(proxy.address());
    for number in 0..NAMES {
        client.ask(&ask_for(number)).ok_or("no answer")?;
    }
    let (client, queries) = (UdpClient::connect(proxy.address()), (0..WINDOW).map(ask_for).collect::<Vec<_>>());
    let (answers, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let count = thread::scope(|scope| {
        scope.spawn(|| keep_asking(&client, &queries, &answers, &over));
        thread::sleep(BEFORE);
        let (before, begun) = (answers.load(Relaxed), Instant::now());
        thread::sleep(MEASURED);
        let count = answers.load(Relaxed) - before;
        let each_second = f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / begun.elapsed().as_secs_f64();
        over.store(true, Relaxed);
        each_second
    });
    if count > 0.0 { Ok(count) } else { Err(format!("nothing was answered:\n{}", proxy.log())) }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// Measures one worker and two in turn; what they serve, and the ratio of the medians.
///
/// # Errors
/// The machine has not two processors, or a query was not answered.
pub fn run(program: &Path) -> Result<String, String> {
    if thread::available_parallelism().map_or(1, std::num::NonZero::get) < 2 {
        return Err("two workers need two processors".to_owned());
    }
    let pki = Pki::new();
    let server = DotServer::builder().identity(pki.server(&[SERVER])).script(many_records).start();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        one.push(served(program, &server, &pki, 1)?);
        two.push(served(program, &server, &pki, 2)?);
    }
    let (one, two) = (median(&mut one), median(&mut two));
    Ok(format!(
        "answers a second, medians of {ROUNDS} rounds: {one:.0} with one worker, {two:.0} with two; {:.2} times as many",
        two / one
    ))
}
