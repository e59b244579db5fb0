//! The edge: a serial line that may vanish and come back, or UDP. Reads wait 20 ms at most.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use serial2::SerialPort;

use crate::config::LinkAddress;

const WAIT: Duration = Duration::from_millis(20);
/// A device that vanished is looked for so often.
const RETRY: Duration = Duration::from_millis(500);
/// A name that nobody knew is asked for again so much later.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Bytes both ways.
pub enum Line {
    Serial {
        device: PathBuf,
        baud: u32,
        port: Option<SerialPort>,
        retry_at: Instant,
    },
    /// `peer`: where to; a listening end answers who was believed last, `from` is who spoke last.
    Udp {
        socket: UdpSocket,
        peer: Option<SocketAddr>,
        from: Option<SocketAddr>,
        listens: bool,
    },
    /// An address by name, that is asked for on a thread of its own until somebody knows it.
    Named {
        name: String,
        found: Option<Receiver<Option<SocketAddr>>>,
        retry_at: Instant,
    },
}

/// What became of a line since it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineState {
    Open,
    /// The device is not there, or the name is not known yet; it is looked for.
    Away,
}

impl Line {
    /// The board's end: it sends to the address. A serial device may come later, and so may a name's address.
    ///
    /// # Errors
    /// No UDP socket.
    pub fn to(address: &LinkAddress) -> io::Result<Self> {
        match address {
            LinkAddress::Serial { device, baud } => Ok(Self::serial(device.clone(), *baud)),
            LinkAddress::Udp(peer) => Self::sending(*peer),
            LinkAddress::UdpName(name) => Ok(Self::Named { name: name.clone(), found: None, retry_at: Instant::now() }),
        }
    }

    fn sending(peer: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = if peer.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let own = if peer.ip().is_loopback() { SocketAddr::new(peer.ip(), 0) } else { any };
        let socket = UdpSocket::bind(own)?;
        socket.set_read_timeout(Some(WAIT))?;
        Ok(Self::Udp { socket, peer: Some(peer), from: None, listens: false })
    }

    /// The ground station's end: it listens on the address.
    ///
    /// # Errors
    /// An address that is taken or not this machine's.
    pub fn at(address: &LinkAddress) -> io::Result<Self> {
        match address {
            LinkAddress::Serial { device, baud } => Ok(Self::serial(device.clone(), *baud)),
            LinkAddress::Udp(own) => Self::listening(UdpSocket::bind(own)?),
            LinkAddress::UdpName(name) => Self::listening(UdpSocket::bind(name)?),
        }
    }

    fn listening(socket: UdpSocket) -> io::Result<Self> {
        socket.set_read_timeout(Some(WAIT))?;
        Ok(Self::Udp { socket, peer: None, from: None, listens: true })
    }

    fn serial(device: PathBuf, baud: u32) -> Self {
        Self::Serial { device, baud, port: None, retry_at: Instant::now() }
    }

    #[must_use]
    pub fn state(&self) -> LineState {
        match self {
            Self::Serial { port: None, .. } | Self::Named { .. } => LineState::Away,
            _ => LineState::Open,
        }
    }

    /// Bytes that came; none after 20 ms without. A device that vanished is opened again when it is there.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        match self {
            Self::Serial { device, baud, port, retry_at } => {
                if port.is_none() && Instant::now() >= *retry_at {
                    *retry_at = Instant::now() + RETRY;
                    *port = SerialPort::open(&*device, *baud).ok();
                    if let Some(open) = port
                        && open.set_read_timeout(WAIT).and_then(|()| open.set_write_timeout(Duration::from_secs(1))).is_err()
                    {
                        *port = None;
                    }
                }
                let Some(open) = port else {
                    std::thread::sleep(WAIT);
                    return 0;
                };
                match open.read(buffer) {
                    Ok(0) => {
                        // A hung-up line reads as its end.
                        *port = None;
                        0
                    }
                    Ok(read) => read,
                    Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
                    Err(_) => {
                        *port = None;
                        0
                    }
                }
            }
            Self::Named { .. } => {
                std::thread::sleep(WAIT);
                self.look_up();
                0
            }
            Self::Udp { socket, peer, from: last, listens } => match socket.recv_from(buffer) {
                Ok((read, from)) if *listens => {
                    *last = Some(from);
                    read
                }
                Ok((read, from)) if peer.is_some_and(|peer| peer == from || peer.ip().is_multicast()) => read,
                Ok(_) => 0,
                Err(error) => {
                    // Nobody listens over there yet.
                    if error.kind() == ErrorKind::ConnectionRefused {
                        std::thread::sleep(WAIT);
                    }
                    0
                }
            },
        }
    }

    /// Who spoke last is believed: a listening end answers there from now on. What nobody with the key said must not lead it away.
    pub fn answer_there(&mut self) {
        if let Self::Udp { peer, from: Some(from), listens: true, .. } = self {
            *peer = Some(*from);
        }
    }

    /// A name whose address is known by now becomes a line there. Whoever knows names may take many seconds, and isn't waited for.
    fn look_up(&mut self) {
        let Self::Named { name, found, retry_at } = self else { return };
        match found.as_ref().map(Receiver::try_recv) {
            Some(Ok(Some(address))) => {
                if let Ok(line) = Self::sending(address) {
                    *self = line;
                    return;
                }
                *found = None;
            }
            Some(Ok(None) | Err(TryRecvError::Disconnected)) => *found = None,
            Some(Err(TryRecvError::Empty)) => return,
            None => {}
        }
        if found.is_none() && Instant::now() >= *retry_at {
            *retry_at = Instant::now() + ASK_AGAIN;
            let (tell, told) = sync_channel(1);
            let name = name.clone();
            let asks = move || {
                let _ = tell.send(name.to_socket_addrs().ok().and_then(|mut all| all.next()));
            };
            if std::thread::Builder::new().name("name".into()).spawn(asks).is_ok() {
                *found = Some(told);
            }
        }
    }

    /// Sends a packet; what the line can't take is lost, as on the air.
    pub fn write(&mut self, packet: &[u8]) {
        match self {
            Self::Serial { port, .. } => {
                if let Some(open) = port
                    && let Err(error) = open.write_all(packet)
                    && !matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::Interrupted)
                {
                    *port = None;
                }
            }
            Self::Udp { socket, peer, .. } => {
                if let Some(peer) = peer {
                    let _ = socket.send_to(packet, *peer);
                }
            }
            Self::Named { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_end_answers_only_who_was_believed() {
        let mut line = Line::at(&"udp:127.0.0.1:0".parse().unwrap()).unwrap();
        let Line::Udp { socket, .. } = &line else { panic!("no UDP") };
        let own = socket.local_addr().unwrap();
        let [board, stranger] = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut buffer = [0; 64];
        let mut heard = |line: &mut Line| std::iter::repeat_with(|| line.read(&mut buffer)).take(100).find(|read| *read > 0);
        let arrives = |socket: &UdpSocket| {
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket.recv(&mut [0; 64]).is_ok()
        };
        stranger.send_to(b"?", own).unwrap();
        assert_eq!(heard(&mut line), Some(1));
        line.write(b"nobody yet");
        assert!(!arrives(&stranger));
        board.send_to(b"signed", own).unwrap();
        assert_eq!(heard(&mut line), Some(6));
        line.answer_there();
        stranger.send_to(b"??", own).unwrap();
        assert_eq!(heard(&mut line), Some(2));
        line.write(b"an answer");
        assert!(arrives(&board) && !arrives(&stranger));
    }

    #[test]
    fn a_name_that_nobody_knows_is_away_and_one_that_is_known_opens() {
        let mut line = Line::to(&LinkAddress::UdpName("no.such.host.invalid:14550".into())).unwrap();
        let mut buffer = [0; 64];
        let begun = Instant::now();
        for _ in 0..5 {
            assert_eq!(line.read(&mut buffer), 0);
        }
        assert!(line.state() == LineState::Away && begun.elapsed() < Duration::from_secs(2));
        line.write(b"into nothing");
        let mut line = Line::to(&LinkAddress::UdpName("localhost:14550".into())).unwrap();
        for _ in 0..200 {
            line.read(&mut buffer);
            if line.state() == LineState::Open {
                return;
            }
        }
        panic!("localhost is known by no name");
    }
}
