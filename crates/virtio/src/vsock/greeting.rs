//! The line with which a client of the host says which port of the guest it wants: `CONNECT <port>\n`.
//!
//! Part of a connection, on the I/O thread. Invariant: nothing behind the line is taken from the socket, and a line
//! has at most [`LINE_MAX`] bytes.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// The longest line, with its end.
const LINE_MAX: usize = 32;

/// What has come of a line.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    line: Vec<u8>,
}

impl Greeting {
    /// Takes what there is of the line; the port once it is complete.
    ///
    /// # Errors
    /// If the client is gone or says something else.
    pub(super) fn read(&mut self, stream: &UnixStream) -> io::Result<Option<u32>> {
        let mut buf = [0; LINE_MAX];
        loop {
            let room = LINE_MAX.saturating_sub(self.line.len());
            let window = buf.get_mut(..room).unwrap_or_default();
            let peeked = match recv(stream, &mut *window, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok((count, _)) => count,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let seen = window.get(..peeked).unwrap_or_default();
            let end = seen.iter().position(|&byte| byte == b'\n');
            let count = end.map_or(peeked, |at| at.saturating_add(1));
            let taken = window.get_mut(..count).unwrap_or_default();
            let (count, _) = recv(stream, &mut *taken, RecvFlags::DONTWAIT)?;
            self.line.extend_from_slice(taken.get(..count).unwrap_or_default());
            if end.is_some() {
                return parse(&self.line).map(Some).ok_or_else(|| ErrorKind::InvalidData.into());
            }
            if self.line.len() >= LINE_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
        }
    }
}

/// The port of a complete line.
fn parse(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ")?.strip_suffix(b"\n")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_line_names_a_port() {
        assert_eq!(parse(b"CONNECT 1024\n"), Some(1024));
        assert_eq!(parse(b"CONNECT 4294967295\n"), Some(u32::MAX));
        for bad in [
            "CONNECT 4294967296\n",
            "CONNECT +1\n",
            "CONNECT \n",
            "CONNECT 1 \n",
            "connect 1\n",
            "\n",
            "CONNECT 1",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn what_follows_the_line_stays_in_the_socket() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let mut greeting = Greeting::default();
        client.write_all(b"CONN").unwrap();
        assert_eq!(greeting.read(&server).unwrap(), None);
        client.write_all(b"ECT 7\nhello").unwrap();
        assert_eq!(greeting.read(&server).unwrap(), Some(7));
        let mut rest = [0; 5];
        server.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[test]
    fn a_line_has_an_end() {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(&[b'1'; 100]).unwrap();
        assert_eq!(Greeting::default().read(&server).unwrap_err().kind(), ErrorKind::InvalidData);
        let (client, server) = UnixStream::pair().unwrap();
        drop(client);
        assert_eq!(Greeting::default().read(&server).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
