// What both fakes share: one record of calls, faults told beforehand, and a queue that is worked off later.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

// Across both libraries.
namespace fake __attribute__((visibility("default"))) {

// Writes a call down, and tells whether it is the one that was told to fail: 0, or the driver's error.
int call(const std::string &text);
// Writes a call down that can't fail.
void note(const std::string &text);
// "m1+256": which allocation, and how far into it.
std::string place(const void *address);
// "s1": which stream or event.
std::string name(const void *thing);
// Bytes from `address` to the end of its allocation; 0 where there is none.
std::uint64_t room(const void *address);
void enqueue(void *stream, std::function<void()> work);
std::int64_t setting(const char *key, std::int64_t otherwise);
// One more open, or one less.
void count(int change);

}  // namespace fake
