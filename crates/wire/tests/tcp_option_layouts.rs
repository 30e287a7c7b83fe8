//! TCP options: which layouts are read, what malformed ones leave, and how they are written.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails its test by panicking")]

use base::SeqNum;
use wire::tcp_options::{OPTIONS_LEN_MAX, SIGNATURE_AT, only_timestamps, signature_at};
use wire::{FastOpen, SackBlock, SackBlocks, Sign, TcpFlags, TcpHeader, TcpOptions, TcpSegment, Timestamps};

const NONE: TcpOptions = TcpOptions::NONE;
const TIMESTAMPS: Timestamps = Timestamps { value: 0x0102_0304, echo: 0x0506_0708 };

fn blocks(count: u32) -> SackBlocks {
    let mut sack = SackBlocks::NONE;
    for i in 0..count {
        assert!(sack.push(SackBlock { left: SeqNum(1000 * i), right: SeqNum(1000 * i + 500) }));
    }
    sack
}

fn emitted(options: &TcpOptions) -> Vec<u8> {
    let mut out = [0xee; OPTIONS_LEN_MAX];
    let len = options.emit(&mut out).unwrap();
    assert_eq!(len, options.len_bytes());
    assert!(out[len..].iter().all(|&b| b == 0xee), "nothing is written behind the options");
    out[..len].to_vec()
}

#[test]
fn each_layout_is_that_of_linux() {
    let ts = [1, 2, 3, 4, 5, 6, 7, 8];
    let timestamps = TcpOptions { timestamps: Some(TIMESTAMPS), ..NONE };
    assert_eq!(emitted(&NONE), []);
    assert_eq!(emitted(&timestamps), [&[1, 1, 8, 10][..], &ts].concat());
    let syn = TcpOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, ..timestamps };
    assert_eq!(emitted(&syn), [&[2, 4, 5, 0xb4, 4, 2, 8, 10][..], &ts, &[1, 3, 3, 7]].concat());
    assert_eq!(emitted(&TcpOptions { timestamps: None, ..syn }), [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7]);
    let sack = TcpOptions { sack: blocks(1), ..timestamps };
    let block = [1, 1, 5, 10, 0, 0, 0, 0, 0, 0, 1, 0xf4];
    assert_eq!(emitted(&sack), [&[1, 1, 8, 10][..], &ts, &block].concat());
}

#[test]
fn sack_blocks_that_do_not_fit_are_left_out() {
    let full = TcpOptions { sack: blocks(4), ..NONE };
    assert_eq!(TcpOptions::parse(&emitted(&full)).sack.as_slice().len(), 4);
    let with_timestamps = TcpOptions { timestamps: Some(TIMESTAMPS), ..full };
    assert_eq!(emitted(&with_timestamps).len(), OPTIONS_LEN_MAX);
    assert_eq!(TcpOptions::parse(&emitted(&with_timestamps)).sack, blocks(3));
    assert!(!blocks(4).clone().push(SackBlock::default()));
}

#[test]
fn a_short_buffer_is_left_alone() {
    let options = TcpOptions { timestamps: Some(TIMESTAMPS), ..NONE };
    let mut out = [0xee; 31];
    let error = TcpHeader::default().emit(&options, &mut out).unwrap_err();
    assert_eq!(error.needed, 32);
    assert_eq!(out, [0xee; 31]);
}

#[test]
fn unaligned_timestamps_are_read_too() {
    let bytes = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0];
    assert_eq!(only_timestamps(&bytes), None);
    assert_eq!(TcpOptions::parse(&bytes).timestamps, Some(TIMESTAMPS));
}

#[test]
fn an_illegal_length_ends_the_options_but_keeps_what_came_before() {
    let before = TcpOptions { mss: Some(1000), ..NONE };
    for malformed in [
        &[8, 0, 0, 0][..],
        &[8, 1, 0, 0],
        &[8, 10, 1, 2, 3, 4],
        &[3],
        &[99, 255, 3, 3, 7],
        &[5, 0, 3, 3, 7, 0],
    ] {
        let bytes = [&[2, 4, 3, 0xe8][..], malformed].concat();
        assert_eq!(TcpOptions::parse(&bytes), before, "{bytes:?}");
    }
}

#[test]
fn an_option_with_a_length_that_is_not_its_own_is_skipped() {
    let scale = TcpOptions { window_scale: Some(7), ..NONE };
    for odd in [
        &[2, 3, 5][..],
        &[2, 5, 5, 5, 5],
        &[4, 3, 0],
        &[8, 9, 1, 1, 1, 1, 1, 1, 1],
        &[5, 9, 1, 1, 1, 1, 1, 1, 1],
    ] {
        let bytes = [odd, &[3, 3, 7]].concat();
        assert_eq!(TcpOptions::parse(&bytes), scale, "{bytes:?}");
    }
}

#[test]
fn unknown_options_and_what_follows_the_end_are_ignored() {
    let bytes = [34, 4, 1, 2, 253, 3, 9, 1, 3, 3, 7, 0, 2, 4, 5, 0xb4];
    assert_eq!(TcpOptions::parse(&bytes), TcpOptions { window_scale: Some(7), ..NONE });
}

#[test]
fn a_window_scale_above_14_is_read_as_14() {
    assert_eq!(TcpOptions::parse(&[3, 3, 255, 0]).window_scale, Some(14));
    assert_eq!(TcpOptions::parse(&[3, 3, 0, 0]).window_scale, Some(0));
}

#[test]
fn fast_open_asks_with_no_cookie_and_brings_one_of_4_to_16_bytes() {
    let of = |bytes: &[u8]| TcpOptions::parse(bytes).fast_open();
    assert_eq!(of(&[34, 2, 1, 1]), Some(FastOpen::REQUEST));
    assert_eq!(of(&[254, 4, 0xf9, 0x89]).map(|f| (f.on_trial, f.cookie().len())), Some((true, 0)));
    for len in 1..=20_usize {
        let cookie: Vec<u8> = (1..=len as u8).collect();
        let good = (4..=16).contains(&len) && len.is_multiple_of(2);
        for on_trial in [false, true] {
            let head: &[u8] = if on_trial { &[254, 4 + len as u8, 0xf9, 0x89] } else { &[34, 2 + len as u8] };
            let bytes = [head, &cookie].concat();
            assert_eq!(of(&bytes), FastOpen::of(&cookie, on_trial), "{bytes:?}");
            assert_eq!(of(&bytes).is_some(), good, "{bytes:?}");
            let Some(option) = FastOpen::of(&cookie, on_trial) else { continue };
            assert_eq!(option.cookie(), cookie);
            let options = TcpOptions { mss: Some(1460), ..NONE }.with_fast_open(&option);
            let mut out = [0xff; 40];
            let written = options.emit(&mut out).unwrap();
            assert_eq!(written, options.len_bytes());
            let mut expected = [&[2, 4, 0x05, 0xb4], &bytes[..]].concat();
            expected.resize(written, 1);
            assert_eq!(out[..written], expected);
        }
    }
    // Another option on trial.
    assert_eq!(of(&[254, 8, 0xf9, 0x88, 1, 2, 3, 4]), None);
}

#[test]
fn signatures_are_noted() {
    let mut md5 = vec![1, 1, 19, 18];
    md5.extend([7; 16]);
    assert_eq!(TcpOptions::parse(&md5), TcpOptions { sign: Sign::Md5, ..NONE });
    assert_eq!(signature_at(&md5), Some(4..20));
    let ao = [29, 16, 1, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
    let sign = Sign::Ao { key_id: 1, next_key_id: 2, mac_len: 12 };
    assert_eq!(TcpOptions::parse(&ao), TcpOptions { sign, ..NONE });
    assert_eq!(signature_at(&ao), Some(4..16));
    assert_eq!(signature_at(&[1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
}

#[test]
fn a_signature_of_a_wrong_length_or_a_second_one_is_bad() {
    let md5 = [&[19, 18][..], &[7; 16]].concat();
    let ao = [29, 16, 1, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9].to_vec();
    let short = [&[19, 17][..], &[7; 15], &[0]].concat();
    let bare = vec![29, 4, 1, 2];
    for bytes in [
        short,
        bare,
        vec![29, 2],
        [&ao[..], &ao].concat(),
        [&md5[..], &ao].concat(),
        [&ao[..], &md5].concat(),
    ] {
        assert_eq!(TcpOptions::parse(&bytes).sign, Sign::Bad, "{bytes:?}");
    }
}

#[test]
fn room_for_a_signature_comes_first_and_beside_all_options_of_a_syn() {
    let ao = |mac_len| Sign::Ao { key_id: 5, next_key_id: 6, mac_len };
    for (sign, head, len) in [
        (Sign::Md5, [1, 1, 19, 18], 20),
        (ao(12), [29, 16, 5, 6], 16),
        (ao(13), [29, 17, 5, 6], 20),
        (ao(16), [29, 20, 5, 6], 20),
    ] {
        let syn = TcpOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(TIMESTAMPS),
            sign,
            ..NONE
        };
        let mut out = [0xff; 40];
        assert_eq!(syn.emit(&mut out), Ok(20 + len), "{sign:?}");
        assert_eq!(out[..4], head);
        assert_eq!(out[len..len + 4], [2, 4, 0x05, 0xb4]);
        let at = signature_at(&out[..20 + len]).unwrap();
        assert_eq!(at.start, SIGNATURE_AT);
        assert!(out[at].iter().all(|b| *b == 0));
        assert_eq!(TcpOptions::parse(&out[..20 + len]), syn);
    }
}

#[test]
fn reserved_bits_are_ignored_on_receipt_and_sent_as_zero() {
    let mut out = [0; 20];
    let header = TcpHeader { flags: TcpFlags(0xffff), ..TcpHeader::default() };
    assert_eq!(header.emit(&NONE, &mut out), Ok(20));
    assert_eq!(out[12..14], [0x51, 0xff]);
    out[12] = 0x5f;
    let segment = TcpSegment::parse(&out).unwrap();
    assert_eq!(segment.flags(), TcpFlags::ALL);
    assert_eq!(segment.header_len(), 20);
}

#[test]
fn a_split_segment_gets_its_own_sequence_number_and_flags() {
    let mut out = [0; 32];
    let options = TcpOptions { timestamps: Some(TIMESTAMPS), ..NONE };
    let flags = TcpFlags::ACK | TcpFlags::PSH | TcpFlags::FIN;
    let header = TcpHeader { flags, seq: SeqNum(5), ack: SeqNum(6), window: 7, ..TcpHeader::default() };
    header.emit(&options, &mut out).unwrap();
    wire::tcp::patch_seq_and_flags(&mut out, SeqNum(1453), TcpFlags::ACK).unwrap();
    let segment = TcpSegment::parse(&out).unwrap();
    assert_eq!(segment.header(), TcpHeader { seq: SeqNum(1453), flags: TcpFlags::ACK, ..header });
    assert_eq!(TcpOptions::parse(segment.options()), options);
}
