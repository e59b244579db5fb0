#!/bin/sh
# build.sh OUT: the shim as OUT/libuhr_shim.so. build.sh OUT fakes: and, for the tests, the libraries that it loads, without a GPU behind them.
# TENSORRT_INCLUDE: where NvInferRuntime.h is (on a Jetson /usr/include/aarch64-linux-gnu). Without it, the TensorRT 11 headers that the crate trtx-sys
# brings, by way of cargo's registry. CXX: the compiler. No CUDA is needed: stub/ has the two types that the headers name.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1
mkdir -p "$out"
out=$(cd "$out" && pwd)

headers=${TENSORRT_INCLUDE:-}
if [ -z "$headers" ]; then
    bundled() { ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/trtx-sys-0.9.1*/TensorRT-Headers/TRT-Enterprise-* 2>/dev/null | tail -n 1; }
    headers=$(bundled)
    if [ -z "$headers" ]; then
        mkdir -p "$out/headers/src"
        printf '[package]\nname = "headers"\nversion = "0.0.0"\nedition = "2021"\n\n[dependencies]\ntrtx-sys = "=0.9.1"\n\n[workspace]\n' > "$out/headers/Cargo.toml"
        : > "$out/headers/src/lib.rs"
        cargo fetch --quiet --manifest-path "$out/headers/Cargo.toml"
        headers=$(bundled)
    fi
fi
[ -f "$headers/NvInferRuntime.h" ] || { echo "build.sh: no NvInferRuntime.h in '$headers'; TENSORRT_INCLUDE names its folder" >&2; exit 3; }

compile() {
    "${CXX:-c++}" -std=c++17 -O2 -fPIC -shared -fvisibility=hidden -pthread -Wall -Wextra -Werror -Wno-deprecated-declarations \
        -isystem "$headers" -idirafter "$here/stub" "$@" -ldl
}

compile "$here/open.cpp" "$here/device.cpp" "$here/engine.cpp" -o "$out/libuhr_shim.so"
if [ "${2:-}" = fakes ]; then
    awk -f "$here/fake/stubs.awk" "$headers/NvInferImpl.h" > "$out/stubs.inc"
    for lacks in "" -DFAKE_LACKS; do
        cuda=libfakecuda$lacks.so nvinfer=libfakenvinfer$lacks.so
        compile $lacks "$here/fake/cuda.cpp" -Wl,-soname,"$cuda" -o "$out/$cuda"
        compile $lacks -isystem "$out" "$here/fake/nvinfer.cpp" -L"$out" -l:libfakecuda.so -Wl,-rpath,'$ORIGIN' -o "$out/$nvinfer"
    done
fi
echo "$headers"
