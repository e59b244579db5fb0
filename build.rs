//! Makes the Rust types of the link's MAVLink dialect from its XML.

use std::path::PathBuf;
use std::process::ExitCode;

use mavlink_bindgen::XmlDefinitions;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=src/link/dialect/uhr.xml");
    println!("cargo::rerun-if-changed=src/link/dialect/common.xml");
    // Features of other crates that the generated code asks about; they are off here.
    println!("cargo::rustc-check-cfg=cfg(feature, values(\"serde\", \"arbitrary\", \"ts-rs\"))");
    let Some(out) = std::env::var_os("OUT_DIR").map(PathBuf::from) else {
        eprintln!("OUT_DIR: wanted a folder to write to, found none");
        return ExitCode::FAILURE;
    };
    if let Err(error) = mavlink_bindgen::generate(XmlDefinitions::Files(vec!["src/link/dialect/uhr.xml"]), &out) {
        eprintln!("src/link/dialect/uhr.xml: {error}");
        return ExitCode::FAILURE;
    }
    // The generated `mod.rs` asks for a feature of this crate by the dialect's name; there is one dialect and it is always there.
    if let Err(error) = std::fs::write(out.join("mod.rs"), "pub mod uhr;\n") {
        eprintln!("{}: {error}", out.join("mod.rs").display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
