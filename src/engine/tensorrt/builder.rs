//! What TensorRT's own builders are asked: `trtexec` on the device itself, `tensorrt_rtx` ahead of time for a GPU that need not be there.
//!
//! # Why
//! The graphs have all their types, so that the network is strongly typed. `trtexec` has `--stronglyTyped` off by default in TensorRT 10; in 11 every
//! network is, and the flag does nothing (NVIDIA's migration guide). TensorRT-RTX knows no other networks and has no such flag.

use std::ffi::OsString;
use std::path::Path;

use crate::engine::tensorrt::graphs::Shapes;
use crate::engine::tensorrt::shim::Identity;
use crate::units::Bytes;

/// A builder, and what of its arguments is the same for all graphs.
#[derive(Clone, Copy, Debug)]
pub enum Builder<'a> {
    Trtexec { workspace: Bytes, timing_cache: Option<&'a Path> },
    Rtx { compute: [u32; 2] },
}

/// The share of a profile's memory that one layer's workspace may take.
const WORKSPACE_SHARE: u64 = 16;

impl<'a> Builder<'a> {
    /// On a device whose program may take `limit` in all.
    #[must_use]
    pub fn trtexec(limit: Bytes, timing_cache: Option<&'a Path>) -> Self {
        Self::Trtexec { workspace: Bytes(limit.0 / WORKSPACE_SHARE), timing_cache }
    }

    /// Its program's usual name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Trtexec { .. } => "trtexec",
            Self::Rtx { .. } => "tensorrt_rtx",
        }
    }

    /// Builds `graph` with `shapes` and writes the plan to `plan`.
    #[must_use]
    pub fn arguments(&self, graph: &Path, plan: &Path, shapes: &Shapes) -> Vec<OsString> {
        let with = |flag: &str, path: &Path| {
            let mut argument = OsString::from(flag);
            argument.push(path);
            argument
        };
        let mut arguments = vec![with("--onnx=", graph), with("--saveEngine=", plan)];
        if !shapes.inputs.is_empty() {
            let flags = ["--minShapes=", "--optShapes=", "--maxShapes="].into_iter().zip(shapes.told());
            arguments.extend(flags.map(|(flag, told)| format!("{flag}{told}").into()));
        }
        match self {
            Self::Trtexec { workspace, timing_cache } => {
                arguments.push("--stronglyTyped".into());
                // In MiB, as all versions read a bare number.
                arguments.push(format!("--memPoolSize=workspace:{}", workspace.0 >> 20).into());
                arguments.extend(timing_cache.map(|path| with("--timingCacheFile=", path)));
            }
            Self::Rtx { compute: [major, minor] } => arguments.push(format!("--computeCapabilities={major}{minor}").into()),
        }
        arguments.push("--skipInference".into());
        arguments
    }
}

/// The version that a builder's line tells, `… [TensorRT v100300] …`: major, minor and patch.
#[must_use]
pub fn told_version(line: &str) -> Option<[u32; 3]> {
    let (_, rest) = line.split_once("[TensorRT v")?;
    let number: u32 = rest.split_once(']')?.0.parse().ok()?;
    // Two digits a part since TensorRT 10; before it was one, and those aren't read.
    (number >= 100_000).then_some([number / 10_000, number / 100 % 100, number % 100])
}

/// Whether a builder that says it is of `told` builds for `identity`; one that doesn't say may.
#[must_use]
pub fn builds_for(told: Option<[u32; 3]>, identity: &Identity) -> bool {
    let [major, minor, patch, _] = identity.tensorrt;
    told.is_none_or(|told| major == 0 || told == [major, minor, patch])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_the_builders_first_line() {
        let cases = [
            ("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --help", Some([10, 3, 0])),
            ("&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # trtexec", Some([10, 16, 1])),
            ("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec", None),
            ("[TensorRT v]", None),
            ("[TensorRT v100300", None),
            ("", None),
        ];
        for (line, wanted) in cases {
            assert_eq!(told_version(line), wanted, "{line}");
        }
    }

    #[test]
    fn a_builder_of_another_tensorrt_is_none_for_this_one() {
        let identity = Identity { tensorrt: [10, 3, 0, 30], compute: [8, 7] };
        for (told, wanted) in [(Some([10, 3, 0]), true), (Some([10, 16, 1]), false), (Some([10, 3, 1]), false), (None, true)] {
            assert_eq!(builds_for(told, &identity), wanted, "{told:?}");
        }
        assert!(builds_for(Some([10, 3, 0]), &Identity::default()));
    }
}
