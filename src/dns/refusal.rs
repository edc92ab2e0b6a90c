//! Answers that another server may better (pure): SERVFAIL and REFUSED, unless they are somebody's last word.

use super::edit::option;
use super::message::{HEADER, Message, rcode};

/// Extended errors that are a judgement about the name or the client, and not about the server (RFC 8914 §4): the failures
/// of DNSSEC validation (5 to 12), and what was blocked, censored, filtered or prohibited (15 to 18). To ask elsewhere
/// would be to look for a server that does not protect.
fn is_judgement(code: u16) -> bool {
    matches!(code, 5..=12 | 15..=18)
}

/// Whether another server may know better than this answer.
pub fn is_worth_a_second_opinion(answer: &[u8]) -> bool {
    if answer.len() < HEADER || !matches!(answer[3] & 0x0f, rcode::SERVFAIL | rcode::REFUSED) {
        return false;
    }
    let Ok(answer) = Message::parse(answer) else { return true };
    let Some(opt) = answer.opt() else { return true };
    let mut errors = opt.options().filter(|found| found.code == option::EXTENDED_ERROR);
    !errors.any(|error| matches!(error.data, [high, low, ..] if is_judgement(u16::from_be_bytes([*high, *low]))))
}

#[cfg(test)]
mod tests {
    use super::is_worth_a_second_opinion;
    use crate::dns::edit::{ExtendedError, reply};
    use crate::dns::message::{Message, rcode};

    fn answer(rcode: u8, error: Option<u16>) -> Vec<u8> {
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x01a\x00\x00\x01\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
        let error = error.map(|code| ExtendedError::new(code, "why"));
        Message::parse(query).map_or_else(|_| Vec::new(), |query| reply(&query, rcode, None, error.as_ref()))
    }

    #[test]
    fn only_a_server_that_failed_or_refused_is_doubted() {
        for good in [rcode::NOERROR, rcode::NXDOMAIN, rcode::FORMERR, rcode::NOTIMP] {
            assert!(!is_worth_a_second_opinion(&answer(good, None)), "{good}");
        }
        for bad in [rcode::SERVFAIL, rcode::REFUSED] {
            assert!(is_worth_a_second_opinion(&answer(bad, None)), "{bad}");
            assert!(is_worth_a_second_opinion(&answer(bad, Some(22))), "{bad}");
        }
        assert!(!is_worth_a_second_opinion(b"short"));
    }

    #[test]
    fn a_judgement_about_the_name_is_the_last_word() {
        for code in [6, 7, 9, 12, 15, 16, 17, 18] {
            assert!(!is_worth_a_second_opinion(&answer(rcode::SERVFAIL, Some(code))), "{code}");
        }
    }
}
