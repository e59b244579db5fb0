// A CUDA driver without a GPU: the host's memory stands for the device's, and what is enqueued is done later by a thread.
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "fake.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace fake {
namespace {

struct Job {
    void *stream;
    std::function<void()> work;
};

struct Event {
    std::uint64_t due = 0;
};

// What was captured of a stream.
using Graph = std::vector<std::function<void()>>;

struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::string log;
    std::map<std::string, std::int64_t> settings;
    std::map<std::uintptr_t, std::pair<std::string, std::uint64_t>> memory;
    std::map<const void *, std::string> names;
    std::deque<Job> queue;
    // Of the stream that is captured now.
    void *captured = nullptr;
    Graph graph;
    std::uint64_t enqueued = 0, done = 0;
    std::int64_t calls = 0, fail_at = -1, live = 0;
    int fail_with = 0, broken = 0, allocations = 0, things = 0;
    bool held = false;
};

State &state() {
    static State &one = *new State;
    static const bool started = [] {
        std::thread([] {
            State &s = one;
            std::unique_lock<std::mutex> lock(s.mutex);
            for (;;) {
                s.changed.wait(lock, [&] { return !s.queue.empty() && !s.held; });
                Job job = s.queue.front();
                auto break_in = s.settings.find("break_job");
                if (break_in != s.settings.end() && break_in->second-- == 0) s.broken = 719;
                if (s.broken == 0) {
                    lock.unlock();
                    std::this_thread::sleep_for(std::chrono::microseconds(200));
                    job.work();
                    lock.lock();
                }
                s.queue.pop_front();
                ++s.done;
                s.changed.notify_all();
            }
        }).detach();
        return true;
    }();
    (void)started;
    return one;
}

// Of a call that frees: it does so whatever it answers.
int ending(const std::string &text) { return call(text); }

void *made(const char *kind, void *thing) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    s.names[thing] = kind + std::to_string(++s.things);
    ++s.live;
    return thing;
}

int allocate(const char *kind, std::uint64_t bytes, void **out) {
    State &s = state();
    if (bytes > static_cast<std::uint64_t>(setting("memory", 1 << 30))) return 2;
    void *memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    std::memset(memory, 0xFF, bytes);
    std::lock_guard<std::mutex> lock(s.mutex);
    s.memory[reinterpret_cast<std::uintptr_t>(memory)] = {kind + std::to_string(++s.allocations), bytes};
    ++s.live;
    *out = memory;
    return 0;
}

bool release(void *memory) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    if (s.memory.erase(reinterpret_cast<std::uintptr_t>(memory)) == 0) return false;
    --s.live;
    std::free(memory);
    return true;
}

int copy(const char *what, void *to, const void *from, std::size_t bytes, void *stream) {
    if (int failed = call(std::string(what) + " " + place(to) + " " + place(from) + " " + std::to_string(bytes) + " " + name(stream))) return failed;
    if (room(to) < bytes || room(from) < bytes) return 1;
    enqueue(stream, [=] { std::memcpy(to, from, bytes); });
    return 0;
}

}  // namespace

int call(const std::string &text) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    s.log += text + "\n";
    const std::int64_t number = s.calls++;
    if (number == s.fail_at) {
        s.log += "  fails\n";
        if (s.fail_with >= 700 && s.fail_with < 900) s.broken = s.fail_with;
        return s.fail_with;
    }
    return s.broken;
}

void note(const std::string &text) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    s.log += text + "\n";
}

std::string place(const void *address) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    auto found = s.memory.upper_bound(at);
    if (found == s.memory.begin()) return at == 0 ? "null" : "?";
    --found;
    if (at - found->first >= found->second.second) return "?";
    return found->second.first + "+" + std::to_string(at - found->first);
}

std::string name(const void *thing) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    auto found = s.names.find(thing);
    return found == s.names.end() ? "?" : found->second;
}

std::uint64_t room(const void *address) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    auto found = s.memory.upper_bound(at);
    if (found == s.memory.begin()) return 0;
    --found;
    const std::uint64_t into = at - found->first;
    return into < found->second.second ? found->second.second - into : 0;
}

void enqueue(void *stream, std::function<void()> work) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    if (s.captured != nullptr && s.captured == stream) {
        s.graph.push_back(std::move(work));
        return;
    }
    s.queue.push_back({stream, std::move(work)});
    ++s.enqueued;
    s.changed.notify_all();
}

std::int64_t setting(const char *key, std::int64_t otherwise) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    auto found = s.settings.find(key);
    return found == s.settings.end() ? otherwise : found->second;
}

void count(int change) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    s.live += change;
}

}  // namespace fake

using namespace fake;

// ---- What a test says to it.

EXPORT void fake_reset(void) {
    State &s = state();
    std::unique_lock<std::mutex> lock(s.mutex);
    s.held = false;
    s.changed.notify_all();
    s.changed.wait(lock, [&] { return s.queue.empty(); });
    s.log.clear();
    s.settings.clear();
    s.captured = nullptr;
    s.calls = 0, s.fail_at = -1, s.live = 0;
    s.fail_with = s.broken = s.allocations = s.things = 0;
}

EXPORT void fake_set(const char *key, std::int64_t value) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    s.settings[key] = value;
}

EXPORT void fake_fail_at(std::int64_t number, int with) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    s.fail_at = number;
    s.fail_with = with;
}

EXPORT void fake_hold(int held) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    s.held = held != 0;
    s.changed.notify_all();
}

EXPORT std::int64_t fake_calls(void) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    return s.calls;
}

EXPORT std::int64_t fake_live(void) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    return s.live;
}

EXPORT std::uint64_t fake_log(char *text, std::uint64_t capacity) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    const std::uint64_t len = s.log.size() < capacity ? s.log.size() : capacity;
    std::memcpy(text, s.log.data(), len);
    return len;
}

// ---- The driver.

EXPORT int cuInit(unsigned) {
    if (int failed = call("cuInit")) return failed;
    return static_cast<int>(setting("cuInit", 0));
}

EXPORT int cuGetErrorName(int result, const char **text) {
    switch (result) {
    case 1: *text = "CUDA_ERROR_INVALID_VALUE"; return 0;
    case 2: *text = "CUDA_ERROR_OUT_OF_MEMORY"; return 0;
    case 100: *text = "CUDA_ERROR_NO_DEVICE"; return 0;
    case 700: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; return 0;
    case 901: *text = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"; return 0;
    case 719: *text = "CUDA_ERROR_LAUNCH_FAILED"; return 0;
    default: return 1;
    }
}

EXPORT int cuDeviceGetCount(int *count) {
    if (int failed = call("cuDeviceGetCount")) return failed;
    *count = static_cast<int>(setting("devices", 1));
    return 0;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
    if (int failed = call("cuDeviceGet " + std::to_string(ordinal))) return failed;
    *device = ordinal;
    return 0;
}

EXPORT int cuDeviceGetName(char *text, int capacity, int) {
    if (int failed = call("cuDeviceGetName")) return failed;
    std::strncpy(text, "Made-up GPU", static_cast<std::size_t>(capacity));
    return 0;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int) {
    if (int failed = call("cuDeviceGetAttribute " + std::to_string(attribute))) return failed;
    switch (attribute) {
    case 75: *value = 8; break;
    case 76: *value = 6; break;
    default: *value = static_cast<int>(setting("integrated", 0));
    }
    return 0;
}

EXPORT int cuDevicePrimaryCtxRetain(void **context, int) {
    if (int failed = call("cuDevicePrimaryCtxRetain")) return failed;
    static int one;
    *context = &one;
    count(1);
    return 0;
}

EXPORT int cuDevicePrimaryCtxRelease_v2(int) {
    count(-1);
    return ending("cuDevicePrimaryCtxRelease");
}

// Called before everything else on every thread, so not written down.
EXPORT int cuCtxSetCurrent(void *) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    return s.broken;
}

EXPORT int cuCtxSynchronize(void) {
    State &s = state();
    std::unique_lock<std::mutex> lock(s.mutex);
    s.log += "cuCtxSynchronize\n";
    if (s.captured != nullptr) {
        s.log += "UNEXPECTED while a run is captured\n";
        return 900;
    }
    s.held = false;
    s.changed.notify_all();
    s.changed.wait(lock, [&] { return s.queue.empty(); });
    return s.broken;
}

EXPORT int cuMemGetInfo_v2(std::size_t *free, std::size_t *total) {
    if (int failed = call("cuMemGetInfo")) return failed;
    *free = *total = static_cast<std::size_t>(setting("memory", 1 << 30));
    return 0;
}

EXPORT int cuMemAlloc_v2(unsigned long long *address, std::size_t bytes) {
    if (int failed = call("cuMemAlloc " + std::to_string(bytes))) return failed;
    void *memory = nullptr;
    if (int failed = allocate("m", bytes, &memory)) return failed;
    *address = reinterpret_cast<unsigned long long>(memory);
    return 0;
}

EXPORT int cuMemFree_v2(unsigned long long address) {
    const int failed = ending("cuMemFree " + place(reinterpret_cast<void *>(address)));
    return release(reinterpret_cast<void *>(address)) ? failed : 1;
}

EXPORT int cuMemHostAlloc(void **memory, std::size_t bytes, unsigned flags) {
    if (int failed = call("cuMemHostAlloc " + std::to_string(bytes) + " " + std::to_string(flags))) return failed;
    return allocate("h", bytes, memory);
}

EXPORT int cuMemFreeHost(void *memory) {
    const int failed = ending("cuMemFreeHost " + place(memory));
    return release(memory) ? failed : 1;
}

EXPORT int cuMemHostGetDevicePointer_v2(unsigned long long *address, void *memory, unsigned flags) {
    if (int failed = call("cuMemHostGetDevicePointer " + place(memory) + " " + std::to_string(flags))) return failed;
    *address = reinterpret_cast<unsigned long long>(memory);
    return 0;
}

EXPORT int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, std::size_t bytes, void *stream) {
    return copy("cuMemcpyHtoDAsync", reinterpret_cast<void *>(to), from, bytes, stream);
}

EXPORT int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, std::size_t bytes, void *stream) {
    return copy("cuMemcpyDtoHAsync", to, reinterpret_cast<void *>(from), bytes, stream);
}

// CUDA_MEMCPY2D of cuda.h.
struct Copy2D {
    std::size_t from_x, from_y;
    int from_kind;
    const void *from_host;
    unsigned long long from;
    void *from_array;
    std::size_t from_pitch;
    std::size_t to_x, to_y;
    int to_kind;
    void *to_host;
    unsigned long long to;
    void *to_array;
    std::size_t to_pitch;
    std::size_t width, height;
};

EXPORT int cuMemcpy2DAsync_v2(const Copy2D *copy, void *stream) {
    auto *to = reinterpret_cast<char *>(copy->to);
    const auto *from = reinterpret_cast<const char *>(copy->from);
    const std::string shape = std::to_string(copy->width) + "x" + std::to_string(copy->height);
    const std::string places = place(to) + " every " + std::to_string(copy->to_pitch) + " " + place(from) + " every " + std::to_string(copy->from_pitch);
    if (int failed = call("cuMemcpy2DAsync " + places + " " + shape + " " + name(stream))) return failed;
    if (copy->from_kind != 2 || copy->to_kind != 2 || copy->from_x != 0 || copy->from_y != 0 || copy->to_x != 0 || copy->to_y != 0) return 1;
    if (copy->width > copy->from_pitch || copy->width > copy->to_pitch) return 1;
    if (room(to) < (copy->height - 1) * copy->to_pitch + copy->width || room(from) < (copy->height - 1) * copy->from_pitch + copy->width) return 1;
    enqueue(stream, [=, copy = *copy] {
        for (std::size_t row = 0; row < copy.height; ++row) std::memcpy(to + row * copy.to_pitch, from + row * copy.from_pitch, copy.width);
    });
    return 0;
}

EXPORT int cuMemsetD2D8Async(unsigned long long address, std::size_t pitch, unsigned char value, std::size_t width, std::size_t height, void *stream) {
    auto *to = reinterpret_cast<char *>(address);
    const std::string shape = std::to_string(width) + "x" + std::to_string(height);
    if (int failed = call("cuMemsetD2D8Async " + place(to) + " every " + std::to_string(pitch) + " " + std::to_string(value) + " " + shape + " " + name(stream))) return failed;
    if (width > pitch || room(to) < (height - 1) * pitch + width) return 1;
    enqueue(stream, [=] {
        for (std::size_t row = 0; row < height; ++row) std::memset(to + row * pitch, value, width);
    });
    return 0;
}

EXPORT int cuStreamCreate(void **stream, unsigned flags) {
    if (int failed = call("cuStreamCreate " + std::to_string(flags))) return failed;
    *stream = made("s", new int);
    return 0;
}

EXPORT int cuStreamDestroy_v2(void *stream) {
    const int failed = ending("cuStreamDestroy " + name(stream));
    count(-1);
    delete static_cast<int *>(stream);
    return failed;
}

EXPORT int cuStreamQuery(void *stream) {
    if (int failed = call("cuStreamQuery " + name(stream))) return failed;
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    return s.queue.empty() ? 0 : 600;
}

EXPORT int cuStreamBeginCapture_v2(void *stream, int mode) {
    if (int failed = call("cuStreamBeginCapture " + name(stream) + " " + std::to_string(mode))) return failed;
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    s.captured = stream;
    s.graph.clear();
    return 0;
}

EXPORT int cuStreamEndCapture(void *stream, void **graph) {
    const int failed = call("cuStreamEndCapture " + name(stream));
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    s.captured = nullptr;
    *graph = nullptr;
    if (failed != 0) return failed;
    *graph = new Graph(std::move(s.graph));
    ++s.live;
    return 0;
}

EXPORT int cuGraphInstantiateWithFlags(void **ready, void *graph, unsigned long long flags) {
    if (int failed = call("cuGraphInstantiate " + std::to_string(flags))) return failed;
    *ready = made("g", new Graph(*static_cast<Graph *>(graph)));
    return 0;
}

EXPORT int cuGraphDestroy(void *graph) {
    const int failed = ending("cuGraphDestroy");
    count(-1);
    delete static_cast<Graph *>(graph);
    return failed;
}

EXPORT int cuGraphLaunch(void *ready, void *stream) {
    if (int failed = call("cuGraphLaunch " + name(ready) + " " + name(stream))) return failed;
    enqueue(stream, [work = *static_cast<Graph *>(ready)] {
        for (const auto &one : work) one();
    });
    return 0;
}

EXPORT int cuGraphExecDestroy(void *ready) {
    const int failed = ending("cuGraphExecDestroy " + name(ready));
    count(-1);
    delete static_cast<Graph *>(ready);
    return failed;
}

EXPORT int cuEventCreate(void **event, unsigned flags) {
    if (int failed = call("cuEventCreate " + std::to_string(flags))) return failed;
    *event = made("e", new Event);
    return 0;
}

EXPORT int cuEventDestroy_v2(void *event) {
    const int failed = ending("cuEventDestroy " + name(event));
    count(-1);
    delete static_cast<Event *>(event);
    return failed;
}

EXPORT int cuEventRecord(void *event, void *stream) {
    if (int failed = call("cuEventRecord " + name(event) + " " + name(stream))) return failed;
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    static_cast<Event *>(event)->due = s.enqueued;
    return 0;
}

#ifndef FAKE_LACKS
EXPORT int cuEventQuery(void *event) {
    if (int failed = call("cuEventQuery " + name(event))) return failed;
    State &s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    return s.done >= static_cast<Event *>(event)->due ? s.broken : 600;
}
#endif

EXPORT int cuEventSynchronize(void *event) {
    if (int failed = call("cuEventSynchronize " + name(event))) return failed;
    State &s = state();
    std::unique_lock<std::mutex> lock(s.mutex);
    s.changed.wait(lock, [&] { return s.done >= static_cast<Event *>(event)->due; });
    return s.broken;
}
