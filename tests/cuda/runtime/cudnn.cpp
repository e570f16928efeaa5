// cuDNN: convolutions, which torch runs through the backend interface: descriptors that hold attributes.
//
// An operation, a graph of operations, a heuristic that offers engines, a plan: each is a descriptor here, that keeps
// what it is given. The heuristic offers one engine, without notes and workspace. To execute a plan is to count one
// product.
#include "fake.h"

#include <cstring>
#include <cudnn.h>
#include <cudnn_graph.h>

using namespace fake;

struct cudnnContext {
    int device = 0;
    cudaStream_t stream = nullptr;
};

API cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
    Call call;
    if (allowed_now("cudnnCreate")) return CUDNN_STATUS_NOT_INITIALIZED;  // it allocates
    *handle = new cudnnContext{current_device, nullptr};
    return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    return handle->stream = stream, CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t* stream) {
    return *stream = handle->stream, CUDNN_STATUS_SUCCESS;
}

struct Descriptor;
using Shared = std::shared_ptr<Descriptor>;  // it lives as long as what it was given to; a handle points to a Shared

struct Attribute {
    int64_t count = 0;
    std::vector<char> bytes;      // the values,
    std::vector<Shared> parts;    // or the descriptors
};

struct Descriptor {
    cudnnBackendDescriptorType_t type;
    std::map<int, Attribute> attributes;

    // The descriptor that an attribute names first; nullptr without it.
    Shared part(cudnnBackendAttributeName_t name) const {
        auto found = attributes.find(name);
        return found == attributes.end() || found->second.parts.empty() ? nullptr : found->second.parts[0];
    }
};

API cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* made) {
    *made = new Shared(new Descriptor{type, {}});
    return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t handle) {
    delete (Shared*)handle;
    return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t) { return CUDNN_STATUS_SUCCESS; }

static size_t size_of(cudnnBackendAttributeType_t type) {
    switch (type) {
        case CUDNN_TYPE_BOOLEAN:
        case CUDNN_TYPE_CHAR: return 1;
        case CUDNN_TYPE_HANDLE:
        case CUDNN_TYPE_VOID_PTR:
        case CUDNN_TYPE_INT64:
        case CUDNN_TYPE_FRACTION:
        case CUDNN_TYPE_DOUBLE: return 8;
        default: return 4;  // int32, float and the enumerations
    }
}

API cudnnStatus_t cudnnBackendSetAttribute(
    cudnnBackendDescriptor_t handle, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
    const void* values) {
    Attribute& attribute = (*(Shared*)handle)->attributes[name];
    attribute = {count, {}, {}};
    for (int64_t i = 0; i < count && type == CUDNN_TYPE_BACKEND_DESCRIPTOR; i++)
        attribute.parts.push_back(*((Shared**)values)[i]);
    if (type != CUDNN_TYPE_BACKEND_DESCRIPTOR)
        attribute.bytes.assign((const char*)values, (const char*)values + count * size_of(type));
    return CUDNN_STATUS_SUCCESS;
}

// The one configuration that a heuristic offers.
static Shared offered(const Descriptor& heuristic) {
    Shared engine(new Descriptor{CUDNN_BACKEND_ENGINE_DESCRIPTOR, {}});
    const Attribute& graph = heuristic.attributes.at(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    engine->attributes[CUDNN_ATTR_ENGINE_OPERATION_GRAPH] = graph;
    Shared configuration(new Descriptor{CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, {}});
    configuration->attributes[CUDNN_ATTR_ENGINECFG_ENGINE] = {1, {}, {engine}};
    return configuration;
}

// What a heuristic offers, what a descriptor was given, or the number 0: the bytes of a workspace, the index of an
// engine.
static Attribute answer_of(const Descriptor& descriptor, cudnnBackendAttributeName_t name, size_t size) {
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) return {1, {}, {offered(descriptor)}};
    auto found = descriptor.attributes.find(name);
    if (found != descriptor.attributes.end()) return found->second;
    bool is_list = name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE || name == CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE ||
                   name == CUDNN_ATTR_ENGINE_KNOB_INFO || name == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES;
    return {is_list ? 0 : 1, std::vector<char>(is_list ? 0 : size), {}};
}

// Descriptors are handed out into those that the caller has made for them.
API cudnnStatus_t cudnnBackendGetAttribute(
    cudnnBackendDescriptor_t handle, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t room,
    int64_t* count, void* values) {
    Attribute answer = answer_of(**(Shared*)handle, name, size_of(type));
    if (count) *count = answer.count;
    if (values == nullptr) return CUDNN_STATUS_SUCCESS;
    size_t given = std::min(room, answer.count);
    for (size_t i = 0; i < std::min(given, answer.parts.size()); i++) *((Shared**)values)[i] = answer.parts[i];
    memcpy(values, answer.bytes.data(), std::min(given * size_of(type), answer.bytes.size()));
    return CUDNN_STATUS_SUCCESS;
}

static const char* name_of(const Shared& operation) {
    switch (operation ? operation->type : CUDNN_BACKEND_ENGINE_DESCRIPTOR) {
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR: return "product cudnn convolution";
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
            return "product cudnn convolution, of its input";
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
            return "product cudnn convolution, of its weights";
        default: return "product cudnn";
    }
}

API cudnnStatus_t cudnnBackendExecute(
    cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
    Call call;
    Shared part = *(Shared*)plan;
    for (auto name : {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_ATTR_ENGINECFG_ENGINE,
                      CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_ATTR_OPERATIONGRAPH_OPS})
        if (part) part = part->part(name);
    std::string name = name_of(part);
    int device = stream_of(handle->stream).device;
    if (handle->device != device)
        violate("wrong device: " + name + " with a handle of device " + std::to_string(handle->device));
    const Attribute& operands = (*(Shared*)pack)->attributes.at(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    for (int64_t i = 0; i < operands.count; i++) check_pointer(((void**)operands.bytes.data())[i], device, name);
    return enqueue(handle->stream, {name}) ? CUDNN_STATUS_EXECUTION_FAILED : CUDNN_STATUS_SUCCESS;
}
