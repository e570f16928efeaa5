// The CUDA runtime: streams and events.
#include "fake.h"

#include <algorithm>

using namespace fake;

// --- streams ---

API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned flags, int) {
    Call call;
    auto stream = new Stream;
    stream->device = current_device;
    stream->nonblocking = flags & cudaStreamNonBlocking;
    state().streams.insert(stream);
    *handle = (cudaStream_t)stream;
    return cudaSuccess;
}

API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
    return cudaStreamCreateWithPriority(handle, flags, 0);
}
API cudaError_t cudaStreamCreate(cudaStream_t* handle) { return cudaStreamCreateWithPriority(handle, 0, 0); }

API cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    Call call;
    Stream* stream = &stream_of(handle);
    call.wait([stream] { return idle(*stream); });
    if (state().streams.erase(stream)) delete stream;
    return cudaSuccess;
}

API cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) { return *priority = 0, cudaSuccess; }

// CUDA: the host cannot wait for work that is only recorded, and not for anything while it records.
static cudaError_t allowed_on(Stream& stream, const char* call) {
    if (stream.capture) return break_capture(stream, cudaErrorStreamCaptureUnsupported, call);
    return allowed_now(call);
}

API cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    Call call;
    Stream& stream = stream_of(handle);
    if (auto error = allowed_on(stream, "cudaStreamSynchronize")) return error;
    note_wait("cudaStreamSynchronize");
    auto end = std::make_shared<bool>(false);  // of what is there now: others may go on enqueuing
    in_turn(stream, [end] { return *end = true; });
    call.wait([end] { return *end; });
    return cudaSuccess;
}

API cudaError_t cudaStreamQuery(cudaStream_t handle) {
    Call call;
    Stream& stream = stream_of(handle);
    if (auto error = allowed_on(stream, "cudaStreamQuery")) return error;
    return idle(stream) ? cudaSuccess : cudaErrorNotReady;
}

// --- events ---

API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned) {
    auto event = new Event;
    event->device = current_device;
    *handle = (cudaEvent_t)event;
    return cudaSuccess;
}
API cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, 0); }

API cudaError_t cudaEventDestroy(cudaEvent_t handle) {
    Call call;
    delete (Event*)handle;
    return cudaSuccess;
}

API cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
    Call call;
    auto& event = *(Event*)handle;
    Stream& stream = stream_of(stream_handle);
    event.capture = stream.capture;
    event.point = std::make_shared<Point>();
    event.point->launches = stream.launches;
    if (stream.capture) {
        event.reach = stream.reach;
        return cudaSuccess;
    }
    in_turn(stream, [point = event.point] {
        point->at = now();
        return point->reached = true;
    });
    return cudaSuccess;
}
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
    return cudaEventRecord(event, stream);
}

// CUDA: an event that a capture recorded is no point in time.
static cudaError_t allowed_of(const Event& event, const char* call) {
    if (event.capture) return fail(cudaErrorCapturedEvent, std::string(call) + " of an event recorded in a capture");
    return allowed_now(call);
}

API cudaError_t cudaEventQuery(cudaEvent_t handle) {
    Call call;
    auto& event = *(Event*)handle;
    if (auto error = allowed_of(event, "cudaEventQuery")) return error;
    return !event.point || event.point->reached ? cudaSuccess : cudaErrorNotReady;
}

API cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    Call call;
    auto& event = *(Event*)handle;
    if (auto error = allowed_of(event, "cudaEventSynchronize")) return error;
    note_wait("cudaEventSynchronize");
    auto point = event.point;  // the event may be recorded anew meanwhile
    call.wait([point] { return !point || point->reached; });
    return cudaSuccess;
}

API cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t first, cudaEvent_t second) {
    Call call;
    auto &from = *(Event*)first, &to = *(Event*)second;
    if (!from.point || !to.point) return remember(cudaErrorInvalidResourceHandle);
    if (!from.point->reached || !to.point->reached) return cudaErrorNotReady;
    // a launch takes a millisecond at least: a benchmark, whose answer means nothing, repeats fast kernels more often
    double launches = (double)(to.point->launches - from.point->launches);
    *milliseconds = (float)std::max({to.point->at - from.point->at, launches, 1e-3});
    return cudaSuccess;
}

// CUDA: a stream that waits for an event of a capture joins the capture. A capturing stream can wait for events of the
// same capture alone, and no two captures can become one.
static cudaError_t wait_in_captures(Stream& stream, const Event& event) {
    bool under_way = event.capture && event.capture->origin->capture == event.capture;
    if (!under_way) {
        if (stream.capture && event.point)
            return break_capture(stream, cudaErrorStreamCaptureIsolation, "a wait for work outside of the capture");
        return cudaSuccess;
    }
    if (stream.capture && stream.capture != event.capture)
        return break_capture(stream, cudaErrorStreamCaptureMerge, "a wait for another capture");
    if (!stream.capture) {
        stream.capture = event.capture;
        stream.captured = 0;
        stream.reach.clear();
    }
    for (auto& [other, count] : event.reach) stream.reach[other] = std::max(stream.reach[other], count);
    return cudaSuccess;
}

API cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned) {
    Call call;
    Stream& stream = stream_of(stream_handle);
    auto& event = *(Event*)handle;
    if (stream.capture || event.capture) return wait_in_captures(stream, event);
    if (event.point) in_turn(stream, [point = event.point] { return point->reached; });
    return cudaSuccess;
}
