//! The bytes of every message of our own client's protocol, wire version 1. They never change: what was flown must be understood by what is built later.

use uhr_edge::link::wire::{
    self, Accept, Asked, BoxPx, FRAGMENT, Header, Kind, Nack, Number, Piece, Progress, Query, Reject, Reply, Session, Setting, What,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn record<T: serde::Serialize>(value: &T) -> String {
    let mut room = [0; 512];
    hex(wire::record(value, &mut room).unwrap())
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

#[test]
fn records_of_wire_version_1() {
    let reply = Reply::Answered {
        id: 300,
        text: "four",
        finish: "stop",
        choice: None,
        tokens: 600,
        budget: 600,
        total_ms: 1_853,
        degraded: heapless::Vec::from_iter(["less"]),
        evidence: heapless::Vec::from_iter([BoxPx { frame: 0, x: 1, y: 2, w: 300, h: 4 }]),
    };
    let cases = [
        // variant 0, text of 4, frames 1 of 8 bytes, budget "600", deadline 10000, no max_new, seed 7
        (
            "query ask",
            record(&Query::Ask(asked())),
            "00".to_owned() + "04" + "7768793f" + "01" + "ee557b46b565fd14" + "01" + "03" + "363030" + "01" + "904e" + "00" + "01" + "07",
        ),
        // variant 1, path of 2, from 200, at most 8192
        ("query fetch", record(&Query::Fetch(What { path: "/a", from: 200, most: 8_192 })), "01022f61c8018040".into()),
        ("query frames", record(&Query::Frames { limit: 10 }), "020a".into()),
        ("query answers", record(&Query::Answers { limit: 64 }), "0340".into()),
        // variant 4, there is one, name of 10, f32 600.0 little-endian
        (
            "query settings",
            record(&Query::Settings(Some(Setting { name: "UHR_TOKBUD", value: 600.0 }))),
            "04010a5548525f544f4b42554400001644".into(),
        ),
        ("query settings, all", record(&Query::Settings(None)), "0400".into()),
        ("query status", record(&Query::Status), "05".into()),
        ("accept", record(&Accept { id: 300, ahead: 2 }), "ac0202".into()),
        // code of 4, reason of 4, wanted 5, allowed 4
        ("reject", record(&Reject { code: "busy", reason: "full", wanted: 5, allowed: 4 }), "04627573790466756c6c0504".into()),
        // stage of 7, 500 per mille, from byte 130, words of 3
        (
            "progress",
            record(&Progress { stage: "prefill", per_mille: 500, from: 130, words: "two" }),
            "0770726566696c6cf40382010374776f".into(),
        ),
        // from fragment 3, 2 bytes of bits
        ("nack", record(&Nack { first: 3, missing: &[0x11, 0x40] }), "03021140".into()),
        ("piece", record(&Piece { bytes: 18_623, crc32: 0x1234_5678, from: 8_192 }), "bf9101f8acd191018040".into()),
        // variant 0, id 300, text, finish, no choice, tokens, budget, 1853 ms, 1 line, 1 box of frame 0 at 1, 2 of 300 x 4
        ("answered", record(&reply), "00ac0204666f75720473746f7000d804d804bd0e01046c657373010001".to_owned() + "02" + "ac02" + "04"),
        ("refused", record(&Reply::Refused { id: 1, code: "late", reason: "no" }), "0101046c617465026e6f".into()),
    ];
    for (name, found, wanted) in cases {
        assert_eq!(found, wanted, "{name}");
    }
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
