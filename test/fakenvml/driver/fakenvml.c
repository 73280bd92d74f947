// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// A stand-in for NVIDIA's libnvidia-ml.so.1. It shares the file beside it,
// <this library>.state, with the test, which writes there what it answers:
// struct state below, which package fakenvml declares as well.

#define _GNU_SOURCE
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "nvml.h"

#define GPUS 16
#define INSTANCES 8
#define PROCESSES 16
#define RULES 64
#define CALLS 128
#define EVENTS 64
#ifndef VERSION
#define VERSION 1
#endif
#define TEXT 96

struct process {
    uint64_t pid, memory;
    uint64_t instance; // on which it runs, under MIG
};

struct instance {
    char uuid[TEXT], name[TEXT];
    uint64_t total, used;
    double gpm_values[4]; // as the GPU's
};

struct gpu {
    char uuid[TEXT], name[TEXT];
    uint64_t lost; // what every call on it returns; 0 while it works
    uint64_t utilization, memory_utilization, encoder, decoder; // percent
    uint64_t memory_total, memory_reserved, memory_used; // bytes
    uint64_t power, power_limit; // mW
    uint64_t energy; // mJ
    uint64_t temperature, memory_temperature, slowdown, shutdown, gpu_max, memory_max; // Celsius
    uint64_t clocks[4], max_clocks[4]; // graphics, SM, memory, video; MHz
    uint64_t reasons; // nvmlClocksEventReason*
    uint64_t throttled[5]; // ns: power cap, sync boost, software thermal, hardware thermal, power brake
    uint64_t transmitted, received; // PCIe bytes
    uint64_t performance_state, fans, fan; // P0 = 0; number; percent
    uint64_t corrected, uncorrected; // ECC errors
    uint64_t remapped_corrected, remapped_uncorrected, remap_pending, remap_failed;
    uint64_t gpm; // supported
    double gpm_values[4]; // SM, occupancy, tensor, DRAM; percent
    uint64_t mig;
    uint64_t process_count, instance_count;
    struct process processes[PROCESSES];
    struct instance instances[INSTANCES];
};

struct rule {
    char call[64]; // empty: no rule
    int64_t gpu; // -1: each
    uint64_t result; // returned unless 0
    uint64_t delay; // ms, but no longer than the rule stands
};

struct call {
    char name[64];
    uint64_t count;
};

struct event {
    uint64_t gpu, type, data;
};

struct state {
    uint64_t size; // of this struct, written by the library
    uint64_t version; // of the library that was initialised last
    uint64_t init; // what nvmlInit returns
    uint64_t initialised; // nvmlInit less nvmlShutdown
    uint64_t gpu_count;
    uint64_t samples_used; // a bit each
    uint64_t events_written, events_read;
    struct event events[EVENTS];
    struct rule rules[RULES];
    struct call calls[CALLS];
    struct gpu gpus[GPUS];
};

static struct state *state;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void load(void) {
    Dl_info self;
    char path[4096];
    if (!dladdr((void *)load, &self) || !self.dli_fname) return;
    snprintf(path, sizeof path, "%s.state", self.dli_fname);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    struct state *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (s == MAP_FAILED) return;
    s->size = sizeof *s;
    state = s;
}

static void count(struct call **slot, const char *name) {
    pthread_mutex_lock(&counting);
    if (!*slot)
        for (int i = 0; i < CALLS; i++) {
            struct call *c = &state->calls[i];
            if (!c->name[0]) strncpy(c->name, name, sizeof c->name - 1);
            if (!strcmp(c->name, name)) {
                *slot = c;
                break;
            }
        }
    if (*slot) (*slot)->count++;
    pthread_mutex_unlock(&counting);
}

static const struct rule *find(const char *name, int64_t gpu) {
    for (int i = 0; i < RULES; i++) {
        const struct rule *r = &state->rules[i];
        if (r->call[0] && !strcmp(r->call, name) && (r->gpu < 0 || r->gpu == gpu)) return r;
    }
    return NULL;
}

static void nap(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static nvmlReturn_t obey(const char *name, int64_t gpu) {
    const struct rule *r = find(name, gpu);
    if (!r) return NVML_SUCCESS;
    for (uint64_t slept = 0; r && slept < r->delay; slept += 5) {
        nap(5);
        r = find(name, gpu);
    }
    return r ? (nvmlReturn_t)r->result : NVML_SUCCESS;
}

// A handle is the address of one of these, so that a stale one still points
// into the library.
static char handles[GPUS], instance_handles[GPUS][INSTANCES];
static char event_set;

// A sample remembers whose it is: -1, or a GPU and one of its MIG instances,
// whose numbers are FIRST_INSTANCE and up.
#define FIRST_INSTANCE 7
#define SAMPLES 64
static struct sample {
    int64_t gpu, instance;
} samples[SAMPLES];

static int64_t index_of(nvmlDevice_t d) {
    char *p = (char *)d.handle;
    if (p >= handles && p < handles + GPUS) return p - handles;
    char *first = &instance_handles[0][0];
    if (p >= first && p < first + sizeof instance_handles) return (p - first) / INSTANCES;
    return -1;
}

static struct instance *instance_of(nvmlDevice_t d) {
    char *p = (char *)d.handle, *first = &instance_handles[0][0];
    if (p < first || p >= first + sizeof instance_handles) return NULL;
    return &state->gpus[(p - first) / INSTANCES].instances[(p - first) % INSTANCES];
}

#define BEGIN(gpu)                                          \
    static struct call *slot;                               \
    if (!state) return NVML_ERROR_UNKNOWN;                  \
    count(&slot, __func__);                                 \
    do {                                                    \
        nvmlReturn_t obeyed = obey(__func__, gpu);          \
        if (obeyed != NVML_SUCCESS) return obeyed;          \
    } while (0)

#define DEVICE(d)                                                                \
    int64_t at = index_of(d);                                                    \
    if (at < 0) return NVML_ERROR_INVALID_ARGUMENT;                              \
    BEGIN(at);                                                                   \
    if (!state->initialised) return NVML_ERROR_UNINITIALIZED;                    \
    struct gpu *g = &state->gpus[at];                                            \
    if (g->lost) return (nvmlReturn_t)g->lost

#define GET(function, type, field)                            \
    nvmlReturn_t function(nvmlDevice_t d, type *out) {        \
        DEVICE(d);                                            \
        *out = (type)(field);                                 \
        return NVML_SUCCESS;                                  \
    }

static nvmlReturn_t text(const char *from, char *to, unsigned length) {
    if (strlen(from) >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(to, from);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void) {
    BEGIN(-1);
    if (state->init) return (nvmlReturn_t)state->init;
    state->initialised++;
    state->version = VERSION;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlShutdown(void) {
    BEGIN(-1);
    if (!state->initialised) return NVML_ERROR_UNINITIALIZED;
    state->initialised--;
    return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t r) {
    return r == NVML_SUCCESS ? "Success" : "An error of the fake driver";
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *out) {
    BEGIN(-1);
    *out = (unsigned)state->gpu_count;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice_t *out) {
    BEGIN((int64_t)i);
    if (i >= state->gpu_count) return NVML_ERROR_INVALID_ARGUMENT;
    if (state->gpus[i].lost) return (nvmlReturn_t)state->gpus[i].lost;
    out->handle = (void *)&handles[i];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *out, unsigned length) {
    DEVICE(d);
    struct instance *i = instance_of(d);
    return text(i ? i->uuid : g->uuid, out, length);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *out, unsigned length) {
    DEVICE(d);
    struct instance *i = instance_of(d);
    return text(i ? i->name : g->name, out, length);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t d, nvmlUtilization_t *out) {
    DEVICE(d);
    if (g->mig) return NVML_ERROR_NOT_SUPPORTED;
    out->gpu = (unsigned)g->utilization;
    out->memory = (unsigned)g->memory_utilization;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t d, unsigned *out, unsigned *period) {
    DEVICE(d);
    *out = (unsigned)g->encoder;
    *period = 100000;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t d, unsigned *out, unsigned *period) {
    DEVICE(d);
    *out = (unsigned)g->decoder;
    *period = 100000;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, nvmlMemory_v2_t *out) {
    DEVICE(d);
    if (out->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    struct instance *i = instance_of(d);
    out->total = i ? i->total : g->memory_total;
    out->reserved = i ? 0 : g->memory_reserved;
    out->used = i ? i->used : g->memory_used;
    out->free = out->total - out->reserved - out->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t *out) {
    DEVICE(d);
    struct instance *i = instance_of(d);
    out->total = i ? i->total : g->memory_total;
    out->used = i ? i->used : g->memory_used + g->memory_reserved;
    out->free = out->total - out->used;
    return NVML_SUCCESS;
}

GET(nvmlDeviceGetPowerUsage, unsigned, g->power)
GET(nvmlDeviceGetEnforcedPowerLimit, unsigned, g->power_limit)
GET(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, g->energy)
GET(nvmlDeviceGetNumFans, unsigned, g->fans)
GET(nvmlDeviceGetPerformanceState, nvmlPstates_t, g->performance_state)
GET(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, g->reasons)
GET(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, g->reasons)
GET(nvmlDeviceGetSupportedEventTypes, unsigned long long, nvmlEventTypeXidCriticalError)

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t d, nvmlTemperature_t *out) {
    DEVICE(d);
    if (out->version != nvmlTemperature_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    out->temperature = (int)g->temperature;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, nvmlTemperatureSensors_t sensor, unsigned *out) {
    DEVICE(d);
    (void)sensor;
    *out = (unsigned)g->temperature;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t d, nvmlTemperatureThresholds_t which, unsigned *out) {
    DEVICE(d);
    switch (which) {
    case NVML_TEMPERATURE_THRESHOLD_SHUTDOWN: *out = (unsigned)g->shutdown; break;
    case NVML_TEMPERATURE_THRESHOLD_SLOWDOWN: *out = (unsigned)g->slowdown; break;
    case NVML_TEMPERATURE_THRESHOLD_GPU_MAX: *out = (unsigned)g->gpu_max; break;
    case NVML_TEMPERATURE_THRESHOLD_MEM_MAX: *out = (unsigned)g->memory_max; break;
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t d, nvmlClockType_t which, unsigned *out) {
    DEVICE(d);
    if (which > 3) return NVML_ERROR_INVALID_ARGUMENT;
    *out = (unsigned)g->clocks[which];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t d, nvmlClockType_t which, unsigned *out) {
    DEVICE(d);
    if (which > 3) return NVML_ERROR_INVALID_ARGUMENT;
    *out = (unsigned)g->max_clocks[which];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t d, unsigned fan, unsigned *out) {
    DEVICE(d);
    if (fan >= g->fans) return NVML_ERROR_INVALID_ARGUMENT;
    *out = (unsigned)g->fan;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter, unsigned long long *out) {
    DEVICE(d);
    (void)counter;
    *out = type == NVML_MEMORY_ERROR_TYPE_CORRECTED ? g->corrected : g->uncorrected;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t d, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    DEVICE(d);
    *corrected = (unsigned)g->remapped_corrected;
    *uncorrected = (unsigned)g->remapped_uncorrected;
    *pending = (unsigned)g->remap_pending;
    *failed = (unsigned)g->remap_failed;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t d, nvmlPerfPolicyType_t which, nvmlViolationTime_t *out) {
    DEVICE(d);
    out->referenceTime = 0;
    switch (which) {
    case NVML_PERF_POLICY_POWER: out->violationTime = g->throttled[0]; break;
    case NVML_PERF_POLICY_SYNC_BOOST: out->violationTime = g->throttled[1]; break;
    case NVML_PERF_POLICY_THERMAL: out->violationTime = g->throttled[2]; break;
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
    return NVML_SUCCESS;
}

// A rule for a single field has the name nvmlDeviceGetFieldValues:ID.
nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t d, int n, nvmlFieldValue_t *v) {
    DEVICE(d);
    for (int i = 0; i < n; i++) {
        char name[64];
        v[i].nvmlReturn = NVML_SUCCESS;
        v[i].valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
        switch (v[i].fieldId) {
        case NVML_FI_DEV_MEMORY_TEMP:
            v[i].valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
            v[i].value.uiVal = (unsigned)g->memory_temperature;
            break;
        case NVML_FI_DEV_PCIE_COUNT_TX_BYTES: v[i].value.ullVal = g->transmitted; break;
        case NVML_FI_DEV_PCIE_COUNT_RX_BYTES: v[i].value.ullVal = g->received; break;
        case NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP: v[i].value.ullVal = g->throttled[0]; break;
        case NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST: v[i].value.ullVal = g->throttled[1]; break;
        case NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN: v[i].value.ullVal = g->throttled[2]; break;
        case NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN: v[i].value.ullVal = g->throttled[3]; break;
        case NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN: v[i].value.ullVal = g->throttled[4]; break;
        default: v[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        }
        if (state->rules[0].call[0]) {
            snprintf(name, sizeof name, "nvmlDeviceGetFieldValues:%u", v[i].fieldId);
            nvmlReturn_t obeyed = obey(name, at);
            if (obeyed != NVML_SUCCESS) v[i].nvmlReturn = obeyed;
        }
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned *n, nvmlProcessInfo_t *out) {
    DEVICE(d);
    struct instance *of = instance_of(d);
    unsigned room = *n, found = 0;
    for (unsigned i = 0; i < g->process_count; i++) {
        struct process *p = &g->processes[i];
        if (of && of != &g->instances[p->instance]) continue;
        if (found < room) {
            out[found].pid = (unsigned)p->pid;
            out[found].usedGpuMemory = p->memory;
            out[found].gpuInstanceId = out[found].computeInstanceId = 0xFFFFFFFF;
        }
        found++;
    }
    *n = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t d, unsigned *current, unsigned *pending) {
    DEVICE(d);
    *current = *pending = (unsigned)g->mig;
    return NVML_SUCCESS;
}

GET(nvmlDeviceGetMaxMigDeviceCount, unsigned, g->mig ? INSTANCES : 0)

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t d, unsigned i, nvmlDevice_t *out) {
    DEVICE(d);
    if (i >= g->instance_count) return NVML_ERROR_NOT_FOUND;
    out->handle = (void *)&instance_handles[at][i];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t d, unsigned *out) {
    DEVICE(d);
    struct instance *i = instance_of(d);
    if (!i) return NVML_ERROR_INVALID_ARGUMENT;
    *out = FIRST_INSTANCE + (unsigned)(i - g->instances);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *out) {
    BEGIN(-1);
    out->handle = (void *)&event_set;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    (void)set;
    BEGIN(-1);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t d, unsigned long long types, nvmlEventSet_t set) {
    (void)types, (void)set;
    DEVICE(d);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *out, unsigned ms) {
    (void)set;
    BEGIN(-1);
    for (unsigned waited = 0;; waited += 5) {
        if (!state->initialised) return NVML_ERROR_UNINITIALIZED;
        if (state->events_read < state->events_written) {
            struct event *e = &state->events[state->events_read % EVENTS];
            memset(out, 0, sizeof *out);
            out->device.handle = (void *)&handles[e->gpu];
            out->eventType = e->type;
            out->eventData = e->data;
            state->events_read++;
            return NVML_SUCCESS;
        }
        if (waited >= ms) return NVML_ERROR_TIMEOUT;
        nap(5);
    }
}

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t d, nvmlGpmSupport_t *out) {
    DEVICE(d);
    out->isSupportedDevice = (unsigned)g->gpm;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *out) {
    BEGIN(-1);
    for (int i = 0; i < SAMPLES; i++)
        if (!(state->samples_used & 1ull << i)) {
            state->samples_used |= 1ull << i;
            out->handle = (void *)&samples[i];
            return NVML_SUCCESS;
        }
    return NVML_ERROR_MEMORY;
}

nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample) {
    BEGIN(-1);
    state->samples_used &= ~(1ull << ((struct sample *)sample.handle - samples));
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t d, nvmlGpmSample_t sample) {
    DEVICE(d);
    if (g->mig) return NVML_ERROR_NOT_SUPPORTED;
    *(struct sample *)sample.handle = (struct sample){at, -1};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t d, unsigned instance, nvmlGpmSample_t sample) {
    DEVICE(d);
    if (instance < FIRST_INSTANCE || instance - FIRST_INSTANCE >= g->instance_count) return NVML_ERROR_INVALID_ARGUMENT;
    *(struct sample *)sample.handle = (struct sample){at, instance - FIRST_INSTANCE};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get) {
    BEGIN(-1);
    struct sample *before = (struct sample *)get->sample1.handle, *s = (struct sample *)get->sample2.handle;
    if (before == s || before->gpu != s->gpu || before->instance != s->instance) return NVML_ERROR_INVALID_ARGUMENT;
    struct gpu *g = &state->gpus[s->gpu];
    const double *values = s->instance < 0 ? g->gpm_values : g->instances[s->instance].gpm_values;
    for (unsigned i = 0; i < get->numMetrics; i++) {
        get->metrics[i].nvmlReturn = NVML_SUCCESS;
        switch (get->metrics[i].metricId) {
        case NVML_GPM_METRIC_SM_UTIL: get->metrics[i].value = values[0]; break;
        case NVML_GPM_METRIC_SM_OCCUPANCY: get->metrics[i].value = values[1]; break;
        case NVML_GPM_METRIC_ANY_TENSOR_UTIL: get->metrics[i].value = values[2]; break;
        case NVML_GPM_METRIC_DRAM_BW_UTIL: get->metrics[i].value = values[3]; break;
        default: get->metrics[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        }
    }
    return NVML_SUCCESS;
}
