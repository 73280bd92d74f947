// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// A stand-in for a llama-server at work: it listens on a port, which it prints,
// holds 1 GiB of GPU memory, and computes until its input ends. It needs the
// driver and no toolkit: the driver compiles the kernel.

#include <arpa/inet.h>
#include <dlfcn.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

// A newer driver may refuse the first target, and an older GPU the second.
static const char *const targets[] = {".version 6.0\n.target sm_50\n", ".version 6.3\n.target sm_75\n"};
static const char kernel[] =
    ".address_size 64\n"
    ".visible .entry work(.param .u64 out, .param .u32 n) {\n"
    "  .reg .pred %p<2>;\n"
    "  .reg .f32 %f<3>;\n"
    "  .reg .b32 %r<3>;\n"
    "  .reg .b64 %rd<3>;\n"
    "  ld.param.u64 %rd1, [out];\n"
    "  ld.param.u32 %r1, [n];\n"
    "  cvta.to.global.u64 %rd2, %rd1;\n"
    "  mov.f32 %f1, 0f3F800000;\n"
    "  mov.f32 %f2, 0f3F7FFF00;\n"
    "  mov.u32 %r2, 0;\n"
    "AGAIN:\n"
    "  fma.rn.f32 %f1, %f1, %f2, %f2;\n"
    "  add.u32 %r2, %r2, 1;\n"
    "  setp.lt.u32 %p1, %r2, %r1;\n"
    "  @%p1 bra AGAIN;\n"
    "  st.global.f32 [%rd2], %f1;\n"
    "  ret;\n"
    "}\n";

static void *cuda;

static int failed(const char *name, int result) {
    int (*tell)(int, const char **) = (int (*)(int, const char **))dlsym(cuda, "cuGetErrorString");
    const char *text = "not in this driver's libcuda";
    if (result != -1 && (!tell || tell(result, &text)))
        text = "unknown error";
    fprintf(stderr, "%s: CUresult %d: %s\n", name, result, text);
    return 1;
}

#define CALL(name, types, ...)                             \
    do {                                                   \
        int (*f) types = (int(*) types)dlsym(cuda, #name); \
        int result = f ? f(__VA_ARGS__) : -1;              \
        if (result)                                        \
            return failed(#name, result);                  \
    } while (0)

int main(void) {
    int s = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    if (bind(s, (struct sockaddr *)&at, sizeof at) || listen(s, 1) || getsockname(s, (struct sockaddr *)&at, &length)) {
        perror("listen");
        return 1;
    }
    cuda = dlopen("libcuda.so.1", RTLD_NOW);
    if (!cuda) {
        fprintf(stderr, "%s: in a container, set NVIDIA_DRIVER_CAPABILITIES=utility,compute\n", dlerror());
        return 1;
    }
    int device;
    void *context, *module, *function;
    uint64_t memory;
    CALL(cuInit, (unsigned), 0);
    CALL(cuDeviceGet, (int *, int), &device, 0);
    CALL(cuCtxCreate_v2, (void **, unsigned, int), &context, 0, device);
    CALL(cuMemAlloc_v2, (uint64_t *, size_t), &memory, (size_t)1 << 30);
    CALL(cuMemsetD8_v2, (uint64_t, unsigned char, size_t), memory, 1, (size_t)1 << 30);
    int (*compile)(void **, const void *) = (int (*)(void **, const void *))dlsym(cuda, "cuModuleLoadData");
    int result = -1;
    for (int i = 0; compile && result && i < 2; i++) {
        char source[2048];
        snprintf(source, sizeof source, "%s%s", targets[i], kernel);
        result = compile(&module, source);
    }
    if (result)
        return failed("cuModuleLoadData", result);
    CALL(cuModuleGetFunction, (void **, void *, const char *), &function, module, "work");
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    struct pollfd input = {.fd = 0, .events = POLLIN};
    uint32_t n = 1 << 16;
    void *arguments[] = {&memory, &n};
    while (!poll(&input, 1, 0)) {
        for (int i = 0; i < 50; i++)
            CALL(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **),
                 function, 4096, 1, 1, 256, 1, 1, 0, NULL, arguments, NULL);
        CALL(cuCtxSynchronize, (void));
    }
    return 0;
}
