//! A report that has every block, one that tries to break out of the page, and what holds for both.

use std::time::Duration;

use super::*;
use crate::report::plots::{
    CurvePoint, Marks, Prediction, Sample, StageBar, curve, distribution, memory, power, predicted, stages, temperature,
};
use crate::units::{Bytes, Celsius, Millis, Milliwatts, Tokens};

const NASTY: &str = "<script>alert('1')</script> & \"quoted\" ]]> \u{0}\u{1b} é 北";

fn parsed(html: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(html, options).unwrap()
}

/// A number from 0 to 1 that looks like chance and is the same each time.
fn noise(seed: u32) -> f64 {
    let mixed = seed.wrapping_mul(0x9E37_79B1) ^ (seed.wrapping_mul(0x85EB_CA6B) >> 13);
    f64::from(mixed.wrapping_mul(0xC2B2_AE35) >> 8) / f64::from(1u32 << 24)
}

fn figure(title: &str, drawing: Drawing, caption: &str) -> Block {
    Block::Figure { title: title.to_owned(), drawing, caption: caption.to_owned() }
}

/// A qualification that looks like one: a full report, with every block and every plot.
fn sample() -> Page {
    let ms = |value: f64| Some(Millis(value));
    let times: Vec<Millis> =
        (0..500).map(|i| Millis(382.0 + 9.0 * (0..6).map(|j| noise(i * 6 + j)).sum::<f64>() + 18.0 * noise(i + 9000).powi(14))).collect();
    let marks = Marks { p50: ms(409.6), p95: ms(421.4), p99: ms(428.9), bound: ms(431.7), limit: ms(450.0) };
    let shares = [31.0, 22.4, 196.0, 41.2, 26.6, 0.9, 3.1, 61.3, 29.8];
    let names = ["decode", "views", "encode", "regions", "anchor", "select", "merge", "prefill", "generate"];
    let step = |label, factor: f64| StageBar {
        label,
        stages: names.iter().zip(shares).map(|(&name, time)| (name, Millis(if time < 60.0 { time } else { time * factor }))).collect(),
    };
    let bars =
        [step("full, 4,096 tokens", 1.25), step("half, 2,048 tokens", 1.0), step("quarter, 1,024 tokens", 0.7), step("anchor only", 0.3)];
    let mib = |mib: u64| Bytes(mib << 20);
    let lines = [
        ("process, encoder, projector, tokenizer (measured at load)", mib(1460)),
        ("decoder weights", mib(4310)),
        ("decoder activations and logits", mib(212)),
        ("KV cache", mib(574)),
        ("frame slots", mib(538)),
        ("token arena", mib(28)),
        ("views", mib(91)),
        ("pyramid strips and filters", mib(17)),
        ("picture decoder", mib(44)),
        ("tiles in and out", mib(62)),
        ("regions", mib(36)),
        ("selection", mib(12)),
        ("projection chunk", mib(9)),
    ];
    let points: Vec<CurvePoint> = [256u32, 512, 1024, 2048, 4096]
        .map(|tokens| {
            let p50 = 180.0 + f64::from(tokens) * 0.058;
            CurvePoint { tokens: Tokens(tokens), p50: Millis(p50), p99: Millis(p50 * 1.07 + 6.0) }
        })
        .to_vec();
    let at = |i: u32| Duration::from_secs(u64::from(i) * 2);
    let absent = |i: u32| (210..228).contains(&i) || i == 400;
    let heat: Vec<_> = (0..600)
        .map(|i| {
            let value = 78.0 - 34.0 * (-f64::from(i) / 120.0).exp() + noise(i);
            Sample { at: at(i), value: (!absent(i)).then_some(Celsius(value as f32)) }
        })
        .collect();
    let watts: Vec<_> = (0..600)
        .map(|i| Sample { at: at(i), value: Some(Milliwatts(if i % 40 < 31 { 21_000 } else { 9_000 } + (noise(i) * 2500.0) as u32)) })
        .collect();
    let pairs: Vec<Prediction> = (0..300)
        .map(|i| {
            let predicted = 180.0 + 260.0 * noise(i + 77);
            Prediction { predicted: Millis(predicted), measured: Millis(predicted * (0.9 + 0.12 * noise(i + 5000))) }
        })
        .collect();
    let cells = |cells: [&str; 5]| cells.map(str::to_owned).to_vec();
    let fact = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Page {
        title: "Latency qualification".to_owned(),
        subject: "orin-nx-16 · MAXN_SUPER · uhr-nano · 14 March 2026, 09:12 UTC".to_owned(),
        verdict: Verdict {
            outcome: Outcome::Ok,
            line: "p99 of a first question is at most 431.7 ms (95 % confidence, n = 500); the profile's limit is 450 ms.".to_owned(),
        },
        blocks: vec![
            Block::Facts(vec![
                fact("Device", "Jetson Orin NX 16 GB"),
                fact("Power mode", "MAXN_SUPER"),
                fact("Model", "uhr-nano 0.3, int4"),
                fact("Engines", "tensorrt 10.3, decoder int4"),
                fact("Frame", "24.0 MP, JPEG"),
                fact("Warm-up", "20 questions, discarded"),
            ]),
            Block::Heading("Time to an answer".to_owned()),
            figure(
                "First question on a frame",
                distribution(&times, &marks),
                "500 questions after a warm-up of 20, from the question's arrival to the answer's last token.",
            ),
            Block::Table {
                head: vec![
                    Column::text("Path"),
                    Column::numbers("n"),
                    Column::numbers("p50, ms"),
                    Column::numbers("p99, ms"),
                    Column::numbers("bound, ms"),
                ],
                rows: vec![
                    Row { cells: cells(["first question", "500", "409.6", "428.9", "431.7"]), state: Some(Outcome::Ok) },
                    Row { cells: cells(["second question", "500", "117.2", "1,131.4", "1,140.0"]), state: Some(Outcome::Failed) },
                    Row { cells: cells(["two frames", "40", "688.3", "702.9", "not shown"]), state: Some(Outcome::NotShown) },
                ],
            },
            figure("Where the time goes", stages(&bars, ms(450.0)), "Medians of each stage at every step of the ladder."),
            Block::Heading("Budgets and predictions".to_owned()),
            figure("What a budget costs", curve(&points, ms(450.0)), "The line is the median, the band reaches to p99."),
            figure("Predicted and measured", predicted(&pairs), "Each point is one answer; predicted is the p99 of the cost model."),
            Block::Heading("Memory".to_owned()),
            figure("Planned and used", memory(&lines, Some(mib(7012)), Some(mib(10_240))), "All of it is allocated at start."),
            Block::Heading("Conditions".to_owned()),
            figure(
                "Temperature",
                temperature(&heat, Some(Celsius(85.0))),
                "The hottest of the board's zones. A gap is a reading that the board did not give.",
            ),
            figure("Power", power(&watts, Some(Milliwatts(25_000))), ""),
            Block::Text("Clocks were not locked. The ladder stayed at its first step throughout, and no question was late.".to_owned()),
        ],
    }
}

fn nasty() -> Page {
    let bars = [StageBar { label: NASTY, stages: vec![(NASTY, Millis(3.0))] }];
    Page {
        title: NASTY.to_owned(),
        subject: NASTY.to_owned(),
        verdict: Verdict { outcome: Outcome::Failed, line: NASTY.to_owned() },
        blocks: vec![
            Block::Heading(NASTY.to_owned()),
            Block::Text(NASTY.to_owned()),
            Block::Facts(vec![(NASTY.to_owned(), NASTY.to_owned())]),
            Block::Table {
                head: vec![Column::text(NASTY), Column::numbers(NASTY)],
                rows: vec![Row { cells: vec![NASTY.to_owned(); 3], state: None }, Row { cells: vec![], state: Some(Outcome::NotShown) }],
            },
            figure(NASTY, stages(&bars, None), NASTY),
            figure(NASTY, memory(&[(NASTY, Bytes(1 << 30))], None, None), NASTY),
        ],
    }
}

#[test]
fn a_page_is_well_formed_and_needs_nothing_from_outside() {
    let empty = Page { blocks: vec![], ..sample() };
    for page in [sample(), nasty(), empty] {
        let html = render(&page);
        let document = parsed(&html);
        for node in document.descendants().filter(|node| node.is_element()) {
            assert!(!["script", "link", "img", "iframe", "object", "image", "use"].contains(&node.tag_name().name()), "{node:?}");
            for attribute in node.attributes() {
                assert!(!["src", "href", "style"].contains(&attribute.name()) && !attribute.name().starts_with("on"), "{attribute:?}");
            }
        }
        let elsewhere = html.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "");
        assert!(!["http", "url(", "@import", "//"].iter().any(|word| elsewhere.contains(word)));
    }
}

#[test]
fn text_is_escaped_wherever_it_stands() {
    let html = render(&nasty());
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;alert"));
    let document = parsed(&html);
    let shown = NASTY.replace(['\u{0}', '\u{1b}'], "\u{FFFD}");
    for name in ["h1", "h2", "h3", "p", "dt", "dd", "th", "td", "figcaption"] {
        let texts = document.descendants().filter(|node| node.has_tag_name(name)).filter_map(|node| node.text());
        assert!(texts.into_iter().any(|text| text == shown), "{name}");
    }
}

#[test]
fn the_verdict_is_a_word_and_a_colour_before_all_else() {
    for (outcome, word, class) in
        [(Outcome::Ok, "OK", "ok"), (Outcome::Failed, "Failed", "failed"), (Outcome::NotShown, "Not shown", "not-shown")]
    {
        let mut page = sample();
        page.verdict.outcome = outcome;
        let html = render(&page);
        let banner = format!("<div class=\"verdict {class}\"><strong>{word}</strong>");
        let at = html.find(&banner).unwrap_or_else(|| panic!("{banner}"));
        assert!(at < html.find("<dl").unwrap());
        assert!(STYLE.contains(&format!(".verdict.{class}")));
    }
}

#[test]
fn rows_of_any_length_are_shown() {
    let row = |cells: &[&str], state| Row { cells: cells.iter().map(|&cell| cell.to_owned()).collect(), state };
    let head = vec![Column::text("a"), Column::numbers("b")];
    let html = table(&head, &[row(&["1"], None), row(&["1", "2", "3"], Some(Outcome::Ok))]).into_string();
    assert_eq!(html.matches("<td").count(), 8, "{html}");
    assert_eq!(html.matches("<td class=\"number\">").count(), 2, "{html}");
    assert!(html.contains("<tr class=\"ok\">") && html.contains("<td class=\"result\">OK</td>"), "{html}");
    assert!(!table(&head, &[row(&["1"], None)]).into_string().contains("Result"));
}

/// `REPORT_SAMPLE=/tmp/sample.html cargo test` writes the sample for a look in a browser.
#[test]
fn the_sample_is_small() {
    let html = render(&sample());
    assert!(html.len() < 400_000, "{} bytes", html.len());
    if let Some(path) = std::env::var_os("REPORT_SAMPLE") {
        std::fs::write(path, html).unwrap();
    }
}
