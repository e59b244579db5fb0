//! One direction of a bad line, on a virtual clock, from a seed.
#![allow(dead_code)]

use std::collections::BTreeMap;

/// The seeded numbers of the tests: splitmix64.
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }
}

/// Shares in per mille, times in milliseconds, the rate in bytes a second.
#[derive(Clone, Copy)]
pub struct Rules {
    pub loss: u64,
    pub double: u64,
    /// Packets that are held back for up to 400 ms.
    pub reorder: u64,
    pub delay_ms: u64,
    pub jitter_ms: u64,
    pub rate: u64,
}

pub struct Channel {
    rules: Rules,
    random: Seeded,
    under_way: BTreeMap<(u64, u64), Vec<u8>>,
    count: u64,
    free_at_us: u64,
    stalls: Vec<(u64, u64)>,
    noise: Vec<(u64, u64)>,
    /// Bytes that were put in.
    pub sent: u64,
    /// When, and how many.
    pub log: Vec<(u64, u64)>,
    /// Packets that became noise.
    pub garbled: u64,
}

impl Channel {
    pub fn new(rules: &Rules, seed: u64) -> Self {
        Self {
            rules: *rules,
            random: Seeded(seed),
            under_way: BTreeMap::new(),
            count: 0,
            free_at_us: 0,
            stalls: Vec::new(),
            noise: Vec::new(),
            sent: 0,
            log: Vec::new(),
            garbled: 0,
        }
    }

    /// Nothing arrives in that time; what is under way arrives after it or is lost.
    pub fn stall(&mut self, from: u64, to: u64) {
        self.stalls.push((from, to));
    }

    /// In that time every packet arrives as as many bytes of noise: the ends disagree about the baud rate.
    pub fn noise(&mut self, from: u64, to: u64) {
        self.noise.push((from, to));
    }

    /// The most bytes that were put in within `span`.
    pub fn most_in(&self, span: u64) -> u64 {
        let (mut most, mut sum, mut first) = (0, 0, 0);
        for (at, len) in &self.log {
            sum += len;
            while self.log[first].0 + span <= *at {
                sum -= self.log[first].1;
                first += 1;
            }
            most = most.max(sum);
        }
        most
    }

    pub fn send(&mut self, packet: &[u8], ms: u64) {
        self.sent += packet.len() as u64;
        self.log.push((ms, packet.len() as u64));
        self.free_at_us = self.free_at_us.max(ms * 1_000) + packet.len() as u64 * 1_000_000 / self.rules.rate;
        let stalled = self.stalls.iter().any(|(from, to)| (*from..*to).contains(&ms));
        if stalled || self.random.below(1_000) < self.rules.loss {
            return;
        }
        let copies = 1 + u64::from(self.random.below(1_000) < self.rules.double);
        for _ in 0..copies {
            let held = if self.random.below(1_000) < self.rules.reorder { self.random.below(400) } else { 0 };
            let jitter = if self.rules.jitter_ms == 0 { 0 } else { self.random.below(self.rules.jitter_ms) };
            let at = self.free_at_us / 1_000 + self.rules.delay_ms + held + jitter;
            self.count += 1;
            let mut bytes = packet.to_vec();
            if self.noise.iter().any(|(from, to)| (*from..*to).contains(&ms)) {
                self.garbled += 1;
                bytes.iter_mut().for_each(|byte| *byte = self.random.next() as u8);
            }
            self.under_way.insert((at, self.count), bytes);
        }
    }

    pub fn arrives(&mut self, ms: u64) -> Option<Vec<u8>> {
        let first = self.under_way.first_entry()?;
        (first.key().0 <= ms).then(|| first.remove())
    }
}
