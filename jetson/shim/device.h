// What is open: devices, and what was opened on them.
#pragma once

#include <atomic>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "arena.h"
#include "driver.h"
#include "log.h"
#include "uhr_shim.h"

namespace uhr {

// Libraries and what is told of failures about no device.
struct Shim {
    std::mutex mutex;
    Driver driver;
    void *(*create_runtime)(void *logger, std::int32_t version) = nullptr;
    std::uint32_t version[4] = {};
    int devices = 0;
    std::string error;
    std::map<uhr_handle, std::shared_ptr<struct Device>> open;
};

// Never destroyed: TensorRT's threads may outlive `main`.
Shim &shim();
Log &logger();
uhr_handle next_handle();

struct Host {
    void *place;
    std::uint64_t bytes;
};

struct Buffer {
    CuPointer place;
    std::uint64_t bytes;
    // Whose memory it is, if it isn't the arena's.
    std::shared_ptr<Host> of;
};

struct Stream {
    CuStream stream;
};

struct Event {
    CuEvent event;
};

// TensorRT's own memory (weights, mostly), from the arena too.
class Weights final : public nvinfer1::IGpuAllocator {
public:
    explicit Weights(Arena &arena) : arena_(arena) {}

    void *allocate(std::uint64_t const size, std::uint64_t const alignment, nvinfer1::AllocatorFlags const) noexcept override;
    bool deallocate(void *const memory) noexcept override;
    void *allocateAsync(std::uint64_t const size, std::uint64_t const alignment, nvinfer1::AllocatorFlags const flags,
                        cudaStream_t) noexcept override;
    bool deallocateAsync(void *const memory, cudaStream_t) noexcept override;

    std::uint64_t live() const noexcept { return live_; }
    // All that was taken since the last `mark`, what was given back included.
    std::uint64_t taken() const noexcept { return taken_; }
    void mark() noexcept { taken_ = 0; }
    // Whether a request was refused since the last time of asking.
    bool refused() noexcept { return refused_.exchange(false); }

private:
    Arena &arena_;
    std::atomic<std::uint64_t> live_{0}, taken_{0};
    std::atomic<bool> refused_{false};
};

struct Engine;

struct Device {
    CuDevice device = 0;
    CuContext context = nullptr;
    std::string name;
    std::uint32_t compute[2] = {};
    // The host's memory is its own.
    bool shares = false;
    Arena arena{shim().driver};
    Weights weights{arena};
    nvinfer1::IRuntime *runtime = nullptr;
    std::atomic<bool> lost{false};

    std::mutex mutex;  // of all below
    std::string error, why_lost;
    std::map<uhr_handle, std::shared_ptr<Buffer>> buffers;
    std::map<uhr_handle, std::shared_ptr<Host>> hosts;
    std::map<uhr_handle, std::shared_ptr<Stream>> streams;
    std::map<uhr_handle, std::shared_ptr<Event>> events;
    std::map<uhr_handle, std::shared_ptr<Engine>> engines;

    // Nobody waits for the context while a run is captured: CUDA refuses that.
    std::mutex capturing;

    // One engine at a time is read, so that its weights can be told from another's.
    std::mutex opening;

    uhr_status say(uhr_status status, std::string text);
    // A driver's answer as a status, told.
    uhr_status judge(const char *doing, CuResult result);
    // This thread works with it from here on.
    uhr_status enter();
};

template <class T>
std::shared_ptr<T> find(Device &device, std::map<uhr_handle, std::shared_ptr<T>> &of, uhr_handle handle) {
    std::lock_guard<std::mutex> lock(device.mutex);
    auto found = of.find(handle);
    return found == of.end() ? nullptr : found->second;
}

template <class T>
uhr_handle keep(Device &device, std::map<uhr_handle, std::shared_ptr<T>> &in, std::shared_ptr<T> made) {
    std::lock_guard<std::mutex> lock(device.mutex);
    const uhr_handle handle = next_handle();
    in.emplace(handle, std::move(made));
    return handle;
}

template <class T>
std::shared_ptr<T> remove(Device &device, std::map<uhr_handle, std::shared_ptr<T>> &from, uhr_handle handle) {
    std::lock_guard<std::mutex> lock(device.mutex);
    auto found = from.find(handle);
    if (found == from.end()) return nullptr;
    std::shared_ptr<T> removed = std::move(found->second);
    from.erase(found);
    return removed;
}

std::shared_ptr<Device> device_of(uhr_handle handle);

// Nothing thrown crosses the border.
template <class F>
uhr_status guarded(F call) noexcept {
    try {
        return call();
    } catch (...) {
        return UHR_FAILED;
    }
}

// A call about an open device that isn't lost, with its context current.
template <class F>
uhr_status on(uhr_handle handle, F call) noexcept {
    return guarded([&]() -> uhr_status {
        std::shared_ptr<Device> device = device_of(handle);
        if (!device) return UHR_ARGUMENT;
        if (uhr_status status = device->enter()) return status;
        try {
            return call(*device);
        } catch (const std::exception &thrown) {
            return device->say(UHR_FAILED, std::string("thrown: ") + thrown.what());
        }
    });
}

// A call that closes something: once all that was enqueued is done, and on a lost device too.
template <class F>
uhr_status closing(uhr_handle handle, F call) noexcept {
    return guarded([&]() -> uhr_status {
        std::shared_ptr<Device> device = device_of(handle);
        if (!device) return UHR_ARGUMENT;
        shim().driver.cuCtxSetCurrent(device->context);
        std::lock_guard<std::mutex> lock(device->capturing);
        // Of a lost device too: what was under way may still be at the memory that is freed next.
        device->judge("waiting for its work", shim().driver.cuCtxSynchronize());
        return call(*device);
    });
}

uhr_status engine_open(uhr_handle device, const std::uint8_t *plan, std::uint64_t bytes, uhr_handle *engine) noexcept;
uhr_status engine_bytes(uhr_handle device, uhr_handle engine, std::uint64_t *bytes) noexcept;
uhr_status engine_taken(uhr_handle device, uhr_handle engine, std::uint64_t *bytes) noexcept;
uhr_status engine_tensor(uhr_handle device, uhr_handle engine, const char *name, uhr_tensor *tensor) noexcept;
uhr_status engine_close(uhr_handle device, uhr_handle engine) noexcept;
uhr_status enqueue(uhr_handle device, uhr_handle stream, uhr_handle engine, const uhr_binding *bindings, std::uint32_t count) noexcept;

void fill_device(uhr_table &table);

}  // namespace uhr
