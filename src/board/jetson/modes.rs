//! `/etc/nvpmodel.conf` and what `nvpmodel -q` prints.

use crate::board::PowerMode;

/// The board's power modes, as its maker lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Modes {
    pub all: Vec<PowerMode>,
    /// The id of the one that the board starts in.
    pub default: Option<u32>,
}

impl Modes {
    /// Takes lines `< POWER_MODEL ID=n NAME=X >` and `< PM_CONFIG DEFAULT=n >`; all else is how the modes are made.
    pub fn parse(conf: &str) -> Self {
        let mut modes = Self::default();
        for line in conf.lines() {
            let Some(words) = line.trim().strip_prefix('<').and_then(|line| line.strip_suffix('>')) else { continue };
            let value = |key: &str| words.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            let number = |key| value(key).and_then(|value| value.parse().ok());
            match words.split_whitespace().next() {
                Some("POWER_MODEL") => {
                    let named = number("ID").zip(value("NAME").filter(|name| !name.is_empty()));
                    modes.all.extend(named.map(|(id, name)| PowerMode { id, name: name.to_owned() }));
                }
                Some("PM_CONFIG") => modes.default = number("DEFAULT").or(modes.default),
                _ => {}
            }
        }
        modes
    }
}

/// The mode's name in what `nvpmodel -q` prints.
pub(super) fn current(printed: &str) -> Option<&str> {
    let name = printed.lines().find_map(|line| line.trim().strip_prefix("NV Power Mode:"))?.trim();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_a_conf() {
        let cases: [(&str, &[(u32, &str)], Option<u32>); 8] = [
            ("", &[], None),
            ("< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=MAXN_SUPER >\n", &[(0, "15W"), (1, "MAXN_SUPER")], None),
            ("<POWER_MODEL ID=3 NAME=30W>\r\n  < PM_CONFIG DEFAULT=3 >", &[(3, "30W")], Some(3)),
            ("# < POWER_MODEL ID=0 NAME=15W >\n< PM_CONFIG DEFAULT=9 >", &[], Some(9)),
            ("< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n", &[], None),
            ("< POWER_MODEL ID=x NAME=15W >\n< POWER_MODEL ID=1 >\n< POWER_MODEL ID=2 NAME= >\n< POWER_MODEL NAME=a >", &[], None),
            ("< POWER_MODEL ID=0 NAME=15W\nPOWER_MODEL ID=1 NAME=7W >\n<\n>\n<>", &[], None),
            ("< PM_CONFIG DEFAULT=-1 >\n< POWER_MODEL NAME=B IDS=7 ID=4294967295 >", &[(u32::MAX, "B")], None),
        ];
        for (conf, all, default) in cases {
            let all = all.iter().map(|(id, name)| PowerMode { id: *id, name: (*name).to_owned() }).collect();
            assert_eq!(Modes::parse(conf), Modes { all, default }, "{conf:?}");
        }
    }

    #[test]
    fn the_current_mode_is_printed_by_name() {
        let cases = [
            ("NV Power Mode: MAXN\n0\n", Some("MAXN")),
            ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\r\n2\n", Some("MODE_15W_6CORE")),
            ("NV Power Mode:\n0\n", None),
            ("NVPM ERROR: no power mode\n", None),
            ("", None),
        ];
        for (printed, wanted) in cases {
            assert_eq!(current(printed), wanted, "{printed:?}");
        }
    }
}
