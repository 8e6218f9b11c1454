// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every option, hostile lengths, and the same bytes in every way they can be torn apart.

use proptest::prelude::*;

use super::*;

fn terms(name: &str) -> Terms {
    Terms {
        name: name.into(),
        description: format!("the {name}"),
        size: 1 << 30,
        flags: TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH,
        minimum: 512,
        preferred: 4096,
        maximum: wire::MAX_PAYLOAD,
    }
}

/// A client's half of a conversation, and what came of it.
struct Talk {
    handshake: Handshake,
    out: Vec<u8>,
}

impl Talk {
    /// Past the greeting and the client's flags.
    fn begun() -> Talk {
        let mut talk = Talk::greeted();
        assert_eq!(talk.say(&3u32.to_be_bytes()), Step::Starved);
        talk
    }

    fn greeted() -> Talk {
        let mut out = Vec::new();
        let handshake = Handshake::new([terms("disk"), terms("other")].into(), &mut out);
        assert_eq!(&out[..], b"NBDMAGICIHAVEOPT\0\x03");
        Talk { handshake, out: Vec::new() }
    }

    /// Says it, and everything that can be done is done.
    fn say(&mut self, bytes: &[u8]) -> Step {
        self.out.clear();
        self.handshake.push(bytes);
        self.steps()
    }

    fn steps(&mut self) -> Step {
        loop {
            match self.handshake.step(&mut self.out) {
                Step::Again => {}
                step => return step,
            }
        }
    }

    fn option(&mut self, option: u32, data: &[u8]) -> Step {
        self.say(&message(option, data))
    }

    /// The replies to an option: kind and data.
    fn replies(&self, option: u32) -> Vec<(u32, Vec<u8>)> {
        let mut rest = &self.out[..];
        let mut replies = Vec::new();
        while !rest.is_empty() {
            let (header, tail) = OptionReply::read_from_prefix(rest).unwrap();
            assert_eq!((header.magic.get(), header.option.get()), (wire::OPTION_REPLY_MAGIC, option));
            let (data, tail) = tail.split_at(header.length.get() as usize);
            replies.push((header.kind.get(), data.to_vec()));
            rest = tail;
        }
        replies
    }

    fn kinds(&self, option: u32) -> Vec<u32> {
        self.replies(option).into_iter().map(|(kind, _)| kind).collect()
    }
}

fn message(option: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    let header = OptionHeader { magic: wire::OPTION_MAGIC.into(), option: option.into(), length: length.into() };
    [header.as_bytes(), data].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
}

fn info(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = string(name.as_bytes());
    data.extend(u16::try_from(wanted.len()).unwrap().to_be_bytes());
    data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    data
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name.as_bytes());
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    data.extend(queries.iter().flat_map(|query| string(query.as_bytes())));
    data
}

fn session(step: Step) -> Session {
    match step {
        Step::Transmission(session) => session,
        step => panic!("not in transmission: {step:?}"),
    }
}

#[test]
fn nbd_handshake_flags_unknown_to_us_end_the_session() {
    assert_eq!(Talk::greeted().say(&4u32.to_be_bytes()), Step::Close);
    for known in 0..4u32 {
        assert_eq!(Talk::greeted().say(&known.to_be_bytes()), Step::Starved);
    }
}

#[test]
fn nbd_opt_export_name_sends_zeroes_unless_the_client_declined() {
    for (flags, length) in [(1u32, 134), (3, 10)] {
        let mut talk = Talk::greeted();
        talk.say(&flags.to_be_bytes());
        let session = session(talk.option(opt::EXPORT_NAME, b"other"));
        assert_eq!(session.export, 1);
        assert_eq!(talk.out.len(), length);
        assert_eq!(talk.out[..8], (1u64 << 30).to_be_bytes());
        assert_eq!(talk.out[8..10], [0, 5]);
        assert!(talk.out[10..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn nbd_opt_export_name_of_nothing_is_the_first_and_unknown_names_end_the_session() {
    assert_eq!(session(Talk::begun().option(opt::EXPORT_NAME, b"")).export, 0);
    let mut talk = Talk::begun();
    assert_eq!(talk.option(opt::EXPORT_NAME, b"nobody"), Step::Close);
    assert!(talk.out.is_empty());
    assert_eq!(Talk::begun().option(opt::EXPORT_NAME, &[b'x'; MAX_OPTION + 1]), Step::Close);
}

#[test]
fn nbd_opt_abort_is_acknowledged_whatever_comes_with_it() {
    for data in [&b""[..], b"data", &[0; MAX_OPTION + 1]] {
        let mut talk = Talk::begun();
        assert_eq!(talk.option(opt::ABORT, data), Step::Close);
        assert_eq!(talk.kinds(opt::ABORT), [rep::ACK]);
        assert_eq!(talk.steps(), Step::Close, "and it stays closed");
    }
}

#[test]
fn nbd_opt_list_names_every_export() {
    let mut talk = Talk::begun();
    assert_eq!(talk.option(opt::LIST, b""), Step::Starved);
    let replies = talk.replies(opt::LIST);
    assert_eq!(replies[0], (rep::SERVER, [&string(b"disk")[..], b"the disk"].concat()));
    assert_eq!(replies[1], (rep::SERVER, [&string(b"other")[..], b"the other"].concat()));
    assert_eq!(replies[2..], [(rep::ACK, vec![])]);
    talk.option(opt::LIST, b"x");
    assert_eq!(talk.kinds(opt::LIST), [rep::ERR_INVALID]);
}

#[test]
fn nbd_opt_starttls_and_unknown_options_are_unsupported_and_the_session_goes_on() {
    let mut talk = Talk::begun();
    for option in [opt::STARTTLS, 4, 11, 0, u32::MAX] {
        for data in [vec![], vec![1; 100], vec![2; MAX_OPTION + 1]] {
            assert_eq!(talk.option(option, &data), Step::Starved);
            assert_eq!(talk.kinds(option), [rep::ERR_UNSUP]);
        }
    }
    session(talk.option(opt::GO, &info("disk", &[])));
}

#[test]
fn nbd_opt_info_gives_what_was_asked_and_go_begins() {
    let mut talk = Talk::begun();
    assert_eq!(talk.option(opt::INFO, &info("", &[])), Step::Starved);
    let basics = [&[0, 0][..], &(1u64 << 30).to_be_bytes(), &[0, 5]].concat();
    let sizes = [&[0, 3][..], &512u32.to_be_bytes(), &4096u32.to_be_bytes(), &wire::MAX_PAYLOAD.to_be_bytes()].concat();
    // Block sizes are enforced, so they are told to those who did not ask too.
    let told = [(rep::INFO, basics.clone()), (rep::INFO, sizes.clone()), (rep::ACK, vec![])];
    assert_eq!(talk.replies(opt::INFO), told);

    let all = info("", &[info::EXPORT, info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 999]);
    let session = session(talk.option(opt::GO, &all));
    assert_eq!(
        talk.replies(opt::GO),
        [
            (rep::INFO, basics),
            (rep::INFO, b"\0\x01disk".to_vec()),
            (rep::INFO, b"\0\x02the disk".to_vec()),
            (rep::INFO, sizes),
            (rep::ACK, vec![]),
        ]
    );
    assert_eq!(session.export, 0);
    assert!(!session.rules.structured && !session.rules.block_status);
    assert!(!session.rules.flags.contains(TransmissionFlags::SEND_DF));
}

#[test]
fn nbd_opt_go_with_bad_lengths_or_names_is_refused_and_the_session_goes_on() {
    let mut talk = Talk::begun();
    let good = info("disk", &[info::NAME]);
    for cut in 0..good.len() {
        assert_eq!(talk.option(opt::GO, &good[..cut]), Step::Starved);
        assert_eq!(talk.kinds(opt::GO), [rep::ERR_INVALID], "cut at {cut}");
    }
    let mut huge_name = good.clone();
    huge_name[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let long_name = info(&"x".repeat(wire::MAX_STRING + 1), &[]);
    for bad in [[&good[..], b"x"].concat(), huge_name, long_name] {
        talk.option(opt::GO, &bad);
        assert_eq!(talk.kinds(opt::GO), [rep::ERR_INVALID]);
    }
    talk.option(opt::GO, &info("nobody", &[]));
    assert_eq!(talk.kinds(opt::GO), [rep::ERR_UNKNOWN]);
    talk.option(opt::GO, &vec![0; MAX_OPTION + 1]);
    assert_eq!(talk.kinds(opt::GO), [rep::ERR_TOO_BIG]);
    assert_eq!(session(talk.option(opt::GO, &good)).export, 0);
}

#[test]
fn nbd_opt_structured_reply_takes_no_data_and_brings_df() {
    let mut talk = Talk::begun();
    talk.option(opt::STRUCTURED_REPLY, b"x");
    assert_eq!(talk.kinds(opt::STRUCTURED_REPLY), [rep::ERR_INVALID]);
    talk.option(opt::STRUCTURED_REPLY, b"");
    assert_eq!(talk.kinds(opt::STRUCTURED_REPLY), [rep::ACK]);
    let session = session(talk.option(opt::GO, &info("disk", &[])));
    assert!(session.rules.structured);
    assert!(session.rules.flags.contains(TransmissionFlags::SEND_DF));
}

#[test]
fn nbd_opt_list_meta_context_knows_the_wildcard() {
    let mut talk = Talk::begun();
    let found = (rep::META_CONTEXT, [&[0; 4][..], b"base:allocation"].concat());
    for queries in [&[][..], &["base:"], &["qemu:dirty", "base:allocation"]] {
        talk.option(opt::LIST_META_CONTEXT, &meta("disk", queries));
        assert_eq!(talk.replies(opt::LIST_META_CONTEXT), [found.clone(), (rep::ACK, vec![])], "{queries:?}");
    }
    for queries in [&["qemu:"][..], &["base:none"], &["x"]] {
        talk.option(opt::LIST_META_CONTEXT, &meta("disk", queries));
        assert_eq!(talk.kinds(opt::LIST_META_CONTEXT), [rep::ACK], "{queries:?}");
    }
    talk.option(opt::LIST_META_CONTEXT, &meta("nobody", &[]));
    assert_eq!(talk.kinds(opt::LIST_META_CONTEXT), [rep::ERR_UNKNOWN]);
}

#[test]
fn nbd_opt_set_meta_context_selects_for_one_export() {
    let mut talk = Talk::begun();
    talk.option(opt::SET_META_CONTEXT, &meta("disk", &["base:allocation"]));
    assert_eq!(talk.kinds(opt::SET_META_CONTEXT), [rep::ERR_INVALID], "structured replies come first");
    talk.option(opt::STRUCTURED_REPLY, b"");
    talk.option(opt::SET_META_CONTEXT, &meta("disk", &["base:allocation", "base:allocation"]));
    let selected = (rep::META_CONTEXT, [&1u32.to_be_bytes()[..], b"base:allocation"].concat());
    assert_eq!(talk.replies(opt::SET_META_CONTEXT), [selected, (rep::ACK, vec![])]);
    // By its other name it is the same export.
    assert!(session(talk.option(opt::GO, &info("", &[]))).rules.block_status);
}

#[test]
fn nbd_opt_set_meta_context_that_selects_nothing_deselects() {
    for (data, reply) in [
        (meta("disk", &[]), rep::ACK),
        (meta("disk", &["base:"]), rep::ACK),
        (meta("nobody", &["base:allocation"]), rep::ERR_UNKNOWN),
        (vec![1], rep::ERR_INVALID),
        (vec![0; MAX_OPTION + 1], rep::ERR_TOO_BIG),
    ] {
        let mut talk = Talk::begun();
        talk.option(opt::STRUCTURED_REPLY, b"");
        talk.option(opt::SET_META_CONTEXT, &meta("disk", &["base:allocation"]));
        talk.option(opt::SET_META_CONTEXT, &data);
        assert_eq!(talk.kinds(opt::SET_META_CONTEXT), [reply]);
        assert!(!session(talk.option(opt::GO, &info("disk", &[]))).rules.block_status);
    }
    let mut talk = Talk::begun();
    talk.option(opt::STRUCTURED_REPLY, b"");
    talk.option(opt::SET_META_CONTEXT, &meta("other", &["base:allocation"]));
    assert!(!session(talk.option(opt::GO, &info("disk", &[]))).rules.block_status, "selected for another export");
}

#[test]
fn nbd_opt_meta_context_lengths_are_not_believed() {
    let mut talk = Talk::begun();
    let good = meta("disk", &["base:allocation", "base:"]);
    for cut in 0..good.len() {
        talk.option(opt::LIST_META_CONTEXT, &good[..cut]);
        assert_eq!(talk.kinds(opt::LIST_META_CONTEXT), [rep::ERR_INVALID], "cut at {cut}");
    }
    let mut many = good.clone();
    many[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    talk.option(opt::LIST_META_CONTEXT, &many);
    assert_eq!(talk.kinds(opt::LIST_META_CONTEXT), [rep::ERR_INVALID]);
}

#[test]
fn nbd_option_magic_and_absurd_lengths_end_the_session() {
    let mut bad_magic = message(opt::LIST, b"");
    bad_magic[0] ^= 1;
    let mut absurd = message(opt::LIST, b"");
    absurd[12..].copy_from_slice(&u32::MAX.to_be_bytes());
    for bytes in [bad_magic, absurd] {
        let mut talk = Talk::begun();
        assert_eq!(talk.say(&bytes), Step::Close);
        assert!(talk.out.is_empty());
    }
}

#[test]
fn nbd_option_data_too_long_to_keep_is_skipped_as_it_comes() {
    let mut talk = Talk::begun();
    let long = message(opt::LIST, &vec![0; 10 * MAX_OPTION]);
    for piece in long.chunks(1000) {
        assert_eq!(talk.say(piece), Step::Starved);
        assert!(talk.handshake.input.len() <= 1000);
    }
    assert_eq!(talk.kinds(opt::LIST), [rep::ERR_INVALID]);
}

#[test]
fn requests_sent_along_with_the_last_option_are_kept() {
    let mut talk = Talk::begun();
    session(talk.say(&[&message(opt::GO, &info("disk", &[]))[..], b"a request"].concat()));
    assert_eq!(talk.handshake.into_rest(), b"a request");
}

/// A long conversation that ends in transmission.
fn conversation() -> Vec<u8> {
    [
        3u32.to_be_bytes().to_vec(),
        message(opt::STARTTLS, b""),
        message(opt::LIST, b""),
        message(opt::STRUCTURED_REPLY, b""),
        message(opt::SET_META_CONTEXT, &meta("disk", &["base:allocation"])),
        message(77, &[7; MAX_OPTION + 3]),
        message(opt::GO, &info("nobody", &[])),
        message(opt::GO, &info("disk", &[info::BLOCK_SIZE])),
    ]
    .concat()
}

#[test]
fn a_conversation_truncated_at_any_byte_waits_for_the_rest() {
    let whole = conversation();
    let mut talk = Talk::greeted();
    for (at, byte) in whole.iter().enumerate() {
        let step = talk.say(&[*byte]);
        if at + 1 < whole.len() {
            assert_eq!(step, Step::Starved, "after byte {at}");
        } else {
            assert!(session(step).rules.block_status);
        }
    }
}

proptest! {
    #[test]
    fn any_fragmentation_gives_the_same_answers(cuts in proptest::collection::vec(1usize..2000, 1..40)) {
        let whole = conversation();
        let mut one = Talk::greeted();
        let end = one.say(&whole);
        let mut many = Talk::greeted();
        let (mut rest, mut said, mut last) = (&whole[..], Vec::new(), Step::Starved);
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let piece = rest.split_off(..cut.min(rest.len())).unwrap();
            if !piece.is_empty() {
                last = many.say(piece);
                said.extend_from_slice(&many.out);
            }
        }
        prop_assert_eq!(last, end);
        prop_assert_eq!(said, one.out);
    }

    #[test]
    fn noise_is_survived_and_nothing_is_kept_without_bound(noise in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let mut talk = Talk::begun();
        talk.say(&[&wire::OPTION_MAGIC.to_be_bytes()[..], &noise].concat());
        talk.say(&[&wire::OPTION_MAGIC.to_be_bytes()[..], &noise].concat());
        prop_assert!(talk.handshake.input.len() <= MAX_OPTION + 16 + 2 * 5008);
    }
}
