//! The edge: a serial line that may vanish and come back, or UDP. Reads wait 20 ms at most.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serial2::SerialPort;

use crate::config::LinkAddress;

const WAIT: Duration = Duration::from_millis(20);
/// A device that vanished is looked for so often.
const RETRY: Duration = Duration::from_millis(500);

/// Bytes both ways.
pub enum Line {
    Serial {
        device: PathBuf,
        baud: u32,
        port: Option<SerialPort>,
        retry_at: Instant,
    },
    /// `peer`: where to; a listening end answers who spoke last.
    Udp {
        socket: UdpSocket,
        peer: Option<SocketAddr>,
        listens: bool,
    },
}

/// What became of a line since it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineState {
    Open,
    /// The device is not there; it is looked for.
    Away,
}

impl Line {
    /// The board's end: it sends to the address. A serial device may come later.
    ///
    /// # Errors
    /// No UDP socket.
    pub fn to(address: &LinkAddress) -> io::Result<Self> {
        match address {
            LinkAddress::Serial { device, baud } => Ok(Self::serial(device.clone(), *baud)),
            LinkAddress::Udp(peer) => {
                let any: SocketAddr = if peer.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
                let own = if peer.ip().is_loopback() { SocketAddr::new(peer.ip(), 0) } else { any };
                let socket = UdpSocket::bind(own)?;
                socket.set_read_timeout(Some(WAIT))?;
                Ok(Self::Udp { socket, peer: Some(*peer), listens: false })
            }
        }
    }

    /// The ground station's end: it listens on the address.
    ///
    /// # Errors
    /// An address that is taken or not this machine's.
    pub fn at(address: &LinkAddress) -> io::Result<Self> {
        match address {
            LinkAddress::Serial { device, baud } => Ok(Self::serial(device.clone(), *baud)),
            LinkAddress::Udp(own) => {
                let socket = UdpSocket::bind(own)?;
                socket.set_read_timeout(Some(WAIT))?;
                Ok(Self::Udp { socket, peer: None, listens: true })
            }
        }
    }

    fn serial(device: PathBuf, baud: u32) -> Self {
        Self::Serial { device, baud, port: None, retry_at: Instant::now() }
    }

    #[must_use]
    pub fn state(&self) -> LineState {
        match self {
            Self::Serial { port: None, .. } => LineState::Away,
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
            Self::Udp { socket, peer, listens } => match socket.recv_from(buffer) {
                Ok((read, from)) if *listens => {
                    *peer = Some(from);
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
        }
    }
}
