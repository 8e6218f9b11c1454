// SPDX-License-Identifier: MIT OR Apache-2.0
//! The handshake: fixed newstyle option haggling as a machine that eats bytes and writes bytes.
//!
//! It owns no socket. [`Handshake::push`] hands it what came, [`Handshake::step`] deals with one message of it
//! and says what that meant. What it keeps is bounded: one message of at most [`MAX_OPTION`] bytes, or a count
//! of bytes to skip, plus what the caller pushed in one go.

use std::sync::Arc;

use zerocopy::IntoBytes;
use zerocopy::{FromBytes, byteorder::big_endian::U32};

use super::export::Terms;
use super::options::{InfoQuery, MetaQuery, matches_allocation};
use super::request::Rules;
use super::wire::{
    self, ClientFlags, Greeting, HandshakeFlags, InfoBlockSize, InfoExport, OptionHeader, OptionReply,
    TransmissionFlags, info, opt, rep,
};

/// Option data longer than this is skipped and refused.
pub const MAX_OPTION: usize = 16 << 10;
/// Option data longer than this ends the connection: no honest client sends it.
pub const MAX_SKIP: u32 = 1 << 20;

/// What one step of the handshake led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more can be done with the bytes that came.
    Starved,
    /// One message was answered; there may be another.
    Again,
    /// The handshake is over: send what was written, then speak requests.
    Transmission(Session),
    /// Send what was written, then close.
    Close,
}

/// What was agreed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Index of the export in the list the handshake was made with.
    pub export: usize,
    /// What requests are judged by.
    pub rules: Rules,
}

#[derive(Copy, Clone, Debug)]
enum State {
    ClientFlags,
    Option,
    Skip { option: u32, left: u32 },
    Over,
}

/// The state of one connection's handshake.
#[derive(Debug)]
pub struct Handshake {
    exports: Arc<[Terms]>,
    state: State,
    /// Came, and not yet dealt with.
    input: Vec<u8>,
    zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected.
    context: Option<usize>,
}

impl Handshake {
    /// Begins: appends the greeting to `out`.
    pub fn new(exports: Arc<[Terms]>, out: &mut Vec<u8>) -> Handshake {
        let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
        let greeting =
            Greeting { init: wire::INIT_MAGIC.into(), option: wire::OPTION_MAGIC.into(), flags: flags.bits().into() };
        out.extend_from_slice(greeting.as_bytes());
        Handshake {
            exports,
            state: State::ClientFlags,
            input: Vec::new(),
            zeroes: true,
            structured: false,
            context: None,
        }
    }

    /// Takes bytes that came from the client.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// What came behind the last message dealt with: requests already, after [`Step::Transmission`].
    pub fn into_rest(self) -> Vec<u8> {
        self.input
    }

    /// Deals with at most one message and appends the answer to `out`.
    pub fn step(&mut self, out: &mut Vec<u8>) -> Step {
        match self.state {
            State::ClientFlags => self.client_flags(),
            State::Option => self.option(out),
            State::Skip { option, left } => self.skip(option, left, out),
            State::Over => Step::Close,
        }
    }

    fn take(&mut self, n: usize) {
        self.input.drain(..n);
    }

    fn close(&mut self) -> Step {
        self.state = State::Over;
        Step::Close
    }

    fn client_flags(&mut self) -> Step {
        let Ok((raw, _)) = U32::read_from_prefix(&self.input) else { return Step::Starved };
        let Some(flags) = ClientFlags::from_bits(raw.get()) else { return self.close() };
        self.take(size_of::<U32>());
        self.zeroes = !flags.contains(ClientFlags::NO_ZEROES);
        self.state = State::Option;
        Step::Again
    }

    fn skip(&mut self, option: u32, left: u32, out: &mut Vec<u8>) -> Step {
        let here = self.input.len().min(left as usize);
        self.take(here);
        let left = left - u32::try_from(here).unwrap_or(left);
        if left > 0 {
            self.state = State::Skip { option, left };
            return Step::Starved;
        }
        self.state = State::Option;
        match option {
            // Too long for a name, and this option has no way to say so.
            opt::EXPORT_NAME => return self.close(),
            opt::ABORT => return self.abort(out),
            opt::LIST | opt::STRUCTURED_REPLY => {
                error(out, option, rep::ERR_INVALID, "this option takes no data");
            }
            opt::INFO | opt::GO | opt::LIST_META_CONTEXT => too_big(out, option),
            opt::SET_META_CONTEXT => {
                self.context = None;
                too_big(out, option);
            }
            _ => unsupported(out, option),
        }
        Step::Again
    }

    fn option(&mut self, out: &mut Vec<u8>) -> Step {
        let Ok((header, rest)) = OptionHeader::read_from_prefix(&self.input) else { return Step::Starved };
        if header.magic.get() != wire::OPTION_MAGIC || header.length.get() > MAX_SKIP {
            return self.close();
        }
        let (option, length) = (header.option.get(), header.length.get());
        if length as usize > MAX_OPTION {
            self.take(size_of::<OptionHeader>());
            self.state = State::Skip { option, left: length };
            return Step::Again;
        }
        let Some(data) = rest.get(..length as usize) else { return Step::Starved };
        let data = data.to_vec();
        self.take(size_of::<OptionHeader>() + data.len());
        match option {
            opt::EXPORT_NAME => self.export_name(&data, out),
            opt::ABORT => self.abort(out),
            opt::LIST => self.list(&data, out),
            opt::INFO | opt::GO => self.info(option, &data, out),
            opt::STRUCTURED_REPLY => self.structured_reply(&data, out),
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta_context(option, &data, out),
            _ => {
                unsupported(out, option);
                Step::Again
            }
        }
    }

    fn abort(&mut self, out: &mut Vec<u8>) -> Step {
        reply(out, opt::ABORT, rep::ACK, &[]);
        self.close()
    }

    /// The export of that name. The empty name is the first export's.
    fn find(&self, name: &[u8]) -> Option<usize> {
        let exact = self.exports.iter().position(|e| e.name.as_bytes() == name);
        exact.or_else(|| (name.is_empty() && !self.exports.is_empty()).then_some(0))
    }

    fn flags(&self, terms: &Terms) -> TransmissionFlags {
        let mut flags = terms.flags;
        flags.set(TransmissionFlags::SEND_DF, self.structured);
        flags
    }

    fn begin(&mut self, export: usize) -> Step {
        self.state = State::Over;
        let terms = &self.exports[export];
        Step::Transmission(Session {
            export,
            rules: Rules {
                size: terms.size,
                flags: self.flags(terms),
                minimum: terms.minimum,
                maximum: terms.maximum,
                structured: self.structured,
                block_status: self.context == Some(export),
            },
        })
    }

    fn export_name(&mut self, name: &[u8], out: &mut Vec<u8>) -> Step {
        let Some(export) = self.find(name) else { return self.close() };
        let terms = &self.exports[export];
        out.extend_from_slice(&terms.size.to_be_bytes());
        out.extend_from_slice(&self.flags(terms).bits().to_be_bytes());
        if self.zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        self.begin(export)
    }

    fn list(&self, data: &[u8], out: &mut Vec<u8>) -> Step {
        if !data.is_empty() {
            error(out, opt::LIST, rep::ERR_INVALID, "LIST takes no data");
            return Step::Again;
        }
        for export in self.exports.iter() {
            let length = u32::try_from(export.name.len()).unwrap_or(0);
            let body = [&length.to_be_bytes(), export.name.as_bytes(), export.description.as_bytes()];
            reply(out, opt::LIST, rep::SERVER, &body);
        }
        reply(out, opt::LIST, rep::ACK, &[]);
        Step::Again
    }

    fn structured_reply(&mut self, data: &[u8], out: &mut Vec<u8>) -> Step {
        if data.is_empty() {
            self.structured = true;
            reply(out, opt::STRUCTURED_REPLY, rep::ACK, &[]);
        } else {
            error(out, opt::STRUCTURED_REPLY, rep::ERR_INVALID, "STRUCTURED_REPLY takes no data");
        }
        Step::Again
    }

    fn info(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Step {
        let Some(query) = InfoQuery::parse(data) else {
            error(out, option, rep::ERR_INVALID, "lengths inside the option do not add up");
            return Step::Again;
        };
        let Some(export) = self.find(query.name) else {
            error(out, option, rep::ERR_UNKNOWN, "no export of that name");
            return Step::Again;
        };
        let terms = &self.exports[export];
        let basics =
            InfoExport { kind: info::EXPORT.into(), size: terms.size.into(), flags: self.flags(terms).bits().into() };
        reply(out, option, rep::INFO, &[basics.as_bytes()]);
        if query.wants(info::NAME) {
            reply(out, option, rep::INFO, &[&info::NAME.to_be_bytes(), terms.name.as_bytes()]);
        }
        if query.wants(info::DESCRIPTION) && !terms.description.is_empty() {
            reply(out, option, rep::INFO, &[&info::DESCRIPTION.to_be_bytes(), terms.description.as_bytes()]);
        }
        // Told whether asked for or not: they are enforced.
        let sizes = InfoBlockSize {
            kind: info::BLOCK_SIZE.into(),
            minimum: terms.minimum.into(),
            preferred: terms.preferred.into(),
            maximum: terms.maximum.into(),
        };
        reply(out, option, rep::INFO, &[sizes.as_bytes()]);
        reply(out, option, rep::ACK, &[]);
        if option == opt::GO { self.begin(export) } else { Step::Again }
    }

    fn meta_context(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Step {
        let setting = option == opt::SET_META_CONTEXT;
        if setting {
            // A failed SET leaves nothing selected either.
            self.context = None;
        }
        if setting && !self.structured {
            error(out, option, rep::ERR_INVALID, "structured replies come first");
            return Step::Again;
        }
        let Some(query) = MetaQuery::parse(data) else {
            error(out, option, rep::ERR_INVALID, "lengths inside the option do not add up");
            return Step::Again;
        };
        let Some(export) = self.find(query.name) else {
            error(out, option, rep::ERR_UNKNOWN, "no export of that name");
            return Step::Again;
        };
        let all = !setting && query.queries.is_empty();
        if all || query.queries.iter().any(|q| matches_allocation(q, !setting)) {
            let id = if setting { wire::BASE_ALLOCATION_ID } else { 0 };
            reply(out, option, rep::META_CONTEXT, &[&id.to_be_bytes(), wire::BASE_ALLOCATION.as_bytes()]);
            if setting {
                self.context = Some(export);
            }
        }
        reply(out, option, rep::ACK, &[]);
        Step::Again
    }
}

fn reply(out: &mut Vec<u8>, option: u32, kind: u32, body: &[&[u8]]) {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let header = OptionReply {
        magic: wire::OPTION_REPLY_MAGIC.into(),
        option: option.into(),
        kind: kind.into(),
        length: u32::try_from(length).unwrap_or(u32::MAX).into(),
    };
    out.extend_from_slice(header.as_bytes());
    for part in body {
        out.extend_from_slice(part);
    }
}

fn error(out: &mut Vec<u8>, option: u32, kind: u32, message: &str) {
    reply(out, option, kind, &[message.as_bytes()]);
}

fn too_big(out: &mut Vec<u8>, option: u32) {
    error(out, option, rep::ERR_TOO_BIG, "longer than this server takes");
}

fn unsupported(out: &mut Vec<u8>, option: u32) {
    let message = if option == opt::STARTTLS { "this server does not speak TLS" } else { "unknown option" };
    error(out, option, rep::ERR_UNSUP, message);
}

#[cfg(test)]
mod tests;
