//! Questions over a channel that loses, doubles, reorders, delays and stops, and between ends that start anew, on a virtual clock.

#[path = "common/channel.rs"]
mod channel;

use std::collections::HashMap;
use std::time::Duration;

use channel::{Channel, Rules, Seeded};
use uhr_edge::link::clock::{At, Now};
use uhr_edge::link::dialect::MavMessage;
use uhr_edge::link::frame::Source;
use uhr_edge::link::ground::{Ground, Told};
use uhr_edge::link::key::Key;
use uhr_edge::link::served::{Asker, Served};
use uhr_edge::link::sign::{NoFloors, Signing};
use uhr_edge::link::station::Station;
use uhr_edge::link::wire::{Accept, Asked, Kind, Query, Session};
use uhr_edge::units::{BytesPerSecond, UnixMillis};

const BOARD: Source = Source { system: 1, component: 191 };
const GROUND: Source = Source { system: 255, component: 190 };
const NOON: i64 = 1_800_000_000_000;

fn now(ms: u64) -> Now {
    Now::new(At(Duration::from_millis(ms)), UnixMillis(NOON + ms as i64))
}

fn station(own: Source, rate: u32) -> Station {
    let signing = Signing::new(Key::from_passphrase("of the test's own").unwrap(), own.system, Box::<NoFloors>::default()).unwrap();
    Station::new(own, BytesPerSecond(rate), Some(signing))
}

/// What survives a board's restart: what was asked under which identity, and the answer.
#[derive(Default)]
struct Journal {
    runs: HashMap<Asker, u32>,
    answers: HashMap<Asker, Vec<u8>>,
}

/// The board's end: tier B over a station, with answers that take a while.
struct Board {
    station: Station,
    served: Served,
    working: Vec<(Asker, u64)>,
}

impl Board {
    fn new(rate: u32) -> Self {
        Self { station: station(BOARD, rate), served: Served::default(), working: Vec::new() }
    }

    fn receive(&mut self, bytes: &[u8], ms: u64, journal: &mut Journal, answer: &dyn Fn(&str) -> Vec<u8>, work_ms: u64) {
        let mut bytes = bytes;
        loop {
            bytes = &bytes[self.station.push(bytes, now(ms).at)..];
            while let Some(heard) = self.station.next(now(ms)) {
                let MavMessage::TUNNEL(tunnel) = heard.message else { continue };
                let Some((head, data)) = self.station.fragment(&tunnel) else { continue };
                let mut asked = None;
                self.served.take(&mut self.station, heard.source, head, data, now(ms).at, &mut |asker, query| {
                    let Query::Ask(question) = query else { panic!("only questions are asked here") };
                    asked = Some((asker, question.text.to_owned()));
                });
                if let Some((asker, text)) = asked {
                    if !journal.answers.contains_key(&asker) {
                        *journal.runs.entry(asker).or_default() += 1;
                        journal.answers.insert(asker, answer(&text));
                    }
                    self.served.accept(&mut self.station, asker, Accept { id: 1, ahead: 0 }, now(ms).at);
                    self.working.push((asker, ms + work_ms));
                }
            }
            if bytes.is_empty() {
                return;
            }
        }
    }

    fn step(&mut self, ms: u64, journal: &Journal, channel: &mut Channel) {
        let served = &mut self.served;
        let station = &mut self.station;
        self.working.retain(|(asker, ready)| {
            if ms < *ready {
                served.progress(station, *asker, "generate", 500, "so far", now(ms).at);
                return true;
            }
            let answer = &journal.answers[asker];
            served.reply(*asker, Kind::Answer, |room| {
                room[..answer.len()].copy_from_slice(answer);
                Some(answer.len())
            });
            false
        });
        served.tick(station, now(ms).at);
        while self.station.is_open(now(ms).at) {
            let message = match self.station.waiting() {
                Some(message) => message,
                None => match self.served.next(now(ms).at) {
                    Some((asker, head, data)) => uhr_edge::link::station::tunnel(asker.source, head, data),
                    None => break,
                },
            };
            channel.send(self.station.packed(&message, now(ms)), ms);
        }
    }
}

struct Run {
    bytes: Vec<u64>,
    answers: Vec<Vec<u8>>,
    runs: HashMap<Asker, u32>,
    ms: u64,
}

fn answer_of(text: &str) -> Vec<u8> {
    // Of 200 to 3,000 bytes, from the question alone.
    let number: usize = text.trim_start_matches("question ").parse().unwrap();
    let len = 200 + (number * 613) % 2_801;
    (0..len).map(|at| b' ' + ((at * 7 + number * 31) % 95) as u8).collect()
}

/// Asks `questions` one after the other; every so many ends start anew while the answer is on its way.
fn run(rules: &Rules, questions: usize, seed: u64, reboots: bool, stalls: bool) -> Run {
    let mut random = Seeded(seed);
    let (mut up, mut down) = (Channel::new(rules, seed ^ 1), Channel::new(rules, seed ^ 2));
    let mut journal = Journal::default();
    let rate = 5_760;
    let mut board = Board::new(rate);
    let session = Session(0xfeed_0001);
    let start = uhr_edge::link::wire::Number(u32::MAX - 20);
    let ground = |first| Ground::new(station(GROUND, rate), Some(BOARD), session, first, Duration::from_secs(600));
    let mut ground_end = ground(start);
    let mut result = Run { bytes: Vec::new(), answers: Vec::new(), runs: HashMap::new(), ms: 1_000 };
    let mut ms = 1_000;
    for question in 0..questions {
        let number = uhr_edge::link::wire::Number(start.0.wrapping_add(question as u32));
        let text = format!("question {question}");
        let frames = heapless::Vec::new();
        let query = Query::Ask(Asked { text: &text, frames, budget: None, deadline_ms: None, max_new: None, seed: None });
        ground_end.ask_as(number, &query, now(ms).at).unwrap();
        let before = up.sent + down.sent;
        let began = ms;
        let reboot_at = (reboots && question % 10 == 3).then(|| ms + random.below(9_000));
        let ground_reboot_at = (reboots && question % 10 == 7).then(|| ms + random.below(9_000));
        if stalls && question % 50 == 25 {
            let from = ms + random.below(4_000);
            up.stall(from, from + 60_000);
            down.stall(from, from + 60_000);
        }
        let mut whole: Option<Vec<u8>> = None;
        while whole.is_none() {
            ms += 10;
            assert!(ms - began < 900_000, "question {question} has no answer after 15 minutes");
            if reboot_at == Some(ms - ms % 10) || reboot_at.is_some_and(|at| at > ms - 10 && at <= ms) {
                board = Board::new(rate);
            }
            if ground_reboot_at.is_some_and(|at| at > ms - 10 && at <= ms) {
                ground_end = ground(number);
                ground_end.ask_as(number, &query, now(ms).at).unwrap();
            }
            while let Some(bytes) = up.arrives(ms) {
                board.receive(&bytes, ms, &mut journal, &answer_of, 1_500);
            }
            let mut told = |told: Told<'_>| match told {
                Told::Reply(of, Kind::Answer, bytes) => {
                    assert!(of == number && whole.replace(bytes.to_vec()).is_none(), "a second answer");
                }
                Told::Reply(..) | Told::Rejected(..) | Told::GivenUp(..) => panic!("question {question}: {told:?}"),
                _ => {}
            };
            while let Some(bytes) = down.arrives(ms) {
                ground_end.receive(&bytes, now(ms), &mut told);
            }
            ground_end.tick(now(ms), &mut told);
            board.step(ms, &journal, &mut down);
            while let Some(bytes) = ground_end.transmit(now(ms)) {
                let bytes = bytes.to_vec();
                up.send(&bytes, ms);
            }
        }
        // The end of it: late packets, the acknowledgement, its repetition.
        for _ in 0..if questions > 50 { 300 } else { 1_000 } {
            ms += 10;
            while let Some(bytes) = up.arrives(ms) {
                board.receive(&bytes, ms, &mut journal, &answer_of, 1_500);
            }
            let mut told = |told: Told<'_>| assert!(!matches!(told, Told::Reply(..)), "a second answer");
            while let Some(bytes) = down.arrives(ms) {
                ground_end.receive(&bytes, now(ms), &mut told);
            }
            ground_end.tick(now(ms), &mut told);
            board.step(ms, &journal, &mut down);
            while let Some(bytes) = ground_end.transmit(now(ms)) {
                let bytes = bytes.to_vec();
                up.send(&bytes, ms);
            }
        }
        result.bytes.push(up.sent + down.sent - before);
        result.answers.push(whole.unwrap());
    }
    result.runs = journal.runs;
    result.ms = ms;
    result
}

#[test]
fn two_hundred_questions_each_answered_once_and_to_the_byte() {
    let rules = Rules { loss: 200, double: 50, reorder: 100, delay_ms: 1_000, jitter_ms: 120, rate: 5_760 };
    let calm = Rules { loss: 0, double: 0, reorder: 0, ..rules };
    let rough = run(&rules, 200, 7, true, true);
    assert_eq!(rough.runs.len(), 200);
    assert!(rough.runs.values().all(|runs| *runs == 1), "something ran twice");
    for (question, answer) in rough.answers.iter().enumerate() {
        assert_eq!(*answer, answer_of(&format!("question {question}")), "question {question}");
    }
    // Bytes of both directions, against the same without loss, of answers of 1 kB and more where no end started anew and nothing stood still.
    let plain = run(&rules, 200, 11, false, false);
    let free = run(&calm, 200, 11, false, false);
    let mut ratios: Vec<f64> =
        (0..200).filter(|at| plain.answers[*at].len() >= 1_000).map(|at| plain.bytes[at] as f64 / free.bytes[at] as f64).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!(
        "200 questions with restarts and stalls: {} s; without: {} s, loss-free {} s; bytes against loss-free, {} answers of 1 kB or more: median {median:.2}, worst {:.2}",
        rough.ms / 1_000,
        plain.ms / 1_000,
        free.ms / 1_000,
        ratios.len(),
        ratios[ratios.len() - 1]
    );
    assert!(median <= 1.6, "{median}");
}

/// A slow radio, an answer that comes word by word, and other traffic of our own beside it: when are its first words over there, and does the line ever carry more
/// than its share?
#[test]
fn first_words_arrive_within_three_seconds_and_the_share_is_kept() {
    let rules = Rules { loss: 0, double: 0, reorder: 0, delay_ms: 300, jitter_ms: 0, rate: 1_000 };
    let (mut up, mut down) = (Channel::new(&rules, 1), Channel::new(&rules, 2));
    let mut board = Board::new(1_000);
    let mut ground = Ground::new(station(GROUND, 1_000), Some(BOARD), Session(1), uhr_edge::link::wire::Number(0), Duration::from_secs(60));
    let mut worst = 0;
    let mut log: Vec<(u64, u64)> = Vec::new();
    let mut ms = 10_000;
    for question in 0..20_u64 {
        let frames = heapless::Vec::new();
        let query = Query::Ask(Asked { text: "why?", frames, budget: None, deadline_ms: None, max_new: None, seed: None });
        let number = ground.ask(&query, now(ms).at).unwrap();
        let mut taken: Option<(Asker, u64)> = None;
        let (mut seen, mut done) = (None, false);
        while !done {
            ms += 5;
            while let Some(bytes) = up.arrives(ms) {
                let mut bytes = &bytes[..];
                while !bytes.is_empty() {
                    bytes = &bytes[board.station.push(bytes, now(ms).at)..];
                    while let Some(heard) = board.station.next(now(ms)) {
                        let MavMessage::TUNNEL(tunnel) = heard.message else { continue };
                        let Some((head, data)) = board.station.fragment(&tunnel) else { continue };
                        let mut asked = None;
                        board.served.take(&mut board.station, heard.source, head, data, now(ms).at, &mut |asker, _| asked = Some(asker));
                        if let Some(asker) = asked {
                            board.served.accept(&mut board.station, asker, Accept { id: question, ahead: 0 }, now(ms).at);
                            // The first word is there two seconds later.
                            taken = Some((asker, ms + 2_000 + question * 37));
                        }
                    }
                }
            }
            if let Some((asker, words_at)) = taken {
                // A word every 100 ms, 60 of them; a beat of another message beside it, as the daemon sends them.
                let words = (ms.saturating_sub(words_at) / 100).min(60) as usize;
                let text = "word ".repeat(words);
                if ms < words_at {
                    board.served.progress(&mut board.station, asker, "prefill", 500, "", now(ms).at);
                } else if words < 60 {
                    board.served.progress(&mut board.station, asker, "generate", 500, &text, now(ms).at);
                } else if board.served.reply(asker, Kind::Answer, |room| {
                    room[..text.len()].copy_from_slice(text.as_bytes());
                    Some(text.len())
                }) {
                    taken = None;
                }
                let waited = seen.map_or(0, |seen: u64| seen.saturating_sub(words_at + 100));
                worst = worst.max(waited);
            }
            if ms % 1_000 == 0 {
                let beat = uhr_edge::link::dialect::HEARTBEAT_DATA::DEFAULT;
                board.station.tell(MavMessage::HEARTBEAT(beat));
            }
            let mut told = |told: Told<'_>| match told {
                Told::Progress(_, progress) if !progress.words.is_empty() => seen = seen.or(Some(ms)),
                Told::Reply(of, ..) => done = of == number,
                _ => {}
            };
            while let Some(bytes) = down.arrives(ms) {
                ground.receive(&bytes, now(ms), &mut told);
            }
            ground.tick(now(ms), &mut told);
            let before = down.sent;
            board.step(ms, &Journal::default(), &mut down);
            if down.sent > before {
                log.push((ms, down.sent - before));
            }
            while let Some(bytes) = ground.transmit(now(ms)) {
                let bytes = bytes.to_vec();
                up.send(&bytes, ms);
            }
        }
        assert!(seen.is_some(), "no words came before the answer");
    }
    let most = |span: u64| {
        let sums =
            log.iter().map(|(from, _)| log.iter().filter(|(at, _)| (*from..from + span).contains(at)).map(|(_, len)| len).sum::<u64>());
        sums.max().unwrap_or(0)
    };
    let (one, ten) = (most(1_000), most(10_000));
    println!("first words after {worst} ms at most, of them 300 on the way; most bytes in 1 s {one}, in 10 s {ten}, at 1,000 bytes/s");
    assert!(worst <= 3_000, "{worst} ms");
    assert!(ten <= 10_000, "{ten} bytes in 10 s");
}
