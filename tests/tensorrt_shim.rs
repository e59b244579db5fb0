//! The C++ shim, compiled against TensorRT's real headers, over libraries that stand for TensorRT and the CUDA driver: every call, its order, shapes
//! and places in the one allocation, and every point where one can fail. No GPU and no TensorRT are needed, and nothing here says how a real one does.

mod shim;

use half::f16;
use shim::Bench;
use uhr_edge::arena::KvCache;
use uhr_edge::compress::regions::{Sizes, kmeans};
use uhr_edge::config::{ImportanceRows, Policy, Profile};
use uhr_edge::engine::decoder::Embed;
use uhr_edge::engine::onnx::EncoderShape;
use uhr_edge::engine::tensorrt::{
    Bound, DecoderPlans, DecoderSizes, Device, Dtype, Form, Identity, Libraries, Room, Rows, RowsOf, SEAL, ShimError, ShimTable,
    TensorInfo, TensorrtDecoder, TensorrtEncoder, TensorrtKmeans, TensorrtProjector, sealed,
};
use uhr_edge::engine::{Decoder, DecoderError, DecoderShape, Segment, VisionEncoder};
use uhr_edge::kernels::Isa;
use uhr_edge::units::{Bytes, Px, Tokens};

/// What all memory is taken from.
const RESERVED: Bytes = Bytes(16_384);

fn plan(bench: &Bench, head: &str, tensors: &str) -> Vec<u8> {
    let identity = bench.identity();
    sealed(&identity, format!("fake-plan trt={} {head}\n{tensors}", identity.tensorrt[0]).as_bytes())
}

/// A projector of two features to three.
fn project(bench: &Bench) -> Vec<u8> {
    plan(bench, "sm=86 weights=1000 workspace=600", "in features 1 -1,2 max=8\nout rows 0 -1,3\n")
}

fn tensors() -> [(&'static std::ffi::CStr, TensorInfo); 2] {
    [(c"features", TensorInfo::new(Dtype::F16, &[0, 2])), (c"rows", TensorInfo::new(Dtype::F32, &[0, 3]))]
}

/// What the fake makes of `from`: each byte xor 0x5A, over and over.
fn made(from: &[u8], len: usize) -> Vec<u8> {
    from.iter().map(|byte| byte ^ 0x5A).cycle().take(len).collect()
}

/// What closes goes on whatever it is told.
const CLOSING: [&str; 3] = ["cuMemFree", "Destroy", "Release"];

/// The call that was made to fail.
fn failed(bench: &Bench) -> String {
    let log = bench.log();
    let call = log.lines().zip(log.lines().skip(1)).find(|(_, next)| *next == "  fails").map(|(call, _)| call.to_owned());
    call.unwrap_or_else(|| panic!("no call failed: {log}"))
}

/// From an open device to rows on the host, and everything closed again.
fn whole(table: &ShimTable, plan: &[u8], meanwhile: impl FnOnce()) -> Result<Vec<f32>, ShimError> {
    let device = Device::open(table, 0)?;
    device.reserve(RESERVED)?;
    let engine = device.engine(plan, &tensors())?;
    let stream = device.stream()?;
    let (mut from, mut to) = (device.host::<f16>("features in", 8)?, device.host::<f32>("rows out", 12)?);
    let (features, rows) = (device.buffer::<f16>("features", 8)?, device.buffer::<f32>("rows", 12)?);
    from.values_mut()?.copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0].map(f16::from_f32));
    meanwhile();
    stream.copy_in(&mut from, &features, 8)?;
    stream.enqueue(&engine, &[Bound::new(c"features", &features, &[4, 2]), Bound::new(c"rows", &rows, &[4, 3])])?;
    stream.copy_out(&rows, &mut to, 12)?;
    to.wait()?;
    Ok(to.values()?.to_vec())
}

fn rows() -> Vec<u8> {
    let from = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0].map(|value| f16::from_f32(value).to_le_bytes()).concat();
    made(&from, 48)
}

#[test]
fn every_call_has_its_place_and_its_shapes() {
    let Some(bench) = Bench::new() else { return };
    let (plan, headers) = (project(&bench), bench.headers());
    let table = bench.load().unwrap();
    let found = whole(&table, &plan, || {}).unwrap();
    assert_eq!(bytemuck::cast_slice::<f32, u8>(&found), rows());
    assert_eq!(bench.live(), 0);
    let wanted = CALLS.lines().map(str::trim).filter(|line| headers >= (10, 15) || !line.contains("getAliasedInputTensor"));
    let wanted = wanted.map(|line| line.replace("PLAN", &(plan.len() - SEAL).to_string())).collect::<Vec<_>>().join("\n");
    assert_eq!(bench.log().trim(), wanted.trim(), "\n{}", bench.log());
}

/// Memory: 1000 bytes of weights, 600 of workspace, two buffers, each at the next multiple of 256. What is freed first waits for all that is enqueued; the
/// buffers give back their part of the one allocation.
const CALLS: &str = "
    cuInit
    cuDeviceGetCount
    cuDeviceGet 0
    cuDeviceGetName
    cuDeviceGetAttribute 75
    cuDeviceGetAttribute 76
    cuDeviceGetAttribute 18
    cuDeviceGetAttribute 19
    cuDevicePrimaryCtxRetain
    createInferRuntime 1
    runtime.setGpuAllocator
    cuMemAlloc 16384
    runtime.deserializeCudaEngine PLAN
    weights at m1+0
    engine.getNbIOTensors
    engine.getIOTensorName 0
    engine.getTensorIOMode features
    engine.getTensorDataType features
    engine.getTensorShape features
    engine.getTensorLocation features
    engine.getTensorFormat features
    engine.getIOTensorName 1
    engine.getTensorIOMode rows
    engine.getTensorDataType rows
    engine.getTensorShape rows
    engine.getTensorLocation rows
    engine.getTensorFormat rows
    engine.getAliasedInputTensor rows
    engine.createExecutionContext 2
    engine.getDeviceMemorySizeV2
    context.setDeviceMemoryV2 m1+1024 600
    cuStreamCreate 1
    cuEventCreate 3
    cuMemHostAlloc 16 0
    cuEventCreate 3
    cuMemHostAlloc 48 0
    cuMemcpyHtoDAsync m1+1792 h2+0 16 s1
    cuEventRecord e2 s1
    context.setInputShape features [4,2]
    context.setTensorAddress features m1+1792
    context.setTensorAddress rows m1+2048
    context.inferShapes
    context.getTensorShape rows
    context.enqueueV3 s1
    cuMemcpyDtoHAsync h3+0 m1+2048 48 s1
    cuEventRecord e3 s1
    cuEventSynchronize e3
    cuCtxSynchronize
    cuCtxSynchronize
    cuCtxSynchronize
    cuMemFreeHost h3+0
    cuCtxSynchronize
    cuEventDestroy e3
    cuCtxSynchronize
    cuMemFreeHost h2+0
    cuCtxSynchronize
    cuEventDestroy e2
    cuCtxSynchronize
    cuStreamDestroy s1
    cuCtxSynchronize
    context.delete
    engine.delete
    cuCtxSynchronize
    runtime.delete
    cuMemFree m1+0
    cuDevicePrimaryCtxRelease
";

/// Five runs of the projector, the first four alike but for what stands in the features; what each made.
fn repeated(table: &ShimTable, plan: &[u8]) -> Result<Vec<Vec<f32>>, ShimError> {
    let device = Device::open(table, 0)?;
    device.reserve(RESERVED)?;
    let engine = device.engine(plan, &tensors())?;
    let stream = device.stream()?;
    let (mut features, mut rows) = (device.shared::<f16>("features", 8)?, device.shared::<f32>("rows", 12)?);
    let mut all = Vec::new();
    for (count, value) in [(4, 1.0), (4, 2.0), (4, 3.0), (4, 4.0), (2, 5.0)] {
        features.to_write()?.fill(f16::from_f32(value));
        features.send(&stream, 2 * count)?;
        let bound = [Bound::shared(c"features", &mut features, &[count, 2]), Bound::shared(c"rows", &mut rows, &[count, 3])];
        stream.enqueue(&engine, &bound)?;
        all.push(rows.fetch(&stream, 3 * count)?.to_vec());
    }
    Ok(all)
}

fn repeated_rows() -> Vec<Vec<f32>> {
    let rows = |(count, value): (usize, f32)| {
        let bytes = made(&f16::from_f32(value).to_le_bytes(), 12 * count);
        bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    [(4, 1.0), (4, 2.0), (4, 3.0), (4, 4.0), (2, 5.0)].map(rows).to_vec()
}

/// Without what copies and asks.
fn runs_of(log: &str) -> Vec<&str> {
    let wanted = ["context.set", "context.infer", "context.enqueue", "cuStreamBegin", "cuStreamEnd", "cuGraph"];
    log.lines().filter(|line| wanted.iter().any(|begin| line.starts_with(begin)) && !line.contains("setDeviceMemory")).collect()
}

#[test]
fn a_run_that_comes_a_third_time_is_captured_and_launched_from_then_on() {
    let Some(bench) = Bench::new() else { return };
    let plan = project(&bench);
    assert_eq!(repeated(&bench.load().unwrap(), &plan).unwrap(), repeated_rows());
    let set_up = |rows: usize| {
        [
            format!("context.setInputShape features [{rows},2]"),
            "context.setTensorAddress features m1+1792".into(),
            "context.setTensorAddress rows m1+2048".into(),
            "context.inferShapes".into(),
            "context.enqueueV3 s1".into(),
        ]
    };
    let captured = ["cuStreamBeginCapture s1 1", "context.enqueueV3 s1", "cuStreamEndCapture s1", "cuGraphInstantiate 0", "cuGraphDestroy"];
    let launched = ["cuGraphLaunch g4 s1"; 2];
    let before = [&["context.enqueueV3 s1"][..], &captured, &launched, &["cuGraphExecDestroy g4"]]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let wanted = [&set_up(4)[..], &before, &set_up(2)].concat();
    assert_eq!(runs_of(&bench.log()), wanted, "{}", bench.log());
    assert_eq!(bench.live(), 0);
}

#[test]
fn a_capture_that_fails_leaves_runs_as_they_were() {
    let Some(bench) = Bench::new() else { return };
    let plan = project(&bench);
    let ask = || bench.load().and_then(|table| repeated(&table, &plan));
    let mut without = 0;
    // With memory of its own, and with the host's.
    for (shares, with) in [0, 1].into_iter().flat_map(|shares| [1, 901, 719].map(|with| (shares, with))) {
        bench.reset();
        bench.set("integrated", shares);
        ask().unwrap();
        for number in 0..bench.calls() {
            bench.reset();
            bench.set("integrated", shares);
            bench.fail_at(number, with);
            let found = ask();
            let (log, failed) = (bench.log(), failed(&bench));
            let capturing =
                ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"].iter().any(|call| failed.starts_with(call));
            let captured = log.lines().skip_while(|line| !line.starts_with("cuStreamBegin")).nth(2) == Some("  fails");
            if with != 719 && (capturing || captured && failed.starts_with("context.enqueueV3")) {
                // Plain runs, all of them, and no second try.
                assert_eq!(found.unwrap(), repeated_rows(), "{failed}");
                assert_eq!((log.matches("cuGraphLaunch").count(), log.matches("cuStreamBegin").count()), (0, 1), "{failed}: {log}");
                without += 1;
            } else {
                // A device that breaks as a graph is closed is found broken by the next call.
                let closing = CLOSING.iter().any(|call| failed.contains(call)) && !(with == 719 && failed.starts_with("cuGraph"));
                assert_eq!(found.is_err(), !closing, "{failed}: {found:?}");
                let lost = matches!(found, Err(ShimError::Lost { .. }));
                assert!(with != 719 || lost || !(capturing || failed.starts_with("cuGraphLaunch")), "{failed}: {found:?}");
            }
            assert!(!log.contains("UNEXPECTED"), "{failed}: {log}");
            assert_eq!(bench.live(), 0, "{failed} with {with}: {log}");
        }
    }
    assert_eq!(without, 2 * 2 * 4);
}

#[test]
fn where_host_and_device_have_one_memory_nothing_is_copied() {
    let Some(bench) = Bench::new() else { return };
    let plan = project(&bench);
    let table = bench.load().unwrap();
    bench.set("integrated", 1);
    assert_eq!(repeated(&table, &plan).unwrap(), repeated_rows());
    let log = bench.log();
    for wanted in
        ["cuMemHostAlloc 16 2", "cuMemHostGetDevicePointer h2+0 0", "setTensorAddress features h2+0", "setTensorAddress rows h3+0"]
    {
        assert!(log.contains(wanted), "{wanted}: {log}");
    }
    assert!(!log.contains("cuMemcpy"), "{log}");
    assert_eq!(bench.live(), 0);
    // Whose turn it is, an event after the run tells.
    let device = Device::open(&table, 0).unwrap();
    let (engine, stream, other) = (device.engine(&plan, &tensors()).unwrap(), device.stream().unwrap(), device.stream().unwrap());
    let (mut features, mut rows) = (device.shared::<f16>("features", 8).unwrap(), device.shared::<f32>("rows", 12).unwrap());
    assert_eq!((features.device_bytes(), features.bytes()), (Bytes(0), Bytes(16)));
    bench.hold(true);
    let mut run = |stream: &uhr_edge::engine::tensorrt::Stream, rows: &mut _| {
        let bound = [Bound::shared(c"features", &mut features, &[4, 2]), Bound::shared(c"rows", rows, &[4, 3])];
        stream.enqueue(&engine, &bound)
    };
    run(&stream, &mut rows).unwrap();
    run(&stream, &mut rows).unwrap();
    assert_eq!(run(&other, &mut rows), Err(ShimError::Busy));
    assert_eq!(rows.values().err(), Some(ShimError::Busy));
    bench.hold(false);
    rows.wait().unwrap();
    run(&other, &mut rows).unwrap();
    drop((features, rows, stream, other, engine, device));
    assert_eq!(bench.live(), 0);
}

#[test]
fn of_a_run_that_was_refused_nothing_is_under_way() {
    let Some(bench) = Bench::new() else { return };
    let plan = project(&bench);
    let table = bench.load().unwrap();
    for shares in [0, 1] {
        bench.reset();
        bench.set("integrated", shares);
        let device = Device::open(&table, 0).unwrap();
        let (engine, stream) = (device.engine(&plan, &tensors()).unwrap(), device.stream().unwrap());
        let (mut features, mut rows) = (device.shared::<f16>("features", 8).unwrap(), device.shared::<f32>("rows", 12).unwrap());
        // TensorRT gives up when part of its work is on the stream.
        bench.set("half", 1);
        let bound = [Bound::shared(c"features", &mut features, &[4, 2]), Bound::shared(c"rows", &mut rows, &[4, 3])];
        let refused = stream.enqueue(&engine, &bound).unwrap_err();
        assert!(refused.to_string().contains("a run refused: IExecutionContext::enqueueV3"), "{refused}");
        rows.to_write().unwrap().fill(7.0);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(rows.values().unwrap().iter().all(|value| *value == 7.0));
        drop((features, rows, stream, engine, device));
        assert_eq!(bench.live(), 0);
    }
}

#[test]
fn what_reading_a_plan_takes_for_a_while_is_told() {
    let Some(bench) = Bench::new() else { return };
    let plan = project(&bench);
    let device = Device::open(&bench.load().unwrap(), 0).unwrap();
    let open = || device.engine(&plan, &tensors()).map(|engine| (engine.bytes(), engine.taken())).unwrap();
    // Weights and workspace, each rounded up to 256.
    assert_eq!(open(), (Bytes(1_024 + 768), Bytes(1_024 + 768)));
    bench.set("scratch", 3_000);
    assert_eq!(open(), (Bytes(1_024 + 768), Bytes(1_024 + 3_072 + 768)));
}

#[test]
fn what_is_read_before_its_work_is_done_is_busy() {
    let Some(bench) = Bench::new() else { return };
    let plan = project(&bench);
    let device = Device::open(&bench.load().unwrap(), 0).unwrap();
    let engine = device.engine(&plan, &tensors()).unwrap();
    let stream = device.stream().unwrap();
    let (mut from, mut to) = (device.host::<f16>("features in", 8).unwrap(), device.host::<f32>("rows out", 12).unwrap());
    let (features, rows) = (device.buffer::<f16>("features", 8).unwrap(), device.buffer::<f32>("rows", 12).unwrap());
    bench.hold(true);
    stream.copy_in(&mut from, &features, 8).unwrap();
    stream.enqueue(&engine, &[Bound::new(c"features", &features, &[4, 2]), Bound::new(c"rows", &rows, &[4, 3])]).unwrap();
    stream.copy_out(&rows, &mut to, 12).unwrap();
    assert_eq!((from.values().err(), to.values().err()), (Some(ShimError::Busy), Some(ShimError::Busy)));
    bench.hold(false);
    to.wait().unwrap();
    assert_eq!(bytemuck::cast_slice::<f32, u8>(to.values().unwrap()), made(&[0; 16], 48));
    // Freeing waits for what is enqueued.
    bench.hold(true);
    stream.copy_out(&rows, &mut to, 12).unwrap();
    drop((from, to, features, rows, stream, engine, device));
    assert_eq!(bench.live(), 0);
}

#[test]
fn a_fault_at_any_call_is_an_error_that_leaves_nothing_behind() {
    let Some(bench) = Bench::new() else { return };
    let plan = project(&bench);
    let ask = || bench.load().and_then(|table| whole(&table, &plan, || {}));
    ask().unwrap();
    let (calls, log) = (bench.calls(), bench.log());
    assert!(calls > 30, "{calls}");
    for with in [1, 2, 719] {
        let mut errors = 0;
        for number in 0..calls {
            bench.reset();
            bench.fail_at(number, with);
            let found = ask();
            let (log, failed) = (bench.log(), failed(&bench));
            assert_eq!(found.is_err(), !CLOSING.iter().any(|call| failed.contains(call)), "{failed}: {found:?}");
            if let Err(error) = found {
                errors += 1;
                let text = error.to_string();
                let driver = failed.starts_with("cu");
                assert!(!driver || text.contains("CUDA_ERROR") || matches!(error, ShimError::OutOfMemory { .. }), "{failed}: {text}");
                let late = ["cuMemcpy", "cuEventRecord", "cuEventSynchronize", "cuStreamCreate", "cuEventCreate", "cuMemHostAlloc"];
                if with == 719 && late.iter().any(|call| failed.starts_with(call)) {
                    assert!(matches!(error, ShimError::Lost { .. }), "{failed}: {text}");
                }
            }
            assert!(!log.contains("UNEXPECTED"), "{failed}: {log}");
            assert_eq!(bench.live(), 0, "{failed} with {with}: {log}");
        }
        assert!(errors > 20, "{errors}");
    }
    bench.reset();
    ask().unwrap();
    assert_eq!(bench.log(), log);
}

#[test]
fn a_device_that_breaks_in_the_middle_is_lost() {
    let Some(bench) = Bench::new() else { return };
    let plan = project(&bench);
    let table = bench.load().unwrap();
    // Each of the three jobs of a question.
    for job in 0..3 {
        bench.reset();
        let found = whole(&table, &plan, || bench.set("break_job", job)).unwrap_err();
        assert!(found.to_string().contains("CUDA_ERROR_LAUNCH_FAILED") && matches!(found, ShimError::Lost { .. }), "{found}");
        assert_eq!(bench.live(), 0);
    }
    bench.reset();
    let device = Device::open(&table, 0).unwrap();
    let stream = device.stream().unwrap();
    let mut host = device.host::<u32>("ids", 4).unwrap();
    let ids = device.buffer::<u32>("ids", 4).unwrap();
    bench.set("break_job", 0);
    bench.hold(true);
    stream.copy_in(&mut host, &ids, 4).unwrap();
    bench.hold(false);
    assert!(matches!(host.wait(), Err(ShimError::Lost { .. })));
    // And so it stays, for everything but closing.
    let lost = |found: Option<ShimError>| assert!(matches!(found, Some(ShimError::Lost { .. })), "{found:?}");
    lost(host.values().err());
    lost(device.stream().err());
    lost(device.buffer::<f32>("rows", 1).err());
    lost(device.memory().err());
    lost(device.engine(&plan, &[]).err());
    drop((host, ids, stream, device));
    assert_eq!(bench.live(), 0);
}

#[test]
fn plans_that_are_not_for_here_are_refused_in_tensorrts_own_words() {
    let Some(bench) = Bench::new() else { return };
    let table = bench.load().unwrap();
    let device = Device::open(&table, 0).unwrap();
    device.reserve(RESERVED).unwrap();
    let good = "in features 1 -1,2\nout rows 0 -1,3\n";
    let identity = device.identity().unwrap();
    let seal = |plan: &str| sealed(&identity, plan.as_bytes());
    let plan = |head: &str, tensors: &str| seal(&format!("fake-plan trt={} {head}\n{tensors}", identity.tensorrt[0]));
    let cases: [(Vec<u8>, &str); 11] = [
        (seal("half an engine"), "magicTagRead == kMAGIC_TAG"),
        (seal(""), "an engine's plan of no bytes"),
        (seal(&format!("fake-plan trt=9 sm=86 weights=0 workspace=0\n{good}")), "Version tag does not match"),
        (plan("sm=87 weights=0 workspace=0", good), "expecting compute 8.6 got compute 8.7"),
        (plan("sm=86 weights=0 workspace=0", &format!("plugin AttentionPlugin\n{good}")), "Cannot find plugin: AttentionPlugin"),
        (plan("sm=86 weights=20000 workspace=0", good), "an engine's weights: wanted "),
        (plan("sm=86 weights=1000 workspace=16000", good), "an engine's weights: wanted "),
        (plan("sm=86 weights=0 workspace=0", "in features 1 -1,2 host\n"), "tensor features: wanted on the device, found on the host"),
        (plan("sm=86 weights=0 workspace=0", "in features 1 -1,2 vectorized\n"), "tensor features: wanted row-major, found another layout"),
        (plan("sm=86 weights=0 workspace=0", "in features 9 -1,2\n"), "tensor features: wanted a type of whole bytes"),
        (plan("sm=86 weights=0 workspace=0", "in features 1 1,2,3,4,5\n"), "tensor features: wanted at most 4 dimensions"),
    ];
    for (plan, wanted) in cases {
        let found = device.engine(&plan, &[]).err().unwrap().to_string();
        assert!(found.contains(wanted), "{found}");
        assert_eq!(device.memory().unwrap(), (RESERVED, RESERVED), "{wanted}");
    }
    let wanted = [(c"rows", TensorInfo::new(Dtype::F16, &[0, 3]))];
    let found = device.engine(&plan("sm=86 weights=0 workspace=0", good), &wanted).err().unwrap().to_string();
    assert_eq!(found, "tensor rows: wanted f16 [any, 3], found f32 [any, 3]");
    let full = device.buffer::<f32>("rows", 5_000).err().unwrap().to_string();
    assert_eq!(full, "device memory, rows: wanted 20000 bytes, free 16384 bytes of 16384 bytes");
    assert!(device.reserve(RESERVED).unwrap_err().to_string().contains("once, some, and first"));
    drop(device);
    assert_eq!(bench.live(), 0);
    bench.set("memory", 1_000);
    let device = Device::open(&table, 0).unwrap();
    let found = device.reserve(RESERVED).unwrap_err().to_string();
    assert!(found.contains("wanted 16384 bytes, free 1000 bytes of 1000 bytes"), "{found}");
}

#[test]
fn plans_for_another_tensorrt_or_gpu_or_damaged_ones_never_reach_tensorrt() {
    let Some(bench) = Bench::new() else { return };
    let device = Device::open(&bench.load().unwrap(), 0).unwrap();
    let own = device.identity().unwrap();
    let [major, minor, patch, build] = own.tensorrt;
    let other = |tensorrt, compute| sealed(&Identity { tensorrt, compute }, b"a plan");
    let good = sealed(&own, b"a plan");
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let cases = [
        (other([major - 1, minor, patch, build], own.compute), "plan: wanted one built for TensorRT "),
        (other([major, minor + 1, patch, build], own.compute), "plan: wanted one built for TensorRT "),
        (other(own.tensorrt, [8, 7]), "found one for TensorRT "),
        (damaged, "plan: wanted SHA-256 "),
        (good[..good.len() - 1].to_vec(), "plan: wanted 6 bytes, found 5"),
        (good[..SEAL - 1].to_vec(), "plan: wanted a sealed plan of this version"),
        (b"a plan".to_vec(), "plan: wanted a sealed plan of this version"),
        (Vec::new(), "plan: wanted a sealed plan of this version"),
    ];
    for (plan, wanted) in cases {
        let found = device.engine(&plan, &[]).err().unwrap();
        assert!(matches!(found, ShimError::Plan(_)) && found.to_string().contains(wanted), "{found}");
    }
    assert!(!bench.log().contains("deserializeCudaEngine"));
    assert!(device.engine(&good, &[]).err().unwrap().to_string().contains("kMAGIC_TAG"));
}

#[test]
fn runs_of_other_shapes_enqueue_nothing() {
    let Some(bench) = Bench::new() else { return };
    let plan = project(&bench);
    let device = Device::open(&bench.load().unwrap(), 0).unwrap();
    let engine = device.engine(&plan, &tensors()).unwrap();
    let stream = device.stream().unwrap();
    let (features, rows) = (device.buffer::<f16>("features", 64).unwrap(), device.buffer::<f32>("rows", 96).unwrap());
    let ids = device.buffer::<u32>("ids", 96).unwrap();
    let (one, three) = (Bound::new(c"features", &features, &[4, 2]), Bound::new(c"rows", &rows, &[4, 3]));
    let cases = [
        vec![one],
        vec![one, one, three],
        vec![one, Bound::new(c"lines", &rows, &[4, 3])],
        vec![one, Bound::new(c"rows", &rows, &[4, 4])],
        vec![one, Bound::new(c"rows", &rows, &[5, 3])],
        vec![one, Bound::new(c"rows", &rows, &[12])],
        vec![one, Bound::new(c"rows", &ids, &[4, 3])],
        vec![Bound::new(c"features", &features, &[9, 2]), Bound::new(c"rows", &rows, &[9, 3])],
        vec![one, one],
    ];
    for bound in cases {
        let found = stream.enqueue(&engine, &bound).unwrap_err();
        assert!(matches!(found, ShimError::Shape { .. }), "{found}");
    }
    assert!(!bench.log().contains("enqueueV3"));
    stream.enqueue(&engine, &[three, one]).unwrap();
    assert!(bench.log().contains("enqueueV3"));
}

#[test]
fn an_output_that_is_its_inputs_memory_needs_no_other() {
    let Some(bench) = Bench::new() else { return };
    if bench.headers() < (10, 15) {
        return eprintln!("SKIPPED: headers before 10.15 have no aliases");
    }
    let tensors = "in ids 3 -1\nin kv 1 -1,4\nout kv_new 1 -1,4 alias=kv\n";
    let plan = plan(&bench, "sm=86 weights=0 workspace=0", tensors);
    let device = Device::open(&bench.load().unwrap(), 0).unwrap();
    device.reserve(RESERVED).unwrap();
    let engine = device.engine(&plan, &[]).unwrap();
    let stream = device.stream().unwrap();
    let (ids, kv) = (device.buffer::<u32>("ids", 2).unwrap(), device.buffer::<f16>("kv", 20).unwrap());
    stream.enqueue(&engine, &[Bound::new(c"ids", &ids, &[2]), Bound::new(c"kv", &kv, &[5, 4])]).unwrap();
    let log = bench.log();
    assert!(log.contains("setTensorAddress kv m1+256\ncontext.setTensorAddress kv_new m1+256\n"), "{log}");
    // Or is bound to it, as the decoder does for libraries that don't tell.
    let bound = [Bound::new(c"ids", &ids, &[2]), Bound::new(c"kv", &kv, &[5, 4]), Bound::new(c"kv_new", &kv, &[5, 4])];
    stream.enqueue(&engine, &bound).unwrap();
    let log = bench.log();
    assert_eq!((log.matches("setTensorAddress kv_new m1+256\n").count(), log.matches("enqueueV3").count()), (2, 2), "{log}");
}

#[test]
fn libraries_that_will_not_do_are_told_by_name() {
    let Some(bench) = Bench::new() else { return };
    let (major, minor) = bench.headers();
    let (shim, tensorrt, cuda) = ("libuhr_shim.so", "libfakenvinfer.so", "libfakecuda.so");
    let other = bench.path("other.cpp");
    std::fs::write(&other, "extern \"C\" unsigned uhr_shim_abi_version(void) { return 1; }\n").unwrap();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let built =
        std::process::Command::new(compiler).args(["-shared", "-fPIC"]).arg(&other).arg("-o").arg(bench.path("libother.so")).status();
    assert!(built.unwrap().success());
    let cases = [
        ([shim, "libnone.so", cuda], "TensorRT: wanted a library that loads, found: "),
        (["libnone.so", tensorrt, cuda], "libnone.so: wanted a library that loads, found: "),
        ([tensorrt, tensorrt, cuda], "found one missing: "),
        (["libother.so", tensorrt, cuda], "TensorRT shim: wanted ABI version 2, found 1"),
        ([shim, cuda, cuda], "libfakecuda.so: getInferLibMajorVersion"),
        ([shim, "libfakenvinfer-DFAKE_LACKS.so", cuda], "createInferRuntime_INTERNAL"),
        ([shim, tensorrt, "libfakecuda-DFAKE_LACKS.so"], "libfakecuda-DFAKE_LACKS.so: cuEventQuery"),
        ([shim, tensorrt, "libnone.so"], "no usable GPU: TensorRT "),
    ];
    for (libraries, wanted) in cases {
        let found = bench.load_with(libraries).err().unwrap().to_string();
        assert!(found.contains(wanted), "{found}");
    }
    let cases = [
        ("trt_major", 10, "another TensorRT: "),
        ("trt_major", 12, "another TensorRT: "),
        ("devices", 0, "no usable GPU: TensorRT "),
        ("cuInit", 100, ": CUDA_ERROR_NO_DEVICE"),
    ];
    for (key, value, wanted) in cases {
        if key == "trt_major" && value == i64::from(major) {
            continue;
        }
        bench.reset();
        bench.set(key, value);
        let found = bench.load().err().unwrap().to_string();
        assert!(found.contains(wanted), "{found}");
        // Of another major nothing was called, not even the factory.
        assert!(!bench.log().contains("createInferRuntime"), "{}", bench.log());
    }
    bench.reset();
    if minor > 0 {
        bench.set("trt_minor", i64::from(minor) - 1);
        assert!(matches!(bench.load(), Err(ShimError::OtherTensorrt { .. })));
    }
    bench.set("trt_minor", i64::from(minor) + 1);
    bench.load().unwrap();
    for bogus in [0, 0x228] {
        bench.reset();
        bench.set("runtime", bogus);
        let table = bench.load().unwrap();
        let found = Device::open(&table, 0).err().unwrap().to_string();
        assert!(found.contains("TensorRT made no runtime: "), "{found}");
        assert_eq!(bench.live(), 0);
    }
    bench.reset();
    let table = bench.load().unwrap();
    let device = Device::open(&table, 0).unwrap();
    assert!(device.describe().ends_with(" on Made-up GPU (SM 8.6)"), "{}", device.describe());
    assert_eq!(device.identity().unwrap().compute, [8, 6]);
    assert!(bench.load().err().unwrap().to_string().contains("a device is open"));
    assert_eq!(Device::open(&table, 1).err(), Some(ShimError::NoDevice { ordinal: 1, count: 1 }));
}

#[test]
fn the_encoder_runs_over_the_real_shim() {
    let Some(bench) = Bench::new() else { return };
    let plan = plan(&bench, "sm=86 weights=5000 workspace=3000", "in tiles 0 -1,3,4,4\nout features 1 -1,4,5\n");
    let device = Device::open(&bench.load().unwrap(), 0).unwrap();
    device.reserve(RESERVED).unwrap();
    let shape = EncoderShape { tile: Px(4), patch: Px(2), feature_dim: 5 };
    let mut encoder = TensorrtEncoder::load(&device, &plan, shape).unwrap();
    let pool = uhr_edge::kernels::Pool::new(1);
    let tiles: Vec<f32> = (0..3 * 48_u16).map(f32::from).collect();
    let mut out = vec![f16::ZERO; 3 * 20];
    encoder.encode(&tiles, &mut out, &pool).unwrap();
    for (tile, out) in tiles.chunks(48).zip(out.chunks(20)) {
        assert_eq!(bytemuck::cast_slice::<f16, u8>(out), made(bytemuck::cast_slice(tile), 40));
    }
    assert!(encoder.id().starts_with("tensorrt "), "{}", encoder.id());
    // Weights and workspace, each rounded up to 256, and two lanes of tiles and features on both sides.
    assert_eq!(encoder.bytes(), Bytes(5_120 + 3_072 + 2 * 2 * (192 + 40)));
    drop((encoder, device));
    assert_eq!(bench.live(), 0);
}

/// A row of an id: what it is, everywhere.
struct Table;

impl Embed for Table {
    fn embed(&mut self, id: u32, row: &mut [f16]) {
        row.fill(f16::from_f32(id as f32));
    }

    fn bytes(&self) -> Bytes {
        Bytes(0)
    }
}

/// Two layers, the second of them the interface layer.
const SHAPE: DecoderShape = DecoderShape { layers: 2, heads: 1, kv_heads: 1, head_dim: 2, hidden: 4, ffn: 32, vocab: 3, context: 512 };

/// Plans as `tools/export` would have them.
fn decoder_plans(bench: &Bench) -> [Vec<u8>; 3] {
    let caches = |blocks: &[&str]| blocks.iter().map(|block| format!("in {block} 1 -1,2\n")).collect::<String>();
    let new = |rows: &str, blocks: &[&str]| blocks.iter().map(|block| format!("out {block} 1 {rows},2\n")).collect::<String>();
    let head = |rows: &str| format!("in inputs_embeds 1 {rows},4\nin length 3 1\n");
    let (cached, made) = (["k_cache_0", "v_cache_0", "k_cache_1", "v_cache_1"], ["new_k_0", "new_v_0", "new_k_1", "new_v_1"]);
    let run = |rows: &str| format!("{}{}{}out logits 0 3\n", head(rows), caches(&cached), new(rows, &made));
    let looks = "in query_rows 3 -1\nin visual_keys 3 -1\n";
    let anchor = format!("{}{looks}{}{}out importance 0 -1 like=visual_keys\n", head("-1"), caches(&cached[..3]), new("-1", &made[..3]));
    [run("-1"), run("1"), anchor].map(|tensors| plan(bench, "sm=86 weights=256 workspace=0", &tensors))
}

fn decoder_plans_of([prefill, step, anchor]: [&Vec<u8>; 3]) -> DecoderPlans<'_> {
    DecoderPlans { prefill: prefill.into(), step: step.into(), anchor: anchor.into(), form: Form::Appended }
}

/// Importance of two rows, a prompt of three positions in runs of two, and a token; then everything is closed again.
fn answer(table: &ShimTable, [prefill, step, anchor]: &[Vec<u8>; 3], mut mark: impl FnMut()) -> Result<Vec<f32>, DecoderError> {
    let on = |source| DecoderError::Device { doing: "open", source };
    let device = Device::open(table, 0).map_err(on)?;
    device.reserve(RESERVED).map_err(on)?;
    let sizes = DecoderSizes { positions: Tokens(300), chunk: Tokens(2), visual: Tokens(2) };
    let mut decoder = TensorrtDecoder::load(&device, &decoder_plans_of([prefill, step, anchor]), (Box::new(Table), SHAPE), 2, sizes)?;
    let mut kv = KvCache::new(SHAPE.layers, SHAPE.kv_width(), Tokens(300));
    let rows = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0].map(f16::from_f32);
    let mut scores = [0.0; 2];
    mark();
    decoder.attend(&mut kv, &[Segment::Rows(&rows), Segment::Ids(&[1])], 0, (2, ImportanceRows::AllText), &mut scores)?;
    assert!(kv.is_empty());
    mark();
    decoder.prefill(&mut kv, &[Segment::Ids(&[2]), Segment::Rows(&rows)])?;
    mark();
    decoder.step(&mut kv, 1)?;
    assert_eq!(kv.len(), Tokens(4));
    mark();
    Ok([&scores, decoder.logits()].concat())
}

#[test]
fn what_is_added_up_is_what_is_taken() {
    let Some(bench) = Bench::new() else { return };
    let table = bench.load().unwrap();
    let encoder = plan(&bench, "sm=86 weights=5000 workspace=3000", "in tiles 0 -1,3,4,4\nout features 1 -1,4,5\n");
    let (project, plans) = (project(&bench), decoder_plans(&bench));
    let head = "sm=86 weights=300 workspace=100";
    let places = "in features 1 -1,2\nin coordinates 0 -1,2\nin labels_before 3 -1\nin centres 0 -1,4\nin sums_before 0 -1,4\nin counts_before 0 -1\n";
    let kmeans = plan(&bench, head, &format!("{places}out labels 3 -1\nout sums 0 -1,4\nout counts 0 -1\nout changed 0 1\n"));
    let centres = "in sums 0 -1,4\nin counts 0 -1\nin centres 0 -1,4\nout next_centres 0 -1,4\nout moved 0 1\n";
    let centres = plan(&bench, head, centres);
    let settings = kmeans::Settings::new(&Profile::load("host").unwrap().compression, &Policy::paper(), Isa::detect());
    let parts = Sizes { tokens: 50, dim: 2, clusters: 7 };
    let [prefill, step, anchor] = &plans;
    let shape = EncoderShape { tile: Px(4), patch: Px(2), feature_dim: 5 };
    let sizes = DecoderSizes { positions: Tokens(300), chunk: Tokens(2), visual: Tokens(2) };
    for shares in [0, 1] {
        bench.reset();
        bench.set("integrated", shares);
        bench.set("scratch", 3_000);
        let device = Device::open(&table, 0).unwrap();
        let add_up = || {
            let mut room = Room::new(&device).unwrap();
            [&encoder, &project, prefill, step, anchor].into_iter().for_each(|plan| room.engine(plan, &[]).unwrap());
            TensorrtEncoder::buffers(&mut room, shape);
            TensorrtProjector::buffers(&mut room, Tokens(8), [2, 3]);
            TensorrtDecoder::buffers(&mut room, &SHAPE, sizes, Form::Appended);
            TensorrtKmeans::room(&mut room, [&kmeans, &centres], parts, Tokens(8)).unwrap();
            room
        };
        let reserved = add_up().reserve().unwrap();
        let _encoder = TensorrtEncoder::load(&device, &encoder, shape).unwrap();
        let _projector = TensorrtProjector::load(&device, (&project, RowsOf::Features), Tokens(8), [2, 3]).unwrap();
        let load = || TensorrtDecoder::load(&device, &decoder_plans_of([prefill, step, anchor]), (Box::new(Table), SHAPE), 2, sizes);
        let _decoder = load().unwrap();
        let _kmeans = TensorrtKmeans::load(&device, [&kmeans, &centres], settings, parts, Tokens(8)).unwrap();
        // What reading seven plans took for a while is left.
        assert_eq!(device.memory().unwrap(), (Bytes(7 * 3_072), reserved));
        // One allocation, once all was closed again.
        let log = bench.log();
        let (_, after) = log.rsplit_once(&format!("cuMemAlloc {}\n", reserved.0)).unwrap();
        assert!(!after.contains("cuMemAlloc"), "{log}");
        let full = (0..20).map(|_| load().map(Box::new)).collect::<Vec<_>>().into_iter().find_map(Result::err).unwrap().to_string();
        assert!(full.contains("device memory, ") && full.contains(&format!(" of {reserved}")), "{full}");
    }
    assert_eq!(bench.live(), 0);
}

#[test]
fn a_decoders_calls_have_their_places() {
    let Some(bench) = Bench::new() else { return };
    let plans = decoder_plans(&bench);
    let table = bench.load().unwrap();
    let mut marks = Vec::new();
    let found = answer(&table, &plans, || marks.push(bench.log().lines().count())).unwrap();
    // Importance is made of the run's row of ones, logits of the token's.
    let one = made(&f16::ONE.to_le_bytes(), 4 * 5);
    assert_eq!(bytemuck::cast_slice::<f32, u8>(&found), one);
    assert_eq!(bench.live(), 0);
    let log = bench.log();
    let told = |at: usize| {
        let part = log.lines().take(marks[at + 1]).skip(marks[at]).filter(|line| !line.contains("getTensorShape"));
        part.map(str::to_owned).collect::<Vec<_>>()
    };
    // In the one allocation: four blocks of 300 positions, each up to a multiple of 256 bytes, as many of a run's; rows, count, who looks at what, importance, logits.
    let sent = |rows: usize, first: bool| {
        let wait = |event: u8| if first { vec![] } else { vec![format!("cuEventSynchronize e{event}")] };
        let mut calls = wait(1);
        calls.extend([format!("cuMemcpyHtoDAsync m1+6144 h2+0 {} s7", 8 * rows), "cuEventRecord e1 s7".into()]);
        calls.extend(wait(2));
        calls.extend(["cuMemcpyHtoDAsync m1+6400 h3+0 4 s7".into(), "cuEventRecord e2 s7".into()]);
        calls
    };
    let ran = |rows: usize, blocks: usize, looks: Option<[usize; 2]>, to: usize| {
        let mut calls = Vec::new();
        let mut input = |name: &str, dims: &str, place: usize| {
            calls.extend([format!("context.setInputShape {name} {dims}"), format!("context.setTensorAddress {name} m1+{place}")]);
        };
        input("inputs_embeds", &format!("[{rows},4]"), 6_144);
        input("length", "[1]", 6_400);
        for block in 0..blocks {
            input(["k_cache_0", "v_cache_0", "k_cache_1", "v_cache_1"][block], "[256,2]", 1_280 * block);
        }
        if let Some([asked, seen]) = looks {
            input("query_rows", &format!("[{asked}]"), 6_656);
            input("visual_keys", &format!("[{seen}]"), 6_912);
        }
        let new = |block: usize| {
            format!("context.setTensorAddress {} m1+{}", ["new_k_0", "new_v_0", "new_k_1", "new_v_1"][block], 5_120 + 256 * block)
        };
        // Behind its cache, each.
        (0..blocks).for_each(|block| calls.insert(6 + 3 * block, new(block)));
        calls.push(looks.map_or("context.setTensorAddress logits m1+7424", |_| "context.setTensorAddress importance m1+7168").into());
        calls.extend(["context.inferShapes".into(), "context.enqueueV3 s7".into()]);
        calls.push(format!("cuMemcpy2DAsync m1+{to} every 1280 m1+5120 every 256 {}x{blocks} s7", 4 * rows));
        calls
    };
    let looks = |seen: usize, first: bool| {
        let waits = if first { vec![] } else { vec!["cuEventSynchronize e3".to_owned(), "cuEventSynchronize e4".into()] };
        let copies = ["cuMemcpyHtoDAsync m1+6656 h4+0 4 s7".to_owned(), "cuEventRecord e3 s7".into()];
        let more = [format!("cuMemcpyHtoDAsync m1+6912 h5+0 {} s7", 4 * seen), "cuEventRecord e4 s7".into()];
        [waits, copies.to_vec(), more.to_vec()].concat()
    };
    let out = |copy: &str, event: u8| vec![copy.to_owned(), format!("cuEventRecord e{event} s7"), format!("cuEventSynchronize e{event}")];
    let logits = out("cuMemcpyDtoHAsync h7+0 m1+7424 12 s7", 6);
    let seen = out("cuMemcpyDtoHAsync h6+0 m1+7168 8 s7", 5);
    let attend =
        [sent(2, true), looks(1, true), ran(2, 3, Some([1, 1]), 0), sent(1, false), looks(2, false), ran(1, 3, Some([1, 2]), 8), seen];
    // Zeros over the pass before.
    let zeros = vec!["cuMemsetD2D8Async m1+0 every 1280 0 12x4 s7".to_owned()];
    let prefill = [zeros, sent(2, false), ran(2, 4, None, 0), sent(1, false), ran(1, 4, None, 8), logits.clone()];
    let step = [sent(1, false), ran(1, 4, None, 12), logits];
    for (at, wanted) in [attend.concat(), prefill.concat(), step.concat()].into_iter().enumerate() {
        assert_eq!(told(at), wanted, "{at}");
    }
    assert!(log.contains("cuMemsetD2D8Async m1+0 every 1280 0 1280x4 s7\n"), "{log}");
}

#[test]
fn a_fault_at_any_call_of_a_decoder_leaves_nothing_behind() {
    let Some(bench) = Bench::new() else { return };
    let plans = decoder_plans(&bench);
    let ask = || {
        let table = bench.load().map_err(|source| DecoderError::Device { doing: "open", source })?;
        answer(&table, &plans, || ())
    };
    ask().unwrap();
    let calls = bench.calls();
    for with in [1, 719] {
        for number in 0..calls {
            bench.reset();
            bench.fail_at(number, with);
            let found = ask();
            let (log, failed) = (bench.log(), failed(&bench));
            assert_eq!(found.is_err(), !CLOSING.iter().any(|call| failed.contains(call)), "{failed}: {found:?}");
            let late = ["cuMemcpy", "cuMemset", "cuEventRecord", "cuEventSynchronize"];
            if with == 719 && late.iter().any(|call| failed.starts_with(call)) {
                let lost = matches!(&found, Err(DecoderError::Device { source: ShimError::Lost { .. }, .. }));
                assert!(lost, "{failed}: {found:?}");
            }
            assert!(!log.contains("UNEXPECTED"), "{failed}: {log}");
            assert_eq!(bench.live(), 0, "{failed} with {with}: {log}");
        }
    }
}

#[test]
fn rows_are_copied_and_zeroed_where_they_are_and_nowhere_else() {
    let Some(bench) = Bench::new() else { return };
    let device = Device::open(&bench.load().unwrap(), 0).unwrap();
    let stream = device.stream().unwrap();
    let (mut host, mut out) = (device.host::<u32>("rows in", 12).unwrap(), device.host::<u32>("places out", 20).unwrap());
    let (from, to) = (device.buffer::<u32>("rows", 12).unwrap(), device.buffer::<u32>("places", 20).unwrap());
    host.values_mut().unwrap().iter_mut().zip(1..).for_each(|(value, number)| *value = number);
    stream.copy_in(&mut host, &from, 12).unwrap();
    stream.zero_rows(&to, Rows { first: 0, pitch: 20 }, [1, 20]).unwrap();
    stream.copy_rows((&from, Rows { first: 1, pitch: 4 }), (&to, Rows { first: 2, pitch: 7 }), [3, 2]).unwrap();
    stream.zero_rows(&to, Rows { first: 9, pitch: 7 }, [2, 1]).unwrap();
    stream.copy_out(&to, &mut out, 20).unwrap();
    out.wait().unwrap();
    assert_eq!(out.values().unwrap(), [0, 0, 2, 3, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 11, 0, 0]);
    let refused = stream.copy_rows((&from, Rows { first: 0, pitch: 1 }), (&from, Rows { first: 6, pitch: 1 }), [1, 1]).unwrap_err();
    assert!(refused.to_string().contains("rows copied onto themselves"), "{refused}");
    assert!(!bench.log().contains("cuMemcpy2DAsync m3+24"), "{}", bench.log());
    stream.copy_rows((&from, Rows { first: 0, pitch: 1 }), (&to, Rows { first: 0, pitch: 1 }), [0, 1]).unwrap();
}

/// By hand, over a real runtime: `UHR_TENSORRT_LIBRARY` names it (`libnvinfer_lean.so.10` of the package `tensorrt_lean_cu12_libs`, or `libtensorrt_rtx.so.1` of
/// `tensorrt_rtx_cu12_libs`), `TENSORRT_INCLUDE` headers no newer than it; those of another major are told so.
#[test]
#[ignore = "wants a real TensorRT library, and a machine without a GPU"]
fn a_real_runtime_without_a_gpu_is_told_so() {
    let Some(bench) = Bench::new() else { return };
    let library = std::env::var("UHR_TENSORRT_LIBRARY").unwrap();
    let major = bench.headers().0;
    let shim = bench.path("libuhr_shim.so");
    let found = ShimTable::load(&Libraries { shim: &shim, tensorrt: Some(library.as_ref()), cuda: None }).err().unwrap().to_string();
    println!("{found}");
    if !library.ends_with(&format!(".so.{major}")) {
        return assert!(found.starts_with("another TensorRT: "), "{found}");
    }
    assert!(found.starts_with(&format!("no usable GPU: TensorRT {major}.")), "{found}");
    // Told of a GPU that isn't there, TensorRT's factory makes no runtime; that of TensorRT-RTX makes one, which reads no plan.
    let table = bench.load_with(["libuhr_shim.so", &library, "libfakecuda.so"]).unwrap();
    let found = Device::open(&table, 0).and_then(|device| device.engine(&sealed(&device.identity()?, b"no plan"), &[]));
    let found = found.err().unwrap().to_string();
    println!("{found}");
    let wanted = if major >= 10 { "TensorRT made no runtime: " } else { "an engine's plan refused: " };
    assert!(found.contains(wanted), "{found}");
    assert_eq!(bench.live(), 0);
}
