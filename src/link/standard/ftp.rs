//! MAVLink FTP, read-only, over a tree that is made up as it is asked for. Source: <https://mavlink.io/en/services/ftp.html>.
//!
//! ```text
//!  /answers/ID/{answer.json, evidence.jpg, glimpse.jpg}      /general.json  /parameters.json
//! ```
//! One file a ground station is open at a time, two in all. What is not there yet (a picture that is being drawn) isn't answered: every client
//! asks again.

use std::sync::Arc;
use std::time::Duration;

use crate::link::clock::At;
use crate::link::dialect::{FILE_TRANSFER_PROTOCOL_DATA, MavMessage};
use crate::link::frame::Source;
use crate::link::station::Station;

/// Most data of a packet on a radio, whose air packets hold 252 bytes.
pub const RADIO_DATA: usize = 212;
/// Most data that the protocol has.
pub const MAX_DATA: usize = 239;
/// Largest file.
pub const MAX_FILE: usize = 1 << 20;
const SESSIONS: usize = 2;
const IDLE: Duration = Duration::from_secs(60);
/// Packets of one burst; the client asks on. pymavlink gives up when it has asked nothing for 3.7 s, within which a radio of 1 kB/s carries thirteen of the longest.
const BURST: u32 = 8;

const TERMINATE: u8 = 1;
const RESET: u8 = 2;
const LIST: u8 = 3;
const OPEN_RO: u8 = 4;
const READ: u8 = 5;
const CRC: u8 = 14;
const BURST_READ: u8 = 15;
const ACK: u8 = 128;
const NAK: u8 = 129;

#[derive(Clone, Copy)]
enum Fault {
    InvalidDataSize = 3,
    InvalidSession = 4,
    NoSessions = 5,
    EndOfFile = 6,
    UnknownCommand = 7,
    FileProtected = 9,
    FileNotFound = 10,
}

/// What a path leads to.
pub enum Found {
    File(Arc<[u8]>),
    /// It is being made.
    Later,
    Missing,
}

/// Names a directory's entries to whoever walks it.
pub type EachEntry<'a> = dyn FnMut(&str, Option<u32>) + 'a;

/// The files that are served.
pub trait Tree {
    /// The file at `path`.
    fn open(&mut self, path: &str) -> Found;
    /// Entries of the folder at `path`, each by name and, of a file, length; `false`: no such folder.
    fn list(&mut self, path: &str, each: &mut EachEntry<'_>) -> bool;
}

struct Session {
    peer: Source,
    file: Arc<[u8]>,
    path: heapless::String<96>,
    used: At,
    read: Option<Read>,
    burst: Option<Burst>,
}

/// A piece that was asked for and not sent yet.
#[derive(Clone, Copy)]
struct Read {
    sequence: u16,
    from: u32,
    size: usize,
}

#[derive(Clone, Copy)]
struct Burst {
    sequence: u16,
    from: u32,
    size: usize,
    left: u32,
}

/// The server.
pub struct Ftp {
    sessions: [Option<Session>; SESSIONS],
    most: usize,
    turn: usize,
}

/// A request, its lengths checked.
struct Request<'a> {
    sequence: u16,
    session: u8,
    opcode: u8,
    size: usize,
    offset: u32,
    data: &'a [u8],
}

impl<'a> Request<'a> {
    fn read(payload: &'a [u8; 251]) -> Option<Self> {
        let size = usize::from(payload[4]);
        let data = payload[12..].get(..size)?;
        Some(Self {
            sequence: u16::from_le_bytes([payload[0], payload[1]]),
            session: payload[2],
            opcode: payload[3],
            size,
            offset: u32::from_le_bytes([payload[8], payload[9], payload[10], payload[11]]),
            data,
        })
    }

    /// The path in the data: up to a zero, and nothing that leads out of the tree.
    fn path(&self) -> Option<&'a str> {
        let len = self.data.iter().position(|byte| *byte == 0).unwrap_or(self.data.len());
        let path = std::str::from_utf8(&self.data[..len]).ok()?;
        (path.len() <= 96 && path.split('/').all(|part| part != "..")).then_some(path)
    }
}

fn reply(to: Source, request: (u16, u8, u8), opcode: u8, offset: u32, complete: bool, data: &[u8]) -> MavMessage {
    let (sequence, session, asked) = request;
    let mut payload = [0; 251];
    payload[..2].copy_from_slice(&sequence.wrapping_add(1).to_le_bytes());
    payload[2] = session;
    payload[3] = opcode;
    payload[4] = u8::try_from(data.len()).unwrap_or(0);
    payload[5] = asked;
    payload[6] = u8::from(complete);
    payload[8..12].copy_from_slice(&offset.to_le_bytes());
    payload[12..12 + data.len()].copy_from_slice(data);
    MavMessage::FILE_TRANSFER_PROTOCOL(FILE_TRANSFER_PROTOCOL_DATA {
        target_network: 0,
        target_system: to.system,
        target_component: to.component,
        payload,
    })
}

/// CRC-32 as the protocol has it: reflected 0x04c11db7, begun with 0 and not inverted at the end.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    const FTP: crc::Algorithm<u32> = crc::Algorithm { init: 0, xorout: 0, ..crc::CRC_32_ISO_HDLC };
    crc::Crc::<u32>::new(&FTP).checksum(bytes)
}

impl Ftp {
    /// A server that puts at most `data` bytes into a packet.
    #[must_use]
    pub fn new(data: usize) -> Self {
        Self { sessions: [const { None }; SESSIONS], most: data.clamp(64, MAX_DATA), turn: 0 }
    }

    /// A request from `peer`, for us.
    pub fn request(&mut self, station: &mut Station, peer: Source, packet: &FILE_TRANSFER_PROTOCOL_DATA, tree: &mut dyn Tree, at: At) {
        let Some(request) = Request::read(&packet.payload) else {
            let head = (u16::from_le_bytes([packet.payload[0], packet.payload[1]]), packet.payload[2], packet.payload[3]);
            return station.answer(peer, reply(peer, head, NAK, 0, false, &[Fault::InvalidDataSize as u8]));
        };
        let head = (request.sequence, request.session, request.opcode);
        match self.answer(peer, &request, tree, at) {
            Ok(Some(message)) => station.answer(peer, message),
            Ok(None) => {}
            Err(fault) => station.answer(peer, reply(peer, head, NAK, request.offset, false, &[fault as u8])),
        }
    }

    fn answer(&mut self, peer: Source, request: &Request<'_>, tree: &mut dyn Tree, at: At) -> Result<Option<MavMessage>, Fault> {
        let head = (request.sequence, request.session, request.opcode);
        let ack = |data: &[u8]| Ok(Some(reply(peer, head, ACK, request.offset, false, data)));
        match request.opcode {
            TERMINATE => {
                if let Some(session) = self.place(peer, request.session) {
                    self.sessions[session] = None;
                }
                ack(&[])
            }
            RESET => {
                self.sessions
                    .iter_mut()
                    .filter(|session| session.as_ref().is_some_and(|session| session.peer == peer))
                    .for_each(|session| *session = None);
                ack(&[])
            }
            LIST => {
                let path = request.path().ok_or(Fault::FileNotFound)?;
                let (mut listed, mut at, mut full) = (heapless::Vec::<u8, MAX_DATA>::new(), 0, false);
                let most = self.most;
                let found = tree.list(path, &mut |name, bytes| {
                    let wanted = at >= request.offset && !full;
                    at += 1;
                    if !wanted {
                        return;
                    }
                    let mut entry = heapless::String::<128>::new();
                    let written = match bytes {
                        Some(bytes) => std::fmt::Write::write_fmt(&mut entry, format_args!("F{name}\t{bytes}\0")),
                        None => std::fmt::Write::write_fmt(&mut entry, format_args!("D{name}\0")),
                    };
                    full = written.is_err() || listed.len() + entry.len() > most || listed.extend_from_slice(entry.as_bytes()).is_err();
                });
                match (found, listed.is_empty()) {
                    (false, _) => Err(Fault::FileNotFound),
                    (true, true) => Err(Fault::EndOfFile),
                    (true, false) => ack(&listed),
                }
            }
            OPEN_RO => {
                let path = request.path().ok_or(Fault::FileNotFound)?;
                let file = match tree.open(path) {
                    Found::File(file) => file,
                    Found::Later => return Ok(None),
                    Found::Missing => return Err(Fault::FileNotFound),
                };
                let place = self.free(peer, at).ok_or(Fault::NoSessions)?;
                let len = u32::try_from(file.len()).map_err(|_| Fault::InvalidDataSize)?;
                let path = heapless::String::try_from(path).map_err(|_| Fault::FileNotFound)?;
                self.sessions[place] = Some(Session { peer, file, path, used: at, read: None, burst: None });
                let session = place as u8;
                Ok(Some(reply(peer, (request.sequence, session, OPEN_RO), ACK, 0, false, &len.to_le_bytes())))
            }
            READ => {
                let place = self.place(peer, request.session).ok_or(Fault::InvalidSession)?;
                let most = self.most;
                let session = self.sessions[place].as_mut().ok_or(Fault::InvalidSession)?;
                session.used = at;
                let from = request.offset as usize;
                if from >= session.file.len() {
                    return Err(Fault::EndOfFile);
                }
                // A piece of a file waits its turn behind the answers. Who asks again before it came wants the same or another one, not both.
                session.read = Some(Read { sequence: request.sequence, from: request.offset, size: request.size.min(most) });
                Ok(None)
            }
            BURST_READ => {
                let place = self.place(peer, request.session).ok_or(Fault::InvalidSession)?;
                let most = self.most;
                let session = self.sessions[place].as_mut().ok_or(Fault::InvalidSession)?;
                session.used = at;
                if request.offset as usize >= session.file.len() {
                    return Err(Fault::EndOfFile);
                }
                let size = if request.size == 0 { most } else { request.size.min(most) };
                session.burst = Some(Burst { sequence: request.sequence, from: request.offset, size, left: BURST });
                Ok(None)
            }
            CRC => match tree.open(request.path().ok_or(Fault::FileNotFound)?) {
                Found::File(file) => ack(&crc32(&file).to_le_bytes()),
                Found::Later => Ok(None),
                Found::Missing => Err(Fault::FileNotFound),
            },
            // Everything that would write.
            6..=13 => Err(Fault::FileProtected),
            _ => Err(Fault::UnknownCommand),
        }
    }

    fn place(&self, peer: Source, session: u8) -> Option<usize> {
        let place = usize::from(session);
        self.sessions.get(place)?.as_ref().filter(|session| session.peer == peer)?;
        Some(place)
    }

    /// The peer's own session, a free one, or one that nobody used for a minute.
    fn free(&self, peer: Source, at: At) -> Option<usize> {
        let own = |session: &Option<Session>| session.as_ref().is_some_and(|session| session.peer == peer);
        let idle = |session: &Option<Session>| session.as_ref().is_none_or(|session| at.since(session.used) > IDLE);
        self.sessions.iter().position(own).or_else(|| self.sessions.iter().position(idle))
    }

    /// The next packet of a file, after everything else.
    pub fn next(&mut self, at: At) -> Option<MavMessage> {
        for step in 0..SESSIONS {
            let place = (self.turn + step) % SESSIONS;
            let Some(session) = &mut self.sessions[place] else { continue };
            if let Some(read) = session.read.take() {
                self.turn = (place + 1) % SESSIONS;
                session.used = at;
                let from = session.file.len().min(read.from as usize);
                let to = session.file.len().min(from + read.size);
                return Some(reply(session.peer, (read.sequence, place as u8, READ), ACK, read.from, false, &session.file[from..to]));
            }
            let Some(burst) = &mut session.burst else { continue };
            self.turn = (place + 1) % SESSIONS;
            session.used = at;
            let head = (burst.sequence, place as u8, BURST_READ);
            let from = burst.from as usize;
            if from >= session.file.len() {
                // The file ended in the packet before.
                let from = burst.from;
                session.burst = None;
                return Some(reply(session.peer, head, NAK, from, false, &[Fault::EndOfFile as u8]));
            }
            let to = session.file.len().min(from + burst.size);
            burst.left -= 1;
            let complete = burst.left == 0;
            let message = reply(session.peer, head, ACK, burst.from, complete, &session.file[from..to]);
            burst.sequence = burst.sequence.wrapping_add(1);
            burst.from += (to - from) as u32;
            if complete {
                session.burst = None;
            }
            return Some(message);
        }
        None
    }

    #[must_use]
    pub fn has_more(&self) -> bool {
        self.sessions.iter().flatten().any(|session| session.burst.is_some() || session.read.is_some())
    }

    /// Paths that are open.
    pub fn open(&self) -> impl Iterator<Item = &str> {
        self.sessions.iter().flatten().map(|session| session.path.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BytesPerSecond;

    const WHO: Source = Source { system: 255, component: 190 };

    struct One(Arc<[u8]>);
    impl Tree for One {
        fn open(&mut self, path: &str) -> Found {
            if path == "/a" { Found::File(Arc::clone(&self.0)) } else { Found::Missing }
        }
        fn list(&mut self, path: &str, each: &mut EachEntry<'_>) -> bool {
            for at in 0..40 {
                each(&format!("name{at}"), Some(7));
            }
            path == "/"
        }
    }

    fn ask(ftp: &mut Ftp, tree: &mut One, opcode: u8, offset: u32, size: u8, data: &[u8]) -> Option<[u8; 251]> {
        let mut station = Station::new(Source { system: 1, component: 191 }, BytesPerSecond(1_000), None);
        let mut payload = [0; 251];
        (payload[3], payload[4]) = (opcode, size);
        payload[8..12].copy_from_slice(&offset.to_le_bytes());
        payload[12..12 + data.len()].copy_from_slice(data);
        let packet = FILE_TRANSFER_PROTOCOL_DATA { payload, ..FILE_TRANSFER_PROTOCOL_DATA::DEFAULT };
        ftp.request(&mut station, WHO, &packet, tree, At::default());
        match station.waiting() {
            Some(MavMessage::FILE_TRANSFER_PROTOCOL(reply)) => Some(reply.payload),
            _ => None,
        }
    }

    #[test]
    fn a_file_is_read_in_bursts_and_nothing_is_written() {
        let (mut ftp, mut tree) = (Ftp::new(RADIO_DATA), One((0..10_000).map(|at| at as u8).collect()));
        let opened = ask(&mut ftp, &mut tree, OPEN_RO, 0, 2, b"/a").unwrap();
        assert_eq!((opened[3], u32::from_le_bytes([opened[12], opened[13], opened[14], opened[15]])), (ACK, 10_000));
        let mut read: Vec<u8> = Vec::new();
        while read.len() < 10_000 {
            assert!(ask(&mut ftp, &mut tree, BURST_READ, read.len() as u32, 239, &[]).is_none());
            while let Some(MavMessage::FILE_TRANSFER_PROTOCOL(reply)) = ftp.next(At::default()) {
                if reply.payload[3] == ACK {
                    read.extend(&reply.payload[12..12 + usize::from(reply.payload[4])]);
                    assert!(reply.payload[4] <= 212);
                }
            }
        }
        assert_eq!(read, &tree.0[..]);
        // A piece by itself waits behind everything else, once however often it is asked for.
        for _ in 0..5 {
            assert!(ask(&mut ftp, &mut tree, READ, 100, 50, &[]).is_none());
        }
        let Some(MavMessage::FILE_TRANSFER_PROTOCOL(piece)) = ftp.next(At::default()) else { panic!("no piece came") };
        assert_eq!((piece.payload[3], piece.payload[4], &piece.payload[12..62]), (ACK, 50, &tree.0[100..150]));
        assert!(ftp.next(At::default()).is_none());
        for opcode in 6..=13 {
            assert_eq!(ask(&mut ftp, &mut tree, opcode, 0, 2, b"/a").unwrap()[12], Fault::FileProtected as u8);
        }
        assert_eq!(ask(&mut ftp, &mut tree, OPEN_RO, 0, 9, b"/../../a\0").unwrap()[12], Fault::FileNotFound as u8);
        assert_eq!(ask(&mut ftp, &mut tree, READ, u32::MAX, 100, &[]).unwrap()[12], Fault::EndOfFile as u8);
        assert_eq!(ask(&mut ftp, &mut tree, READ, 0, 255, &[]).unwrap()[12], Fault::InvalidDataSize as u8);
        assert_eq!(crc32(b"123456789"), 0x2dfd_2d88);
    }

    #[test]
    fn a_folder_is_listed_from_any_entry_on() {
        let (mut ftp, mut tree) = (Ftp::new(RADIO_DATA), One(Arc::from([])));
        let mut entries = 0;
        loop {
            let listed = ask(&mut ftp, &mut tree, LIST, entries, 1, b"/").unwrap();
            if listed[3] == NAK {
                assert_eq!(listed[12], Fault::EndOfFile as u8);
                break;
            }
            entries += listed[12..12 + usize::from(listed[4])].iter().filter(|byte| **byte == 0).count() as u32;
        }
        assert_eq!(entries, 40);
    }
}
