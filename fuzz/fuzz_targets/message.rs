//! Any octets as a message: read or refused, and nothing that was read lies outside.
#![no_main]

use dot_proxy::dns::message::Message;
use dot_proxy::dns::name::Printable;
use dot_proxy::dns::transfer::Transfer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(message) = Message::parse(data) else { return };
    assert!(message.questions_end() <= message.end() && message.end() <= data.len());
    if let Some(question) = message.question() {
        let printed = Printable(question.name()).to_string();
        assert!(printed.chars().all(|c| c.is_ascii_graphic()));
        assert!(question.same(&question));
    }
    let mut last = message.questions_end();
    for record in message.records() {
        assert_eq!(record.start, last);
        last = record.end;
    }
    assert_eq!(last, message.end());
    if let Some(opt) = message.opt() {
        let walked: usize = opt.options().map(|option| option.bytes.len()).sum();
        assert!(walked <= opt.rdata().len());
    }
    if let Some(mut transfer) = Transfer::asked_by(&message) {
        transfer.observe(&message);
    }
});
