// What the shim exports: its version, and the table once libraries and GPUs were found good.
#include <algorithm>
#include <cstring>

#include "device.h"

#define UHR_EXPORT extern "C" __attribute__((visibility("default")))
#define UHR_TEXT_(x) #x
#define UHR_TEXT(x) UHR_TEXT_(x)

namespace uhr {
namespace {

#if NV_TENSORRT_MAJOR < 8
// TensorRT-RTX counts from 1.
constexpr const char *TENSORRT = "libtensorrt_rtx.so." UHR_TEXT(NV_TENSORRT_MAJOR);
#else
constexpr const char *TENSORRT = "libnvinfer.so." UHR_TEXT(NV_TENSORRT_MAJOR);
#endif
constexpr const char *CUDA = "libcuda.so.1";

struct Found {
    uhr_status status;
    std::string text;
};

std::string why() {
    const char *text = dlerror();
    return text == nullptr ? "no reason told" : text;
}

// Asked before anything else: the classes of another major have other virtual tables, and a call to one of them ends anywhere.
Found version(void *library, std::uint32_t (&version)[4]) {
    constexpr const char *NAMES[4] = {"getInferLibMajorVersion", "getInferLibMinorVersion", "getInferLibPatchVersion", "getInferLibBuildVersion"};
    for (int at = 0; at < 4; ++at) {
        auto get = reinterpret_cast<std::int32_t (*)()>(dlsym(library, NAMES[at]));
        if (get == nullptr && at < 2) return {UHR_NO_SYMBOL, NAMES[at]};
        version[at] = get == nullptr ? 0 : static_cast<std::uint32_t>(get());
    }
    const std::string found = std::to_string(version[0]) + "." + std::to_string(version[1]) + "." + std::to_string(version[2]);
    // Tables grow at their end within a major: a later minor has all that the headers know, an earlier one may not.
    if (version[0] != NV_TENSORRT_MAJOR || version[1] < NV_TENSORRT_MINOR) {
        return {UHR_OTHER_VERSION, "wanted TensorRT " UHR_TEXT(NV_TENSORRT_MAJOR) "." UHR_TEXT(NV_TENSORRT_MINOR)
                                   " or a later one of that major, found " + found};
    }
    return {UHR_OK, found};
}

Found devices(const char *path, Driver &driver, int &count) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return {UHR_NO_GPU, why()};
    if (const char *lacks = driver.find(library)) return {UHR_NO_SYMBOL, std::string(path) + ": " + lacks};
    if (CuResult result = driver.cuInit(0)) return {UHR_NO_GPU, driver.name(result)};
    if (CuResult result = driver.cuDeviceGetCount(&count)) return {UHR_NO_GPU, driver.name(result)};
    if (count < 1) return {UHR_NO_GPU, "the CUDA driver counts none"};
    return {UHR_OK, {}};
}

Found open(const char *tensorrt, const char *cuda) {
    Shim &all = shim();
    std::lock_guard<std::mutex> lock(all.mutex);
    if (!all.open.empty()) return {UHR_ARGUMENT, "a device is open"};
    tensorrt = tensorrt == nullptr ? TENSORRT : tensorrt;
    // Never closed: TensorRT keeps threads and says that it isn't made to be unloaded.
    void *library = dlopen(tensorrt, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return {UHR_NO_LIBRARY, why()};
    Found found = version(library, all.version);
    if (found.status != UHR_OK) return {found.status, std::string(tensorrt) + ": " + found.text};
    auto create = reinterpret_cast<decltype(all.create_runtime)>(dlsym(library, "createInferRuntime_INTERNAL"));
    if (create == nullptr) return {UHR_NO_SYMBOL, std::string(tensorrt) + ": createInferRuntime_INTERNAL"};
    Driver driver;
    int count = 0;
    Found gpu = devices(cuda == nullptr ? CUDA : cuda, driver, count);
    if (gpu.status != UHR_OK) return {gpu.status, gpu.status == UHR_NO_GPU ? "TensorRT " + found.text + ": " + gpu.text : gpu.text};
    all.driver = driver;
    all.create_runtime = create;
    all.devices = count;
    return {UHR_OK, {}};
}

}  // namespace
}  // namespace uhr

UHR_EXPORT std::uint32_t uhr_shim_abi_version(void) { return UHR_SHIM_ABI_VERSION; }

UHR_EXPORT uhr_status uhr_shim_open(const char *tensorrt, const char *cuda, uhr_table *table, std::uint64_t bytes, char *text,
                                    std::uint64_t capacity, std::uint64_t *len) {
    return uhr::guarded([&]() -> uhr_status {
        *len = 0;
        uhr::Found found;
        if (bytes > sizeof(uhr_table)) found = {UHR_NO_SYMBOL, "the shim is older than the program: a table of " + std::to_string(sizeof(uhr_table)) + " bytes"};
        else found = uhr::open(tensorrt, cuda);
        *len = std::min<std::uint64_t>(found.text.size(), capacity);
        std::memcpy(text, found.text.data(), *len);
        if (found.status != UHR_OK) return found.status;
        uhr_table full;
        uhr::fill_device(full);
        std::memcpy(table, &full, bytes);
        return UHR_OK;
    });
}
