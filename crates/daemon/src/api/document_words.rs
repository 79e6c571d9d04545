//! What the document says in words, beyond what the operations and the types say themselves.

use serde_json::{Value, json};

use super::super::operation::STREAM;

pub(super) const ABOUT: &str = "Hull runs each container image in a microVM of its own. Over the unix socket of the daemon \
(`curl --unix-socket /run/hull/hull.sock http://hull/v1/system`) the kernel says who you are, and no token is needed; over \
TCP every request carries one. Failures are `application/problem+json` (RFC 9457): a client acts on the `type`, a person \
reads the `detail`. Unknown fields and parameters are refused. Whole numbers are written without a \
fraction. Fields that are not set are left out of answers. Sizes are in bytes, times are RFC 3339, UTC. Every request \
belongs to a trace, the one of its `traceparent` header (W3C Trace Context) or a new one: its id is in the answer's \
`Hull-Trace-Id`, and in every line of a log that the request caused.";

/// What the tags are about, in the order in which they are shown.
pub(super) const TAGS: [(&str, &str); 12] = [
    ("microvms", "MicroVMs, each with one container: their life, streams, logs, files and measurements."),
    ("exec", "Further processes in running containers."),
    ("images", "Images in the store."),
    ("kernels", "Kernel bundles."),
    ("networks", "Networks, and who is on them."),
    ("volumes", "Named disks that outlive containers."),
    ("events", "What happens, as it happens."),
    ("system", "The daemon itself."),
    ("tenants", "Who shares the host, and how much each may have."),
    ("tokens", "Tokens for access over TCP."),
    ("audit", "Who did what."),
    ("openapi.json", "This document."),
];

/// What a name in a path is, by itself or by tag.
pub(super) const PLACES: [(&str, &str); 11] = [
    ("secret", "The name of one of the secrets that the microVM was made with."),
    ("tap", "The tap of the card, as it was answered when it was lent."),
    ("microvms", "The microVM's id, the beginning of one that no other begins with, or its name."),
    ("exec", "The id of the process, as it was answered when it was made."),
    (
        "images",
        "A name, a digest, or the beginning of one that no other begins with; `/` in it is written `%2F`.",
    ),
    ("kernels", "The bundle's name."),
    ("networks", "The network's name or id."),
    ("volumes", "The volume's name or id."),
    ("tenants", "The tenant's name."),
    ("tokens", "The token's id: 16 hexadecimal digits, not the token itself."),
    ("system", "The kind: the part of a problem's `type` after `/problems/`."),
];

/// Headers of requests: what they are, whether they must be there, their schema.
pub(super) fn request_headers() -> [(&'static str, &'static str, bool, Value); 5] {
    [
        (
            "Hull-Tenant",
            "The tenant that somebody who administers the host acts for; else one's own.",
            false,
            json!({"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"}),
        ),
        (
            "Idempotency-Key",
            "A name of this request, such as a UUID: sent again with the same, it makes nothing new but gets the same answer.",
            false,
            json!({"type": "string", "pattern": "^[!-~]{1,255}$"}),
        ),
        (
            "If-Match",
            "The `ETag` that the change is meant for: it is refused when there is another by now. `*` is any.",
            false,
            json!({"type": "string", "pattern": "^([*]|\"[0-9]{1,19}\")$", "examples": ["*"]}),
        ),
        (
            "Last-Event-ID",
            "Events after this number; it goes before `after`.",
            false,
            json!({"type": "integer", "format": "uint64", "minimum": 0}),
        ),
        (
            "Upgrade",
            "The protocol that the connection is to speak, with `Connection: Upgrade`.",
            true,
            json!({"type": "string", "enum": [STREAM]}),
        ),
    ]
}

/// Headers of answers.
pub(super) fn answer_headers() -> [(&'static str, &'static str, Value); 9] {
    let text = json!({"type": "string"});
    [
        ("Connection", "`Upgrade`.", text.clone()),
        (
            "Hull-Trace-Id",
            "The trace of the request, by which logs have it.",
            json!({"type": "string", "pattern": "^[0-9a-f]{32}$"}),
        ),
        ("ETag", "The revision of what is answered, for `If-Match`.", text.clone()),
        ("Idempotency-Replayed", "`true` when this is the answer to an earlier request.", text.clone()),
        ("Link", "The next page (RFC 8288), where there is one.", text.clone()),
        ("Location", "The path of what was made.", text.clone()),
        ("Retry-After", "Seconds to wait.", json!({"type": "integer", "minimum": 1})),
        ("Upgrade", "The protocol that the connection now speaks.", text.clone()),
        ("WWW-Authenticate", "`Bearer`.", text),
    ]
}
