//! How often a peer may ask: a bucket of tokens each, refilled with time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Peers that are told apart.
const PEERS: usize = 4_096;

pub struct Rates {
    per_second: f64,
    burst: f64,
    peers: Mutex<HashMap<u64, Bucket>>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Rates {
    #[must_use]
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, peers: Mutex::default() }
    }

    /// Whether `peer` may ask at `now`.
    pub fn admit(&self, peer: IpAddr, now: Instant) -> bool {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS && !peers.contains_key(&key(peer)) {
            let full = |bucket: &Bucket| bucket.left + now.duration_since(bucket.at).as_secs_f64() * self.per_second >= self.burst;
            peers.retain(|_, bucket| !full(bucket));
            if peers.len() >= PEERS {
                return false;
            }
        }
        let bucket = peers.entry(key(peer)).or_insert(Bucket { left: self.burst, at: now });
        bucket.left = (bucket.left + now.duration_since(bucket.at).as_secs_f64() * self.per_second).min(self.burst);
        bucket.at = now;
        let admitted = bucket.left >= 1.0;
        if admitted {
            bucket.left -= 1.0;
        }
        admitted
    }
}

/// An IPv4 address, or the network of an IPv6 one: a household has 2⁶⁴ of them.
fn key(peer: IpAddr) -> u64 {
    match peer.to_canonical() {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => (u128::from(address) >> 64) as u64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_then_as_many_as_time_allows() {
        let rates = Rates::new(10.0, 3.0);
        let (now, peer) = (Instant::now(), IpAddr::from([127, 0, 0, 1]));
        let passed = (0..10).filter(|_| rates.admit(peer, now)).count();
        assert_eq!(passed, 3);
        assert!(rates.admit(IpAddr::from([127, 0, 0, 2]), now));
        let later = now + Duration::from_millis(250);
        assert_eq!((0..10).filter(|_| rates.admit(peer, later)).count(), 2);
    }

    #[test]
    fn peers_without_number_take_no_more_room() {
        let rates = Rates::new(1.0, 1.0);
        let now = Instant::now();
        for number in 0..20_000_u32 {
            rates.admit(IpAddr::from(number.to_be_bytes()), now);
        }
        assert_eq!(rates.peers.lock().unwrap().len(), PEERS);
        // Once their buckets are full again they are forgotten.
        assert!(rates.admit(IpAddr::from([10, 0, 0, 1]), now + Duration::from_secs(2)));
        assert!(rates.peers.lock().unwrap().len() < 10);
    }
}
