// The CUDA runtime: memory of devices and pinned memory of the host, copies and memsets.
#include "fake.h"

#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

using namespace fake;

// --- memory ---

// CUDA: an allocation may wait for the device, so it is refused during a capture, but in the relaxed mode, which
// torch's allocator takes for the memory of a graph.
API cudaError_t cudaMalloc(void** pointer, size_t size) {
    Call call;
    if (auto error = allowed_now("cudaMalloc")) return error;
    size = size ? size : 1;
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return remember(cudaErrorMemoryAllocation);
    touch(current_device, "cudaMalloc");
    state().allocations["cudaMalloc"]++;
    state().device_memory[(char*)memory] = {size, current_device};
    *pointer = memory;
    return cudaSuccess;
}

// CUDA: memory is freed when the device has done all its work.
API cudaError_t cudaFree(void* pointer) {
    Call call;
    if (auto error = allowed_now("cudaFree")) return error;
    auto found = state().device_memory.find((char*)pointer);
    if (found == state().device_memory.end()) return cudaSuccess;
    call.wait([device = found->second.device] {
        bool done = idle(state().legacy[device]);
        for (Stream* stream : state().streams) done &= stream->device != device || idle(*stream);
        return done;
    });
    state().allocations["cudaFree"]++;
    munmap(pointer, state().device_memory[(char*)pointer].size);
    state().device_memory.erase((char*)pointer);
    return cudaSuccess;
}

API cudaError_t cudaMallocAsync(void** pointer, size_t size, cudaStream_t) { return cudaMalloc(pointer, size); }
API cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return cudaFree(pointer); }

API cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned) {
    Call call;
    if (auto error = allowed_now("cudaHostAlloc")) return error;
    touch(current_device, "cudaHostAlloc");  // it makes a context on the current device
    state().allocations["cudaHostAlloc"]++;
    *pointer = calloc(1, size ? size : 1);
    state().pinned_memory[(char*)*pointer] = {size ? size : 1, current_device};
    return cudaSuccess;
}

API cudaError_t cudaFreeHost(void* pointer) {
    Call call;
    if (auto error = allowed_now("cudaFreeHost")) return error;
    state().allocations["cudaFreeHost"]++;
    state().pinned_memory.erase((char*)pointer);
    free(pointer);
    return cudaSuccess;
}

API cudaError_t cudaHostRegister(void* pointer, size_t size, unsigned) {
    Call call;
    if (auto error = allowed_now("cudaHostRegister")) return error;
    touch(current_device, "cudaHostRegister");
    state().allocations["cudaHostRegister"]++;
    state().pinned_memory[(char*)pointer] = {size, current_device};
    return cudaSuccess;
}

API cudaError_t cudaHostUnregister(void* pointer) {
    Call call;
    state().pinned_memory.erase((char*)pointer);
    return cudaSuccess;
}

API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
    Call call;
    memset(attributes, 0, sizeof *attributes);
    attributes->type = cudaMemoryTypeUnregistered;
    attributes->hostPointer = (void*)pointer;
    if (auto block = block_at(state().device_memory, pointer)) {
        attributes->type = cudaMemoryTypeDevice;
        attributes->device = block->device;
        attributes->devicePointer = (void*)pointer;
        attributes->hostPointer = nullptr;
    } else if (auto pinned = block_at(state().pinned_memory, pointer)) {
        attributes->type = cudaMemoryTypeHost;
        attributes->device = pinned->device;
        attributes->devicePointer = (void*)pointer;
    }
    return cudaSuccess;
}

// --- copies ---

// Note a copy by its places; returns its name.
static std::string noted(const void* to, const void* from, int device) {
    std::string places = place_of(from) + " to " + place_of(to), name = "copy " + places;
    state().copies[places]++;
    check_pointer(to, device, name);
    check_pointer(from, device, name);
    if (state().in_step && in_step_thread() && places.find("pageable") != std::string::npos)
        violate("a pageable copy in a step: " + name);
    return name;
}

// CUDA: a copy with pageable memory goes through a buffer of the driver's, for which it waits. Towards the device the
// program may go on once the memory has been read; from the device it waits for the copy. In a capture it is refused.
static cudaError_t copy(Call& call, void* to, const void* from, size_t size, cudaStream_t handle, Run run) {
    Stream& stream = stream_of(handle);
    std::string name = noted(to, from, stream.device);
    bool from_pageable = place_of(from) == "pageable", to_pageable = place_of(to) == "pageable";
    if (stream.capture && (from_pageable || to_pageable))
        return break_capture(stream, cudaErrorStreamCaptureUnsupported, name);
    if (from_pageable && !idle(stream) && !run) {
        auto buffer = std::make_shared<std::vector<char>>((char*)from, (char*)from + size);
        run = [=] { memcpy(to, buffer->data(), size); };
    }
    auto error = enqueue(handle, {name, run ? run : [=] { memmove(to, from, size); }});
    if (to_pageable) call.wait([&stream] { return idle(stream); });
    return error;
}

API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
    Call call;
    return copy(call, to, from, size, stream, nullptr);
}

API cudaError_t cudaMemcpy2DAsync(
    void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind,
    cudaStream_t stream) {
    Call call;
    return copy(call, to, from, 0, stream, [=] {
        for (size_t row = 0; row < height; row++)
            memcpy((char*)to + row * to_pitch, (const char*)from + row * from_pitch, width);
    });
}

API cudaError_t cudaMemcpyPeerAsync(
    void* to, int to_device, const void* from, int from_device, size_t size, cudaStream_t stream) {
    Call call;
    touch(to_device, "copy between devices");
    touch(from_device, "copy between devices");
    return enqueue(stream, {"copy between devices", [=] { memmove(to, from, size); }});
}

// CUDA: it waits for the legacy stream, and for all blocking streams with it.
API cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
    Call call;
    if (auto error = allowed_now("cudaMemcpy")) return error;
    note_wait("cudaMemcpy");
    noted(to, from, current_device);
    Stream& stream = stream_of(nullptr);
    call.wait([&stream] { return idle(stream); });
    memmove(to, from, size);
    return cudaSuccess;
}

API cudaError_t cudaMemsetAsync(void* pointer, int value, size_t size, cudaStream_t stream) {
    Call call;
    check_pointer(pointer, stream_of(stream).device, "memset");
    return enqueue(stream, {"memset", [=] { memset(pointer, value, size); }});
}

API cudaError_t cudaMemset(void* pointer, int value, size_t size) {
    return cudaMemsetAsync(pointer, value, size, nullptr);
}

// Variables of the device have a room that nothing reads.
API cudaError_t cudaGetSymbolAddress(void** pointer, const void*) {
    static char room[1 << 16];
    return *pointer = room, cudaSuccess;
}
API cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }

// --- pools of memory: torch asks about them ---

API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { return *pool = nullptr, cudaSuccess; }
API cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType, void* value) {
    return *(unsigned long long*)value = 0, cudaSuccess;
}
API cudaError_t cudaDeviceSetGraphMemAttribute(int, cudaGraphMemAttributeType, void*) { return cudaSuccess; }
API cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
    return *(unsigned long long*)value = 0, cudaSuccess;
}
API cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
API cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const cudaMemAccessDesc*, size_t) { return cudaSuccess; }
API cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
