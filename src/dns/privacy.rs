//! Padding (RFC 7830, RFC 8467) and the removal of client subnet (RFC 7871), as changes to the options of a message.
//! Towards resolvers both are off unless the configuration asks: a user of this proxy expects its requests untouched.

use super::edit::{option, put_option};

/// Queries are padded to a multiple of this many octets (RFC 8467 §4.1).
pub const QUERY_BLOCK: usize = 128;
/// Answers are padded to a multiple of this many octets (RFC 8467 §4.1).
pub const ANSWER_BLOCK: usize = 468;
/// Octets of an option before its data.
const OPTION_HEADER: usize = 4;

/// The family of the transport that the client used, as client subnet numbers it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Appends the client subnet option that asks every server to use none: no address octets, source length 0.
///
/// Leaving the option out would not do: a resolver may then put in the network of whoever asks (RFC 7871 §7.1.2).
pub fn put_blank_subnet(rdata: &mut Vec<u8>, family: Family) {
    let family = match family {
        Family::V4 => 1,
        Family::V6 => 2,
    };
    put_option(rdata, option::CLIENT_SUBNET, &[0, family, 0, 0]);
}

/// Appends the client's own subnet option to the answer as it must see it: its family, source and address, with scope 0
/// because nothing of it was used (RFC 7871 §7.2.1).
pub fn put_returned_subnet(rdata: &mut Vec<u8>, sent: &[u8]) {
    let mut data = sent.to_vec();
    if let Some(scope) = data.get_mut(3) {
        *scope = 0;
    }
    put_option(rdata, option::CLIENT_SUBNET, &data);
}

/// Appends padding so that a message of `length` octets, these options included, becomes a whole number of blocks of
/// `block` octets.
///
/// Where the option itself does not fit into the block that is left, the next block is filled (RFC 8467 §3).
pub fn put_padding(rdata: &mut Vec<u8>, length: usize, block: usize) {
    let with_header = length + OPTION_HEADER;
    if with_header > 65_535 {
        return;
    }
    let target = with_header.next_multiple_of(block).min(65_535);
    put_option(rdata, option::PADDING, &vec![0; target - with_header]);
}

#[cfg(test)]
mod tests {
    use super::{ANSWER_BLOCK, Family, QUERY_BLOCK, put_blank_subnet, put_padding, put_returned_subnet};

    #[test]
    fn every_length_becomes_a_whole_number_of_blocks() {
        for (block, octets) in [(QUERY_BLOCK, 128), (ANSWER_BLOCK, 468)] {
            for length in 12..1200 {
                let mut rdata = Vec::new();
                put_padding(&mut rdata, length, block);
                assert_eq!((length + rdata.len()) % octets, 0, "{length}");
                assert!(rdata.len() < octets + 4);
                assert!(rdata[4..].iter().all(|&octet| octet == 0));
            }
        }
        // one octet short of a block leaves no room for the option: the next block it is
        let mut rdata = Vec::new();
        put_padding(&mut rdata, 127, QUERY_BLOCK);
        assert_eq!(rdata.len(), 129);
    }

    #[test]
    fn padding_never_makes_a_message_too_long() {
        let mut rdata = Vec::new();
        put_padding(&mut rdata, 65_500, QUERY_BLOCK);
        assert_eq!(65_500 + rdata.len(), 65_535);
        rdata.clear();
        put_padding(&mut rdata, 65_533, ANSWER_BLOCK);
        assert!(rdata.is_empty());
    }

    #[test]
    fn a_subnet_is_blanked_and_returned() {
        let mut rdata = Vec::new();
        put_blank_subnet(&mut rdata, Family::V6);
        assert_eq!(rdata, [0, 8, 0, 4, 0, 2, 0, 0]);
        rdata.clear();
        put_returned_subnet(&mut rdata, &[0, 1, 24, 9, 198, 51, 100]);
        assert_eq!(rdata, [0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100]);
    }
}
