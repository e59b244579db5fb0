//! The ranks of the house: a module names only modules above it in the list. Read from the sources' own `use` lines and paths.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lowest rank first. `main.rs` is above all.
const RANKS: [&str; 18] = [
    "units", "kernels", "geometry", "config", "arena", "imaging", "compress", "engine", "planner", "pipeline", "report", "board",
    "journal", "link", "http", "service", "qualify", "cli",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Modules that `text` names after `crate::` or `uhr_edge::`, braces and line comments understood.
fn named(text: &str) -> BTreeSet<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    let word = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for root in ["crate::", "uhr_edge::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            let Some(list) = rest.strip_prefix('{') else {
                names.insert(word(rest));
                continue;
            };
            let mut depth = 0;
            let mut item = true;
            for (at, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => item = true,
                    c if item && !c.is_whitespace() => {
                        names.insert(word(&list[at..]));
                        item = false;
                    }
                    _ => {}
                }
            }
        }
    }
    names
}

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|name| *name == module)
}

#[test]
fn a_module_names_only_modules_of_a_lower_rank() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let place = file.strip_prefix(&root).unwrap();
        let module = place.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let Some(own) = rank(&module) else {
            wrong.push(format!("{}: {module} has no rank", place.display()));
            continue;
        };
        for name in named(&fs::read_to_string(&file).unwrap()) {
            match rank(&name) {
                Some(other) if other <= own => {}
                Some(_) => wrong.push(format!("{}: {module} names {name}, which is above it", place.display())),
                None => wrong.push(format!("{}: {module} names {name}, which is no module", place.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn use_lines_are_understood() {
    let text =
        "use crate::{arena, cli::{self, ask}, engine::decoder};\nlet x = crate::units::Px(1); // crate::link\nuse crate::geometry::Layout;";
    let wanted = ["arena", "cli", "engine", "geometry", "units"].map(String::from);
    assert_eq!(named(text), BTreeSet::from(wanted));
}
