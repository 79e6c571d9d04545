//! Doors for `tests/fuzz`: what reads packets of guests and of servers outside.

use super::message::{self, Received, STREAM_MAX};
use super::resolv_conf;

/// A client's packet, and an answer to what is asked outside for it; what the client gets, by datagram and by stream.
pub fn conversation(query: &[u8], answer: &[u8]) -> Option<[Vec<u8>; 2]> {
    let asked = match message::receive(query) {
        Received::Query(asked) => asked,
        Received::Refused(refusal) => {
            return message::encode(&refusal, STREAM_MAX).map(|bytes| [bytes.clone(), bytes]);
        }
        Received::Noise => return None,
    };
    let outside = asked.ask_outside(true);
    // The server knows the number it was asked under.
    let [high, low] = outside.metadata.id.to_be_bytes();
    let answer = [&[high, low][..], answer.get(2..).unwrap_or_default()].concat();
    let reply = match message::answer_to(&outside, &answer) {
        Some(answer) => {
            let _ = message::addresses(&answer);
            asked.relay(answer)
        }
        None => asked.reply(hickory_proto::op::ResponseCode::ServFail),
    };
    let limit = asked.datagram_limit();
    let datagram = message::encode(&reply, limit)?;
    debug_assert!(datagram.len() <= usize::from(limit), "an answer over its client's limit");
    Some([datagram, message::encode(&reply, STREAM_MAX)?])
}

/// The host's `resolv.conf`; how many servers it names.
pub fn servers(text: &str) -> usize {
    resolv_conf::servers(text).len()
}
