// The report on a process as JSON: left at its end, and asked for by tests/cuda/counters.py.
#include "fake.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <sstream>
#include <sys/syscall.h>

namespace fake {

// --- the line of the program that makes a call ---

static bool of_project(const std::string& file) {
    for (const char* foreign : {"/site-packages/", "/lib/python3", "/tests/cuda/counters.py"})
        if (file.find(foreign) != std::string::npos) return false;
    return !file.empty() && file[0] != '<';
}

// Return file, line and function of the innermost frame of Python that is the project's, or nothing. The interpreter
// is not linked to: it is there, or this is another program.
std::string python_line() {
    using Object = void*;
    auto find = [](const char* name) { return dlsym(RTLD_DEFAULT, name); };
    static auto initialised = (int (*)())find("Py_IsInitialized");
    static auto finalising = (int (*)())(find("Py_IsFinalizing") ? find("Py_IsFinalizing") : find("_Py_IsFinalizing"));
    static auto ensure = (int (*)())find("PyGILState_Ensure");
    static auto release = (void (*)(int))find("PyGILState_Release");
    static auto current = (Object(*)())find("PyEval_GetFrame");
    static auto back = (Object(*)(Object))find("PyFrame_GetBack");
    static auto code_of = (Object(*)(Object))find("PyFrame_GetCode");
    static auto line_of = (int (*)(Object))find("PyFrame_GetLineNumber");
    static auto attribute = (Object(*)(Object, const char*))find("PyObject_GetAttrString");
    static auto utf8 = (const char* (*)(Object))find("PyUnicode_AsUTF8");
    static auto let_go = (void (*)(Object))find("Py_DecRef");
    static auto keep = (void (*)(Object))find("Py_IncRef");
    if (!initialised || !initialised() || (finalising && finalising())) return "";
    auto text_of = [](Object object, const char* name) {
        Object text = attribute(object, name);
        std::string answer = text && utf8(text) ? utf8(text) : "";
        if (text) let_go(text);
        return answer;
    };
    int lock = ensure();
    std::string answer;
    Object frame = current();
    if (frame) keep(frame);
    while (frame && answer.empty()) {
        Object code = code_of(frame);
        std::string file = text_of(code, "co_filename");
        if (of_project(file))
            answer = file + ":" + std::to_string(line_of(frame)) + " in " + text_of(code, "co_name");
        let_go(code);
        Object outer = back(frame);
        let_go(frame);
        frame = outer;
    }
    if (frame) let_go(frame);
    release(lock);
    return answer;
}

// --- JSON ---

static std::string json(const std::string& text) {
    std::string answer = "\"";
    for (char one : text) {
        if (one == '"' || one == '\\') answer += '\\';
        answer += (unsigned char)one < 32 ? ' ' : one;
    }
    return answer + "\"";
}
static std::string json(const char* text) { return text ? json(std::string(text)) : "null"; }
static std::string json(long number) { return std::to_string(number); }
static std::string json(int number) { return std::to_string(number); }
static std::string json(bool value) { return value ? "true" : "false"; }

static std::string json(const Violation& violation) {
    return "{\"what\": " + json(violation.what) + ", \"where\": " + json(violation.where) + "}";
}

template <class A, class B>
static std::string json(const std::pair<A, B>& pair) {
    return "[" + json(pair.first) + ", " + json(pair.second) + "]";
}

template <class List>
static std::string list(const List& items) {
    std::string answer;
    for (auto& item : items) answer += (answer.empty() ? "" : ", ") + json(item);
    return "[" + answer + "]";
}

static std::string json(const Sequence& sequence) { return list(sequence); }

static std::string json(const Sighting& graph) {
    return "{\"alive\": " + json(graph.alive) + ", \"replays\": " + json(graph.replays) +
           ", \"collectives\": " + json(graph.collectives) + ", \"nodes\": " + list(graph.nodes) + "}";
}

template <class Map>
static std::string object(const Map& map) {
    std::string answer;
    for (auto& [key, value] : map) answer += (answer.empty() ? "" : ", ") + json(key) + ": " + json(value);
    return "{" + answer + "}";
}

static std::string command() {
    std::ifstream file("/proc/self/cmdline");
    std::stringstream text;
    text << file.rdbuf();
    std::string answer = text.str();
    for (char& one : answer)
        if (one == 0) one = ' ';
    return answer;
}

static std::string report(bool with_graphs) {
    State& now = state();
    std::vector<Sighting> graphs;
    if (with_graphs)
        for (auto& [id, graph] : now.graphs) graphs.push_back(graph);
    const char* rank = getenv("RANK");
    const std::pair<const char*, std::string> entries[] = {
        {"pid", json((long)getpid())},
        {"rank", rank ? json((long)atoi(rank)) : "null"},
        {"command", json(command())},
        {"ended", json(now.ended)},
        {"devices", json(device_count())},
        {"contexts", list(now.contexts)},
        {"touched", list(now.touched)},
        {"launches", object(now.launches)},
        {"captured", object(now.captured)},
        {"readbacks", object(now.readbacks)},
        {"readbacks_of_other_threads", object(now.readbacks_elsewhere)},
        {"copies", object(now.copies)},
        {"allocations", object(now.allocations)},
        {"violations", list(now.violations)},
        {"communicators", object(now.communicators)},
        {"graphs", list(graphs)},
        {"names_of_nodes", list(now.names_of_nodes)},
        {"names", object(now.names)},
    };
    std::string answer;
    for (auto& [name, value] : entries) answer += (answer.empty() ? "" : ",\n ") + json(name) + ": " + value;
    return "{" + answer + "}\n";
}

// --- the file: FAKE_CUDA_REPORT.PID.json, for each process that has touched a device ---

static void die(int signal) {
    static char text[40];
    snprintf(text, sizeof text, "signal %d", signal);
    state().ended = text;
    write_report();  // as far as possible: the signal may have come anywhere
    std::signal(signal, SIG_DFL);
    raise(signal);
}

// Crashes leave a report. Signals that the program handles are its own, and so is SIGTERM.
static void watch_for_crashes() {
    static bool watching = false;
    if (watching) return;
    watching = true;
    for (int signal : {SIGABRT, SIGSEGV, SIGBUS}) {
        auto before = std::signal(signal, die);
        if (before != SIG_DFL) std::signal(signal, before);
    }
}

void write_report() {
    const char* prefix = getenv("FAKE_CUDA_REPORT");
    if (!prefix || !*prefix || state().touched.empty()) return;
    watch_for_crashes();
    std::string path = std::string(prefix) + "." + std::to_string(getpid()) + ".json", half = path + ".half";
    std::ofstream(half) << report(true);
    rename(half.c_str(), path.c_str());
}

// The process ends. A child of vfork shares this memory, but is not this process.
static void end(const char* how) {
    if (state().pid != getpid()) return;
    if (state().ended == nullptr) state().ended = how;
    write_report();
}

__attribute__((destructor)) static void at_exit() { end("exit"); }

}  // namespace fake

using namespace fake;

API void _exit(int code) {
    end("_exit");
    syscall(SYS_exit_group, code);
    abort();
}
API void _Exit(int code) { _exit(code); }

// --- what counters.py calls ---

API const char* fakecuda_report() {
    Call call;
    static std::string text;
    text = report(true);
    return text.c_str();
}

API const char* fakecuda_counters() {
    Call call;
    static std::string text;
    text = report(false);
    return text.c_str();
}

API void fakecuda_reset() {
    Call call;
    State& now = state();
    for (Counter* counter : {&now.launches, &now.captured, &now.names, &now.copies, &now.allocations, &now.readbacks,
                             &now.readbacks_elsewhere})
        counter->clear();
}

API void fakecuda_step(int on) {
    Call call;
    state().in_step = on;
}
