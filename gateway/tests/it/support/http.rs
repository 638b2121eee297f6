//! A small HTTP/1.1 client over a plain socket: it sends the bytes it is given and reads what comes back, bit by bit.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longest wait for any one read; a server that stays silent longer fails the test.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// Methods that the helpers send; odd ones are written as raw bytes by the tests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Method {
    Get,
    Post,
    Delete,
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// First header of that name, case-insensitive.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// A whole response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; fails the test with the whole response in sight.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| {
            panic!("body is not JSON ({e}): status {} body {}", self.status(), self.text())
        })
    }

    /// `error.code` of an error answer, or the empty string.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or(Value::Null);
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The body as JSON of an answer that must be a 200.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status(), 200, "expected a 200, got {} with {}", self.status(), self.text());
        self.json()
    }
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
    Ended,
}

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    framing: Framing,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        stream.set_write_timeout(Some(READ_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), framing: Framing::Ended })
    }

    pub(crate) fn set_read_limit(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Tells the server that nothing more will come, but goes on reading.
    pub(crate) fn half_close(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Writes one ordinary request.
    pub(crate) fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<()> {
        let verb = match method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        };
        let mut text = format!("{verb} {path} HTTP/1.1\r\nHost: spillway.test\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-type")) {
                text.push_str("Content-Type: application/json\r\n");
            }
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        self.write(&bytes)
    }

    /// Reads more into the buffer; false at the end of the connection.
    fn fill(&mut self) -> io::Result<bool> {
        let mut block = [0_u8; 16 * 1024];
        let count = self.stream.read(&mut block)?;
        self.buffer.extend_from_slice(&block[..count]);
        Ok(count > 0)
    }

    /// Reads a response head; `None` when the server closed without one. Interim 100 answers are passed over.
    pub(crate) fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                    break at;
                }
                if !self.fill()? {
                    return if self.buffer.is_empty() {
                        Ok(None)
                    } else {
                        Err(invalid(format!(
                            "closed inside a head: {:?}",
                            String::from_utf8_lossy(&self.buffer)
                        )))
                    };
                }
            };
            let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end + 4);
            let head = parse_head(&text)?;
            if head.status == 100 {
                continue;
            }
            self.framing = framing_of(&head);
            return Ok(Some(head));
        }
    }

    /// The next piece of the body, or `None` at its proper end. A connection cut inside a body is an error.
    pub(crate) fn body_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.framing {
            Framing::Ended => Ok(None),
            Framing::Length(left) => {
                if self.buffer.is_empty() && !self.fill()? {
                    return Err(cut(left));
                }
                let piece: Vec<u8> = self.buffer.drain(..left.min(self.buffer.len())).collect();
                let rest = left - piece.len();
                self.framing = if rest == 0 { Framing::Ended } else { Framing::Length(rest) };
                Ok(Some(piece))
            }
            Framing::UntilClose => {
                if self.buffer.is_empty() && !self.fill()? {
                    self.framing = Framing::Ended;
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.buffer)))
            }
            Framing::Chunked => self.chunk(),
        }
    }

    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim().to_owned();
        let size =
            usize::from_str_radix(&digits, 16).map_err(|_| invalid(format!("bad chunk size {line:?}")))?;
        while self.buffer.len() < size + 2 {
            if !self.fill()? {
                return Err(cut(size + 2 - self.buffer.len()));
            }
        }
        let piece: Vec<u8> = self.buffer.drain(..size).collect();
        self.buffer.drain(..2);
        if size == 0 {
            self.framing = Framing::Ended;
            return Ok(None);
        }
        Ok(Some(piece))
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(line);
            }
            if !self.fill()? {
                return Err(cut(1));
            }
        }
    }

    /// Reads one whole response; `None` when the server closed without one.
    pub(crate) fn reply(&mut self) -> io::Result<Option<Reply>> {
        let Some(head) = self.head()? else { return Ok(None) };
        let mut body = Vec::new();
        while let Some(piece) = self.body_piece()? {
            body.extend_from_slice(&piece);
        }
        Ok(Some(Reply { head, body }))
    }

    /// True when the server has closed and nothing is left to read, within the read limit.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty()
            && match self.fill() {
                Ok(more) => !more,
                Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            }
    }
}

fn parse_head(text: &str) -> io::Result<Head> {
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| invalid(format!("not a status line: {first:?}")))?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    Ok(Head { status, headers })
}

fn framing_of(head: &Head) -> Framing {
    if matches!(head.status, 204 | 304) {
        return Framing::Ended;
    }
    if head.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked;
    }
    match head.header("content-length").and_then(|v| v.parse().ok()) {
        Some(0) => Framing::Ended,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn cut(missing: usize) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection was cut, {missing} bytes missing"))
}
