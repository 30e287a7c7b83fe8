//! The test vectors of RFC 9235, and how sequence numbers are extended.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop at what they do not expect")]

extern crate std;

use std::vec::Vec;

use base::Idx;

use super::super::keys::SHA1;
use super::*;

/// What is the same in segments of one direction of one family: the message in them.
const DATA: [&str; 4] = [
    "ffffffffffffffffffffffffffffffff00430104dabf00b40a0b0c0d260206010400010001020280000202020002024200020641040000dabf02084006006400010100",
    "ffffffffffffffffffffffffffffffff00430104dac000b4ac1b1c1d260206010400010001020280000202020002024200020641040000dac002084006006400010100",
    "ffffffffffffffffffffffffffffffff00430104fde800b401010179260206010400010001020280000202020002024200020641040000fde802084006006400010100",
    "ffffffffffffffffffffffffffffffff00430104fde800b40101017a260206010400010001020280000202020002024200020641040000fde802084006006400010100",
];

/// A section of RFC 9235: its algorithm, whether other options are left out, the initial sequence numbers of client and server, and the segments:
/// traffic key, TCP header with options, and data (none, or which of [`DATA`]).
struct Section {
    number: &'static str,
    kind: u8,
    plain: bool,
    v6: bool,
    isn: (u32, u32),
    segments: [(&'static str, &'static str, Option<usize>); 4],
}

#[rustfmt::skip]
const SECTIONS: [Section; 8] = [
    Section {
        number: "4.1", kind: SHA1, plain: false, v6: false, isn: (0xfbfbab5a, 0x11c14261),
        segments: [
            ("6d63ef1b02fe1509d4b1402707fd7b0416abb74f", "e9d700b3fbfbab5a00000000e002ffffcac40000020405b4010303080402080a00155ab7000000001d103d542ee437c6f8ede6d7c4d602e7", None),
            ("d9e217e4834a80ca2f3fd8de2e41b8e6797fea96", "00b3e9d711c14261fbfbab5be012ffff37760000020405b4010303080402080a84a50beb00155ab71d10543deeab0fe24c3010815116b3be", None),
            ("d2e59c65ffc7b1a39347656463b70edc24a13d71", "e9d700b3fbfbab5b11c14262c0180104a16200000101080a00155ac184a50beb1d103d547064cf998cc6c315c2c2e2bf", Some(0)),
            ("d9e217e4834a80ca2f3fd8de2e41b8e6797fea96", "00b3e9d711c14262fbfbab9ec0180100400c00000101080a84a50bf500155ac11d10543da63f0ecbbb2e635c954deac7", Some(1)),
        ],
    },
    Section {
        number: "4.2", kind: SHA1, plain: true, v6: false, isn: (0xcb0efbee, 0xacd5b5e1),
        segments: [
            ("30eaa1560cf0be57dab5c045229fb10a423cd7ea", "ff1200b3cb0efbee00000000e002ffff541f0000020405b4010303080402080a00024cce000000001d103d5480af3cfeb85368937b8f9ec2", None),
            ("b5b2896bb3664e8176b0edc6e799524101a8307f", "00b3ff12acd5b5e1cb0efbefe012ffff388e0000020405b4010303080402080a576772f300024cce1d10543d09306f9acea63a8c68cb9a70", None),
            ("f3db1793d7910ecd806c34f155ea1f00345953e3", "ff1200b3cb0efbefacd5b5e2c01801046c4500000101080a00024cce576772f31d103d54710608cc696c03a271c93aa5", Some(0)),
            ("b5b2896bb3664e8176b0edc6e799524101a8307f", "00b3ff12acd5b5e2cb0efc32c018010046b600000101080a576772f300024cce1d10543d97766e48ac262de9ae61b4f9", Some(1)),
        ],
    },
    Section {
        number: "5.1", kind: AES_CMAC, plain: false, v6: false, isn: (0x787a1ddf, 0xfadd6de9),
        segments: [
            ("f5b8b3d5f34fdbb6eb8d4ab9660e60e3", "c4fa00b3787a1ddf00000000e002ffff5a0f0000020405b4010303080402080a00017ed0000000001d103d54e477e99c8040765498e55091", None),
            ("4bc7571a486f3264bbd888474066b4b1", "00b3c4fafadd6de9787a1de0e012fffff3f20000020405b4010303080402080a93f4e9e800017ed01d10543dd6ada7bc4cdd536d1769db5f", None),
            ("8c8ae0e8371ec5cbb97ea79d90418391", "c4fa00b3787a1de0fadd6deac0180104950500000101080a00017ed093f4e9e81d103d5477412742fa4dc433eff0973e", Some(0)),
            ("4bc7571a486f3264bbd888474066b4b1", "00b3c4fafadd6dea787a1e23c0180100e7db00000101080a93f4e9e800017ed01d10543df6d965a78382a74845f72dac", Some(1)),
        ],
    },
    Section {
        number: "5.2", kind: AES_CMAC, plain: true, v6: false, isn: (0x389bed71, 0xd3844a6f),
        segments: [
            ("2cdbae1392c49449fa92c4509735d50e", "da1c00b3389bed7100000000e002ffff70bf0000020405b4010303080402080a000185e1000000001d103d54c44e60cb31f7c0b1de3d2749", None),
            ("3ce67a551869506b6347b633c50a624a", "00b3da1cd3844a6f389bed72e012ffffe4450000020405b4010303080402080ace459838000185e11d10543d3a6abb207e49b1be7136db90", None),
            ("035bc400a341ffe595f59f58005006ca", "da1c00b3389bed72d3844a70c0180104885100000101080a000185e1ce4598381d103d547585e9e9d5c3ec857b96f837", Some(0)),
            ("3ce67a551869506b6347b633c50a624a", "00b3da1cd3844a70389bed72c0180100044900000101080ace459838000185e11d10543d5c040fd9233304765c0982f4", Some(1)),
        ],
    },
    Section {
        number: "6.1", kind: SHA1, plain: false, v6: true, isn: (0x176a833f, 0x3f51994b),
        segments: [
            ("625ec09d575836edc9b6428418bbf06989a361bb", "f7e400b3176a833f00000000e002ffff47210000020405a0010303080402080a0041d087000000001d103d549033ec3d7334b64c5edd039f", None),
            ("e4a37ada2a0afca8711434913fe138c771ebcb4a", "00b3f7e43f51994b176a8340e012ffffbfec0000020405a0010303080402080abd33129b0041d0871d10543df1cba346c3526163f71f1f55", None),
            ("1ed82975f4ea444c61580c5bd90dbd61bbc91b7e", "f7e400b3176a83403f51994cc0180100329c00000101080a0041d091bd33129b1d103d54bf0805feb4ac7b163d6fcdf2", Some(2)),
            ("e4a37ada2a0afca8711434913fe138c771ebcb4a", "00b3f7e43f51994c176a8383c0180100ee6e00000101080abd3312a50041d0911d10543d6c48125c11335bab9a07a797", Some(3)),
        ],
    },
    Section {
        number: "6.2", kind: SHA1, plain: true, v6: true, isn: (0x020c1e69, 0xeba3734d),
        segments: [
            ("31a3faf69effae52931b7f845467315c270a4edc", "c6cd00b3020c1e6900000000e002ffffa41a0000020405a0010303080402080a009db95b000000001d103d54885698b0530ed4d5a15f8346", None),
            ("405108947f996575e7bdbc26d40216a2c7fa91bd", "00b3c6cdeba3734d020c1e6ae012ffff774d0000020405a0010303080402080a5ec99b70009db95b1d10543d3c546bad9743f12df8b8010d", None),
            ("b34eed6a9396a669f1c4f4f57618f3656f52c7ab", "c6cd00b3020c1e6aeba3734ec018010083e600000101080a009db9655ec99b701d103d5448bd093b1924e001192f5bf0", Some(2)),
            ("405108947f996575e7bdbc26d40216a2c7fa91bd", "00b3c6cdeba3734e020c1eadc0180100716a00000101080a5ec99b7a009db9651d10543d559a819445b4fde98d9e1317", Some(3)),
        ],
    },
    Section {
        number: "7.1", kind: AES_CMAC, plain: false, v6: true, isn: (0x193cccec, 0xa6744ecb),
        segments: [
            ("fa5a2108882d39d0c71929175ab1b7b8", "f85a00b3193cccec00000000e002ffffde5d0000020405a0010303080402080a13e4ab99000000001d103d5459b588107481ac6dc3927040", None),
            ("cf1b1e225e06a63616764a067b46f4b1", "00b3f85aa6744ecb193cccede012ffffeabb0000020405a0010303080402080a71daabc813e4ab991d10543ddc2843a84e78a6bcfdc5ed80", None),
            ("6174c3557abed27574dba37185f00300", "f85a00b3193ccceda6744eccc0180100328000000101080a13e4aba371daabc81d103d547b6a455c0d4f5f01835baab3", Some(2)),
            ("cf1b1e225e06a63616764a067b46f4b1", "00b3f85aa6744ecc193ccd30c018010052f400000101080a71daabd313e4aba31d10543dc1069b7dfd3d693a6df3f289", Some(3)),
        ],
    },
    Section {
        number: "7.2", kind: AES_CMAC, plain: true, v6: true, isn: (0xb01da74a, 0xa6246145),
        segments: [
            ("a94f511263e4093d35dd818c13bbbf53", "f28800b3b01da74a00000000e002ffff75ff0000020405a0010303080402080a14275b3b000000001d103d543d45b4342de8bb1530847898", None),
            ("92dea5bbc78b1d9f5b2952e9cd30642a", "00b3f288a6246145b01da74be012ffffa70c0000020405a0010303080402080a1782245b14275b3b1d10543d1d01f6c87c6f93acffa9d4b5", None),
            ("4fb2086e402c679079ed65d4bf97693d", "f28800b3b01da74ba6246146c0180100c36d00000101080a14275b4f1782245b1d103d54290cf414ccb47a333276e7f8", Some(2)),
            ("92dea5bbc78b1d9f5b2952e9cd30642a", "00b3f288a6246146b01da78ec0180100345100000101080a1782246514275b4f1d10543d99515ffcd5403499f619fd1b", Some(3)),
        ],
    },
];

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .as_chunks::<2>()
        .0
        .iter()
        .map(|d| u8::from_str_radix(str::from_utf8(d).unwrap(), 16).unwrap())
        .collect()
}

fn row(kind: u8, plain: bool) -> KeyRow {
    let mut room = [0; AES_KEY];
    let master = if kind == AES_CMAC { shortened(b"testvector", &mut room).unwrap() } else { b"testvector" };
    let mut key = [0; ::state::KEY_BYTES];
    key[..master.len()].copy_from_slice(master);
    KeyRow {
        peer: IpAddress::ANY,
        owner: 0,
        next: Idx::NONE,
        prefix: 0,
        kind,
        key_len: master.len() as u8,
        flags: if plain { PLAIN_OPTIONS } else { 0 },
        send_id: 61,
        recv_id: 84,
        mac_len: 12,
        room: 0,
        key,
        good: 0,
        bad: 0,
    }
}

#[test]
fn the_vectors_of_rfc_9235_come_out() {
    for section in &SECTIONS {
        let row = row(section.kind, section.plain);
        let ends = if section.v6 { ["fd00::1", "fd00::2"] } else { ["10.11.12.13", "172.27.28.29"] };
        let [client, server] = ends.map(|end| match end.parse().unwrap() {
            core::net::IpAddr::V4(v4) => IpAddress::from_v4(v4),
            core::net::IpAddr::V6(v6) => IpAddress::from_v6(v6),
        });
        for (traffic, header, data) in section.segments {
            let (header, data) = (bytes(header), data.map_or(Vec::new(), |n| bytes(DATA[n])));
            let tcp = wire::TcpSegment::parse(&header).unwrap();
            let (ports, isn) = ((tcp.src_port(), tcp.dst_port()), section.isn);
            let by_client = ports.1 == Port(179);
            let (src, dst, own, peers) =
                if by_client { (client, server, isn.0, isn.1) } else { (server, client, isn.1, isn.0) };
            let peers = if tcp.flags().is_ack() { peers } else { 0 };
            let context = Context {
                src: (src, ports.0),
                dst: (dst, ports.1),
                src_isn: SeqNum(own),
                dst_isn: SeqNum(peers),
            };
            let (key, len) = traffic_key(&row, &context).unwrap();
            assert_eq!(key[..len], bytes(traffic), "{}", section.number);
            let place = wire::tcp_options::signature_at(tcp.options()).unwrap();
            let total = (header.len() + data.len()) as u32;
            let mut signature = Signature::begin(&row, &context, 0, (&header, total), place.clone()).unwrap();
            // In pieces, as it lies in frames.
            data.chunks(7).for_each(|piece| signature.add(piece));
            assert_eq!(signature.end()[..12], tcp.options()[place], "{}", section.number);
        }
    }
}

#[test]
fn an_extension_counts_how_often_the_numbers_wrapped() {
    let isn = SeqNum(0xffff_fff0);
    assert_eq!([0, 15, 16, 100].map(|n| sne(isn, 0, isn.plus(n))), [0, 0, 1, 1]);
    // Far into the stream, behind and in front of a border.
    let far = (5_u64 << 32) + 0x10;
    assert_eq!(sne(SeqNum(0), far, SeqNum(0x11)), 5);
    assert_eq!(sne(SeqNum(0), far, SeqNum(0xffff_ff00)), 4);
    assert_eq!(sne(SeqNum(0), far, SeqNum(0x7000_0000)), 5);
    // What was before the first number is none of a former turn.
    assert_eq!(sne(SeqNum(3), 0, SeqNum(u32::MAX)), 0);
}
