//! The HTTP server over a real journal; a thread plays the service. What a client sees, a slow one, a hostile one.

#[path = "common/desk.rs"]
mod desk;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use uhr_edge::http::{HttpError, HttpSettings, Token, bind};
use uhr_edge::journal::Desk;

/// A server, its journal and its worker.
struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    desk: Desk,
    _worker: desk::Worker,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(pace: Duration, change: impl FnOnce(&mut HttpSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let desk = desk::desk(folder.path());
        let worker = desk::Worker::start(&desk, pace);
        let mut settings = HttpSettings::new(([127, 0, 0, 1], 0).into(), folder.path().join("zoom"), desk::limits());
        (settings.rate, settings.burst) = (1e6, 1e6);
        change(&mut settings);
        let bound = bind(settings).unwrap();
        let address = bound.address();
        let (stop, stopped) = watch::channel(false);
        let own = desk.clone();
        let thread = std::thread::spawn(move || bound.run(own, stopped).unwrap());
        Self { address, stop, thread: Some(thread), desk, _worker: worker, folder }
    }

    fn usual() -> Self {
        Self::start(Duration::from_millis(5), |_| ())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Status, head and body of one request on a connection of its own.
    fn raw(&self, request: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        answer(&mut stream)
    }

    fn send(&self, method: &str, path: &str, lines: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{lines}\r\n", body.len());
        self.raw(&[head.as_bytes(), body].concat())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.send("GET", path, "", b"");
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, body) = self.send("POST", path, "content-type: application/json\r\n", body.to_string().as_bytes());
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// The sample frame, before the desk.
    fn sample(&self) -> String {
        let id = desk::capture(&self.desk, &Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/real.jpg"));
        self.until(&format!("/api/frames/{id}"), |frame| frame["state"] == "ready");
        id.to_string()
    }

    fn drawn(&self, name: &str, width: u32, height: u32) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, png(width, height)).unwrap();
        desk::capture(&self.desk, &path).to_string()
    }

    fn until(&self, path: &str, done: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let (status, found) = self.get(path);
            if (status == 200 || status == 202) && done(&found) {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{path}: {status} {found}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok());
        }
    }
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height).flat_map(|at| [(at % width / 7) as u8, (at / width / 5) as u8, 90]).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    bytes
}

/// Reads an answer to its end: by its length, or until the connection closes.
fn answer(stream: &mut TcpStream) -> (u16, String, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut part = [0; 65_536];
    loop {
        let head_end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = head_end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|len| len.parse::<usize>().ok());
            if len.is_some_and(|len| bytes.len() >= end + 4 + len) {
                break;
            }
        }
        match stream.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(read) => bytes.extend_from_slice(&part[..read]),
        }
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let mut body = bytes.get(end + 4..).unwrap_or_default().to_vec();
    if head.contains("transfer-encoding: chunked") {
        body = unchunked(&body);
    }
    (status, head, body)
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let len = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if len == 0 {
            break;
        }
        whole.extend_from_slice(&bytes[end + 2..end + 2 + len]);
        bytes = &bytes[end + 2 + len + 2..];
    }
    whole
}

/// Name and data of each event.
fn events(text: &str) -> Vec<(String, Value)> {
    let block = |block: &str| {
        let line = |start: &str| block.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
        Some((line("event: ").unwrap_or_default(), serde_json::from_str(&line("data: ")?).unwrap_or(Value::Null)))
    };
    text.split("\n\n").filter_map(block).collect()
}

fn message(body: &Value) -> &str {
    body["error"]["message"].as_str().unwrap_or_default()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_question_is_asked_followed_answered_and_found_again() {
    let server = Server::usual();
    let frame = server.sample();
    let (status, accepted) =
        server.post("/api/questions", &json!({ "text": "where is the red ship", "frames": [frame, "newest"], "deadline_ms": 900 }));
    assert_eq!(status, 202, "{accepted}");
    let id = accepted["id"].as_u64().unwrap();
    let (status, head, body) = server.send("GET", &format!("/api/questions/{id}/events"), "", b"");
    assert!(status == 200 && head.contains("content-type: text/event-stream"), "{head}");
    let told = events(&String::from_utf8(body).unwrap());
    let (last, outcome) = told.last().unwrap();
    assert_eq!((last.as_str(), &outcome["answered"]["document"]["text"]), ("done", &json!("ship red the is where")));
    let texts: Vec<&str> = told.iter().filter(|(name, _)| name == "text").map(|(_, data)| data["text"].as_str().unwrap()).collect();
    assert!(!texts.is_empty() && texts.windows(2).all(|two| two[1].starts_with(two[0])), "{texts:?}");
    assert!(told.iter().any(|(name, data)| name == "progress" && data["state"] == "working"));
    // Who comes late hears the end at once.
    let (_, _, body) = server.send("GET", &format!("/api/questions/{id}/events"), "", b"");
    assert_eq!(events(&String::from_utf8(body).unwrap()).len(), 1);
    let (status, entry) = server.get(&format!("/api/questions/{id}"));
    assert!(status == 200 && entry["state"] == "answered" && entry["frames"] == json!([frame, frame]), "{entry}");
    assert_eq!(server.get(&format!("/api/answers/{id}")).1["receipt"]["budget"]["total"], 3000);
    let (_, looked) = server.get(&format!("/api/answers/{id}/looked"));
    assert!(looked.as_array().unwrap().len() == 2 && looked[0]["importance"]["side"] == 48);
    for (query, count) in [
        ("", 1),
        ("?q=SHIP", 1),
        ("?q=plane", 0),
        (format!("?frame={frame}").as_str(), 1),
        ("?frame=0000000000000000", 0),
        (format!("?before={id}").as_str(), 0),
    ] {
        assert_eq!(server.get(&format!("/api/questions{query}")).1["questions"].as_array().unwrap().len(), count, "{query}");
    }
    let (status, refused) = server.post("/api/questions", &json!({ "text": "refuse this", "frames": ["newest"] }));
    assert_eq!(status, 202);
    let path = format!("/api/answers/{}", refused["id"]);
    let begun = Instant::now();
    let (status, body) = loop {
        let (status, body) = server.get(&path);
        if status != 202 || begun.elapsed() > Duration::from_secs(20) {
            break (status, body);
        }
    };
    assert_eq!((status, &body["error"]["code"]), (422, &json!("deadline")));
    assert!(message(&body).contains("wanted more time"));
}

#[test]
fn the_same_key_is_the_same_question() {
    let server = Server::usual();
    server.sample();
    let ask = |key: &str| {
        let lines = format!("content-type: application/json\r\nidempotency-key: {key}\r\n");
        let (status, _, body) =
            server.send("POST", "/api/questions", &lines, json!({ "text": "a b", "frames": ["newest"] }).to_string().as_bytes());
        (status, serde_json::from_slice::<Value>(&body).unwrap())
    };
    assert_eq!(ask("one"), ask("one"));
    assert_ne!(ask("one"), ask("two"));
    assert_eq!(ask(&"x".repeat(129)).0, 400);
}

#[test]
fn openai_completions_whole_and_in_pieces() {
    let server = Server::usual();
    let frame = server.sample();
    let body = |more: Value| {
        let mut body = json!({
            "model": "uhr-nano",
            "messages": [{ "role": "user", "content": [{ "type": "text", "text": "count the ships" }, { "type": "image_url", "image_url": { "url": format!("frame:{frame}") } }] }],
        });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    assert_eq!(server.get("/v1/models").1["data"][0]["id"], "uhr-nano");
    assert_eq!(server.get("/v1/models/uhr-nano").0, 200);
    assert_eq!(server.get("/v1/models/gpt-4o").0, 404);
    let (status, answer) = server.post("/v1/chat/completions", &body(json!({ "temperature": 0.2 })));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["choices"][0]["message"]["content"], "ships the count");
    let usage = &answer["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"], &usage["total_tokens"]), (&json!(3021), &json!(3), &json!(3024)));
    assert_eq!(usage["prompt_tokens_details"]["visual_tokens"], 3000);
    assert!(answer["uhr"]["ignored"] == json!(["temperature"]) && answer["uhr"]["receipt"]["policy"] == "paper");
    let asked = body(json!({ "stream": true, "stream_options": { "include_usage": true } })).to_string();
    let (status, _, text) = server.send("POST", "/v1/chat/completions", "content-type: application/json\r\n", asked.as_bytes());
    let text = String::from_utf8(text).unwrap();
    assert!(status == 200 && text.ends_with("data: [DONE]\n\n"), "{text}");
    let chunks: Vec<Value> = events(&text).into_iter().map(|(_, data)| data).filter(|data| !data.is_null()).collect();
    let whole: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(whole, "ships the count");
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 3);
    assert!(chunks.iter().any(|chunk| chunk["choices"][0]["finish_reason"] == "stop"));
    // A picture in the request itself.
    let picture = png(64, 48);
    let encoded: String = picture.chunks(3).map(base64).collect();
    let with = |url: String| json!({ "model": "uhr-nano", "messages": [{ "role": "user", "content": [{ "type": "text", "text": "x" }, { "type": "image_url", "image_url": { "url": url } }] }] });
    let (status, answer) = server.post("/v1/chat/completions", &with(format!("data:image/png;base64,{encoded}")));
    assert_eq!((status, &answer["uhr"]["receipt"]["frames"][0]["w"]), (200, &json!(64)), "{answer}");
    for (url, wanted, code) in [
        ("data:image/png;base64,aGVsbG8gd29ybGQsIHRoaXMgaXMgdGV4dA==".to_owned(), 400, "wanted a JPEG, PNG, TIFF or WebP picture"),
        ("data:text/plain,hello".to_owned(), 400, "wanted the data URL of a picture"),
        (format!("data:image/png;base64,{}", &encoded[..20]), 400, "broken"),
        ("frame:0000000000000000".to_owned(), 404, "found none of that id"),
        ("https://example.com/a.png".to_owned(), 400, "nothing is fetched"),
    ] {
        let (status, body) = server.post("/v1/chat/completions", &with(url.clone()));
        assert!(status == wanted && message(&body).contains(code), "{url}: {status} {body}");
    }
    let (status, body) = server.post("/v1/chat/completions", &body(json!({ "model": "gpt-4o" })));
    assert_eq!((status, &body["error"]["code"], &body["error"]["type"]), (404, &json!("model_not_found"), &json!("invalid_request_error")));
}

fn base64(three: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
    (0..4).map(|at| if at > three.len() { '=' } else { char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]) }).collect()
}

#[test]
fn a_frame_is_zoomed_and_has_a_thumbnail() {
    let server = Server::usual();
    let frame = server.drawn("frame.png", 1_000, 700);
    let base = format!("/api/frames/{frame}");
    let (status, _, body) = server.send("GET", &format!("{base}/thumbnail.jpg"), "", b"");
    assert!(status == 200 && body.starts_with(&[0xff, 0xd8, 0xff]), "{status}");
    assert_eq!(server.get(&format!("{base}/zoom")).1["state"], "absent");
    assert_eq!(server.get(&format!("{base}/tiles/0/0_0.jpg")).0, 404);
    let (status, head, _) = server.send("POST", &format!("{base}/zoom"), "", b"");
    assert_eq!(status, 202, "{head}");
    let zoom = server.until(&format!("{base}/zoom"), |zoom| zoom["state"] == "ready");
    assert_eq!((&zoom["w"], &zoom["h"], &zoom["tile"], &zoom["levels"]), (&json!(1000), &json!(700), &json!(256), &json!(3)));
    let (status, head, body) = server.send("GET", &format!("{base}/tiles/2/3_2.jpg"), "", b"");
    assert!(status == 200 && head.contains("immutable") && body.starts_with(&[0xff, 0xd8, 0xff]));
    for none in [
        "tiles/2/4_0.jpg",
        "tiles/3/0_0.jpg",
        "tiles/2/0_0.png",
        "tiles/2/-1_0.jpg",
        "tiles/2/+1_0.jpg",
        "tiles/x/0_0.jpg",
        "tiles/2/99999999999999999999_0.jpg",
    ] {
        assert_eq!(server.get(&format!("{base}/{none}")).0, 404, "{none}");
    }
    // A file that is gone, or another one under its name.
    let gone = server.drawn("gone.png", 400, 300);
    std::fs::remove_file(server.folder.path().join("gone.png")).unwrap();
    assert_eq!(server.send("POST", &format!("/api/frames/{gone}/zoom"), "", b"").0, 202);
    let failed = server.until(&format!("/api/frames/{gone}/zoom"), |zoom| zoom["state"] == "failed");
    assert!(failed["reason"].as_str().unwrap().contains("cannot be read"), "{failed}");
    assert_eq!(server.get(&format!("/api/frames/{gone}/thumbnail.jpg")).0, 404);
    let other = server.drawn("other.png", 401, 300);
    std::fs::write(server.folder.path().join("other.png"), png(402, 300)).unwrap();
    server.send("POST", &format!("/api/frames/{other}/zoom"), "", b"");
    let failed = server.until(&format!("/api/frames/{other}/zoom"), |zoom| zoom["state"] == "failed");
    assert!(failed["reason"].as_str().unwrap().contains("the file changed"), "{failed}");
    // A picture that is sent as it is.
    let (status, _, body) = server.send("POST", "/api/frames", "content-type: image/png\r\n", &png(321, 123));
    assert_eq!((status, &serde_json::from_slice::<Value>(&body).unwrap()["w"]), (201, &json!(321)));
    assert_eq!(server.send("POST", "/api/frames", "content-type: image/png\r\n", b"no picture").0, 400);
    assert_eq!(server.send("POST", "/api/frames", "content-type: text/plain\r\n", b"no picture").0, 415);
    assert_eq!(server.get("/api/frames?limit=2").1["frames"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_malformed_is_refused_with_what_was_wanted() {
    let server = Server::usual();
    server.sample();
    for raw in ["GARBAGE\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\nhost: localhost\r\nno colon\r\n\r\n"] {
        let (status, ..) = server.raw(raw.as_bytes());
        assert!((400..500).contains(&status), "{raw:?}: {status}");
    }
    let huge = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert_eq!(server.raw(huge.as_bytes()).0, 431);
    for path in [
        "/nothing",
        "/api/frames/../../etc/passwd",
        "/api/frames/..%2f..%2fetc%2fpasswd",
        "/api/frames/%00",
        "/api/frames/%ff",
        "/page/../../Cargo.toml",
        "/page/%2e%2e",
        "/api/frames/00010203040506ff",
        "/api/frames/zz",
        "/api/questions/-1",
        "/api/questions/1e3",
        "/api/questions/99999999999999999999",
        "/api/answers/7",
        "/api/answers/x/looked",
        "/api/questions/5/events",
        "/api/frames/00010203040506ff/thumbnail.jpg",
        "//api/status",
        "/api/frames/",
    ] {
        let (status, body) = server.get(path);
        assert!(status == 404 && message(&body).contains("wanted"), "{path}: {status} {body}");
    }
    for (path, wanted) in [
        ("/api/frames?limit=0", "wanted 1 to 200"),
        ("/api/frames?limit=x", "query"),
        ("/api/questions?frame=abc", "16 hexadecimal digits"),
        ("/api/questions?other=1", "unknown field"),
    ] {
        let (status, body) = server.get(path);
        assert!(status == 400 && message(&body).contains(wanted), "{path}: {status} {body}");
    }
    for (body, status, wanted) in [
        ("", 400, "EOF"),
        ("{", 400, "EOF"),
        ("[]", 400, "invalid"),
        (r#"{"text":"x"}"#, 400, "missing field `frames`"),
        (r#"{"text":"x","frames":["newest"],"zoom":1}"#, 400, "unknown field `zoom`"),
        (r#"{"text":"","frames":["newest"]}"#, 400, "wanted text"),
        (r#"{"text":"x","frames":[]}"#, 400, "wanted one to 4"),
        (r#"{"text":"x","frames":["../x"]}"#, 400, "16 hexadecimal digits"),
        (r#"{"text":"x","frames":["00010203040506ff"]}"#, 404, "found none of that id"),
        (r#"{"text":"x","frames":["newest"],"deadline_ms":-5}"#, 400, "above 0"),
        (r#"{"text":"x","frames":["newest"],"priority":"urgent"}"#, 400, "unknown variant"),
        ("\"\u{0}\"", 400, "control character"),
    ] {
        let (found, _, answer) = server.send("POST", "/api/questions", "content-type: application/json\r\n", body.as_bytes());
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(found == status && message(&answer).contains(wanted), "{body}: {found} {answer}");
    }
    let deep = "[".repeat(60_000);
    assert_eq!(server.send("POST", "/v1/chat/completions", "content-type: application/json\r\n", deep.as_bytes()).0, 400);
    assert_eq!(server.send("POST", "/api/questions", "content-type: text/plain\r\n", b"{}").0, 415);
    assert_eq!(server.send("DELETE", "/api/frames", "", b"").0, 405);
    // Another site's page, and a name that was made to point here.
    for lines in ["origin: http://evil.example\r\n", "sec-fetch-site: cross-site\r\n"] {
        assert_eq!(server.send("POST", "/api/questions", &format!("content-type: application/json\r\n{lines}"), b"{}").0, 403, "{lines}");
    }
    assert_eq!(server.raw(b"GET /api/status HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").0, 403);
}

#[test]
fn a_body_of_a_gigabyte_takes_no_gigabyte() {
    let server = Server::start(Duration::from_millis(1), |settings| settings.max_body = uhr_edge::units::Bytes(4 << 20));
    let before = resident();
    // Announced: refused at once. In chunks: refused when it is too much, and listened to for a while.
    for chunked in [false, true] {
        let mut stream = server.connect();
        let length = if chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {}", 1_u64 << 30) };
        let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let part = vec![b'a'; 1 << 20];
        let mut worst = 0;
        for _ in 0..1_024 {
            let framed = if chunked { [b"100000\r\n", &part[..], b"\r\n"].concat() } else { part.clone() };
            if stream.write_all(&framed).is_err() {
                break;
            }
            worst = worst.max(resident());
        }
        if chunked {
            let _ = stream.write_all(b"0\r\n\r\n");
        }
        let (status, _, body) = answer(&mut stream);
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        assert!(status == 413 && message(&body).contains("wanted at most 4194304 bytes, found"), "{status} {body}");
        assert!(worst.saturating_sub(before) < 64 << 20, "{before} to {worst}");
    }
    // Who asks first is told not to send it.
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 1073741824\r\n\r\n";
    assert_eq!(server.raw(head.as_bytes()).0, 413);
}

#[test]
fn slow_clients_are_given_up_and_others_are_not_kept_waiting() {
    let server = Server::start(Duration::from_millis(1), |settings| settings.patience = Duration::from_millis(400));
    let closes = |request: &[u8]| {
        let mut stream = server.connect();
        stream.write_all(request).unwrap();
        let begun = Instant::now();
        let (status, ..) = answer(&mut stream);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        status
    };
    // Half a head; a head without its body; nothing at all; nothing after an answer.
    assert!([0, 408].contains(&closes(b"GET / HTTP/1.1\r\nhost: lo")));
    assert_eq!(
        closes(b"POST /api/questions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{"),
        408
    );
    assert!([0, 408].contains(&closes(b"")));
    let mut stream = server.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_eq!(answer(&mut stream).0, 200);
    let (begun, mut rest) = (Instant::now(), Vec::new());
    let _ = stream.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(server.get("/api/status").0, 200);
}

#[test]
fn a_thousand_connections_break_nothing() {
    let server = Server::start(Duration::from_millis(1), |settings| settings.connections = 128);
    server.sample();
    let mut idle = Vec::new();
    for number in 0..1_000 {
        match TcpStream::connect(server.address) {
            Ok(mut stream) => {
                // Some say nothing, some half a head.
                if number % 2 == 0 {
                    let _ = stream.write_all(b"GET / HT");
                }
                idle.push(stream);
            }
            Err(error) => panic!("connection {number}: {error}"),
        }
        if idle.len() > 400 {
            idle.remove(0);
        }
        if number % 100 == 99 {
            let begun = Instant::now();
            assert_eq!(server.get("/api/status").0, 200);
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?} after {number} connections", begun.elapsed());
        }
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 401 + 128 + 200, "{open} descriptors");
    assert_eq!(server.post("/api/questions", &json!({ "text": "a b", "frames": ["newest"] })).0, 202);
}

#[test]
fn a_peer_that_asks_too_often_is_told_so() {
    let server = Server::start(Duration::from_millis(1), |settings| (settings.rate, settings.burst) = (1.0, 5.0));
    let found: Vec<u16> = (0..8).map(|_| server.get("/api/status").0).collect();
    assert_eq!(found.iter().filter(|status| **status == 200).count(), 5, "{found:?}");
    let (status, head, _) = server.send("GET", "/api/status", "", b"");
    assert!(status == 429 && head.contains("retry-after: 1"), "{head}");
}

fn secret(folder: &Path, text: &str, mode: u32) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(format!("token-{mode:o}-{}", text.len()));
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn others_than_this_machine_need_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let word = "correct-horse-battery";
    let failed = |text: &str, mode: u32| Token::load(&secret(folder.path(), text, mode)).unwrap_err().to_string();
    assert!(failed(word, 0o644).contains("found mode 0644"));
    assert!(failed(word, 0o640).contains("found mode 0640"));
    assert!(failed("short", 0o600).contains("wanted a token of 16 to 512"));
    assert!(failed("with some spaces in it", 0o600).contains("visible ASCII"));
    let token = Token::load(&secret(folder.path(), &format!("{word}\n"), 0o400)).unwrap();
    let open = HttpSettings::new(([0, 0, 0, 0], 0).into(), folder.path().join("zoom"), desk::limits());
    assert!(matches!(bind(open.clone()), Err(HttpError::Open { .. })));
    assert!(bind(HttpSettings { token: Some(token.clone()), ..open }).is_ok());
    let server = Server::start(Duration::from_millis(1), |settings| settings.token = Some(token));
    for path in ["/", "/healthz", "/page/app.js"] {
        assert_eq!(server.send("GET", path, "", b"").0, 200, "{path}");
    }
    for path in ["/api/status", "/api/frames", "/metrics", "/v1/models", "/api/frames/00010203040506ff/tiles/0/0_0.jpg", "/nothing"] {
        assert_eq!(server.get(path).0, 401, "{path}");
        assert_eq!(server.send("GET", path, "authorization: Bearer correct-horse-batterz\r\n", b"").0, 401, "{path}");
        assert_ne!(server.send("GET", path, &format!("authorization: Bearer {word}\r\n"), b"").0, 401, "{path}");
    }
    // By whatever name it is reached.
    assert_eq!(
        server
            .raw(
                format!("GET /api/status HTTP/1.1\r\nhost: drone.example\r\nauthorization: bearer {word}\r\nconnection: close\r\n\r\n")
                    .as_bytes()
            )
            .0,
        200
    );
}

#[test]
fn streams_are_bounded_and_end_with_the_server() {
    let server = Server::start(Duration::from_millis(300), |settings| settings.streams = 3);
    server.sample();
    let (_, accepted) = server.post("/api/questions", &json!({ "text": "one two three four five six", "frames": ["newest"] }));
    let path = format!("/api/questions/{}/events", accepted["id"]);
    let mut streams: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
        let mut first = [0; 16];
        stream.read_exact(&mut first).unwrap();
    }
    let (status, body) = server.get(&path);
    assert!(status == 503 && message(&body).contains("streams: wanted one of 3"), "{status} {body}");
    // Who leaves makes room.
    drop(streams.pop());
    let begun = Instant::now();
    while server.send("GET", &path, "", b"").0 == 503 {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    let begun = Instant::now();
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn metrics_count_what_the_journal_holds() {
    let server = Server::usual();
    server.sample();
    let ids: Vec<u64> = (0..3)
        .map(|_| server.post("/api/questions", &json!({ "text": "a b c", "frames": ["newest"] })).1["id"].as_u64().unwrap())
        .collect();
    for id in ids {
        server.until(&format!("/api/questions/{id}"), |entry| entry["state"] == "answered");
    }
    let begun = Instant::now();
    let text = loop {
        let (status, head, body) = server.send("GET", "/metrics", "", b"");
        assert!(status == 200 && head.contains("text/plain; version=0.0.4"));
        let text = String::from_utf8(body).unwrap();
        if text.contains("uhr_stage_seconds_count{stage=\"prefill\"} 3") || begun.elapsed() > Duration::from_secs(10) {
            break text;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    for line in [
        "uhr_stage_seconds_count{stage=\"prefill\"} 3",
        "uhr_tokens_total{kind=\"kept\"} 8037",
        "uhr_tokens_total{kind=\"answer\"} 9",
        "uhr_questions_answered_total 3",
        "uhr_temperature_celsius 61.5",
        "uhr_memory_planned_bytes 250191532",
        "uhr_power_watts 14.2",
        "uhr_queue_places 8",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("gpu_load"), "what the board doesn't tell is absent");
}

#[test]
fn the_page_comes_from_the_binary_and_asks_for_nothing_else() {
    let server = Server::usual();
    let (status, head, body) = server.send("GET", "/", "", b"");
    let page = String::from_utf8(body).unwrap();
    assert!(status == 200 && head.contains("default-src 'none'") && head.contains("nosniff"));
    for part in page.split(['"', '\'']).filter(|part| part.starts_with("/page/")) {
        let (status, head, _) = server.send("GET", part, "", b"");
        assert!(status == 200 && head.contains("etag: "), "{part}");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
        assert_eq!(server.send("GET", part, &format!("if-none-match: {tag}\r\n"), b"").0, 304, "{part}");
    }
    let sources = ["index.html", "app.js", "api.js", "viewer.js", "receipt.js", "map.js", "style.css"]
        .map(|name| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/page").join(name)).unwrap());
    for source in &sources {
        for wrong in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://", "style=\""] {
            assert!(!source.contains(wrong), "{wrong}");
        }
        // Namespaces of SVG are no addresses.
        assert!(source.replace("http://www.w3.org/2000/svg", "").find("http://").is_none());
    }
}
