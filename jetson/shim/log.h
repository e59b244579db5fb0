// What TensorRT says, kept for the next error.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstring>
#include <mutex>
#include <string>

namespace uhr {

// One for the process: TensorRT keeps to the first logger that it is given.
class Log final : public nvinfer1::ILogger {
public:
    void log(Severity severity, nvinfer1::AsciiChar const *message) noexcept override {
        if (severity > Severity::kWARNING || message == nullptr) return;
        std::lock_guard<std::mutex> lock(mutex_);
        auto &line = lines_[said_++ % lines_.size()];
        std::strncpy(line.data(), message, line.size() - 1);
        line.back() = 0;
    }

    void clear() noexcept {
        std::lock_guard<std::mutex> lock(mutex_);
        said_ = 0;
    }

    // Its last warnings and errors since `clear`, oldest first.
    std::string told() {
        std::lock_guard<std::mutex> lock(mutex_);
        std::string text;
        for (std::size_t at = said_ < lines_.size() ? 0 : said_ - lines_.size(); at < said_; ++at) {
            text += text.empty() ? "" : "; ";
            text += lines_[at % lines_.size()].data();
        }
        return text.empty() ? "TensorRT says nothing of it" : text;
    }

private:
    std::mutex mutex_;
    std::size_t said_ = 0;
    std::array<std::array<char, 400>, 4> lines_{};
};

}  // namespace uhr
