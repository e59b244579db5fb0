//! A daemon under test: its folder, its process, and what it says of itself.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use uhr_edge::journal::Status;
use uhr_edge::service;

/// The scripted profile with small regions, so that a frame takes milliseconds, and `more` at its end.
pub fn profile(folder: &Path, more: &str) -> PathBuf {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("firmware-config/sim.toml")).unwrap();
    let text = text.replace("clusters = 600", "clusters = 16").replace("limit-mib = 2048", "limit-mib = 4096");
    let path = folder.join("profile.toml");
    std::fs::write(&path, format!("{text}\n{more}\n")).unwrap();
    path
}

/// How many times as long as on a machine of its own things take: `UHR_PATIENCE`, set for an emulator.
pub fn slowness() -> u32 {
    std::env::var("UHR_PATIENCE").map_or(1, |factor| factor.parse().expect("UHR_PATIENCE is a whole number"))
}

/// How long something that must come is waited for, so that a test which hangs ends.
pub fn patience() -> Duration {
    Duration::from_secs(90) * slowness()
}

/// Within a time that no machine is too busy for.
pub fn soon(what: &str, mut happens: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happens() {
        assert!(begun.elapsed() < patience(), "{what}: not in {:?}", patience());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A folder for a daemon: `frames` is watched, the journal and the spool are in `state`.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub profile: PathBuf,
}

impl Place {
    pub fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let profile = profile(folder.path(), more);
        std::fs::create_dir_all(folder.path().join("frames")).unwrap();
        Self { folder, profile }
    }

    pub fn frames(&self) -> PathBuf {
        self.folder.path().join("frames")
    }

    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("state/journal.sqlite")
    }

    pub fn spool(&self) -> PathBuf {
        self.folder.path().join("state/spool")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// `serve` without HTTP, not yet started.
    pub fn command(&self) -> Command {
        self.command_on("off")
    }

    /// The same with HTTP at an address.
    pub fn command_on(&self, http: &str) -> Command {
        let mut command = super::command();
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        command.args(["--profile", super::path(&self.profile), "serve", "--http", http]);
        command.args(["--capture", super::path(&self.frames()), "--journal", super::path(&self.journal())]);
        command.stdout(Stdio::null()).stderr(log);
        command
    }

    pub fn start(&self) -> Daemon {
        self.started(&mut self.command())
    }

    pub fn started(&self, command: &mut Command) -> Daemon {
        let daemon = Daemon { child: command.spawn().unwrap(), journal: self.journal() };
        let begun = Instant::now();
        let mut daemon = daemon;
        while daemon.try_status().is_none() {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon ended: {status}: {}", self.log());
            }
            assert!(begun.elapsed() < patience(), "no status in {:?}: {}", patience(), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    /// Hands a question in through the spool.
    pub fn ask(&self, name: &str, question: &Value) {
        self.write(name, question);
        self.hand_in(name);
    }

    /// Writes a question under a name that the spool leaves alone.
    pub fn write(&self, name: &str, question: &Value) {
        std::fs::create_dir_all(self.spool()).unwrap();
        std::fs::write(self.spool().join(format!(".{name}")), question.to_string()).unwrap();
    }

    /// Gives it its name.
    pub fn hand_in(&self, name: &str) {
        std::fs::rename(self.spool().join(format!(".{name}")), self.spool().join(format!("{name}.json"))).unwrap();
    }

    /// The answer in the spool, once it is there.
    pub fn answer(&self, name: &str) -> Value {
        let path = self.spool().join(format!("answers/{name}.json"));
        soon(&format!("the answer to {name}; {}", self.log()), || path.exists());
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// One that the daemon's own process is not needed for.
    pub fn said(&self, args: &[&str]) -> String {
        let journal = self.journal();
        let profile = super::path(&self.profile).to_owned();
        let all = [&["--profile", &profile][..], args, &["--journal", super::path(&journal)]].concat();
        let output = super::run(&all);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A running daemon; it is killed when the test is over.
pub struct Daemon {
    pub child: Child,
    journal: PathBuf,
}

impl Daemon {
    pub fn try_status(&self) -> Option<Status> {
        service::status(&self.journal).ok().filter(|status| status.uptime_ms.0 > 0.0)
    }

    pub fn status(&self) -> Status {
        let mut found = None;
        soon("a status", || {
            found = self.try_status();
            found.is_some()
        });
        found.unwrap()
    }

    pub fn until(&self, what: &str, mut holds: impl FnMut(&Status) -> bool) -> Status {
        let mut last = self.status();
        let begun = Instant::now();
        while !holds(&last) {
            assert!(begun.elapsed() < patience(), "{what}: not in {:?}: {last:#?}", patience());
            std::thread::sleep(Duration::from_millis(20));
            last = self.status();
        }
        last
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in order; its exit code.
    pub fn end(mut self) -> i32 {
        self.signal("TERM");
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A small JPEG; another number, other bytes.
pub fn frame(number: u32) -> Vec<u8> {
    let mut bytes = super::jpeg(160, 120, mozjpeg::ColorSpace::JCS_RGB, false);
    // A comment after the first marker.
    let text = number.to_be_bytes();
    bytes.splice(2..2, [0xff, 0xfe, 0, 6].into_iter().chain(text));
    bytes
}

/// A small file system of its own, where the test may make one.
pub struct Small(PathBuf);

impl Small {
    pub fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "none"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }

    /// Fills it up to the last byte.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 1 << 10]).is_ok() {}
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}
