//! What a profile says of the link: `[link]` and its lines.
//!
//! ```toml
//! [link]
//! presets = ["Is the road clear?", "How many vehicles are there?"]
//!
//! [[link.lines]]
//! to = "serial:/dev/ttyTHS1:57600"
//! key-file = "/etc/uhr-edge/link.key"
//! bytes-per-s = 1200
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

use crate::units::BytesPerSecond;

/// Where a line goes: a device and its bits a second, or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkAddress {
    Serial {
        device: PathBuf,
        baud: u32,
    },
    Udp(SocketAddr),
    /// `HOST:PORT` whose address is asked for when the line is opened: the daemon starts before there is anybody to ask.
    UdpName(String),
}

impl FromStr for LinkAddress {
    type Err = String;

    /// `serial:DEVICE:BAUD` or `udp:HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("wanted serial:DEVICE:BAUD (9600 to 4000000) or udp:HOST:PORT, found {text:?}");
        if let Some((device, baud)) = text.strip_prefix("serial:").and_then(|rest| rest.rsplit_once(':')) {
            let baud = baud.parse().ok().filter(|baud| (9_600..=4_000_000).contains(baud)).ok_or_else(wrong)?;
            return if device.is_empty() { Err(wrong()) } else { Ok(Self::Serial { device: device.into(), baud }) };
        }
        let rest = text.strip_prefix("udp:").ok_or_else(wrong)?;
        if let Ok(address) = rest.parse() {
            return Ok(Self::Udp(address));
        }
        let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        let label = |label: &str| {
            let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            (1..=63).contains(&label.len()) && plain
        };
        // What ends in a number would be an address, and wasn't one.
        let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        if host.len() > 253 || !host.trim_end_matches('.').split('.').all(label) || last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        // By its standard (RFC 6761) this one is known to everybody.
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(Self::Udp((Ipv4Addr::LOCALHOST, port).into()));
        }
        Ok(Self::UdpName(rest.to_owned()))
    }
}

impl std::fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial { device, baud } => write!(f, "serial:{}:{baud}", device.display()),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::UdpName(name) => write!(f, "udp:{name}"),
        }
    }
}

impl LinkAddress {
    /// What a line of this kind is taken to carry where nothing is said: a fifth of a serial line's bits (a radio at 57,600 carries 1 to 2 kB/s both
    /// ways together), 100 kB/s by UDP.
    #[must_use]
    pub fn usual_rate(&self) -> BytesPerSecond {
        match self {
            Self::Serial { baud, .. } => BytesPerSecond(baud / 50),
            Self::Udp(_) | Self::UdpName(_) => BytesPerSecond(100_000),
        }
    }

    /// Only this machine can send to it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        matches!(self, Self::Udp(address) if address.ip().is_loopback())
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkLine {
    pub to: LinkAddress,
    pub key: Option<PathBuf>,
    pub rate: BytesPerSecond,
    /// Answers without a key, whoever is on the line.
    pub insecure: bool,
    /// Nobody but who holds the cable can send: SETUP_SIGNING is obeyed.
    pub wired: bool,
    /// MAVLink system, until the autopilot is heard.
    pub system: u8,
}

impl LinkLine {
    /// A line of which only the address is known.
    #[must_use]
    pub fn new(to: LinkAddress) -> Self {
        Self { rate: to.usual_rate(), to, key: None, insecure: false, wired: false, system: 1 }
    }
}

/// All lines, and the stored questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub lines: Vec<LinkLine>,
    /// Asked by number, from 1.
    pub presets: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct LinkFile {
    #[serde(default)]
    lines: Vec<LineFile>,
    #[serde(default)]
    presets: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LineFile {
    to: String,
    key_file: Option<PathBuf>,
    bytes_per_s: Option<u32>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    wired: bool,
    system: Option<u8>,
}

impl LinkFile {
    pub(super) fn check(self) -> Result<Link, (&'static str, String, &'static str)> {
        let mut link = Link { lines: Vec::new(), presets: self.presets };
        if self.lines.len() > 8 {
            return Err(("link.lines", self.lines.len().to_string(), "at most 8"));
        }
        if link.presets.len() > 32 {
            return Err(("link.presets", link.presets.len().to_string(), "at most 32"));
        }
        if let Some(preset) = link.presets.iter().find(|preset| preset.trim().is_empty() || preset.len() > 1_024) {
            return Err(("link.presets", format!("{} bytes", preset.len()), "questions of 1 to 1024 bytes"));
        }
        for line in self.lines {
            let to: LinkAddress = line.to.parse().map_err(|_| ("link.lines.to", line.to, "serial:DEVICE:BAUD or udp:HOST:PORT"))?;
            let rate = line.bytes_per_s.map_or(to.usual_rate(), BytesPerSecond);
            if !(200..=10_000_000).contains(&rate.0) {
                return Err(("link.lines.bytes-per-s", rate.0.to_string(), "200 to 10000000"));
            }
            let system = line.system.unwrap_or(1);
            if system == 0 {
                return Err(("link.lines.system", "0".into(), "1 to 255"));
            }
            link.lines.push(LinkLine { to, key: line.key_file, rate, insecure: line.insecure, wired: line.wired, system });
        }
        Ok(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_they_say() {
        // A name is read without asking anybody for its address.
        for text in [
            "serial:/dev/ttyUSB0:57600",
            "udp:127.0.0.1:14550",
            "serial:/dev/serial/by-id/usb:1:921600",
            "udp:ground.no-such.invalid:14550",
        ] {
            assert_eq!(text.parse::<LinkAddress>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "serial:",
            "serial::57600",
            "serial:/dev/ttyUSB0:1",
            "tcp:1.2.3.4:5",
            "udp:nowhere",
            "udp:127.0.0.1",
            "udp:1.2.3.400:5",
            "udp::5",
            "udp:a b:5",
            "udp:a..b:5",
            "udp:host:99999",
        ] {
            assert!(wrong.parse::<LinkAddress>().is_err(), "{wrong}");
        }
        assert!("udp:localhost:14550".parse::<LinkAddress>().unwrap().is_loopback());
        assert!(!"udp:localhost.example:14550".parse::<LinkAddress>().unwrap().is_loopback());
        assert_eq!("serial:/dev/ttyUSB0:57600".parse::<LinkAddress>().unwrap().usual_rate(), BytesPerSecond(1_152));
    }
}
