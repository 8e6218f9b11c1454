// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a server listens: `unix:PATH` or `tcp:HOST:PORT`, with the same errors as every spec.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::{Cause, SOCKET_PATH_MAX, SpecError};
use super::kind::nearest;

/// An address to accept clients at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP host (a name or an address; IPv6 in brackets) and port.
    Tcp {
        /// The host, brackets removed.
        host: String,
        /// The port; 0 lets the kernel choose one.
        port: u16,
    },
}

impl FromStr for Listen {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Listen, SpecError> {
        let bad = |at: std::ops::Range<usize>, cause| SpecError { text: text.into(), at, cause };
        let Some(colon) = text.find(':') else {
            return Err(bad(0..text.len(), Cause::UnknownTransport { meant: None }));
        };
        let (scheme, place) = (&text[..colon], &text[colon + 1..]);
        let whole = colon + 1..text.len();
        match scheme {
            "unix" if place.is_empty() => Err(bad(whole, Cause::NoPath { form: "unix:PATH" })),
            "unix" if place.contains('\0') => Err(bad(whole, Cause::NulInPath)),
            "unix" if place.len() > SOCKET_PATH_MAX => Err(bad(whole, Cause::SocketPathTooLong { len: place.len() })),
            "unix" => Ok(Listen::Unix(place.into())),
            "tcp" => {
                let parsed = place.rsplit_once(':').and_then(|(host, port)| {
                    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
                    let host = bare.unwrap_or(host);
                    // Outside brackets a colon means an IPv6 address cut at the wrong place.
                    let ambiguous = bare.is_none() && host.contains(':');
                    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
                    let plain = !host.is_empty() && !host.contains(['[', ']', '\0']);
                    (plain && digits && !ambiguous)
                        .then(|| port.parse().ok())
                        .flatten()
                        .map(|port| Listen::Tcp { host: host.into(), port })
                });
                parsed.ok_or_else(|| bad(whole, Cause::NoPort))
            }
            _ => {
                let meant = nearest(scheme, ["unix", "tcp"]);
                Err(bad(0..colon, Cause::UnknownTransport { meant }))
            }
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Listen::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_transports() {
        for text in
            ["unix:./p.sock", "unix:/run/a,b:c.sock", "tcp:127.0.0.1:10809", "tcp:localhost:0", "tcp:[::1]:10809"]
        {
            let listen: Listen = text.parse().expect(text);
            assert_eq!(listen.to_string(), text);
        }
        let unbracketed: Listen = "tcp:[localhost]:1".parse().expect("brackets are harmless");
        assert_eq!(unbracketed.to_string(), "tcp:localhost:1");
    }

    #[test]
    fn what_is_no_address() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, cause) in [
            ("", Cause::UnknownTransport { meant: None }),
            ("/run/p.sock", Cause::UnknownTransport { meant: None }),
            ("vsock:2:1", Cause::UnknownTransport { meant: None }),
            ("unx:/p", Cause::UnknownTransport { meant: Some("unix") }),
            ("unix:", Cause::NoPath { form: "unix:PATH" }),
            (&long, Cause::SocketPathTooLong { len: 108 }),
            ("tcp:", Cause::NoPort),
            ("tcp:10809", Cause::NoPort),
            ("tcp::10809", Cause::NoPort),
            ("tcp:localhost:", Cause::NoPort),
            ("tcp:localhost:nbd", Cause::NoPort),
            ("tcp:localhost:65536", Cause::NoPort),
            ("tcp:::1:10809", Cause::NoPort),
        ] {
            let error = text.parse::<Listen>().expect_err(text);
            assert_eq!(*error.cause(), cause, "{text}");
        }
    }
}
