//! The bytes of every message that we send, whole and in parts, wire version 1. They never change: what was flown must be understood by what is built later. Whole packets
//! are in tests/vectors/link_packets.txt, which pymavlink and a script made (link_packets.py, beside it).

use mavlink_core::MAVLinkV2MessageRaw;
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::{
    AUTOPILOT_VERSION_DATA, COMMAND_ACK_DATA, COMPONENT_INFORMATION_DATA, COMPONENT_METADATA_DATA, FILE_TRANSFER_PROTOCOL_DATA,
    HEARTBEAT_DATA, MavMessage, ONBOARD_COMPUTER_STATUS_DATA, PARAM_EXT_ACK_DATA, PARAM_EXT_VALUE_DATA, PARAM_VALUE_DATA,
    PROTOCOL_VERSION_DATA, STATUSTEXT_DATA,
};
use uhr_edge::link::frame::{self, Framer, Raw, Source};
use uhr_edge::link::key::Key;
use uhr_edge::link::sign::{NoFloors, Signing};
use uhr_edge::link::station::{fragment_of, tunnel};
use uhr_edge::link::wire::{
    self, Accept, Asked, BoxPx, DATA, FRAGMENT, Header, Kind, Nack, Number, Piece, Progress, Query, Reject, Reply, Session, Setting, What,
};
use uhr_edge::units::UnixMillis;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// The value has these bytes, and these bytes are the value.
macro_rules! holds {
    ($what:literal, $type:ty, $value:expr, $golden:expr) => {{
        let (value, golden): ($type, String) = ($value, $golden.to_string());
        let mut room = [0; 512];
        assert_eq!(hex(wire::record(&value, &mut room).unwrap()), golden, $what);
        let golden = bytes(&golden);
        assert_eq!(wire::read::<$type>($what, &golden), Ok(value), $what);
        // Nothing less and nothing more is one.
        for short in 0..golden.len() {
            assert!(wire::read::<$type>($what, &golden[..short]).is_err(), "{}: {short} bytes", $what);
        }
        assert!(wire::read::<$type>($what, &[&golden[..], &[0]].concat()).is_err(), $what);
    }};
}

fn asked<'a>() -> Asked<'a> {
    Asked {
        text: "why?",
        frames: heapless::Vec::from_iter([[0xee, 0x55, 0x7b, 0x46, 0xb5, 0x65, 0xfd, 0x14]]),
        budget: Some("600"),
        deadline_ms: Some(10_000),
        max_new: None,
        seed: Some(7),
    }
}

fn answered<'a>() -> Reply<'a> {
    Reply::Answered {
        id: 300,
        text: "four",
        finish: "stop",
        choice: None,
        tokens: 600,
        budget: 600,
        total_ms: 1_853,
        degraded: heapless::Vec::from_iter(["less"]),
        evidence: heapless::Vec::from_iter([BoxPx { frame: 0, x: 1, y: 2, w: 300, h: 4 }]),
    }
}

#[test]
fn records_of_wire_version_1() {
    // variant 0, text of 4, frames 1 of 8 bytes, budget "600", deadline 10000, no max_new, seed 7
    let ask = "00".to_owned() + "04" + "7768793f" + "01" + "ee557b46b565fd14" + "01" + "03" + "363030" + "01" + "904e" + "00" + "01" + "07";
    holds!("query ask", Query<'_>, Query::Ask(asked()), ask);
    // variant 1, path of 2, from 200, at most 8192
    holds!("query fetch", Query<'_>, Query::Fetch(What { path: "/a", from: 200, most: 8_192 }), "01022f61c8018040");
    holds!("query frames", Query<'_>, Query::Frames { limit: 10 }, "020a");
    holds!("query answers", Query<'_>, Query::Answers { limit: 64 }, "0340");
    // variant 4, there is one, name of 10, f32 600.0 little-endian
    let setting = Setting { name: "UHR_TOKBUD", value: 600.0 };
    holds!("query settings", Query<'_>, Query::Settings(Some(setting)), "04010a5548525f544f4b42554400001644");
    holds!("query settings, all", Query<'_>, Query::Settings(None), "0400");
    holds!("query status", Query<'_>, Query::Status, "05");
    holds!("accept", Accept, Accept { id: 300, ahead: 2 }, "ac0202");
    // code of 4, reason of 4, wanted 5, allowed 4
    holds!("reject", Reject<'_>, Reject { code: "busy", reason: "full", wanted: 5, allowed: 4 }, "04627573790466756c6c0504");
    // stage of 7, 500 per mille, from byte 130, words of 3
    let progress = Progress { stage: "prefill", per_mille: 500, from: 130, words: "two" };
    holds!("progress", Progress<'_>, progress, "0770726566696c6cf40382010374776f");
    // from fragment 3, 2 bytes of bits
    holds!("nack", Nack<'_>, Nack { first: 3, missing: &[0x11, 0x40] }, "03021140");
    holds!("piece", Piece, Piece { bytes: 18_623, crc32: 0x1234_5678, from: 8_192 }, "bf9101f8acd191018040");
    // variant 0, id 300, text, finish, no choice, tokens, budget, 1853 ms, 1 line, 1 box of frame 0 at 1, 2 of 300 x 4
    let four = "00ac0204666f75720473746f7000d804d804bd0e01046c657373010001".to_owned() + "02" + "ac02" + "04";
    holds!("answered", Reply<'_>, answered(), four);
    holds!("refused", Reply<'_>, Reply::Refused { id: 1, code: "late", reason: "no" }, "0101046c617465026e6f");
}

#[test]
fn fragments_of_wire_version_1() {
    let kinds = [
        (Kind::Query, "010004030201ffffffff02000300"),
        (Kind::Accept, "010104030201ffffffff02000300"),
        (Kind::Reject, "010204030201ffffffff02000300"),
        (Kind::Progress, "010304030201ffffffff02000300"),
        (Kind::Answer, "010404030201ffffffff02000300"),
        (Kind::Blob, "010504030201ffffffff02000300"),
        (Kind::Nack, "010604030201ffffffff02000300"),
        (Kind::DoneAck, "010704030201ffffffff02000300"),
        (Kind::Cancel, "010804030201ffffffff02000300"),
        (Kind::Status, "010904030201ffffffff02000300"),
    ];
    for (kind, wanted) in kinds {
        let mut out = [0; FRAGMENT];
        let head = Header { kind, session: Session(0x0102_0304), number: Number(u32::MAX), index: 2, count: 3 };
        let len = head.write(b"hello", &mut out);
        // version, kind, session, question, index, count | CRC-16 | data
        assert_eq!((hex(&out[..14]).as_str(), &out[16..len]), (wanted, &b"hello"[..]), "{kind:?}");
        let read = Header::read(&out[..len]).unwrap();
        assert_eq!(read, (head, &b"hello"[..]));
    }
    let mut out = [0; FRAGMENT];
    let head = Header { kind: Kind::Answer, session: Session(0x0102_0304), number: Number(u32::MAX), index: 2, count: 3 };
    head.write(b"hello", &mut out);
    assert_eq!(hex(&out[14..16]), "2021");
    let mut whole = *b"an answer....";
    wire::seal(&mut whole, 9).unwrap();
    // CRC-32 of "an answer", little-endian.
    assert_eq!(hex(&whole[9..]), "dae1d2cc");
}

const BOARD: Source = Source { system: 1, component: 191 };
const GROUND: Source = Source { system: 255, component: 190 };

/// Fragments of a transfer of `body`.
fn transfer(name: &str, kind: Kind, body: &[u8]) -> Vec<(String, Source, MavMessage)> {
    let is_sealed = kind.is_transfer();
    let mut room = vec![0; body.len() + if is_sealed { wire::TRAILER } else { 0 }];
    room[..body.len()].copy_from_slice(body);
    if is_sealed {
        wire::seal(&mut room, body.len()).unwrap();
    }
    let mut pieces: Vec<&[u8]> = room.chunks(DATA).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    let by_ground = matches!(kind, Kind::Query | Kind::Nack | Kind::DoneAck | Kind::Cancel);
    let (source, target) = if by_ground { (GROUND, BOARD) } else { (BOARD, GROUND) };
    let count = u16::try_from(pieces.len()).unwrap();
    let each = |(index, data): (u16, &&[u8])| {
        let header = Header { kind, session: Session(0x0102_0304), number: Number(u32::MAX), index, count };
        let name = if count > 1 { format!("TUNNEL {name} {index}") } else { format!("TUNNEL {name}") };
        (name, source, tunnel(target, header, data))
    };
    (0..).zip(&pieces).map(each).collect()
}

fn written<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut room = [0; 512];
    wire::record(value, &mut room).unwrap().to_vec()
}

fn tunnels() -> Vec<(String, Source, MavMessage)> {
    let path = "/answers/1/evidence.jpg";
    let of_two = Reply::Answered {
        id: 1,
        text: &"x".repeat(120),
        finish: "length",
        choice: Some("B"),
        tokens: 0,
        budget: 0,
        total_ms: 0,
        degraded: heapless::Vec::new(),
        evidence: heapless::Vec::new(),
    };
    let piece = Piece { bytes: 5, crc32: wire::crc32(b"123456789"), from: 0 };
    [
        transfer("QUERY ask", Kind::Query, &written(&Query::Ask(asked()))),
        transfer("QUERY fetch", Kind::Query, &written(&Query::Fetch(What { path, from: 8_192, most: 8_192 }))),
        transfer("QUERY frames", Kind::Query, &written(&Query::Frames { limit: 10 })),
        transfer("QUERY answers", Kind::Query, &written(&Query::Answers { limit: 64 })),
        transfer("QUERY settings", Kind::Query, &written(&Query::Settings(Some(Setting { name: "UHR_TOKBUD", value: 600.0 })))),
        transfer("QUERY status", Kind::Query, &written(&Query::Status)),
        transfer("ACCEPT", Kind::Accept, &written(&Accept { id: 300, ahead: 2 })),
        transfer("REJECT", Kind::Reject, &written(&Reject { code: "busy", reason: "full", wanted: 5, allowed: 4 })),
        transfer("PROGRESS", Kind::Progress, &written(&Progress { stage: "prefill", per_mille: 500, from: 130, words: "two" })),
        transfer("ANSWER", Kind::Answer, &written(&answered())),
        transfer("ANSWER refused", Kind::Answer, &written(&Reply::Refused { id: 1, code: "late", reason: "no" })),
        transfer("ANSWER of two", Kind::Answer, &written(&of_two)),
        transfer("BLOB", Kind::Blob, &[&written(&piece)[..], b"12345"].concat()),
        transfer("NACK", Kind::Nack, &written(&Nack { first: 3, missing: &[0x11, 0x40] })),
        transfer("DONE-ACK", Kind::DoneAck, &[]),
        transfer("CANCEL", Kind::Cancel, &[]),
        transfer("STATUS", Kind::Status, b"{}\n"),
    ]
    .concat()
}

fn standard() -> Vec<(String, Source, MavMessage)> {
    let beat = |mavtype| {
        MavMessage::HEARTBEAT(HEARTBEAT_DATA { mavtype, autopilot: 8, system_status: 4, mavlink_version: 3, ..HEARTBEAT_DATA::DEFAULT })
    };
    let status = ONBOARD_COMPUTER_STATUS_DATA {
        time_usec: 1_800_000_000_000_000,
        uptime: 61_000,
        ram_usage: 230,
        temperature_board: 58,
        ..ONBOARD_COMPUTER_STATUS_DATA::DEFAULT
    };
    let (target_system, target_component) = (255, 190);
    let ack = COMMAND_ACK_DATA { command: 31_010, result: 5, progress: 42, result_param2: 0, target_system, target_component };
    let text = |text: &str, id, chunk_seq| MavMessage::STATUSTEXT(STATUSTEXT_DATA { severity: 6, text: text.into(), id, chunk_seq });
    let value = PARAM_VALUE_DATA { param_id: "UHR_TOKBUD".into(), param_value: 600.0, param_type: 9, param_count: 5, param_index: 0 };
    let ask = "UHR_ASK";
    let ext =
        PARAM_EXT_VALUE_DATA { param_id: ask.into(), param_type: 11, param_count: 6, param_index: 5, ..PARAM_EXT_VALUE_DATA::DEFAULT };
    let ext_ack = PARAM_EXT_ACK_DATA { param_id: ask.into(), param_value: "why?".into(), param_type: 11, param_result: 0 };
    let mut payload = [0; 251];
    // Sequence 8, session 1, ACK of 5 bytes to READ, from byte 212.
    payload[..17].copy_from_slice(b"\x08\0\x01\x80\x05\x05\0\0\xd4\0\0\0bytes");
    let file = FILE_TRANSFER_PROTOCOL_DATA { target_network: 0, target_system, target_component, payload };
    let version = AUTOPILOT_VERSION_DATA {
        capabilities: 1 << 1 | 1 << 5 | 1 << 13,
        flight_sw_version: 0x0001_00ff,
        ..AUTOPILOT_VERSION_DATA::DEFAULT
    };
    let protocol = PROTOCOL_VERSION_DATA { version: 200, min_version: 200, max_version: 200, ..PROTOCOL_VERSION_DATA::DEFAULT };
    let uri = || "mftp:///general.json".into();
    let (time_boot_ms, crc) = (61_000, 0x1234_5678);
    let information = COMPONENT_INFORMATION_DATA {
        time_boot_ms,
        general_metadata_file_crc: crc,
        general_metadata_uri: uri(),
        ..COMPONENT_INFORMATION_DATA::DEFAULT
    };
    [
        ("HEARTBEAT board", BOARD, beat(18)),
        ("HEARTBEAT ground", GROUND, beat(6)),
        ("ONBOARD_COMPUTER_STATUS", BOARD, MavMessage::ONBOARD_COMPUTER_STATUS(status)),
        ("COMMAND_ACK", BOARD, MavMessage::COMMAND_ACK(ack)),
        ("STATUSTEXT", BOARD, text("uhr 12: two ships", 0, 0)),
        ("STATUSTEXT chunk", BOARD, text(&"x".repeat(50), 7, 2)),
        ("PARAM_VALUE", BOARD, MavMessage::PARAM_VALUE(value)),
        ("PARAM_EXT_VALUE", BOARD, MavMessage::PARAM_EXT_VALUE(ext)),
        ("PARAM_EXT_ACK", BOARD, MavMessage::PARAM_EXT_ACK(ext_ack)),
        ("FILE_TRANSFER_PROTOCOL", BOARD, MavMessage::FILE_TRANSFER_PROTOCOL(file)),
        ("AUTOPILOT_VERSION", BOARD, MavMessage::AUTOPILOT_VERSION(version)),
        ("PROTOCOL_VERSION", BOARD, MavMessage::PROTOCOL_VERSION(protocol)),
        ("COMPONENT_INFORMATION", BOARD, MavMessage::COMPONENT_INFORMATION(information)),
        ("COMPONENT_METADATA", BOARD, MavMessage::COMPONENT_METADATA(COMPONENT_METADATA_DATA { time_boot_ms, file_crc: crc, uri: uri() })),
    ]
    .map(|(name, source, message)| (name.to_owned(), source, message))
    .to_vec()
}

#[test]
fn whole_packets_unsigned_and_signed() {
    let golden: Vec<(&str, String)> = include_str!("vectors/link_packets.txt")
        .lines()
        .map(|line| line.split_once(": ").map(|(name, groups)| (name, groups.replace(' ', ""))).unwrap())
        .collect();
    let key = || Key::from_bytes(std::array::from_fn(|at| u8::try_from(at).unwrap())).unwrap();
    let noon = Now::new(At::default(), UnixMillis(1_800_000_000_000));
    let cases = [standard(), tunnels()].concat();
    let names: Vec<String> = cases.iter().flat_map(|(name, ..)| [name.clone(), format!("{name} signed")]).collect();
    assert_eq!(golden.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
    for ((name, source, message), golden) in cases.iter().zip(golden.chunks(2)) {
        let mut raw = MAVLinkV2MessageRaw::new();
        frame::write(&mut raw, *source, 7, message);
        assert_eq!(hex(raw.raw_bytes()), golden[0].1, "{name}");
        let mut signing = Signing::new(key(), 3, Box::<NoFloors>::default()).unwrap();
        frame::write_for_signing(&mut raw, *source, 7, message);
        signing.sign(&mut raw, noon);
        assert_eq!(hex(raw.raw_bytes()), golden[1].1, "{name} signed");
        // And back, from the golden bytes alone.
        for (at, (name, golden)) in golden.iter().enumerate() {
            let golden = bytes(golden);
            let mut framer = Framer::default();
            assert_eq!(framer.push(&golden, noon.at), golden.len());
            let found = framer.next(noon.at).unwrap();
            assert_eq!((found.source(), found.message().as_ref()), (*source, Some(message)), "{name}");
            let Raw::V2(found) = found else { panic!("{name}") };
            let mut verifier = Signing::new(key(), 0, Box::<NoFloors>::default()).unwrap();
            assert_eq!(verifier.verify(&found, *source, noon).is_ok(), at == 1, "{name}");
            if let MavMessage::TUNNEL(packet) = message {
                assert!(fragment_of(packet).is_some_and(|fragment| fragment.is_ok()), "{name}");
            }
        }
    }
}
