//! Any query and any answer across the proxy, under any switches: what comes out can be read, keeps to the limits, and
//! shows nothing that must not cross.
#![no_main]

use std::time::Duration;

use dot_proxy::dns::crossing::{Link, Switches, to_resolver};
use dot_proxy::dns::message::{Message, ReadMessage};
use dot_proxy::dns::privacy::Family;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (u8, u16, &[u8], &[u8])| {
    let (bits, limit, asked, answered) = data;
    let Ok(query) = Message::parse(asked) else { return };
    if query.is_response() || query.opt_count() > 1 {
        return;
    }
    let switches = Switches { padding: bits & 1 != 0, remove_client_subnet: bits & 2 != 0 };
    let limit = usize::from(limit).max(512);
    let link = if bits & 4 != 0 {
        Link::Datagram { limit }
    } else {
        Link::Stream { idle: Duration::from_secs(10), encrypted: bits & 8 != 0 }
    };
    let Ok((changed, passage)) = to_resolver(&query, switches, link, Family::V6) else { return };
    let sent = changed.as_deref().unwrap_or(asked);
    let seen = Message::parse(sent).expect("what is sent can be read");
    assert_eq!(seen.question().map(|question| question.bytes), query.question().map(|question| question.bytes));
    let has_sections = [0, 1, 2, 4, 5].contains(&query.opcode());
    // what is signed, or negotiates a key, crosses as it is
    let sealed = |message: &Message<'_>| {
        message.signature().is_some() || message.question().is_some_and(|question| question.qtype() == 249)
    };
    if !sealed(&query) && has_sections {
        assert!(seen.opt().is_none_or(|opt| opt.option(11).is_none()), "keepalive crossed to the resolver");
        assert!(
            !switches.padding || sent.len() % 128 == 0 || sent.len() > 65_000,
            "{} octets are no whole blocks",
            sent.len()
        );
    }
    let Ok(answer) = Message::parse(answered) else { return };
    let matches = match (query.question(), answer.question()) {
        (Some(asked), Some(answered)) => asked.same(&answered),
        (_, None) => answer.question_count() == 0,
        _ => false,
    };
    if !matches || !answer.is_response() {
        return;
    }
    let reply = passage.to_client(ReadMessage::new(answered.to_vec()), &query);
    let reply_view = Message::parse(&reply).expect("what the client gets can be read");
    assert_eq!(reply_view.id(), query.id());
    if matches!(link, Link::Datagram { .. }) {
        assert!(reply.len() <= limit.max(12 + 259 + 4));
    }
    if !sealed(&answer) && answer.opt_count() <= 1 {
        assert!(reply_view.opt().is_none() || query.opt().is_some(), "an OPT record that nobody asked for");
    }
});
