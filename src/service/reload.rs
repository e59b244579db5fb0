//! What a SIGHUP changes, and what it can't.

use crate::config::Profile;

/// Sections and keys of `new` that differ from `old` and need a start of their own: they say how much memory there is, what is loaded or where things are.
#[must_use]
pub fn needs_start(old: &Profile, new: &Profile) -> Vec<&'static str> {
    let same = |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("{a:?}") == format!("{b:?}");
    let tokens = |profile: &Profile| (profile.tokens.max_visual, profile.tokens.max_text, profile.tokens.max_new);
    let pairs = [
        ("name", old.name == new.name),
        ("memory", old.memory_limit == new.memory_limit),
        ("frame", same(&old.frame, &new.frame)),
        ("tokens.max-…", tokens(old) == tokens(new)),
        ("compression", same(&old.compression, &new.compression)),
        ("engines", same(&old.engines, &new.engines)),
        ("device", same(&old.device, &new.device)),
        ("serve.capture", old.serve.capture == new.serve.capture),
        ("serve.http", old.serve.http == new.serve.http),
        ("serve.queue", old.serve.queue == new.serve.queue),
        ("serve.settle-ms", old.serve.settle == new.serve.settle),
        ("serve.unfinished-after-s", old.serve.unfinished_after == new.serve.unfinished_after),
        ("serve.picture-max-mib", old.serve.picture_max == new.serve.picture_max),
        ("serve.brought-max-mib", old.serve.brought_max == new.serve.brought_max),
        ("journal.file", old.journal.file == new.journal.file),
    ];
    pairs.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_memory_needs_a_start() {
        let old = Profile::load("host").unwrap();
        let mut new = old.clone();
        (new.serve.backlog, new.journal.max, new.tokens.default_budget) = (7, crate::units::Bytes(4 << 20), "bench".into());
        new.ladder.clear();
        assert!(needs_start(&old, &new).is_empty());
        (new.frame.slots, new.serve.queue) = (1, 3);
        assert_eq!(needs_start(&old, &new), ["frame", "serve.queue"]);
    }
}
