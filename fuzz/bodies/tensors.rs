//! safetensors bytes → Eq. 5 tables, and the whole `compress` command.

use clap::Parser;
use uhr_edge::cli::Cli;
use uhr_edge::compress::Positions;

pub fn run(bytes: &[u8]) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let (file, out) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::write(&file, bytes).unwrap();
    let _ = Positions::load(&file, 2, 4, 4);
    let args = ["uhr-edge", "compress", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--budget", "5,5", "--threads", "1"];
    let _ = Cli::try_parse_from(args).unwrap().run();
}
