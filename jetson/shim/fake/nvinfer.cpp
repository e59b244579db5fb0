// A TensorRT without a GPU: the real headers' own classes, so that every call goes through the real virtual tables. What the shim has no use for is
// in `stubs.inc`, made from the headers, and is written down as unexpected.
//
// Its plans are text: "fake-plan trt=11 sm=86 weights=1000 workspace=600", then a line a tensor: "in tiles 0 -1,3,4,4 max=8", "out features 1 -1,4,5",
// with " alias=NAME", " like=NAME" (its open dimensions are that input's first), " host" or " vectorized" at the end where wanted. A run writes the first input's bytes, each xor 0x5A, over and over to each output.
#include <NvInferRuntime.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>
#include <type_traits>
#include <vector>

#include "fake.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace nvinfer1 {
namespace {

ILogger *log_to = nullptr;

template <class T>
T unexpected(const char *what) {
    fake::note(std::string("UNEXPECTED ") + what);
    if constexpr (std::is_reference_v<T>) std::abort();
    else return T();
}

#include <stubs.inc>

void complain(const std::string &text) { log_to->log(ILogger::Severity::kERROR, text.c_str()); }

std::string told(const Dims &dims) {
    std::string text = "[";
    for (int at = 0; at < dims.nbDims; ++at) text += (at == 0 ? "" : ",") + std::to_string(dims.d[at]);
    return text + "]";
}

struct Tensor {
    std::string name, alias, like;
    bool input = false, host = false, vectorized = false;
    DataType type = DataType::kFLOAT;
    Dims dims{};
    std::int64_t max = INT32_MAX;
};

struct Plan {
    int trt = 0, sm = 0;
    std::uint64_t weights = 0, workspace = 0;
    std::vector<Tensor> tensors;
    std::string plugin;  // that nobody registered

    const Tensor *find(const char *name) const {
        for (const Tensor &tensor : tensors) {
            if (tensor.name == name) return &tensor;
        }
        return nullptr;
    }

    static bool read(const std::string &text, Plan &plan) {
        std::istringstream lines(text);
        std::string line;
        std::getline(lines, line);
        unsigned long weights = 0, workspace = 0;
        if (std::sscanf(line.c_str(), "fake-plan trt=%d sm=%d weights=%lu workspace=%lu", &plan.trt, &plan.sm, &weights, &workspace) != 4) return false;
        plan.weights = weights;
        plan.workspace = workspace;
        while (std::getline(lines, line)) {
            std::istringstream words(line);
            std::string mode, dims, word;
            int type = 0;
            Tensor tensor;
            words >> mode >> tensor.name >> type >> dims;
            if (mode == "plugin") {
                plan.plugin = tensor.name;
                continue;
            }
            tensor.input = mode == "in";
            tensor.type = static_cast<DataType>(type);
            std::istringstream numbers(dims);
            for (std::string number; std::getline(numbers, number, ',');) tensor.dims.d[tensor.dims.nbDims++] = std::atoi(number.c_str());
            while (words >> word) {
                if (word.rfind("max=", 0) == 0) tensor.max = std::atoi(word.c_str() + 4);
                if (word.rfind("alias=", 0) == 0) tensor.alias = word.substr(6);
                if (word.rfind("like=", 0) == 0) tensor.like = word.substr(5);
                tensor.host |= word == "host";
                tensor.vectorized |= word == "vectorized";
            }
            plan.tensors.push_back(std::move(tensor));
        }
        return true;
    }
};

std::int64_t bytes_of(const Dims &dims, DataType type) {
    std::int64_t bytes = type == DataType::kHALF ? 2 : 4;
    for (int at = 0; at < dims.nbDims; ++at) bytes *= dims.d[at];
    return bytes;
}

class ContextImpl final : public StubExecutionContext {
public:
    explicit ContextImpl(const Plan &plan) : plan_(plan) {}

    bool setInputShape(char const *name, Dims const &dims) noexcept override {
        if (fake::call(std::string("context.setInputShape ") + name + " " + told(dims))) return fault("setInputShape");
        const Tensor *tensor = plan_.find(name);
        if (tensor == nullptr || !tensor->input || dims.nbDims != tensor->dims.nbDims) return fault("setInputShape");
        for (int at = 0; at < dims.nbDims; ++at) {
            const bool fits = tensor->dims.d[at] < 0 ? dims.d[at] <= tensor->max : dims.d[at] == tensor->dims.d[at];
            if (!fits) {
                complain(std::string("IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter check failed, set dimensions of ") +
                         name + " are " + told(dims) + ", the profile's most is " + std::to_string(tensor->max) + ")");
                return false;
            }
        }
        shapes_[name] = dims;
        return true;
    }

    Dims getTensorShape(char const *name) const noexcept override {
        fake::note(std::string("context.getTensorShape ") + name);
        return shape(*plan_.find(name));
    }

    bool setTensorAddress(char const *name, void *data) noexcept override {
        if (fake::call(std::string("context.setTensorAddress ") + name + " " + fake::place(data))) return fault("setTensorAddress");
        addresses_[name] = data;
        return true;
    }

    int32_t inferShapes(int32_t, char const **) noexcept override {
        if (fake::call("context.inferShapes")) return fault("inferShapes") ? 0 : 1;
        return 0;
    }

    void setDeviceMemoryV2(void *memory, int64_t size) noexcept override {
        fake::note("context.setDeviceMemoryV2 " + fake::place(memory) + " " + std::to_string(size));
        memory_ = memory;
        memory_bytes_ = size;
    }

    bool enqueueV3(cudaStream_t stream) noexcept override {
        if (fake::call("context.enqueueV3 " + fake::name(stream))) return fault("enqueueV3");
        const auto workspace = static_cast<std::int64_t>(plan_.workspace);
        if (memory_bytes_ < workspace || (workspace > 0 && fake::room(memory_) < plan_.workspace)) return fault("enqueueV3: device memory");
        const char *from = nullptr;
        std::int64_t from_bytes = 0;
        std::vector<std::pair<char *, std::int64_t>> to;
        for (const Tensor &tensor : plan_.tensors) {
            auto *place = static_cast<char *>(addresses_[tensor.name]);
            const std::int64_t bytes = bytes_of(shape(tensor), tensor.type);
            if (bytes <= 0 || fake::room(place) < static_cast<std::uint64_t>(bytes)) return fault(("enqueueV3: address of " + tensor.name).c_str());
            if (!tensor.input) to.emplace_back(place, bytes);
            else if (from == nullptr) from = place, from_bytes = bytes;
        }
        void *memory = memory_;
        fake::enqueue(stream, [=] {
            if (workspace > 0) std::memset(memory, 0xAB, static_cast<std::size_t>(workspace));
            const std::vector<char> in(from, from + from_bytes);
            for (auto [place, bytes] : to) {
                for (std::int64_t at = 0; at < bytes; ++at) place[at] = in[static_cast<std::size_t>(at % from_bytes)] ^ 0x5A;
            }
        });
        // Some of its work is under way when it gives up.
        return fake::setting("half", 0) == 0 || fault("enqueueV3");
    }

private:
    static bool fault(const char *what) {
        complain(std::string("IExecutionContext::") + what + ": Error Code 1: Myelin (made up)");
        return false;
    }

    // An output's open dimensions are the first input's first, or another's that it names.
    Dims shape(const Tensor &tensor) const {
        if (tensor.input) {
            auto found = shapes_.find(tensor.name);
            return found == shapes_.end() ? tensor.dims : found->second;
        }
        Dims dims = tensor.dims;
        const Tensor *alias = tensor.alias.empty() ? nullptr : plan_.find(tensor.alias.c_str());
        if (alias != nullptr) return shape(*alias);
        for (const Tensor &first : plan_.tensors) {
            if (!first.input || (!tensor.like.empty() && first.name != tensor.like)) continue;
            for (int at = 0; at < dims.nbDims; ++at) dims.d[at] = dims.d[at] < 0 ? shape(first).d[0] : dims.d[at];
            break;
        }
        return dims;
    }

    Plan plan_;
    std::map<std::string, Dims> shapes_;
    std::map<std::string, void *> addresses_;
    void *memory_ = nullptr;
    std::int64_t memory_bytes_ = -1;
};

class Context final : public IExecutionContext {
public:
    explicit Context(const Plan &plan) : impl_(plan) {
        mImpl = &impl_;
        fake::count(1);
    }
    ~Context() noexcept override {
        fake::note("context.delete");
        fake::count(-1);
    }

private:
    ContextImpl impl_;
};

class EngineImpl final : public StubCudaEngine {
public:
    explicit EngineImpl(Plan plan) : plan_(std::move(plan)) {}

    int32_t getNbIOTensors() const noexcept override {
        fake::note("engine.getNbIOTensors");
        return static_cast<int32_t>(plan_.tensors.size());
    }
    char const *getIOTensorName(int32_t index) const noexcept override {
        if (fake::call("engine.getIOTensorName " + std::to_string(index))) return nullptr;
        return plan_.tensors[static_cast<std::size_t>(index)].name.c_str();
    }
    TensorIOMode getTensorIOMode(char const *name) const noexcept override {
        fake::note(std::string("engine.getTensorIOMode ") + name);
        const Tensor *tensor = plan_.find(name);
        return tensor == nullptr ? TensorIOMode::kNONE : tensor->input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    DataType getTensorDataType(char const *name) const noexcept override {
        fake::note(std::string("engine.getTensorDataType ") + name);
        return plan_.find(name)->type;
    }
    Dims getTensorShape(char const *name) const noexcept override {
        fake::note(std::string("engine.getTensorShape ") + name);
        return plan_.find(name)->dims;
    }
    TensorLocation getTensorLocation(char const *name) const noexcept override {
        fake::note(std::string("engine.getTensorLocation ") + name);
        return plan_.find(name)->host ? TensorLocation::kHOST : TensorLocation::kDEVICE;
    }
    TensorFormat getTensorFormat(char const *name) const noexcept override {
        fake::note(std::string("engine.getTensorFormat ") + name);
        return plan_.find(name)->vectorized ? TensorFormat::kCHW32 : TensorFormat::kLINEAR;
    }
#if NV_TENSORRT_MAJOR > 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 15)
    char const *getAliasedInputTensor(char const *name) const noexcept override {
        fake::note(std::string("engine.getAliasedInputTensor ") + name);
        const Tensor *tensor = plan_.find(name);
        return tensor->alias.empty() ? nullptr : tensor->alias.c_str();
    }
#endif
    int64_t getDeviceMemorySizeV2() const noexcept override {
        fake::note("engine.getDeviceMemorySizeV2");
        return static_cast<int64_t>(plan_.workspace);
    }
    IExecutionContext *createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept override {
        if (fake::call("engine.createExecutionContext " + std::to_string(static_cast<int>(strategy)))) {
            complain("ICudaEngine::createExecutionContext: Error Code 2: OutOfMemory (made up)");
            return nullptr;
        }
        return new Context(plan_);
    }

private:
    Plan plan_;
};

class Engine final : public ICudaEngine {
public:
    Engine(Plan plan, IGpuAllocator *allocator, void *weights) : impl_(std::move(plan)), allocator_(allocator), weights_(weights) {
        mImpl = &impl_;
        fake::count(1);
    }
    ~Engine() noexcept override {
        fake::note("engine.delete");
        if (weights_ != nullptr && !allocator_->deallocateAsync(weights_, nullptr)) fake::note("UNEXPECTED weights not given back");
        fake::count(-1);
    }

private:
    EngineImpl impl_;
    IGpuAllocator *allocator_;
    void *weights_;
};

class RuntimeImpl final : public StubRuntime {
public:
    void setGpuAllocator(IGpuAllocator *allocator) noexcept override {
        fake::note("runtime.setGpuAllocator");
        allocator_ = allocator;
    }

    ICudaEngine *deserializeCudaEngine(void const *blob, std::size_t size) noexcept override {
        if (fake::call("runtime.deserializeCudaEngine " + std::to_string(size))) {
            complain("IRuntime::deserializeCudaEngine: Error Code 1: Internal Error (made up)");
            return nullptr;
        }
        Plan plan;
        if (!Plan::read(std::string(static_cast<const char *>(blob), size), plan)) {
            complain("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.)");
            return nullptr;
        }
        if (plan.trt != NV_TENSORRT_MAJOR) {
            complain("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION "
                     "failed.Version tag does not match.)");
            return nullptr;
        }
        if (plan.sm != 86) {
            complain("IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on an incompatible device, "
                     "expecting compute 8.6 got compute " + std::to_string(plan.sm / 10) + "." + std::to_string(plan.sm % 10) + ", please rebuild.)");
            return nullptr;
        }
        if (!plan.plugin.empty()) {
            complain("IPluginRegistry::getCreator: Error Code 4: API Usage Error (Cannot find plugin: " + plan.plugin + ", version: 1, namespace:.)");
            return nullptr;
        }
        void *weights = nullptr;
        if (plan.weights > 0) {
            weights = allocator_->allocateAsync(plan.weights, 256, 0, nullptr);
            if (weights == nullptr) {
                complain("IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory (Requested size was " + std::to_string(plan.weights) + " bytes.)");
                return nullptr;
            }
            fake::note("weights at " + fake::place(weights));
            // What only reading the plan takes.
            const auto scratch = static_cast<std::uint64_t>(fake::setting("scratch", 0));
            void *more = scratch > 0 ? allocator_->allocateAsync(scratch, 256, 0, nullptr) : nullptr;
            if (more != nullptr) allocator_->deallocateAsync(more, nullptr);
        }
        return new Engine(std::move(plan), allocator_, weights);
    }

private:
    IGpuAllocator *allocator_ = nullptr;
};

class Runtime final : public IRuntime {
public:
    Runtime() {
        mImpl = &impl_;
        fake::count(1);
    }
    ~Runtime() noexcept override {
        fake::note("runtime.delete");
        fake::count(-1);
    }

private:
    RuntimeImpl impl_;
};

}  // namespace
}  // namespace nvinfer1

EXPORT int32_t getInferLibMajorVersion() noexcept { return static_cast<int32_t>(fake::setting("trt_major", NV_TENSORRT_MAJOR)); }
EXPORT int32_t getInferLibMinorVersion() noexcept { return static_cast<int32_t>(fake::setting("trt_minor", NV_TENSORRT_MINOR)); }
EXPORT int32_t getInferLibPatchVersion() noexcept { return NV_TENSORRT_PATCH; }

#ifndef FAKE_LACKS
EXPORT void *createInferRuntime_INTERNAL(void *logger, int32_t version) noexcept {
    if (logger == nullptr) std::abort();
    nvinfer1::log_to = static_cast<nvinfer1::ILogger *>(logger);
    if (fake::call("createInferRuntime " + std::to_string(version == NV_TENSORRT_VERSION))) {
        nvinfer1::complain("createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: 35)");
        return nullptr;
    }
    // What 10.16 gives without a usable GPU.
    const std::int64_t bogus = fake::setting("runtime", -1);
    return bogus < 0 ? new nvinfer1::Runtime : reinterpret_cast<void *>(bogus);
}
#endif
