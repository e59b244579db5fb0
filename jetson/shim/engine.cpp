// Engines: TensorRT's part of the table.
#include "device.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace uhr {

namespace {

using nvinfer1::Dims;

struct Tensor {
    std::string name;
    bool input = false;
    uhr_tensor declared{};
    // The input whose memory this output is; none if empty.
    std::string alias;
    // Which binding of the run that is set up now, or NONE.
    std::uint32_t bound = NONE;
    static constexpr std::uint32_t NONE = UINT32_MAX;
};

// A binding of the run that is set up now: which tensor, where, and of what dimensions.
struct Placed {
    std::size_t tensor;
    CuPointer place;
    uhr_tensor given;

    bool operator==(const Placed &other) const {
        return tensor == other.tensor && place == other.place && std::equal(given.dims, given.dims + given.rank, other.given.dims);
    }
};

Dims dims_of(const uhr_tensor &tensor) {
    Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(tensor.rank);
    for (std::uint32_t at = 0; at < tensor.rank; ++at) dims.d[at] = static_cast<decltype(dims.d[0] + 0)>(tensor.dims[at]);
    return dims;
}

bool same(const Dims &found, const uhr_tensor &given) {
    if (found.nbDims != static_cast<std::int32_t>(given.rank)) return false;
    for (std::uint32_t at = 0; at < given.rank; ++at) {
        if (found.d[at] < 0 || static_cast<std::uint64_t>(found.d[at]) != given.dims[at]) return false;
    }
    return true;
}

std::uint64_t value_bytes(std::int32_t dtype) {
    switch (static_cast<nvinfer1::DataType>(dtype)) {
    case nvinfer1::DataType::kFLOAT: case nvinfer1::DataType::kINT32: return 4;
    case nvinfer1::DataType::kHALF: case nvinfer1::DataType::kBF16: return 2;
    case nvinfer1::DataType::kINT64: return 8;
    case nvinfer1::DataType::kINT8: case nvinfer1::DataType::kBOOL: case nvinfer1::DataType::kUINT8: return 1;
    default: return 0;
    }
}

// Bytes of a call's tensor; 0 where that is no number.
std::uint64_t bytes_of(const uhr_tensor &tensor) {
    std::uint64_t bytes = value_bytes(tensor.dtype);
    for (std::uint32_t at = 0; at < tensor.rank; ++at) {
        if (__builtin_mul_overflow(bytes, tensor.dims[at], &bytes)) return 0;
    }
    return bytes;
}

bool admits(const uhr_tensor &declared, const uhr_tensor &given) {
    if (declared.dtype != given.dtype || declared.rank != given.rank) return false;
    for (std::uint32_t at = 0; at < given.rank; ++at) {
        if (given.dims[at] == 0 || given.dims[at] > INT32_MAX || (declared.dims[at] != 0 && declared.dims[at] != given.dims[at])) return false;
    }
    return true;
}

}  // namespace

struct Engine {
    std::mutex mutex;  // one run is set up at a time
    nvinfer1::ICudaEngine *engine = nullptr;
    nvinfer1::IExecutionContext *context = nullptr;
    CuPointer workspace = 0;
    std::uint64_t bytes = 0, taken = 0;
    std::vector<Tensor> tensors;
    // As many as there are tensors; what a run is set up with stands there for the next, which mostly binds the same tensors in the same order.
    std::vector<Placed> placed;
    // The bindings of the run before, `ran` of them; none after one that failed.
    std::vector<Placed> before;
    std::uint32_t ran = 0;
    // How many there were like it after the first. The third alike is captured, and launched as a graph from then on, as long as nothing differs: two chunks of a
    // prompt may be alike, and no more.
    std::uint32_t alike = 0;
    CuGraphExec graph = nullptr;
    // Once a capture failed, none is tried again.
    bool captures = true;

    const Tensor *tensor(const char *name) const {
        const std::size_t at = index(name, 0);
        return at == tensors.size() ? nullptr : &tensors[at];
    }

    // Which tensor is called `name`, looked for from `hint` on; how many there are where none is.
    std::size_t index(const char *name, std::size_t hint) const {
        const std::size_t count = tensors.size();
        for (std::size_t step = 0; name != nullptr && step < count; ++step) {
            const std::size_t at = (hint + step) % count;
            if (tensors[at].name == name) return at;
        }
        return count;
    }

    // Of a tensor that is bound.
    void *place(const Tensor &tensor) const { return reinterpret_cast<void *>(placed[tensor.bound].place); }

    // The run that is set up now, of `count` bindings, is the one before again.
    bool repeats(std::uint32_t count) const {
        return ran > 0 && ran == count && std::equal(placed.begin(), placed.begin() + count, before.begin());
    }

    // The next run is set up anew.
    void forget() {
        if (graph != nullptr) shim().driver.cuGraphExecDestroy(graph);
        graph = nullptr;
        ran = alike = 0;
    }

    void close(Device &device) {
        forget();
        delete context;
        delete engine;
        if (workspace != 0) device.arena.give(workspace);
        context = nullptr;
        engine = nullptr;
        workspace = 0;
    }
};

namespace {

// The engine's tensors, or what of them can't be served.
uhr_status read_tensors(Device &device, Engine &engine) {
    const int count = engine.engine->getNbIOTensors();
    for (int at = 0; at < count; ++at) {
        Tensor tensor;
        const char *name = engine.engine->getIOTensorName(at);
        if (name == nullptr) return device.say(UHR_FAILED, "an engine's tensor without a name");
        tensor.name = name;
        tensor.input = engine.engine->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
        tensor.declared.dtype = static_cast<std::int32_t>(engine.engine->getTensorDataType(name));
        const Dims dims = engine.engine->getTensorShape(name);
        auto refuse = [&](const char *why) { return device.say(UHR_FAILED, "tensor " + tensor.name + ": " + why); };
        if (dims.nbDims < 0 || dims.nbDims > UHR_MAX_DIMS) return refuse("wanted at most 4 dimensions");
        if (value_bytes(tensor.declared.dtype) == 0) return refuse("wanted a type of whole bytes");
        if (engine.engine->getTensorLocation(name) != nvinfer1::TensorLocation::kDEVICE) return refuse("wanted on the device, found on the host");
        if (engine.engine->getTensorFormat(name) != nvinfer1::TensorFormat::kLINEAR) return refuse("wanted row-major, found another layout");
        tensor.declared.rank = static_cast<std::uint32_t>(dims.nbDims);
        for (int dim = 0; dim < dims.nbDims; ++dim) tensor.declared.dims[dim] = dims.d[dim] < 0 ? 0 : static_cast<std::uint64_t>(dims.d[dim]);
#if NV_TENSORRT_MAJOR > 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 15)
        if (const char *alias = tensor.input ? nullptr : engine.engine->getAliasedInputTensor(name)) tensor.alias = alias;
#endif
        engine.tensors.push_back(std::move(tensor));
    }
    engine.placed.resize(engine.tensors.size());
    for (std::size_t at = 0; at < engine.placed.size(); ++at) engine.placed[at] = {at, 0, {}};
    engine.before = engine.placed;
    return UHR_OK;
}

uhr_status build(Device &device, const std::uint8_t *plan, std::uint64_t bytes, Engine &engine) {
    std::lock_guard<std::mutex> lock(device.opening);
    const std::uint64_t before = device.weights.live();
    device.weights.refused();
    device.weights.mark();
    logger().clear();
    auto refuse = [&](const char *what) {
        uhr_status status = device.judge(what, shim().driver.cuCtxSynchronize());
        if (status) return status;
        return device.say(device.weights.refused() ? UHR_OUT_OF_MEMORY : UHR_FAILED, std::string(what) + ": " + logger().told());
    };
    engine.engine = device.runtime->deserializeCudaEngine(plan, bytes);
    if (engine.engine == nullptr) return refuse("an engine's plan refused");
    if (uhr_status status = read_tensors(device, engine)) return status;
    engine.context = engine.engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED);
    if (engine.context == nullptr) return refuse("an engine's context refused");
    const std::int64_t workspace = engine.engine->getDeviceMemorySizeV2();
    if (workspace < 0) return refuse("an engine's workspace unknown");
    if (workspace > 0) {
        if (uhr_status status = device.judge("an engine's workspace", device.arena.take(static_cast<std::uint64_t>(workspace), &engine.workspace)))
            return status;
    }
    engine.context->setDeviceMemoryV2(reinterpret_cast<void *>(engine.workspace), workspace);
    const std::uint64_t work = workspace > 0 ? Arena::rounded(static_cast<std::uint64_t>(workspace)) : 0;
    engine.bytes = device.weights.live() - before + work;
    engine.taken = device.weights.taken() + work;
    return UHR_OK;
}

// Names, types, dimensions and room of a run, and that no tensor is left out. Nothing is allocated.
uhr_status admit(Device &device, Engine &engine, const uhr_binding *bindings, std::uint32_t count) {
    for (Tensor &tensor : engine.tensors) tensor.bound = Tensor::NONE;
    if (count > engine.tensors.size()) return device.say(UHR_SHAPE, "more tensors than the engine's");
    for (std::uint32_t at = 0; at < count; ++at) {
        const uhr_binding &given = bindings[at];
        Placed &placed = engine.placed[at];
        placed.tensor = engine.index(given.name, placed.tensor);
        if (placed.tensor == engine.tensors.size()) return device.say(UHR_SHAPE, "a tensor that isn't the engine's");
        Tensor &tensor = engine.tensors[placed.tensor];
        if (tensor.bound != Tensor::NONE) return device.say(UHR_SHAPE, "tensor " + tensor.name + ": wanted once");
        if (!admits(tensor.declared, given.tensor)) return device.say(UHR_SHAPE, "tensor " + tensor.name + ": not as the engine has it");
        auto buffer = find(device, device.buffers, given.buffer);
        const std::uint64_t bytes = bytes_of(given.tensor);
        if (given.offset % UHR_ALIGNMENT != 0) return device.say(UHR_ARGUMENT, "tensor " + tensor.name + ": begins between multiples of 256 bytes");
        if (!buffer || bytes == 0 || given.offset > buffer->bytes || bytes > buffer->bytes - given.offset)
            return device.say(UHR_ARGUMENT, "tensor " + tensor.name + ": larger than its memory");
        placed.place = buffer->place + given.offset;
        placed.given = given.tensor;
        tensor.bound = at;
    }
    for (const Tensor &tensor : engine.tensors) {
        if (tensor.bound != Tensor::NONE) continue;
        const Tensor *input = tensor.alias.empty() ? nullptr : engine.tensor(tensor.alias.c_str());
        if (input == nullptr || input->bound == Tensor::NONE) return device.say(UHR_SHAPE, "tensor " + tensor.name + ": wanted once");
    }
    return UHR_OK;
}

// Tells the context what stands where: shapes of the inputs, addresses of all.
template <class Refuse>
uhr_status set_up(Device &device, Engine &engine, const uhr_binding *bindings, std::uint32_t count, Refuse refuse) {
    nvinfer1::IExecutionContext &context = *engine.context;
    for (std::uint32_t at = 0; at < count; ++at) {
        const uhr_binding &given = bindings[at];
        const Tensor &tensor = engine.tensors[engine.placed[at].tensor];
        if (tensor.input && !context.setInputShape(given.name, dims_of(given.tensor))) return refuse(UHR_SHAPE, "tensor " + tensor.name);
        if (!context.setTensorAddress(given.name, engine.place(tensor))) return refuse(UHR_FAILED, "tensor " + tensor.name);
    }
    for (const Tensor &output : engine.tensors) {
        if (output.bound != Tensor::NONE) continue;
        // Of an alias, by `admit`.
        void *place = engine.place(*engine.tensor(output.alias.c_str()));
        if (!context.setTensorAddress(output.name.c_str(), place)) return refuse(UHR_FAILED, "tensor " + output.name);
    }
    if (context.inferShapes(0, nullptr) != 0) return refuse(UHR_SHAPE, "a run's shapes");
    for (std::uint32_t at = 0; at < count; ++at) {
        const uhr_binding &given = bindings[at];
        if (!engine.tensors[engine.placed[at].tensor].input && !same(context.getTensorShape(given.name), given.tensor))
            return device.say(UHR_SHAPE, std::string("tensor ") + given.name + ": not what the inputs make of it");
    }
    return UHR_OK;
}

// Told once an engine, where all that the process says goes.
void not_captured(Device &device) {
    std::lock_guard<std::mutex> lock(device.mutex);
    std::fprintf(stderr, "uhr-shim: no CUDA graph of an engine's runs, which are enqueued one by one: %s %s\n", device.error.c_str(), logger().told().c_str());
}

// Captures the run that is set up as a graph. Where that can't be done, there is none, and runs are enqueued one by one as before.
uhr_status capture(Device &device, Engine &engine, Stream &queue) {
    const Driver &driver = shim().driver;
    std::lock_guard<std::mutex> lock(device.capturing);
    engine.captures = false;
    CuGraph graph = nullptr;
    bool enqueued = false;
    uhr_status status = device.judge("capturing a run", driver.cuStreamBeginCapture_v2(queue.stream, CAPTURE_THREAD));
    if (!status) {
        enqueued = engine.context->enqueueV3(queue.stream);
        status = device.judge("capturing a run", driver.cuStreamEndCapture(queue.stream, &graph));
    }
    if (!status && enqueued && graph != nullptr) {
        status = device.judge("making a graph of a run", driver.cuGraphInstantiateWithFlags(&engine.graph, graph, 0));
        if (status) engine.graph = nullptr;
    }
    if (graph != nullptr) driver.cuGraphDestroy(graph);
    engine.captures = engine.graph != nullptr;
    if (!engine.captures && status != UHR_LOST) not_captured(device);
    return status == UHR_LOST ? status : UHR_OK;
}

// A number of an engine's.
uhr_status told(uhr_handle handle, uhr_handle engine, std::uint64_t Engine::*number, std::uint64_t *bytes) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto found = find(device, device.engines, engine);
        if (!found) return device.say(UHR_ARGUMENT, "an engine that isn't this device's");
        *bytes = (*found).*number;
        return UHR_OK;
    });
}

}  // namespace

uhr_status engine_open(uhr_handle handle, const std::uint8_t *plan, std::uint64_t bytes, uhr_handle *opened) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        if (plan == nullptr || bytes == 0) return device.say(UHR_FAILED, "an engine's plan of no bytes");
        auto engine = std::make_shared<Engine>();
        if (uhr_status status = build(device, plan, bytes, *engine)) {
            engine->close(device);
            return status;
        }
        *opened = keep(device, device.engines, std::move(engine));
        return UHR_OK;
    });
}

uhr_status engine_bytes(uhr_handle handle, uhr_handle engine, std::uint64_t *bytes) noexcept { return told(handle, engine, &Engine::bytes, bytes); }

uhr_status engine_taken(uhr_handle handle, uhr_handle engine, std::uint64_t *bytes) noexcept { return told(handle, engine, &Engine::taken, bytes); }

uhr_status engine_tensor(uhr_handle handle, uhr_handle engine, const char *name, uhr_tensor *tensor) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto found = find(device, device.engines, engine);
        if (!found) return device.say(UHR_ARGUMENT, "an engine that isn't this device's");
        const Tensor *own = found->tensor(name);
        if (own == nullptr) return UHR_SHAPE;
        *tensor = own->declared;
        return UHR_OK;
    });
}

uhr_status engine_close(uhr_handle handle, uhr_handle engine) noexcept {
    return closing(handle, [&](Device &device) -> uhr_status {
        auto removed = remove(device, device.engines, engine);
        if (!removed) return UHR_ARGUMENT;
        removed->close(device);
        return UHR_OK;
    });
}

uhr_status enqueue(uhr_handle handle, uhr_handle stream, uhr_handle which, const uhr_binding *bindings, std::uint32_t count) noexcept {
    return on(handle, [&](Device &device) -> uhr_status {
        auto engine = find(device, device.engines, which);
        auto queue = find(device, device.streams, stream);
        if (!engine || !queue) return device.say(UHR_ARGUMENT, "a run's engine or stream isn't this device's");
        std::lock_guard<std::mutex> lock(engine->mutex);
        if (uhr_status status = admit(device, *engine, bindings, count)) return status;
        logger().clear();
        auto refuse = [&](uhr_status status, const std::string &what) {
            // A device that broke meanwhile is lost, whatever TensorRT makes of it.
            const uhr_status broken = device.judge("enqueuing a run", shim().driver.cuStreamQuery(queue->stream));
            return broken == UHR_LOST ? broken : device.say(status, what + ": " + logger().told());
        };
        if (!engine->repeats(count)) {
            engine->forget();
            if (uhr_status status = set_up(device, *engine, bindings, count, refuse)) return status;
        } else if (++engine->alike >= 2 && engine->graph == nullptr && engine->captures) {
            if (uhr_status status = capture(device, *engine, *queue)) return status;
        }
        if (engine->graph != nullptr) {
            const uhr_status status = device.judge("launching a run", shim().driver.cuGraphLaunch(engine->graph, queue->stream));
            if (status) engine->forget();
            return status;
        }
        if (!engine->context->enqueueV3(queue->stream)) {
            engine->forget();
            // Part of it may be under way: the caller is told that nothing is.
            const uhr_status waited = device.judge("waiting for its work", shim().driver.cuCtxSynchronize());
            return waited == UHR_LOST ? waited : refuse(UHR_FAILED, "a run refused");
        }
        std::copy_n(engine->placed.begin(), count, engine->before.begin());
        engine->ran = count;
        return UHR_OK;
    });
}

}  // namespace uhr
