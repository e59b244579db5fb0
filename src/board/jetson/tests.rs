//! Folders with the shape of four boards, whole, with each file missing in turn, and with files that lie.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use self::Feeds::{Available, GpuLoad, Id, MemoryClock, Modes, Nothing, Power, Temperature};
use super::*;
use crate::board::{Trust, plausible};
use crate::units::{Bytes, Celsius, Milliwatts};

/// The one thing that a file has a say in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feeds {
    Nothing,
    Temperature,
    Power,
    PowerMode,
    GpuLoad,
    MemoryClock,
    Available,
    Modes,
    Id,
}

type File = (&'static str, &'static str, Feeds);

struct Shape {
    id: &'static str,
    files: Vec<File>,
    /// Temperature °C, power mW, GPU load and memory clock per mille, available KiB.
    wanted: (f32, u32, u16, Option<u16>, u64),
    modes: &'static [(u32, &'static str)],
    default: u32,
}

const NVPMODEL: &str = "usr/sbin/nvpmodel";

/// On Orin and Thor alike.
const COMMON: [File; 7] = [
    ("proc/meminfo", "MemTotal:        7802764 kB\nMemFree:         1000000 kB\nMemAvailable:    6500000 kB\n", Available),
    ("sys/devices/virtual/thermal/thermal_zone0/type", "cpu-thermal\n", Nothing),
    ("sys/devices/virtual/thermal/thermal_zone0/temp", "48093\n", Temperature),
    ("sys/devices/virtual/thermal/thermal_zone1/type", "gpu-thermal\n", Nothing),
    // The GPU's domain is off.
    ("sys/devices/virtual/thermal/thermal_zone1/temp", "-256000\n", Temperature),
    ("sys/devices/virtual/thermal/thermal_zone8/type", "tj-thermal\n", Nothing),
    ("sys/devices/virtual/thermal/cooling_device0/cur_state", "0\n", Nothing),
];

const ORIN: [File; 5] = [
    ("sys/class/devfreq/17000000.gpu/cur_freq", "306000000\n", Nothing),
    ("sys/class/devfreq/17000000.gpu/device/load", "417\n", GpuLoad),
    ("sys/kernel/debug/bpmp/debug/clk/emc/rate", "2133000000\n", MemoryClock),
    ("sys/kernel/debug/bpmp/debug/clk/emc/max_rate", "3199000000\n", MemoryClock),
    ("sys/bus/i2c/devices/0-0050/name", "24c02\n", Nothing),
];

/// Orin Nano and NX.
const VDD_IN: [File; 12] = [
    ("sys/bus/i2c/devices/1-0040/name", "ina3221\n", Power),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/in1_label", "VDD_IN\n", Power),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/in1_input", "5088\n", Power),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_input", "1104\n", Power),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_crit", "5000\n", Nothing),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/in2_label", "VDD_CPU_GPU_CV\n", Power),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/in2_input", "5080\n", Power),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr2_input", "184\n", Power),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/in3_label", "VDD_SOC\n", Power),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/in3_input", "5080\n", Power),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr3_input", "280\n", Power),
    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon1/in7_label", "sum of shunt voltages\n", Power),
];

fn shapes() -> [Shape; 4] {
    let of = |own: &[&[File]]| [&COMMON[..], &own.concat()].concat();
    [
        Shape {
            id: "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            files: of(&[
                &ORIN,
                &VDD_IN,
                &[
                    ("proc/device-tree/model", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0", Id),
                    ("proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0", Nothing),
                    ("sys/devices/virtual/thermal/thermal_zone8/temp", "49562\n", Temperature),
                    (
                        "etc/nvpmodel.conf",
                        "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n\n< POWER_MODEL ID=0 NAME=15W >\n\
                         CPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=1 >\n",
                        Modes,
                    ),
                ],
            ]),
            wanted: (49.562, 5_617, 417, Some(666), 6_500_000),
            modes: &[(0, "15W"), (1, "25W"), (2, "MAXN_SUPER")],
            default: 1,
        },
        Shape {
            id: "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
            files: of(&[
                &ORIN,
                &VDD_IN,
                &[
                    ("proc/device-tree/model", "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0", Id),
                    ("sys/devices/virtual/thermal/thermal_zone8/temp", "61000\n", Temperature),
                    (
                        "etc/nvpmodel.conf",
                        "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=10W >\n< POWER_MODEL ID=2 NAME=15W >\n\
                         < POWER_MODEL ID=3 NAME=25W >\n< PM_CONFIG DEFAULT=2 >\n",
                        Modes,
                    ),
                ],
            ]),
            wanted: (61.0, 5_617, 417, Some(666), 6_500_000),
            modes: &[(0, "MAXN"), (1, "10W"), (2, "15W"), (3, "25W")],
            default: 2,
        },
        Shape {
            id: "NVIDIA Jetson AGX Orin Developer Kit",
            files: of(&[
                &ORIN,
                &[
                    ("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0", Id),
                    ("sys/devices/virtual/thermal/thermal_zone8/temp", "43281\n", Temperature),
                    ("sys/bus/i2c/devices/1-0040/name", "ina3221\n", Power),
                    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_label", "VDD_GPU_SOC\n", Power),
                    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_input", "19000\n", Power),
                    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr1_input", "200\n", Power),
                    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in2_label", "VDD_CPU_CV\n", Power),
                    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in2_input", "19000\n", Power),
                    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr2_input", "100\n", Power),
                    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in3_label", "VIN_SYS_5V0\n", Power),
                    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in3_input", "5000\n", Power),
                    ("sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr3_input", "600\n", Power),
                    ("sys/bus/i2c/devices/1-0041/name", "ina3221\n", Power),
                    ("sys/bus/i2c/devices/1-0041/hwmon/hwmon4/in1_label", "NC\n", Power),
                    ("sys/bus/i2c/devices/1-0041/hwmon/hwmon4/in1_input", "9\n", Nothing),
                    ("sys/bus/i2c/devices/1-0041/hwmon/hwmon4/in2_label", "VDDQ_VDD2_1V8AO\n", Power),
                    ("sys/bus/i2c/devices/1-0041/hwmon/hwmon4/in2_input", "5000\n", Power),
                    // Noise of an idle rail.
                    ("sys/bus/i2c/devices/1-0041/hwmon/hwmon4/curr2_input", "-8\n", Power),
                    (
                        "etc/nvpmodel.conf",
                        "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MODE_15W >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n\
                         < POWER_MODEL ID=3 NAME=MODE_50W >\n< PM_CONFIG DEFAULT=2 >\n",
                        Modes,
                    ),
                ],
            ]),
            wanted: (48.093, 3_800 + 1_900 + 3_000, 417, Some(666), 6_500_000),
            modes: &[(0, "MAXN"), (1, "MODE_15W"), (2, "MODE_30W"), (3, "MODE_50W")],
            default: 2,
        },
        Shape {
            id: "NVIDIA Jetson AGX Thor Developer Kit",
            files: of(&[&[
                ("proc/device-tree/model", "NVIDIA Jetson AGX Thor Developer Kit\0", Id),
                ("proc/device-tree/compatible", "nvidia,p3971-0089+p3834-0008\0nvidia,p3834\0nvidia,tegra264\0", Nothing),
                ("sys/devices/virtual/thermal/thermal_zone8/temp", "52500\n", Temperature),
                ("sys/class/devfreq/gpu-gpc-0/cur_freq", "1575000000\n", Nothing),
                ("sys/class/devfreq/gpu-gpc-0/device/load", "1000\n", GpuLoad),
                ("sys/class/devfreq/gpu-nvd-0/device/load", "3\n", Nothing),
                ("sys/bus/i2c/devices/2-0040/name", "ina3221\n", Power),
                ("sys/bus/i2c/devices/2-0040/hwmon/hwmon5/in1_label", "VDD_GPU\n", Power),
                ("sys/bus/i2c/devices/2-0040/hwmon/hwmon5/in1_input", "12000\n", Power),
                ("sys/bus/i2c/devices/2-0040/hwmon/hwmon5/curr1_input", "4000\n", Power),
                ("sys/bus/i2c/devices/2-0040/hwmon/hwmon5/in2_label", "VDD_CPU_SOC_MSS\n", Power),
                ("sys/bus/i2c/devices/2-0040/hwmon/hwmon5/in2_input", "12000\n", Power),
                ("sys/bus/i2c/devices/2-0040/hwmon/hwmon5/curr2_input", "1500\n", Power),
                ("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n< PM_CONFIG DEFAULT=1 >\n", Modes),
            ]]),
            wanted: (52.5, 66_000, 1_000, None, 6_500_000),
            modes: &[(0, "MAXN"), (1, "120W")],
            default: 1,
        },
    ]
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/board").join(name)
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The shape's folder, with an `nvpmodel` that answers.
fn tree(files: &[File]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    files.iter().for_each(|(path, text, _)| write(root.path(), path, text));
    fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
    std::os::unix::fs::symlink(script("nvpmodel-answers"), root.path().join(NVPMODEL)).unwrap();
    root
}

/// What `read` gives while the file at `path` isn't there.
fn without<T>(root: &Path, path: &str, read: impl FnOnce() -> T) -> T {
    let (path, away) = (root.join(path), root.join("away"));
    fs::rename(&path, &away).unwrap();
    let told = read();
    fs::rename(away, path).unwrap();
    told
}

/// All that a board tells.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    id: String,
    readings: Readings,
    modes: Vec<PowerMode>,
    default: Option<PowerMode>,
}

fn told(root: &Path) -> Told {
    let mut board = JetsonBoard::open(root);
    Told { id: board.id().to_owned(), readings: board.read(), modes: board.power_modes(), default: board.default_mode() }
}

fn wanted(shape: &Shape) -> Told {
    let (temperature, power, load, clock, available) = shape.wanted;
    let modes: Vec<_> = shape.modes.iter().map(|(id, name)| PowerMode { id: *id, name: (*name).to_owned() }).collect();
    Told {
        id: shape.id.to_owned(),
        readings: Readings {
            temperature: Some(Celsius(temperature)),
            power: Some(Milliwatts(power)),
            power_mode: Some("15W".into()),
            gpu_load: Some(PerMille(load)),
            memory_clock: clock.map(PerMille),
            available: Some(Bytes(available * 1024)),
            ..Readings::default()
        },
        default: modes.iter().find(|mode| mode.id == shape.default).cloned(),
        modes,
    }
}

/// `told`, but what `feeds` names, which is `other`'s.
fn but(told: Told, feeds: Feeds, other: &Told) -> Told {
    let (mut told, other) = (told, other.clone());
    match feeds {
        Feeds::Nothing => {}
        Feeds::Temperature => told.readings.temperature = other.readings.temperature,
        Feeds::Power => told.readings.power = other.readings.power,
        Feeds::PowerMode => told.readings.power_mode = other.readings.power_mode,
        Feeds::GpuLoad => told.readings.gpu_load = other.readings.gpu_load,
        Feeds::MemoryClock => told.readings.memory_clock = other.readings.memory_clock,
        Feeds::Available => told.readings.available = other.readings.available,
        Feeds::Modes => (told.modes, told.default) = (other.modes, other.default),
        Feeds::Id => told.id = other.id,
    }
    told
}

#[test]
fn four_boards_are_read() {
    for shape in shapes() {
        assert_eq!(told(tree(&shape.files).path()), wanted(&shape), "{}", shape.id);
    }
}

#[test]
fn a_file_that_is_missing_changes_only_what_it_feeds() {
    for shape in shapes() {
        let whole = wanted(&shape);
        let files = shape.files.iter().map(|(path, _, feeds)| (*path, *feeds)).chain([(NVPMODEL, Feeds::PowerMode)]);
        let root = tree(&shape.files);
        for (path, feeds) in files {
            let told = without(root.path(), path, || told(root.path()));
            assert_eq!(told, but(whole.clone(), feeds, &told), "{}: without {path}", shape.id);
        }
    }
}

#[test]
fn a_board_of_which_nothing_is_there_tells_nothing() {
    let root = tempfile::tempdir().unwrap();
    let nothing = Told { id: "jetson".into(), readings: Readings::default(), modes: Vec::new(), default: None };
    assert_eq!(told(root.path()), nothing);
}

/// On an Orin Nano: what one file says instead, and what becomes of its reading after sifting.
#[test]
fn files_that_lie() {
    let [nano, ..] = shapes();
    let whole = wanted(&nano).readings;
    let hot = "sys/devices/virtual/thermal/thermal_zone8/temp";
    let load = "sys/class/devfreq/17000000.gpu/device/load";
    let [rate, max_rate] = ["sys/kernel/debug/bpmp/debug/clk/emc/rate", "sys/kernel/debug/bpmp/debug/clk/emc/max_rate"];
    let rail = "sys/bus/i2c/devices/1-0040/hwmon/hwmon1/";
    let [volts, amperes, label] = ["in1_input", "curr1_input", "in1_label"].map(|file| format!("{rail}{file}"));
    let long = "1".repeat(5_000);
    let temperature = |told: f32| Readings { temperature: Some(Celsius(told)), ..whole.clone() };
    let power = |power: Option<u32>| Readings { power: power.map(Milliwatts), ..whole.clone() };
    let gpu_load = |load: Option<u16>| Readings { gpu_load: load.map(PerMille), ..whole.clone() };
    let memory_clock = |clock: Option<u16>| Readings { memory_clock: clock.map(PerMille), ..whole.clone() };
    let next = 48.093;
    let cases = [
        (hot, "200000\n", temperature(next)),
        (hot, "-40001\n", temperature(next)),
        (hot, "nonsense\n", temperature(next)),
        (hot, "NaN\n", temperature(next)),
        (hot, "", temperature(next)),
        (hot, long.as_str(), temperature(next)),
        (hot, "95000\n", temperature(95.0)),
        (load, "0\n", gpu_load(Some(0))),
        (load, "1001\n", gpu_load(None)),
        (load, "70000\n", gpu_load(None)),
        (load, "-1\n", gpu_load(None)),
        (max_rate, "0\n", memory_clock(None)),
        (max_rate, "1000000000\n", memory_clock(None)),
        (rate, "0\n", memory_clock(Some(0))),
        (rate, "18446744073709551615\n", memory_clock(None)),
        (&volts, "9223372036854775807\n", power(None)),
        (&volts, "1000000\n", power(None)),
        (&volts, "?\n", power(None)),
        (&amperes, "-20\n", power(Some(0))),
        (&amperes, "", power(None)),
        // Without an input rail, the sum of the others.
        (&label, "NC\n", power(Some(934 + 1_422))),
        (&label, "\n", power(Some(934 + 1_422))),
        (&label, "VDD_OTHER\n", power(Some(5_617 + 934 + 1_422))),
        ("sys/bus/i2c/devices/1-0040/name", "ina219\n", power(None)),
        ("proc/meminfo", "MemAvailable: much\n", Readings { available: None, ..whole.clone() }),
    ];
    let root = tree(&nano.files);
    for (path, text, wanted) in cases {
        let readings = without(root.path(), path, || {
            write(root.path(), path, text);
            JetsonBoard::open(root.path()).read()
        });
        let sifted = plausible(readings, Trust::default()).0;
        assert_eq!(sifted, wanted, "{path} says {:.20}", text);
    }
}

/// A powered-down zone fails with an error when it is read; a folder in the file's place does too.
#[test]
fn a_zone_that_fails_is_skipped() {
    let [nano, ..] = shapes();
    let root = tree(&nano.files);
    let zone = root.path().join("sys/devices/virtual/thermal/thermal_zone8/temp");
    fs::remove_file(&zone).unwrap();
    fs::create_dir(&zone).unwrap();
    assert_eq!(told(root.path()).readings.temperature, Some(Celsius(48.093)));
}

#[test]
fn the_gpus_node_may_come_later_and_go_again() {
    let root = tree(&COMMON);
    let mut board = JetsonBoard::open(root.path());
    assert_eq!(board.read().gpu_load, None);
    for name in ["17000000.gpu", "17000000.gv11b", "gpu-gpc-0"] {
        let node = format!("sys/class/devfreq/{name}");
        write(root.path(), &format!("{node}/device/load"), "250\n");
        assert_eq!(board.read().gpu_load, Some(PerMille(250)), "{name}");
        fs::remove_dir_all(root.path().join(node)).unwrap();
        assert_eq!(board.read().gpu_load, None, "{name}");
    }
}

/// Xavier NX and Nano of the time.
#[test]
fn power_as_jetpack_4_tells_it() {
    let cases: [(&str, [(&str, &str, &str); 3], u32); 3] = [
        ("7-0040", [("VDD_IN", "5000", "1000"), ("VDD_CPU_GPU_CV", "5000", "300"), ("VDD_SOC", "5000", "200")], 5_000),
        ("6-0040", [("POM_5V_IN", "4900", "500"), ("POM_5V_GPU", "4900", "10"), ("POM_5V_CPU", "4900", "20")], 2_450),
        ("1-0040", [("GPU", "19000", "100"), ("NC", "0", "0"), ("SOC", "19000", "50")], 2_850),
    ];
    for (device, rails, wanted) in cases {
        let root = tempfile::tempdir().unwrap();
        let folder = format!("sys/bus/i2c/devices/{device}");
        write(root.path(), &format!("{folder}/name"), "ina3221x\n");
        for (k, (name, volts, amperes)) in rails.iter().enumerate() {
            for (file, text) in [("rail_name_K", name), ("in_voltageK_input", volts), ("in_currentK_input", amperes)] {
                write(root.path(), &format!("{folder}/iio:device0/{}", file.replace('K', &k.to_string())), text);
            }
        }
        assert_eq!(told(root.path()).readings.power, Some(Milliwatts(wanted)), "{device}");
    }
}

#[test]
fn an_nvpmodel_that_hangs_costs_the_mode_alone() {
    let [nano, ..] = shapes();
    let root = tree(&nano.files);
    let begun = Instant::now();
    let mut board = JetsonBoard::with_nvpmodel(root.path(), script("nvpmodel-hangs"));
    let opened = begun.elapsed();
    assert_eq!(board.read(), Readings { power_mode: None, ..wanted(&nano).readings });
    drop(board);
    assert!(opened.as_secs() < 20, "it hangs for 30 s, and was waited for {opened:?}");
}

#[test]
fn a_mode_is_set_by_its_id_or_said_not_to_be() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("etc")).unwrap();
    let conf = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=25W >\n< POWER_MODEL ID=3 NAME=MAXN >\n";
    fs::write(folder.path().join("etc/nvpmodel.conf"), conf).unwrap();
    // A board that changes its mode, but for MAXN, which would want a reboot.
    let (program, state) = (folder.path().join("nvpmodel"), folder.path().join("state"));
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in\n-m) [ \"$2\" = 3 ] && exit 1; echo $2 > {0} ;;\n-q) [ \"$(cat {0})\" = 2 ] && echo 'NV Power Mode: 25W' || echo 'NV Power Mode: 15W' ;;\nesac\n",
        state.display()
    );
    fs::write(&state, "0\n").unwrap();
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut board = JetsonBoard::with_nvpmodel(folder.path(), program);
    let mut set = |name: &str| {
        let mode = crate::board::power_mode(&mut board, name)?;
        board.set_power_mode(&mode).map(|()| board.read().power_mode)
    };
    assert_eq!(set("25W").unwrap().as_deref(), Some("25W"));
    assert_eq!(set("15W").unwrap().as_deref(), Some("15W"));
    let said = set("MAXN").unwrap_err().to_string();
    assert!(said.contains("wanted MAXN, found 15W after nvpmodel -m 3"), "{said}");
    assert_eq!(set("7W").unwrap_err().to_string(), "power mode: wanted 7W, found 15W, 25W, MAXN");
}
