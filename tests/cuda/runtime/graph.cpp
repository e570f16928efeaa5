// The CUDA runtime: captures of streams, and graphs.
#include "fake.h"

using namespace fake;

// --- captures ---

API cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    Call call;
    Stream& stream = stream_of(handle);
    if (&stream == &state().legacy[stream.device])
        return fail(cudaErrorStreamCaptureUnsupported, "a capture of the legacy stream");
    if (stream.capture) return fail(cudaErrorIllegalState, "a capture within a capture");
    stream.capture = std::make_shared<Capture>();
    stream.capture->graph.id = state().next_id++;
    stream.capture->origin = &stream;
    stream.capture->mode = mode;
    stream.capture->thread = std::this_thread::get_id();
    stream.captured = 0;
    stream.reach.clear();
    return cudaSuccess;
}

API cudaError_t cudaStreamBeginCaptureToGraph(
    cudaStream_t stream, cudaGraph_t, const cudaGraphNode_t*, const cudaGraphEdgeData*, size_t,
    cudaStreamCaptureMode mode) {
    return cudaStreamBeginCapture(stream, mode);
}

// Return whether the origin comes after everything that the capture's streams have recorded.
static bool joined(const Capture& capture) {
    for (Stream* stream : state().streams) {
        if (stream->capture.get() != &capture || stream == capture.origin || stream->captured == 0) continue;
        auto reached = capture.origin->reach.find(stream);
        if (reached == capture.origin->reach.end() || reached->second < stream->captured) return false;
    }
    return true;
}

// CUDA: only the stream that has begun a capture ends it, in the same thread unless it is relaxed, and when all streams
// that joined it have been waited for. A capture in which a forbidden call was made gives no graph.
API cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
    Call call;
    Stream& stream = stream_of(handle);
    *graph = nullptr;
    if (!stream.capture || stream.capture->origin != &stream)
        return fail(cudaErrorIllegalState, "the end of no capture");
    auto capture = stream.capture;
    if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id())
        return fail(cudaErrorStreamCaptureWrongThread, "the end of a capture in another thread");
    bool all_joined = joined(*capture);
    for (Stream* other : state().streams)
        if (other->capture == capture) other->capture = nullptr;
    if (capture->broken) return remember(cudaErrorStreamCaptureInvalidated);
    if (!all_joined)
        return fail(cudaErrorStreamCaptureUnjoined, "the end of a capture with a stream that was not joined");
    *graph = (cudaGraph_t) new Graph(std::move(capture->graph));
    return cudaSuccess;
}

static cudaStreamCaptureStatus status_of(const Stream& stream) {
    if (!stream.capture) return cudaStreamCaptureStatusNone;
    return stream.capture->broken ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}

API cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
    Call call;
    *status = status_of(stream_of(handle));
    return cudaSuccess;
}

API cudaError_t cudaStreamGetCaptureInfo(
    cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id, cudaGraph_t* graph,
    const cudaGraphNode_t** dependencies, const cudaGraphEdgeData** edges, size_t* count) {
    Call call;
    Stream& stream = stream_of(handle);
    *status = status_of(stream);
    if (id) *id = stream.capture ? stream.capture->graph.id : 0;
    if (graph) *graph = stream.capture ? (cudaGraph_t)&stream.capture->graph : nullptr;
    if (dependencies) *dependencies = nullptr;
    if (edges) *edges = nullptr;
    if (count) *count = 0;
    return cudaSuccess;
}

API cudaError_t cudaStreamUpdateCaptureDependencies(
    cudaStream_t, cudaGraphNode_t*, const cudaGraphEdgeData*, size_t, unsigned) {
    return cudaSuccess;
}

// --- graphs ---

static int number_of(const std::string& name) {
    auto [entry, is_new] = state().numbers_of_nodes.try_emplace(name, state().names_of_nodes.size());
    if (is_new) state().names_of_nodes.push_back(name);
    return entry->second;
}

API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t handle, unsigned long long) {
    Call call;
    auto graph = std::make_shared<const Graph>(*(Graph*)handle);
    *executable = (cudaGraphExec_t) new char;  // a handle that no other one equals
    state().executables[*executable] = {graph, current_device};
    Sighting& sighting = state().graphs[graph->id];
    sighting.collectives = graph->collectives;
    for (const Work& node : graph->nodes) sighting.nodes.push_back(number_of(node.name));
    return cudaSuccess;
}

// The replay of a graph, node after node; a collective in it may have to wait.
static Attempt replay(std::shared_ptr<const Graph> graph) {
    size_t next = 0;
    Attempt waiting = nullptr;
    return [graph, next, waiting]() mutable {
        for (; next < graph->nodes.size(); next++) {
            const Work& node = graph->nodes[next];
            if (node.begin && !waiting) waiting = node.begin();
            if (waiting && !waiting()) return false;
            waiting = nullptr;
            if (node.run) node.run();
        }
        return true;
    };
}

API cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
    Call call;
    Stream& stream = stream_of(stream_handle);
    const Executable& executable = state().executables.at(handle);
    if (stream.capture) return break_capture(stream, cudaErrorStreamCaptureUnsupported, "a launch of a graph");
    if (executable.device != stream.device)
        violate("wrong device: a graph of device " + std::to_string(executable.device) + " on device " +
                std::to_string(stream.device));
    touch(stream.device, "graph");
    count_launch(stream, "graph");
    state().graphs[executable.graph->id].replays++;
    in_turn(stream, replay(executable.graph));
    return cudaSuccess;
}

API cudaError_t cudaGraphDestroy(cudaGraph_t handle) {
    Call call;
    delete (Graph*)handle;
    return cudaSuccess;
}

API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
    Call call;
    state().graphs[state().executables.at(handle).graph->id].alive = false;
    state().executables.erase(handle);
    delete (char*)handle;
    return cudaSuccess;
}

API cudaError_t cudaGraphGetNodes(cudaGraph_t handle, cudaGraphNode_t*, size_t* count) {
    Call call;
    *count = ((Graph*)handle)->nodes.size();
    return cudaSuccess;
}

API cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t, cudaGraphNode_t*, cudaGraphEdgeData*, size_t* count) {
    return *count = 0, cudaSuccess;
}

// torch ties the life of some memory to that of a graph; here it just stays.
API cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void*, cudaHostFn_t, unsigned, unsigned) {
    return *object = nullptr, cudaSuccess;
}
API cudaError_t cudaUserObjectRelease(cudaUserObject_t, unsigned) { return cudaSuccess; }
API cudaError_t cudaGraphRetainUserObject(cudaGraph_t, cudaUserObject_t, unsigned, unsigned) { return cudaSuccess; }
